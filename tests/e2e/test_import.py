"""`rph data import` as a user meets it: a file or a benchmark in, a folder that can be run and a report out."""

import json

import pytest
import yaml
from tests.releases import nine30k

from rph.data import routing_table

RESULTS = "prompt,model,score,cost,split\n" + "".join(
    f'"{s} {i}, why?",{model},{(i + m) % 3 / 2},0.0{m + 1},{s}\n'
    for s, n in (("train", 12), ("dev", 4), ("test", 6))
    for i in range(n)
    for m, model in enumerate(("small", "large"))
)


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(RESULTS + ",small,1,,train\n")
    return [path, "--columns", "query=prompt,correct=score"]


def test_a_file_becomes_a_folder_that_is_run(rph, results, tmp_path):
    out = tmp_path / "my-bench"
    code, output, error = rph("data", "import", *results, "--out", out, "--citation", "me 2026")
    assert (code, error) == (0, "")
    lines = [line.split(maxsplit=1) for line in output.splitlines()]
    assert lines == [
        ["benchmark", "my-bench"],
        ["rows", "read  45"],
        ["queries", "22 (train 12, val 4, test 6)"],
        ["models", "2"],
        ["labels", "44 of 44 (0.0% missing)"],
        ["costs", "44 of 44 known"],
        ["note", "rows left out, without a query: 1, the first: row 45"],
        ["folder", str(out)],
    ]
    head = yaml.safe_load((out / "bench.yaml").read_text())
    assert (head["citation"], head["labels"]) == ("me 2026", "correct, as given")
    assert head["source"].startswith("results.csv, sha256 ")
    dataset = routing_table.read(out)
    assert dataset.train.labels[:3].tolist() == [[0, 0.5], [0.5, 1], [1, 0]]
    code, output, _ = rph(
        "eval", "--bench", out, "--router", "knn", "--encoder", "lsa", "--protocol", "smoke"
    )
    assert code == 0 and "my-bench" in output


def test_the_report_as_json_has_the_numbers_of_the_folder(rph, results, tmp_path):
    out = tmp_path / "out"
    code, output, _ = rph(
        "data", "import", *results, "--out", out, "--name", "mine", "--threshold", 0.5, "--json"
    )
    assert code == 0
    dataset = routing_table.read(out)
    assert json.loads(output) == {
        "name": "mine",
        "rows": 45,
        "queries": 22,
        "models": 2,
        "splits": {name: len(split) for name, split in dataset.splits()},
        "labels": 44,
        "missing": 0,
        "costs": 44,
        "notes": [{"what": "rows left out, without a query", "count": 1, "first": "row 45"}],
        "folder": str(out),
    }
    assert dataset.name == "mine"
    assert dataset.train.labels[:3].tolist() == [[0, 1], [1, 1], [1, 0]]
    assert yaml.safe_load((out / "bench.yaml").read_text())["labels"] == "1 where correct >= 0.5, else 0"


def test_a_publishers_folder_becomes_one_of_ours_with_its_citation_and_label_rule(rph, tmp_path):
    for name, content in nine30k.files().items():
        (tmp_path / "release" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "release" / name).write_bytes(content)
    out = tmp_path / "out"
    bench = f"nine30k:path={tmp_path / 'release'}"
    code, output, _ = rph("data", "import", "--bench", bench, "--out", out, "--name", "nine", "--json")
    assert code == 0
    found, dataset = json.loads(output), routing_table.read(out)
    assert dataset.name == "nine" and len(dataset.models) == nine30k.MODELS
    assert (
        tuple(len(split) for _, split in dataset.splits())
        == nine30k.COUNTS
        == tuple(found["splits"].values())
    )
    (card,) = json.loads(rph("show", "nine30k", "--json")[1])
    head = yaml.safe_load((out / "bench.yaml").read_text())
    assert (head["source"], head["citation"], head["labels"]) == (bench, card["citation"], card["label_rule"])


def test_an_import_tells_what_is_found_in_the_table(rph, tmp_path):
    path = tmp_path / "results.csv"
    rows = [
        f"{s} {i},question {i if s != 'val' else i + 10},{model},{(i + m) % 2},{s}"
        for s, n in (("train", 12), ("val", 4), ("test", 6))
        for i in range(n)
        for m, model in enumerate(("small", "large", "Large"))
    ]
    path.write_text("\n".join(["id,query,model,correct,split", *rows]))
    code, output, _ = rph("data", "import", path, "--out", tmp_path / "out")
    notes = [line.removeprefix("note").strip() for line in output.splitlines() if line.startswith("note")]
    assert code == 0 and notes == [
        "queries whose text is also in an earlier split, under another id: 8, the first: val 'val 0' is train 'train 10'",
        "pairs of models whose labels have a correlation of 0.95 or more: 1, the first: 'small' and 'Large' (1.00)",
        "models whose names differ only in blanks, case or Unicode form: 1, the first: 'large' and 'Large'",
    ]


def test_a_folder_that_exists_is_never_written_over(rph, results, tmp_path):
    (tmp_path / "out").mkdir()
    code, _, error = rph("data", "import", *results, "--out", tmp_path / "out")
    assert code == 2 and "exists already" in error and not list((tmp_path / "out").iterdir())


MISTAKES = {
    "neither": ([], ["what is to be imported?", "--bench NAME"]),
    "both": (["results.csv", "--bench", "synthetic"], ["exclude each other"]),
    "no such file": (["no.csv"], ["no.csv does not exist"]),
    "another kind of file": (["results.txt"], ["'.txt'", ".csv, .jsonl, .parquet"]),
    "columns of neither form": (["results.csv"], ["missing: query, correct", "--columns query=YOURS"]),
    "misspelt target": (["results.csv", "--columns", "querry=prompt"], ["did you mean 'query'?"]),
    "threshold": (["results.csv", "--columns", "query=prompt,correct=score", "--threshold", 7], ["threshold=7"]),
    "name": (["results.csv", "--columns", "query=prompt,correct=score", "--name", "a b"], ["letters, digits"]),
    "unknown benchmark": (["--bench", "syntetic"], ["did you mean 'synthetic'"]),
    "threshold of a benchmark": (["--bench", "synthetic", "--threshold", 0.5], ["are for files"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_next_step_and_leaves_nothing(
    rph, results, tmp_path, monkeypatch, mistake
):
    monkeypatch.chdir(tmp_path)
    arguments, parts = MISTAKES[mistake]
    code, output, error = rph("data", "import", *arguments, "--out", "out")
    assert (code, output) == (2, "")
    assert "fix:" in error and "Traceback" not in error
    for part in parts:
        assert part in error
    assert not (tmp_path / "out").exists()
