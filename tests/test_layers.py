"""The house, read from its source: rooms import downwards, plugins import the core, nothing goes back; and it is light to import."""

import ast
import graphlib
import importlib.util
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "harness" / "rph"
PLUGIN_FILES = sorted(p for p in ROOT.glob("plugins/*/*.py") if p.stem != "__init__")

# Lowest first: a module may import its own room, the rooms before it, and the hall.
ROOMS = [
    "data", "results", "training", "encoding", "conformance", "engine", "deploy", "board", "study", "cli",
]  # fmt: skip
# Modules in `rph/` itself that any room may import, each of which imports only those before it.
HALL = [
    "errors",
    "lazy",
    "machine",
    "distribution",
    "disk",
    "arrays",
    "holes",
    "api",
    "hookspecs",
    "protocol",
    "registry",
]
# They may import anything, and nothing imports them; but plugins and `rph.__version__` come through `rph` itself.
ROOF = ["__init__", "testing", "__main__"]
# What a plugin may import: docs/stability.md says which of it is promised.
PUBLIC = {
    "rph", "rph.api", "rph.arrays", "rph.disk", "rph.distribution", "rph.holes", "rph.lazy",
    "rph.training.clusters", "rph.training.costheads", "rph.training.headrouter", "rph.training.heads", "rph.training.localmeans",
    "rph.training.neighbours",
    "rph.data.hub", "rph.data.nine", "rph.data.parquet", "rph.data.published", "rph.data.routing_table", "rph.data.unpickle",
    "rph.data.validity", "rph.encoding.sentence", "rph.results.metrics", "rph.results.probabilities", "rph.results.outcomes",
    "rph.engine.executors", "rph.engine.inputs", "rph.engine.trials", "rph.machine",
}  # fmt: skip

# What `rph` itself imports only when it is asked for: to name it is to import that.
WHEN_ASKED = {"load": "rph.deploy.routing"}

HEAVY = {"torch", "numpy", "pandas", "sklearn", "scipy", "xgboost", "sentence_transformers", "ray"}
# What `rph --help` and `rph list` import.
LIGHT = [
    *(
        CORE / f"{name}.py"
        for name in ("__init__", "errors", "lazy", "distribution", "api", "hookspecs", "registry", "disk")
    ),
    *(CORE / "cli").glob("[!t]*.py"),  # but `tables`, which those import that print one
]


def imports_of(path, at_import=False):
    """The modules a file imports, `from rph import disk` as rph.disk, `import_module("a.b")` as a.b; (name, whether
    for types only).

    `at_import`: only what runs when the file is imported, not what its functions import when called.
    """
    found = set()

    def visit(node, typing):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update((name if is_core(name) else node.module, typing) for name in names)
            asked = [WHEN_ASKED[alias.name] for alias in node.names if alias.name in WHEN_ASKED]
            found.update((name, typing) for name in asked if node.module == "rph")
        elif isinstance(node, ast.Import):
            found.update((alias.name, typing) for alias in node.names)
        elif at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, typing)
        else:
            match node:
                case ast.Attribute(value=ast.Name(id="rph"), attr=name) if name in WHEN_ASKED:
                    found.add((WHEN_ASKED[name], typing))
                case ast.Call(
                    func=ast.Attribute(attr=name) | ast.Name(id=name),
                    args=[ast.Constant(value=str(module)), *_],
                ):
                    if name in ("import_module", "__import__"):
                        found.add((module, typing))
            for child in ast.iter_child_nodes(node):
                visit(child, typing)

    visit(ast.parse(path.read_text()), False)
    return found


def is_core(name):
    path = CORE / name.removeprefix("rph.").replace(".", "/")
    return name.startswith("rph.") and (path.with_suffix(".py").exists() or (path / "__init__.py").exists())


def ours(path):
    return {
        (n, typing) for n, typing in imports_of(path) if n.split(".")[0] in ("rph", "rph_plugins", "plugins")
    }


def short(path):
    return f"{path.parent.name}/{path.stem}"


def name_of(path):
    """A file of the core -> its module: rph.results.metrics."""
    parts = path.relative_to(CORE).with_suffix("").parts
    return ".".join(("rph", *(part for part in parts if part != "__init__")))


CORE_FILES = {name_of(path): path for path in sorted(CORE.rglob("*.py"))}


def place_of(name):
    """A module of the core -> (how high it stands, its room); the roof and `rph` itself are above all."""
    first = name.split(".")[1] if "." in name else "__init__"
    if first in HALL:
        return HALL.index(first), first
    if first in ROOMS:
        return len(HALL) + ROOMS.index(first), first
    return len(HALL) + len(ROOMS), "roof"


def imports_within(name):
    """The modules of the core that one imports, also inside functions and for types. `rph` alone is a facade."""
    return {found for found, _ in ours(CORE_FILES[name])} - {"rph"}


def test_every_file_of_the_core_has_its_place():
    folders = {path.name for path in CORE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(ROOMS)
    assert {path.stem for path in CORE.glob("*.py")} == {*HALL, *ROOF}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_holds_nothing_itself(room):
    (statement,) = ast.parse((CORE / room / "__init__.py").read_text()).body
    assert (
        isinstance(statement, ast.Expr) and "never imports" in statement.value.value
    ) or "imports the hall alone" in statement.value.value


@pytest.mark.parametrize("name", CORE_FILES)
def test_a_core_module_imports_nothing_above_it(name):
    mine, room = place_of(name)
    if room != "roof":
        wrong = {n for n in imports_within(name) if place_of(n)[0] > mine}
        assert not wrong


def test_no_module_of_the_core_imports_itself_in_a_circle():
    graph = {name: imports_within(name) for name in CORE_FILES if name != "rph"}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_no_folder_or_file_of_the_core_outgrows_its_reader():
    def shown(folder):
        return [path for path in folder.iterdir() if path.name != "__pycache__"]

    folders = [path for path in CORE.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    assert len(shown(CORE)) <= 25 and all(len(shown(folder)) <= 15 for folder in folders)
    lines = {name: path.read_text().count("\n") for name, path in CORE_FILES.items()}
    assert max(count for name, count in lines.items() if name.startswith("rph.cli.")) <= 350
    assert max(lines.values()) <= 500


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=short)
def test_a_plugin_imports_only_the_public_core_and_no_other_plugin(path):
    assert {name for name, _ in ours(path)} <= PUBLIC


def test_each_plugin_file_is_published_under_its_own_name():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["rph"]
    expected = {
        f"{p.parent.name.removesuffix('s')}-{p.stem.replace('_', '-')}": f"rph_plugins.{p.parent.name}.{p.stem}"
        for p in PLUGIN_FILES
    }
    # A file's name cannot hold the dots of a model's, as in qwen2.5-0.5b.
    assert {name.replace(".", ""): target for name, target in points.items()} == expected


@pytest.mark.parametrize("path", [*LIGHT, *PLUGIN_FILES], ids=short)
def test_importing_a_plugin_or_what_every_command_needs_imports_no_heavy_library(path):
    at_import = {name.split(".")[0] for name, typing in imports_of(path, at_import=True) if not typing}
    assert not at_import & HEAVY


def test_loading_every_built_in_plugin_imports_no_heavy_library():
    code = f"""
        import sys
        from rph import registry
        found = registry.installed()
        ours = [source for source in found.sources() if source.distribution == registry.OURS]
        print(len([found.load(source.kind, source.name) for source in ours]))
        print(*({HEAVY!r} & set(sys.modules)))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{len(PLUGIN_FILES)}\n\n"


def test_the_reader_of_imports_sees_through_functions_types_and_facades(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        textwrap.dedent("""
            from __future__ import annotations
            from typing import TYPE_CHECKING
            from rph import disk, hookimpl
            import numpy.linalg
            if TYPE_CHECKING:
                import torch
            class Router:
                import pandas
                def fit(self):
                    from rph.training.heads import train
                def hidden(self):
                    importlib.import_module("rph.cli.main")
                def facade(self):
                    rph.load("x")
        """)
    )
    runs = {"__future__", "typing", "rph", "rph.disk", "numpy.linalg", "pandas"}
    called = {"rph.training.heads", "rph.cli.main", "rph.deploy.routing"}
    assert imports_of(file) == {(name, False) for name in runs | called} | {("torch", True)}
    assert imports_of(file, at_import=True) == {(name, False) for name in runs} | {("torch", True)}
    file.write_text("from rph import Trial, load")
    assert imports_of(file) == {("rph", False), ("rph.deploy.routing", False)}


def test_the_picture_of_the_house_is_the_present_one():
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
    house = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(house)
    assert list(house.ROOMS) == ROOMS[::-1]
    assert house.PICTURE.read_text("utf-8") == house.drawn(), "`make house` draws it anew"
