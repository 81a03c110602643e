"""`rph new` writes what it says, and refuses what it cannot write. Whether the packages work: tests/e2e/test_third_party.py."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rph import RphError, UsageError, __version__, registry
from rph.cli import scaffold
from rph.distribution import OURS, install

ROOT = Path(__file__).parents[2]
KINDS = {"router", "encoder", "benchmark"}


def test_each_kind_with_a_template_is_a_kind_of_plugin():
    assert set(scaffold.KINDS) == KINDS <= set(registry.KINDS)
    folders = {path.name for path in scaffold.TEMPLATES.iterdir() if path.is_dir()}
    assert folders == {*KINDS, "package"}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_package_holds_all_that_is_published_and_no_template_is_left_in_it(kind, tmp_path):
    folder = scaffold.write(kind, "qwen2-mine", tmp_path / "new" / "folder")
    distribution, module = f"rph-qwen2-mine-{kind}", f"rph_qwen2_mine_{kind}"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {
        ".github/workflows/test.yml",
        ".gitignore",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        f"{module}/__init__.py",
        f"tests/test_{kind}.py",
    }
    assert files == expected | ({f"{module}/queries.csv"} if kind == "benchmark" else set())
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == distribution
    assert project["dependencies"] == [f"{OURS}>={__version__}"]
    assert project["entry-points"] == {"rph": {f"{kind}-qwen2-mine": module}}
    workflow = (folder / ".github/workflows/test.yml").read_text()
    assert "rph: [released, main]" in workflow and f'"{OURS} @ git+$RPH_REPOSITORY"' in workflow
    assert "${{ vars.RPH_REPOSITORY }}" in workflow
    others = [path.read_text() for path in folder.rglob("*") if path.is_file() and path.suffix != ".yml"]
    assert not any(mark in text for text in others for mark in ("{{", "{%", "endraw"))
    (tests,) = folder.glob("tests/*.py")
    assert "rph.testing" in tests.read_text()


@pytest.mark.parametrize("name", ["class", "dot", "c-onfig"])
def test_the_imports_are_sorted_whatever_the_class_is_called(name, tmp_path):
    for kind in KINDS:
        folder = scaffold.write(kind, name, tmp_path / kind)
        ruff = (Path(sys.executable).parent / "ruff", "check", "--no-cache", "--extend-select", "I", ".")
        done = subprocess.run(ruff, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_package_promises_what_the_policy_does(tmp_path):
    policy = " ".join((ROOT / "docs" / "stability.md").read_text().split())
    assert "Before 1.0.0 the last row is a minor version" in policy
    readme = " ".join((scaffold.write("router", "abc", tmp_path / "new") / "README.md").read_text().split())
    assert "until rph's next major version, before rph 1.0.0 until its next minor one" in readme


def test_the_workflow_is_valid_and_the_one_of_the_example(tmp_path):
    folder = scaffold.write("router", "softmax", tmp_path / "new")
    workflow = Path(".github", "workflows", "test.yml")
    for command in (
        ("check-jsonschema", "--builtin-schema", "vendor.github-workflows", folder / workflow),
        (
            "zizmor",
            "--offline",
            "--no-progress",
            "--config",
            ROOT / ".github" / "zizmor.yml",
            folder / workflow,
        ),
    ):
        program = Path(sys.executable).parent / command[0]
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    example = ROOT / "examples" / "rph-softmax-router" / workflow
    assert example.read_text() == (folder / workflow).read_text()


def test_the_folder_is_named_after_the_distribution_and_may_be_there_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rph-abc-router").mkdir()
    assert scaffold.write("router", "abc").joinpath("LICENSE").is_file()


@given(st.from_regex(scaffold.NAME, fullmatch=True), st.sampled_from(sorted(KINDS)))
def test_a_valid_name_gives_a_module_that_can_be_imported_and_an_unquoted_entry_point(name, kind):
    distribution = scaffold.distribution(kind, name)
    assert distribution.replace("-", "_").isidentifier()
    assert distribution.endswith(f"-{kind}") and f"{kind}-{kind}" not in distribution.removeprefix(
        f"rph-{name}"
    )
    assert tomllib.loads(f'{kind}-{name} = "x"') == {f"{kind}-{name}": "x"}


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_any_other_text_is_refused_as_a_name(name):
    fine = scaffold.NAME.fullmatch(name) and len(name) <= 50 and name != "all"
    if not fine:
        with pytest.raises(UsageError, match="cannot be made"):
            scaffold.write("router", name)


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("rooter", "mine", "router, encoder, benchmark"),
        ("router", "My_Router", "use small letters and digits"),
        ("router", "-mine", "use small letters and digits"),
        ("router", "mine-", "use small letters and digits"),
        ("router", "a--b", "use small letters and digits"),
        ("router", "../up", "use small letters and digits"),
        ("router", "a" * 51, "at most 50 characters"),
        ("router", "all", "the word means every plugin"),
        ("router", "knn", f"it is installed, by {OURS} "),
        ("encoder", "lsa", f"it is installed, by {OURS} "),
    ],
)
def test_a_wrong_kind_or_name_is_told_what_to_do(kind, name, says, tmp_path):
    with pytest.raises(UsageError) as caught:
        scaffold.write(kind, name, tmp_path / "out")
    assert caught.value.fix and says in str(caught.value)
    assert list(tmp_path.glob("out")) == []


def test_the_name_of_another_kind_is_free(tmp_path):
    assert scaffold.write("benchmark", "knn", tmp_path / "out").is_dir()


@pytest.mark.parametrize("what", ["is not empty", "is a file"])
def test_what_is_there_is_not_written_over(what, tmp_path):
    out = tmp_path / "out"
    if what == "is a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=what):
        scaffold.write("router", "abc", out)
    assert [path.read_text() for path in (out, *out.glob("*")) if path.is_file()] == ["mine"]


def test_where_nothing_can_be_written_it_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RphError, match="cannot be written"):
        scaffold.write("router", "abc", tmp_path / "file" / "out")


def test_a_folder_that_cannot_be_looked_at_is_told(tmp_path):
    with pytest.raises(RphError, match=r"(?s)cannot be written.*too long.*name another place"):
        scaffold.write("router", "abc", tmp_path / ("x" * 300))


def test_without_the_engine_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "copier", None)
    with pytest.raises(UsageError) as caught:
        scaffold.write("router", "abc", tmp_path / "out")
    assert caught.value.exit_code == 2 and caught.value.fix == install("new")
    assert list(tmp_path.glob("out")) == []
