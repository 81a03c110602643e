"""The canonical form: what it drops, what it keeps, what becomes a slot, and that every Python agrees."""

import ast
import io
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rph.engine import canonical
from rph.engine.canonical import Binding, Import

ROOT = Path(__file__).parents[2]
ROUTERS = sorted(p for p in ROOT.glob("plugins/routers/*.py") if p.stem != "__init__")


def read(source, package=""):
    return canonical.read(textwrap.dedent(source), package)


def bindings(source, package=""):
    return [b for part in read(source, package).parts if isinstance(part, tuple) for b in part]


# --- what decides nothing ---------------------------------------------------------------------------

PLAIN = """
def f(a, b=1):
    x = a + b
    return x
"""


@pytest.mark.parametrize(
    "same",
    [
        "# a comment\ndef f(a,b = 1): # and another\n\n    x=(a+\n      b)\n    return (x)\n",
        '"""Docstring."""\ndef f(a, b=1):\n    """Docstring."""\n    x = a + b\n    return x\n',
        'def f(a, b=1):\n    x = a + b\n    "said in between"\n    pass\n    return x\n"at the end"\n',
        "def f(a, b=0x1):\n    x = a + b\n    return x\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f(a, b=1):\n    x = a + b\n    return x\n",
    ],
)
def test_what_decides_nothing_is_not_in_the_form(same):
    assert read(same).parts == read(PLAIN).parts


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a + b", "a - b"),
        ("a + b", "b + a"),
        ("b=1", "b=2"),
        ("b=1", "b=1.0"),
        ("b=1", "b=True"),
        ("b=1", "b='1'"),
        ("b=1", "b=b'1'"),
        ("b=1", "b=..."),
        ("b=1", "b=None"),
        ("b=1", "*, b=1"),
        ("a, b=1", "a: int, b=1"),
        ("def f", "@cache\ndef f"),
        ("def f", "async def f"),
        ("def f", "def g"),
        ("return x", "return"),
    ],
)
def test_what_decides_something_is(old, new):
    assert read(PLAIN.replace(old, new)).parts != read(PLAIN).parts


def test_a_module_that_does_nothing_has_no_parts():
    assert read('"""A room."""\n# nothing\npass\n').parts == ()
    assert read("x = 1").parts != ()


def test_docstrings_are_told_apart_from_what_the_text_computes():
    source = '"""A."""\nclass C:\n    "B."\n    def f():\n        "C."\n        "no docstring"'
    assert read(source).docs == ("'A.'", "'B.'", "'C.'")
    assert not read(source).reads_docs
    for reads in (
        "print(f.__doc__)",
        "print(getattr(f, '__doc__'))",
        "import inspect\nprint(inspect.getdoc(f))",
        "from inspect import getdoc as g\nprint(g(f))",
    ):
        assert read(reads).reads_docs, reads


def test_only_pythons_own_type_checking_is_dropped():
    types = "if {}:\n    import torch\nelse:\n    torch = 1\n"
    spelt = {
        "from typing import TYPE_CHECKING\n": "TYPE_CHECKING",
        "from typing import TYPE_CHECKING as T\n": "T",
        "import typing\n": "typing.TYPE_CHECKING",
        "import typing as t\n": "t.TYPE_CHECKING",
    }
    for line, name in spelt.items():
        form = read(line + types.format(name))
        assert Import("torch") not in form.imports
        assert form.typing == {"torch": Import("torch")}
        assert read(line + "torch = 1").parts == form.parts or line.startswith("import")
    own = "TYPE_CHECKING = True\n" + types.format("TYPE_CHECKING")
    assert Import("torch") in read(own).imports
    rebound = "from typing import TYPE_CHECKING\nTYPE_CHECKING = 1\n" + types.format("TYPE_CHECKING")
    assert Import("torch") in read(rebound).imports
    negated = "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import torch\n"
    assert Import("torch") in read(negated).imports


def test_f_strings_are_one_whichever_pieces_they_are_written_in():
    assert read("""y = f"a" "b" f"{x}" "" """).parts == read("""y = f'ab{x}'""").parts
    assert read("y = f'{x:}'").parts == read("y = f'{x}'").parts
    assert read("y = f'{x:>{w}}'").parts != read("y = f'{x:<{w}}'").parts
    assert read("y = f'{x!r}'").parts != read("y = f'{x}'").parts


def test_none_in_a_list_counts():
    assert read("y = {**x}").parts != read("y = {None: x}").parts
    assert read("def f(*, a, b=1): ...").parts != read("def f(*, a=1, b): ...").parts


def test_numbers_too_long_to_print_are_read():
    assert read("x = 0x" + "f" * 6000).parts != read("x = 0x" + "f" * 5999 + "e").parts


# --- imports ----------------------------------------------------------------------------------------


def test_imports_that_stand_together_have_no_order():
    one = "import b\nfrom c import z, y\nfrom a import x as w\n\nx = 1"
    other = "from a import x as w\n# sorted\nfrom c import y\nimport b\nfrom c import z\nx = 1"
    assert sorted(map(repr, bindings(one))) == sorted(map(repr, bindings(other)))
    assert [b.local for b in bindings(one)] == ["", "w", "y", "z"]
    assert len([p for p in read(one).parts if isinstance(p, tuple)]) == 1
    apart = "import b\nx = 1\nfrom a import x as w\nfrom c import y, z"
    assert len([p for p in read(apart).parts if isinstance(p, tuple)]) == 2


def test_an_import_says_what_is_meant():
    assert bindings("from a.b import c as d") == [Binding("d", Import("a.b", "c"))]
    assert bindings("import a.b as d") == [Binding("d", Import("a.b"))]
    assert bindings("from a import *") == [Binding("*", Import("a", "*"))]
    assert bindings("import a.b") == [Binding("", Import("a.b"))]
    assert bindings("from a import b\nb.c.d(b.e)") == [Binding("b", Import("a", "b"), ("c.d", "e"))]
    assert bindings("from a import b\ng(b)") == [Binding("b", Import("a", "b"), (), passed=True)]
    assert bindings("def f():\n    from a import b") == [Binding("b", Import("a", "b", inside=True))]


def test_relative_imports_are_told_by_the_package():
    assert bindings("from . import a", "p.q") == [Binding("a", Import("p.q", "a"))]
    assert bindings("from .a import b", "p.q") == [Binding("b", Import("p.q.a", "b"))]
    assert bindings("from ..a import b", "p.q") == [Binding("b", Import("p.a", "b"))]
    assert read("from ...a import b", "p.q").computed
    assert read("from .a import b").computed


def test_imports_are_seen_wherever_they_stand():
    source = """
    import a
    try:
        import b
    except ImportError:
        import c
    if x:
        import d
    class C:
        import e
        def f(self):
            import g
    """
    found = read(source).imports
    assert [i.module for i in sorted(found, key=lambda i: i.module)] == ["a", "b", "c", "d", "e", "g"]
    assert [i.module for i in found if i.inside] == ["g"]


def test_a_chain_behind_a_plain_import_is_a_slot():
    form = read("import a.b.c\na.b.c.f.g(a.b.h)\n")
    assert {part for part in form.parts if isinstance(part, Import)} == {
        Import("a.b.c", "f.g"),
        Import("a.b", "h"),
    }
    assert "'a'" not in "".join(part for part in form.parts if isinstance(part, str))
    assert Import("a.b") in read("import a.b\na.b.x = 1").parts  # assigned: an attribute of that module


def test_a_package_that_is_handed_on_says_so():
    for use in ("g(a)", "getattr(a, x)", "y = a", "def f(a): ...", "a = 1"):
        assert Binding("a", Import("a"), (), passed=True) in bindings(f"import a.b\n{use}"), use
    assert not any(b.passed for b in bindings("import a.b\na.b.f()"))


def test_exports_are_the_names_that_are_nothing_but_imports():
    source = """
    import p.q
    from a import f, g as h, both, twice
    from b import twice
    both = 1
    def fun():
        from a import inner
    class C:
        from a import member
    if x:
        from a import late
    """
    exports = read(source).exports
    assert exports == {
        "p": Import("p"), "f": Import("a", "f"), "h": Import("a", "g"), "late": Import("a", "late"),
    }  # fmt: skip
    assert read("from a import f\nfrom b import *").exports == {}
    assert read("from a import f\nglobals()['f'] = 1").exports == {}


# --- computed imports -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\nimportlib.import_module(name)",
        "import importlib\nimportlib.import_module('.a', package=p)",
        "from importlib import import_module\nload = import_module",
        "from importlib import import_module as load\nload('a')",
        "import importlib\ngetattr(importlib, 'import_module')('a')",
        "__import__(name)",
        "exec(text)",
        "x = eval(text)",
        "import builtins\nbuiltins.exec(text)",
        "from importlib.util import spec_from_file_location\nspec_from_file_location(a, b)",
        "import runpy",
        "from runpy import run_path",
        "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)",
        "import sys\nsys.modules[name]",
        "import sys as s\ns.modules[name]",
        "from sys import modules",
        "from importlib.metadata import entry_points\nentry_points()",
    ],
)
def test_computed_imports_are_told(source):
    assert read(source).computed


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\nimportlib.import_module('a.b')",
        "from importlib import import_module\nimport_module('a.b')",
        "__import__('a.b')",
        "from importlib.util import find_spec\nhas = find_spec('a.b') is not None",
    ],
)
def test_an_import_by_a_constant_is_an_import(source):
    form = read(source)
    assert not form.computed
    assert Import("a.b") in form.imports


def test_what_only_looks_like_a_computed_import_is_none():
    assert not read("model.eval()\ncompile(x)\nimport sys\nsys.modules[__name__]\nsys.path").computed


# --- real files -------------------------------------------------------------------------------------


def interpreters():
    """Every other Python from 3.11 on that is here."""
    names = [f"python3.{minor}" for minor in range(11, 16)]
    found = [*map(shutil.which, names)]
    found += [
        str(p)
        for v in Path.home().glob(".pyenv/versions/3.*")
        for n in names
        if (p := v / "bin" / n).exists()
    ]
    paths = {os.path.realpath(path) for path in found if path} - {os.path.realpath(sys.executable)}
    return sorted(
        p for p in paths if subprocess.run([p, "-c", ""], capture_output=True, check=False).returncode == 0
    )


FORMS = """
import importlib.util, json, pathlib, sys
sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("canonical", sys.argv[1])
canonical = sys.modules["canonical"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(canonical)
files = [f for root in sys.argv[2:] for f in sorted(pathlib.Path(root).rglob("*.py"))]
print(json.dumps({str(f): repr(canonical.read(f.read_bytes(), "p").parts) for f in files}))
"""


def forms(python, odd):
    """File -> its form, as this interpreter finds it."""
    folders = [str(ROOT / "harness"), str(ROOT / "plugins"), str(odd)]
    command = [python, "-c", FORMS, canonical.__file__, *folders]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder of syntax that Pythons read differently, or that ours has none of."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "syntax.py").write_text(
        'a = f"{x=}" f"{y!r:>{w}.{n}}" "\\N{BULLET}" f"{{}}"\n'
        "match x:\n    case {'a': 1, **rest} | [None, *_] if y: ...\n    case C(d=True): ...\n"
        "async def f(a, /, b: int = -1, *c, d=1e999, **e): return [z async for z in (yield)] + [1j, b'\\xff', '\\ud800']\n"
        "with a as b, c: del b[1:2, ...]\n"
    )
    (folder / "strings.py").write_text("f'{x:}'\nf'{x:{y}}'\nf'{x:a{y}b}'\nf''\nu'x'\nf'a' 'b'\n")
    return folder


@pytest.fixture(scope="module")
def here(odd):
    return forms(sys.executable, odd)


@pytest.mark.parametrize(
    "python", interpreters() or [pytest.param("", marks=pytest.mark.skip("no other Python"))]
)
def test_every_python_finds_the_same_form(python, odd, here):
    assert len(here) > 80
    assert forms(python, odd) == here


def noisy(source, rng):
    """The source with comments, blank lines, docstrings, bare strings and `pass` put in."""
    tree = ast.parse(source)
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    lines = source.splitlines()
    for node in sorted(blocks, key=lambda node: -node.body[0].lineno):
        first = node.body[0]
        if (
            first.lineno > node.lineno
            and rng.random() < 0.5
            and not isinstance(first, ast.FunctionDef | ast.ClassDef)
        ):
            noise = rng.choice(["pass", "'said'", "# a comment", '"""Lines\n\nof text."""', ""])
            lines.insert(first.lineno - 1, " " * first.col_offset + noise)
    tokens = tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline)
    ends = {t.start[0] for t in tokens if t.type == tokenize.NEWLINE}
    out = []
    for number, line in enumerate("\n".join(lines).splitlines(), 1):
        out.append(line)
        if number in ends and rng.random() < 0.2:
            out[-1] += rng.choice(["  # noise", "   ", ""])
            out.append(rng.choice(["", "# noise", "\t"]))
    return "\n".join(out) + "\n"


@settings(max_examples=40)
@given(st.sampled_from(ROUTERS), st.randoms(use_true_random=False))
def test_noise_in_a_real_module_changes_nothing(path, rng):
    source = path.read_text()
    changed = noisy(source, rng)
    assert canonical.read(changed).parts == canonical.read(source).parts


@settings(max_examples=40)
@given(st.sampled_from(ROUTERS), st.randoms(use_true_random=False))
def test_one_constant_changed_in_a_real_module_changes_its_form(path, rng: random.Random):
    source = path.read_text()
    nodes = list(ast.walk(ast.parse(source)))
    statements = [n for n in nodes if isinstance(n, ast.Expr)]
    bare = {(n.value.lineno, n.value.col_offset) for n in statements if isinstance(n.value, ast.Constant)}
    for_types = [n for n in nodes if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    dropped = {row for n in for_types for row in range(n.lineno, n.body[-1].end_lineno + 1)}
    lines = source.splitlines(keepends=True)
    tokens = [
        t
        for t in tokenize.generate_tokens(io.StringIO(source).readline)
        if t.type in (tokenize.NUMBER, tokenize.STRING) and t.start not in bare and t.start[0] == t.end[0]
        if t.start[0] not in dropped
    ]
    (row, start), (_, end) = (chosen := rng.choice(tokens)).start, chosen.end
    line = lines[row - 1]
    lines[row - 1] = f"{line[:start]}'another'{line[end:]}"
    assert canonical.read("".join(lines)).parts != canonical.read(source).parts
