"""Nothing here asks a package index for `rph`, which is another project there."""

import re
import tomllib
from pathlib import Path

import pytest

from rph.distribution import OURS

ROOT = Path(__file__).parents[1]
PLACES = ("harness", "plugins", "examples", "docs", "perf", "leaderboard", "tests", ".github", ".ci")
KINDS = {".py", ".md", ".toml", ".yml", ".yaml", ".jinja", ".html", ".sh", ".cff", ""}
TEXTS = [
    *(path for path in ROOT.iterdir() if path.is_file() and path.suffix in KINDS),
    *(path for place in PLACES for path in (ROOT / place).rglob("*") if path.is_file() and path.suffix in KINDS),
]  # fmt: skip
# An installer's command that names it, an extra of it, and a requirement of it.
NAMED = re.compile(
    r"""(?:pip|pipx|uv|uv\ tool)\ (?:install|inject)[ ](?:[^`\n\#]*?[ "'])?rph(?![\w./-])(?!`\ )
      | (?<![\w./-])rph\[[a-z]
      | (?<![\w./-])rph\ ?(?:[<>~=]=|@\ git)""",
    re.VERBOSE,
)
MEANT = {  # the tests of what is said where someone did
    "tests/test_name.py", "tests/core/test_distribution.py", "tests/core/test_registry.py", "tests/e2e/test_third_party.py",
}  # fmt: skip


def test_no_text_asks_an_index_for_another_project():
    found = {
        f"{path.relative_to(ROOT)}: {hit[0]}"
        for path in TEXTS
        if not re.search(r"__pycache__|\.egg-info", str(path))
        and path.relative_to(ROOT).as_posix() not in MEANT
        for hit in NAMED.finditer(path.read_text("utf-8", errors="replace"))
    }
    assert not found


@pytest.mark.parametrize(
    "text",
    ["pip install rph", 'pip install "rph[new]"', "pip install --upgrade rph", "extra: rph[serve]", '"rph>=0.1.0"',
     "uv tool install rph --with rph-my-router", "pipx inject rph rph-my-router", '"rph @ git+$RPH_REPOSITORY"'],
)  # fmt: skip
def test_what_it_looks_for_is_found(text):
    assert NAMED.search(text)


@pytest.mark.parametrize(
    "text",
    [f"pip install '{OURS}[new]'", "pip install rph-my-router", "pip uninstall rph", "pip install -e rph/harness",
     "`pip install -e .` brings the command rph", "rph-mine[trees]", "rph --version"],
)  # fmt: skip
def test_what_is_ours_is_not(text):
    assert not NAMED.search(text)


def test_the_projects_own_files_name_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == OURS and "rph" in project["scripts"] and "rph" in project["entry-points"]
