"""The dependency direction, read from the source: core <- plugins, never back, never sideways; and light to import."""

import ast
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "harness" / "rph"
PLUGIN_FILES = sorted(p for p in ROOT.glob("plugins/*/*.py") if p.stem != "__init__")

# Each core module may import only those named before it. The types of rph.api may be named anywhere.
LAYERS = [
    "errors", "lazy", "disk", "arrays", "api", "hookspecs", "metrics", "registry", "checks", "neighbours",
    "clusters", "heads", "headrouter", "unpickle", "hub", "sentence", "table", "contracts", "testing", "published",
    "importing", "nine", "embed", "store", "trials", "executors", "protocol", "results", "sweep", "run", "states",
    "export", "routing", "upstreams", "serve", "resultfiles", "sheets", "insample", "analysis", "plateau", "bottleneck", "paper",
    "report", "uncertainty", "leaderboard", "strictfiles", "recompute", "submissions", "changes", "boardsheets", "site",
    "figures", "htmlreport", "options", "cli_analyze", "cli_report", "cli_submissions", "cli_leaderboard", "scaffold",
    "cli_use", "cli", "__main__",
]  # fmt: skip
PUBLIC = {
    "rph", "rph.api", "rph.arrays", "rph.lazy", "rph.neighbours", "rph.clusters", "rph.heads", "rph.headrouter",
    "rph.table", "rph.unpickle", "rph.hub", "rph.disk", "rph.metrics", "rph.published", "rph.nine", "rph.sentence",
    "rph.trials", "rph.executors",
}  # fmt: skip

HEAVY = {"torch", "numpy", "pandas", "sklearn", "scipy", "xgboost", "sentence_transformers", "ray"}
# What `rph --help` and `rph list` import.
LIGHT = [
    CORE / f"{name}.py"
    for name in ("__init__", "errors", "lazy", "api", "hookspecs", "registry", "disk", "scaffold")
]


def imports_of(path, at_import=False):
    """The modules a file imports, `from rph import disk` as rph.disk; (name, whether for types only).

    `at_import`: only what runs when the file is imported, not what its functions import when called.
    """
    found = set()

    def visit(node, typing):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update((name if is_core(name) else node.module, typing) for name in names)
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
            for child in ast.iter_child_nodes(node):
                visit(child, typing)

    visit(ast.parse(path.read_text()), False)
    return found


def is_core(name):
    path = CORE / name.removeprefix("rph.").replace(".", "/")
    return name.startswith("rph.") and (path.with_suffix(".py").exists() or (path / "__init__.py").exists())


def layer_of(name):
    return ".".join(name.split(".")[:2])


def ours(path):
    return {
        (n, typing) for n, typing in imports_of(path) if n.split(".")[0] in ("rph", "rph_plugins", "plugins")
    }


def short(path):
    return f"{path.parent.name}/{path.stem}"


def test_every_core_module_has_a_layer():
    assert {p.stem for p in CORE.glob("*.py")} - {"__init__"} <= set(LAYERS)


@pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=short)
def test_a_core_module_imports_only_the_layers_below_it(path):
    layer = LAYERS.index("hookspecs") + 1 if path.stem == "__init__" else LAYERS.index(path.stem)
    below = {"rph"} | {f"rph.{name}" for name in LAYERS[:layer]}
    if path.stem == "__init__":
        below.add("rph.routing")  # of `rph.load`, when it is first asked for
    assert {layer_of(name) for name, typing in ours(path) if not (typing and name == "rph.api")} <= below


@pytest.mark.parametrize("path", sorted(CORE.glob("*/*.py")), ids=short)
def test_a_package_of_the_core_imports_only_itself_and_the_layers_below_it(path):
    below = {"rph"} | {f"rph.{name}" for name in LAYERS[: LAYERS.index(path.parent.name) + 1]}
    assert {layer_of(name) for name, _ in ours(path)} <= below


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
        ours = [source for source in found.sources() if source.distribution == "rph"]
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
                    from rph.heads import train
        """)
    )
    runs = {"__future__", "typing", "rph", "rph.disk", "numpy.linalg", "pandas"}
    assert imports_of(file) == {(name, False) for name in (*runs, "rph.heads")} | {("torch", True)}
    assert imports_of(file, at_import=True) == {(name, False) for name in runs} | {("torch", True)}
