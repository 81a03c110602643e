"""What the README shows works: its router in ten lines is evaluated, its commands exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.moments import PATIENCE

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_it_opens_with_two_commands_that_make_knows():
    block = re.search(r"```bash\n(.*?)```", README, re.DOTALL)[1]
    commands = [line.split("#")[0].strip() for line in block.splitlines() if line.strip()]
    assert commands == ["make demo", "make test"]
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.MULTILINE) and re.search(r"^test:", makefile, re.MULTILINE)


def test_its_router_in_ten_lines_is_evaluated(tmp_path):
    code = re.search(r"```python\n# my_router.py\n(.*?)```", README, re.DOTALL)[1]
    plugin = tmp_path / "my_router.py"
    plugin.write_text(code)
    command = [sys.executable, "-m", "rph", "eval", "--plugin", plugin, "--router", "my-router", "--json"]
    command += ["--bench", "synthetic:n=600", "--encoder", "lsa", "--protocol", "smoke"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)
    assert cell["router"] == "my-router" and cell["test_accuracy_mean"] > cell["random"]


def test_every_command_it_names_exists():
    commands = set(re.findall(r"`rph ([a-z]+)", README)) | set(
        re.findall(r"^rph ([a-z]+)", README, re.MULTILINE)
    )
    known = subprocess.run(
        [sys.executable, "-m", "rph", "--help"], check=True, capture_output=True, text=True
    ).stdout
    assert commands
    for command in commands:
        assert re.search(rf"^\s+{command}\b", known, re.MULTILINE), command
