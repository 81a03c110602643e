"""docs/plugin-tutorial.md is true: its commands are run as they stand, from a fresh environment to a ranked router."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

from tests import environments

TUTORIAL = (environments.ROOT / "docs" / "plugin-tutorial.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TUTORIAL, re.DOTALL | re.MULTILINE)
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines() if line]
FILES = {text.split()[1]: text for language, text in BLOCKS if language == "python"}
MARK = "== "  # before the output of each command


def run_all(folder):
    """Each command -> what it printed; all are run in one shell, in one folder, with the tutorial's files and a clone."""
    environments.copy_sources(folder / "routing-plateau-harness")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    script = ["set -euo pipefail"]
    for command in COMMANDS:
        script += [f"echo {shlex.quote(MARK + command)}", command]
        if " -m venv " in command:
            # What pip would download is in the environment of the tests: environments.py.
            share = (
                f"from tests import environments as e; e.share_packages(e.Path({str(folder / '.venv')!r}))"
            )
            script.append(f"PYTHONPATH={environments.ROOT} python -c {shlex.quote(share)}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = environments.call(
        "bash",
        "-c",
        "\n".join(script),
        cwd=folder,
        PATH=path,
        RPH_HOME=str(folder),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = re.split(rf"^{MARK}(.*)\n", done.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_it_is_under_ten_commands_and_its_blocks_are_of_known_languages():
    assert 0 < len(COMMANDS) < 10
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert set(FILES) == {"my_router.py"}


def test_every_command_works_and_the_router_is_ranked(tmp_path):
    outputs = run_all(tmp_path / "new")
    assert list(outputs) == COMMANDS
    tables = [text for command, text in outputs.items() if command.startswith("rph eval")]
    assert len(tables) == 2
    for text in tables:
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
        assert {row[1] for row in rows if row[0].isdigit()} == {"my-router", "knn"}
    assert "protocol quick" in tables[0] and "protocol paper" in tables[1]
    assert re.search(r"= \d+ passed, \d+ skipped in ", outputs["python -m pytest rph-my-router"])
    assert re.search(
        r"^my-router: \d+ passed, \d+ skipped", outputs["rph check router my-router"], re.MULTILINE
    )


def test_the_method_is_ten_lines_and_fails_the_checks_that_the_tutorial_names(rph, tmp_path):
    method = FILES["my_router.py"].partition("class MyRouter:\n")[2].partition("\n\n\n")[0]
    assert len([line for line in method.splitlines() if line.strip()]) < 10
    file = tmp_path / "my_router.py"
    file.write_text(FILES["my_router.py"])
    _, output, _ = rph("check", "router", "my-router", "--plugin", file, "--json")
    failed = {result["check"] for result in json.loads(output) if result["status"] == "failed"}
    assert failed == set(re.findall(r"^- `([a-z-]+)`:", TUTORIAL, re.MULTILINE))


def test_every_file_that_it_names_is_written(tmp_path):
    from rph.cli import scaffold

    folder = scaffold.write("router", "my-router", tmp_path / "package")
    rows = re.findall(r"^\| (`.*?) \| ", TUTORIAL, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(named) >= 5
    for name in named:
        assert (folder / name).is_file(), name
