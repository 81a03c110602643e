"""The distribution's name, the advice of what to install, and what `rph doctor` says of another `rph`, from real metadata."""

import json
import sys
from pathlib import Path

import pytest

import rph
from rph import distribution

HERE = Path(rph.__file__).resolve().parent
OURS = "routing-plateau-harness"


class Site:
    """A folder before all others on sys.path, with distributions as pip would leave them."""

    def __init__(self, folder):
        self.folder = folder

    def put(self, name, version="0.1.0", *, metadata=(), record=(), **files):
        """Write the metadata of a distribution; `record` are the files that it brings."""
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata, ""]
        (info / "METADATA").write_text("\n".join(lines))
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in record))
        for file, content in files.items():
            (info / file.replace("__", ".")).write_text(content)

    def ours(self, origin=None, **how):
        """Our own, taken from `origin`, in the form of PEP 610."""
        self.put(OURS, **({} if origin is None else {"direct_url__json": json.dumps(origin)}), **how)


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return Site(folder)


ORIGINS = {
    "an index": (
        None,
        f"pip install '{OURS}[new]'",
        f"pip install {OURS}",
        f"pip install --upgrade '{OURS}>=9'",
    ),
    "a clone, editable": (
        {"url": "file:///my%20code/rph", "dir_info": {"editable": True}},
        "pip install -e '/my code/rph[new]'",
        "pip install -e '/my code/rph'",
        f"get {OURS}>=9 into /my code/rph (git pull), then pip install -e '/my code/rph'",
    ),
    "a clone": (
        {"url": "file:///code/rph", "dir_info": {}},
        "pip install '/code/rph[new]'",
        "pip install /code/rph",
        f"get {OURS}>=9 into /code/rph (git pull), then pip install /code/rph",
    ),
    "a repository": (
        {"url": "https://a.b/c/d", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}},
        f"pip install '{OURS}[new] @ git+https://a.b/c/d'",
        f"pip install '{OURS} @ git+https://a.b/c/d'",
        f"pip install --upgrade '{OURS} @ git+https://a.b/c/d'",
    ),
    "a branch of a repository": (
        {"url": "https://a.b/c", "vcs_info": {"vcs": "git", "commit_id": "0", "requested_revision": "main"}},
        f"pip install '{OURS}[new] @ git+https://a.b/c@main'",
        f"pip install '{OURS} @ git+https://a.b/c@main'",
        f"pip install --upgrade '{OURS} @ git+https://a.b/c@main'",
    ),
    "a wheel": (
        {"url": "file:///tmp/ours.whl", "archive_info": {}},
        f"pip install '{OURS}[new] @ file:///tmp/ours.whl'",
        f"pip install '{OURS} @ file:///tmp/ours.whl'",
        f"pip install --upgrade '{OURS}>=9'",
    ),
}


@pytest.mark.parametrize(("origin", "extra", "plain", "newer"), ORIGINS.values(), ids=ORIGINS)
def test_what_to_install_is_named_by_where_it_came_from(site, origin, extra, plain, newer):
    site.ours(origin)
    assert distribution.install("new") == extra
    assert distribution.install() == plain
    assert distribution.upgrade(">=9") == newer
    assert not {"rph", "rph[new]"} & set(extra.replace("'", " ").split())


def test_a_newer_one_of_a_clone_is_no_certain_version(site):
    site.ours({"url": "file:///code/rph", "dir_info": {}})
    assert distribution.upgrade().startswith(f"get a newer {OURS} into /code/rph")


def test_the_former_name_means_ours_and_no_other_name_does():
    assert [distribution.current(name) for name in ("rph", OURS, "rph-mine", "RPH", "")] == [
        OURS, OURS, "rph-mine", "RPH", "",
    ]  # fmt: skip


@pytest.fixture
def alone(site):
    """Our distribution, properly installed: a clone whose code is what runs."""
    site.ours({"url": HERE.parents[1].as_uri(), "dir_info": {"editable": True}})
    return site


def test_nothing_is_wrong_with_ours_alone_nor_with_a_plugin_that_requires_it(alone):
    alone.put(
        "rph-mine", metadata=[f"Requires-Dist: {OURS}>=0.1.0"], entry_points__txt="[rph]\nrouter-a = a\n"
    )
    assert list(distribution.problems()) == []


@pytest.mark.parametrize("name", ["rph", "RPH"])
def test_an_rph_beside_ours_is_named_with_its_place_and_what_to_do(alone, name):
    alone.put(name, "0.9.1", record=["rph/__init__.py"])
    (problem,) = distribution.problems()
    assert problem.startswith(f"rph 0.9.1 is installed too, in {alone.folder}: another project")
    assert problem.endswith(
        f"pip uninstall rph, then pip install --force-reinstall --no-deps -e {HERE.parents[1]}"
    )


def test_a_plugin_that_would_bring_another_rph_is_named(alone):
    alone.put("rph-mine", "2.0", metadata=["Requires-Dist: ???", "Requires-Dist: rph>=0.1.0"],
              entry_points__txt="[rph]\nrouter-a = a\n")  # fmt: skip
    alone.put("another", metadata=["Requires-Dist: rph"])  # no plugin: it may mean the other project
    (problem,) = distribution.problems()
    assert problem.startswith("rph-mine 2.0 requires rph") and f"must require {OURS}" in problem


@pytest.mark.parametrize(
    "how",
    [
        {"record": ["rph/__init__.py"]},
        {"origin": {"url": "file:///elsewhere", "dir_info": {"editable": True}}},
    ],
    ids=["a wheel's", "a clone's"],
)
def test_code_that_is_not_that_of_the_distribution_is_told(site, how):
    site.ours(**how)
    its = "/elsewhere/harness/rph" if "origin" in how else site.folder / "rph"
    (problem,) = distribution.problems()
    assert problem.startswith(f"what is imported lies in {HERE}, and {OURS} 0.1.0 in {its}")


def test_metadata_that_do_not_tell_where_the_code_lies_are_no_problem(site):
    site.ours()
    assert list(distribution.problems()) == []


def test_code_without_any_distribution_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    Site(tmp_path).put("rph", entry_points__txt="[rph]\nrouter-knn = rph_plugins.routers.knn\n")
    other, nothing = distribution.problems()
    assert other.startswith(f"rph 0.1.0 is installed too, in {tmp_path}")
    again = f"pip install --force-reinstall --no-deps -e {HERE.parents[1]}"
    assert nothing == f"{OURS} is not installed; what is imported lies in {HERE}: {again}"


def test_doctor_says_it(rph_home, alone, capsys, monkeypatch):
    from rph.cli import main

    alone.put("rph", "0.9.1")
    monkeypatch.setattr(sys, "argv", ["rph", "doctor", "--json"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert ended.value.code == 1
    assert not rows["distribution"]["ok"] and "pip uninstall rph" in rows["distribution"]["value"]
