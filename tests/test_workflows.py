"""The workflows: valid, with few rights, and with nothing of a pull request in a shell."""

import html
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github/workflows"
FILES = sorted(FOLDER.glob("*.yml"))
BIN = Path(sys.executable).parent

WRITES = {  # workflow -> what its token may write, and nothing else
    "submission-comment": {"pull-requests"},
    "site": {"pages", "id-token"},
}


def workflow(name):
    """The parsed file; YAML 1.1 reads the key `on` as true."""
    content = yaml.safe_load((FOLDER / f"{name}.yml").read_text())
    content["on"] = content.pop(True)
    return content


def steps(content):
    return [step for job in content["jobs"].values() for step in job["steps"]]


def test_these_are_the_workflows():
    assert sorted(path.stem for path in FILES) == ["site", "submission", "submission-comment", "tests"]


@pytest.mark.parametrize(
    "command",
    [
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *FILES],
        [BIN / "zizmor", "--offline", "--no-progress", FOLDER],
    ],
    ids=["schema", "audit"],
)
def test_a_checker_of_workflows_finds_nothing(command):
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_has_few_rights_and_puts_nothing_of_an_event_into_a_shell(path):
    content = workflow(path.stem)
    assert content["permissions"] == {}
    assert "pull_request_target" not in content["on"]
    writes = set()
    for job in content["jobs"].values():
        assert job["timeout-minutes"] <= 90
        writes |= {name for name, right in job["permissions"].items() if right == "write"}
    assert writes == WRITES.get(path.stem, set())
    for step in steps(content):
        assert "${{" not in step.get("run", "")
        assert "secrets." not in str(step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False


def test_the_code_that_judges_is_the_branch_s_and_the_pull_request_is_data():
    content = workflow("submission")
    assert set(content["on"]) == {"pull_request"}
    (checkout,) = [step for step in steps(content) if step.get("uses", "").startswith("actions/checkout")]
    assert (
        checkout["with"]["path"] == "head" and "ref" not in checkout["with"]
    )  # the merge; HEAD^1 is the branch
    runs = "\n".join(step["run"] for step in steps(content) if "run" in step)
    assert "git -C head worktree add --detach ../base HEAD^1" in runs
    assert "base/.ci/leaderboard base head" in runs and "--editable base" in runs
    assert not re.search(r"\bhead/", runs)  # nothing in it is called or installed


def test_the_job_that_may_comment_has_nothing_of_the_pull_request():
    content = workflow("submission-comment")
    assert content["on"] == {
        "workflow_run": {"workflows": [workflow("submission")["name"]], "types": ["completed"]}
    }
    (checkout,) = [step for step in steps(content) if step.get("uses", "").startswith("actions/checkout")]
    assert "ref" not in checkout["with"]  # of workflow_run: the default branch
    runs = "\n".join(step["run"] for step in steps(content) if "run" in step)
    assert ".ci/comment" in runs and "artifact/" in runs
    assert "pip" not in runs and "make" not in runs


# --- .ci/comment ------------------------------------------------------------------------------------

HOSTILE = """### Leaderboard: accepted

<img src=x onerror=alert(1)> @everyone, see #1 and [this](https://evil.example) ![](//evil.example/x.png)

[a]: https://evil.example
<!-- rph-leaderboard -->\x1b[2J\u202e
# shouting
www.evil.example
| rank | router |
| ---: | --- |
| 1 | \\<b\\> |
"""


def comment(path):
    command = [sys.executable, ROOT / ".ci/comment", path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def active(text):
    """What GitHub would act on."""
    return re.findall(r"<|@\w|\]\(|\]:|://|www\.|(?<!&)#\w|\x1b|\u202e", text)


def test_nothing_in_a_comment_acts(tmp_path):
    (tmp_path / "comment.md").write_text(HOSTILE)
    run = comment(tmp_path / "comment.md")
    assert run.returncode == 0 and run.stdout.startswith("### Leaderboard: accepted\n")
    assert active(HOSTILE) and not active(run.stdout)
    assert "| 1 | \\&lt;b\\> |" in run.stdout  # a table stays one
    shown = html.unescape(run.stdout).replace("\u200b", "")
    assert shown.rstrip() == re.sub("[\x1b\u202e]", "", HOSTILE).rstrip()


@given(text=st.text(st.sampled_from("<@#[]():/w.!a1 \n\\&"), max_size=80))
def test_no_text_becomes_active(text):
    neutral = runpy.run_path(str(ROOT / ".ci/comment"))["neutral"]
    assert not active(neutral(text))


def test_a_comment_is_a_short_plain_file(tmp_path):
    (tmp_path / "long.md").write_bytes(b"a" * 100_000 + b"\xff")
    assert len(comment(tmp_path / "long.md").stdout) == 60_001  # and the end of the line
    (tmp_path / "link.md").symlink_to("/etc/passwd")
    run = comment(tmp_path / "link.md")
    assert run.returncode == 1 and "no plain file" in run.stderr and not run.stdout
