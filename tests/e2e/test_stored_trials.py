"""When what is stored is trained again: in a copy of the repository, changed as its developers change it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests import toys

ROOT = Path(__file__).parents[2]
ROUTERS = ("knn", "mlp")  # one whose modules reach `heads`, and one whose do not
EVERY = """
import json
from rph.engine import keys
from rph.registry import installed
found = installed()
plugins = {name: found.load("router", name) for name in found.names("router")}
reach = {name: keys.reach_of(plugin) for name, plugin in plugins.items()}
print(json.dumps({name: [keys.software(plugins[name]).router, sorted(one.modules)] for name, one in reach.items()}))
"""


class Copy:
    """The code of this repository in a folder, with a benchmark and a store of its own."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "path"
        self.path.mkdir()
        for name, target in (("rph", "harness/rph"), ("rph_plugins", "plugins")):
            shutil.copytree(ROOT / target, self.path / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.bench = toys.write_bench(folder / "bench")

    def sources(self):
        return sorted(self.path.rglob("*.py"))

    def python(self, *arguments):
        environment = os.environ | {"PYTHONPATH": str(self.path), "RPH_HOME": str(self.folder / "home")}
        run = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    def trained(self):
        """Router -> how many trials of it `rph eval` finds in the store, after it trained what was not there."""
        names = [word for name in ROUTERS for word in ("--router", name)]
        common = ["--bench", str(self.bench), "--encoder", "lsa", "--protocol", "smoke", "--json"]
        cells = json.loads(self.python("-m", "rph", "eval", *names, *common))
        return {cell["router"]: cell["times_test_was_scored"] for cell in cells}

    def software(self):
        return json.loads(self.python("-c", EVERY))


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


def edited(source, tag):
    """The source with a comment, a docstring more or another docstring, in its module and its functions."""
    tree = ast.parse(source)
    places = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not ast.get_docstring(node):
            first = node.body[0]
            line = min([first.lineno, *(each.lineno for each in getattr(first, "decorator_list", []))])
            if line > node.lineno:
                places.append((line, first.col_offset))
    lines = source.splitlines()
    for line, indent in sorted(places, reverse=True):
        lines[line - 1 : line - 1] = [f'{" " * indent}"""{tag}."""', f"{' ' * indent}# {tag}"]
    return "\n".join([*lines, f"# {tag}", ""])


def moved(copy, old, new):
    """`rph.<old>` becomes `rph.<new>` in every file, as a developer moves a module to another room."""
    source, target = (copy.path / "rph" / (name.replace(".", "/") + ".py") for name in (old, new))
    source.rename(target)
    room, name = old.split(".")
    other = new.rpartition(".")[0]
    for path in copy.sources():
        text = path.read_text()
        text = re.sub(rf"\brph\.{room}\.{name}\b", f"rph.{new}", text)
        text = re.sub(
            rf"from rph\.{room} import ([\w, ]*\b{name}\b[\w, ]*)",
            lambda found: without(found[1], name, room) + f"from rph.{other} import {name}",
            text,
        )
        path.write_text(text)


def without(names, name, room):
    rest = [each for each in re.split(r",\s*", names) if each != name]
    return f"from rph.{room} import {', '.join(rest)}; " if rest else ""


def test_comments_docstrings_and_moves_train_nothing_and_a_constant_trains_those_that_reach_it(copy):
    first = copy.trained()
    assert set(first.values()) == {1}
    software = copy.software()
    for path in copy.sources():
        path.write_text(edited(path.read_text(), "as a reader wishes"))
    moved(copy, "training.neighbours", "results.neighbours")
    moved(copy, "training.heads", "data.heads")
    assert copy.trained() == first
    assert {name: code for name, (code, _) in copy.software().items()} == {
        name: code for name, (code, _) in software.items()
    }

    heads = copy.path / "rph/data/heads.py"
    changed = re.sub(r"(?m)^MOST_CERTAIN = 1e-3", "MOST_CERTAIN = 2e-3", heads.read_text())
    assert changed != heads.read_text()
    heads.write_text(changed)
    assert copy.trained() == {"knn": 1, "mlp": 2}
    after = copy.software()
    again = {name for name, (code, _) in after.items() if code != software[name][0]}
    assert again == {name for name, (_, modules) in after.items() if "rph.data.heads" in modules}
    assert 0 < len(again) < len(after)
