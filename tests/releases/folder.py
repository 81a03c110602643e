"""Made-up releases in a folder of the test's, and what was read from there."""


def save(files, folder):
    """Write files, content by path; returns the folder."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def row_of(dataset, name):
    """(split, row) of the query with this id."""
    return next((s, list(s.ids).index(name)) for _, s in dataset.splits() if name in s.ids)
