"""What a module reaches, on packages made by hand: each rule, and what it must not miss."""

import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import shutil
import sys
import textwrap
import time
import types
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from rph.engine import installed, reach
from rph.engine.reach import reached
from rph.errors import RphError

SITE, SRC = "site", "src"  # folders on the path: one with distributions, one without any


class World:
    """Modules and distributions in a folder; each question is asked as by a new process."""

    def __init__(self, root):
        self.root = root
        self.known = set(sys.modules)

    def write(self, files, folder=SRC):
        for name, text in files.items():
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    def move(self, old, new, folder=SRC):
        target = self.root / folder / new
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.root / folder / old, target)

    def distribution(self, name, version="1.0", *, requires=(), record=None, editable=False, top=None):
        """A dist-info in SITE; `record` are the files that its RECORD declares, None for no RECORD."""
        info = self.root / SITE / f"{name.replace('-', '_')}-{version}.dist-info"
        for old in (self.root / SITE).glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(old)
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {r}" for r in requires)]) + "\n")
        if record is not None:
            (info / "RECORD").write_text("".join(f"{file},,\n" for file in record))
        if editable:
            url = {"url": f"file://{self.root / SRC}", "dir_info": {"editable": True}}
            (info / "direct_url.json").write_text(json.dumps(url))
        if top:
            (info / "top_level.txt").write_text(f"{top}\n")
        return Distribution.at(info)

    def forget(self):
        for name in set(sys.modules) - self.known:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(str(self.root)) or not file:
                del sys.modules[name]
        importlib.invalidate_caches()
        for module in (installed, reach):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()

    def reached(self, name, distribution=None):
        self.forget()
        module = importlib.import_module(name)
        self.imported = set(sys.modules)
        return reached(module, distribution=distribution)

    def code(self, name="plugin", distribution=None):
        return self.reached(name, distribution).code

    def changes(self, files, folder=SRC, distribution=None, name="plugin"):
        """Whether writing these files changes the code of the plugin."""
        before = self.code(name, distribution)
        self.write(files, folder)
        return self.code(name, distribution) != before


@pytest.fixture
def world(tmp_path, monkeypatch):
    for folder in (SITE, SRC):
        (tmp_path / folder).mkdir()
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = World(tmp_path)
    yield made
    made.forget()


# --- followed as source -----------------------------------------------------------------------------


def test_only_what_decides_something_changes_the_code(world):
    world.write({"plugin.py": "from helper import f\nx = f(1)", "helper.py": "def f(a):\n    return a"})
    assert not world.changes({"plugin.py": '"""Doc."""\nfrom helper import f  # why\n\nx = f( 1 )'})
    assert not world.changes({"helper.py": 'def f(a):\n    """Doc."""\n    return a  # a'})
    assert not world.changes({"unreached.py": "x = 1"})
    assert world.changes({"helper.py": "def f(a):\n    return -a"})
    assert world.changes({"plugin.py": "from helper import f\nx = f(2)"})
    assert set(world.reached("plugin").modules) == {"plugin", "helper"}


def test_what_is_imported_when_a_function_runs_counts(world):
    world.write(
        {
            "plugin.py": "def fit():\n    from helper import f\n    return f()",
            "helper.py": "def f(): return 1",
        }
    )
    assert world.changes({"helper.py": "def f(): return 2"})
    assert "helper" in world.reached("plugin").modules
    assert "helper" not in world.imported  # it was read, and not run


def test_docstrings_count_where_a_module_reads_them_also_of_another(world):
    world.write(
        {"prompts.py": 'def judge():\n    "Right?"', "plugin.py": "import prompts\nx = prompts.judge"}
    )
    assert not world.changes({"prompts.py": 'def judge():\n    "Good?"'})
    world.write({"plugin.py": "import prompts\nx = prompts.judge.__doc__"})
    assert world.changes({"prompts.py": 'def judge():\n    "Wrong?"'})
    assert not world.changes({"prompts.py": 'def judge():  # a comment\n    "Wrong?"'})
    world.write({"base.py": "class Base:\n    def __init_subclass__(cls): cls.text = cls.__doc__"})
    world.write({"plugin.py": 'from base import Base\nclass Mine(Base):\n    "one"'})
    assert world.changes({"plugin.py": 'from base import Base\nclass Mine(Base):\n    "two"'})


def test_the_order_of_imports_counts_where_the_later_hides_the_earlier(world):
    world.write({"a/__init__.py": "f = 1", "a/b.py": "", "c.py": "f = 2"})
    for one, other in (
        ("from a import f", "from c import *"),
        ("from a import *", "from c import *"),
        ("import a.b", "import c as a"),
        ("from a import f", "from c import f"),
    ):
        world.write({"plugin.py": f"{one}\n{other}\nx = lambda: f"})
        assert world.changes({"plugin.py": f"{other}\n{one}\nx = lambda: f"}), (one, other)


def test_what_is_imported_for_type_checkers_does_not_count(world):
    world.write(
        {"plugin.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from helper import f\nx = 1"}
    )
    world.write({"helper.py": "f = 1"})
    assert not world.changes({"helper.py": "f = 2"})
    assert set(world.reached("plugin").modules) == {"plugin"}


@pytest.mark.parametrize(
    ("old", "before", "new", "after"),
    [
        ("house/heads", "from house.heads import f\nx = f()", "house/room/heads", "from house.room.heads import f\nx = f()"),
        ("house/heads", "from house import heads\nx = heads.f", "house/room/heads", "from house.room import heads\nx = heads.f"),
        ("house/heads", "import house.heads as h\nx = h.f", "house/room/deep/heads", "import house.room.deep.heads as h\nx = h.f"),
        ("house/heads", "import house.heads\nx = house.heads.f", "house/other", "import house.other\nx = house.other.f"),
        ("heads", "import heads\nx = heads.f()", "house/heads", "import house.heads\nx = house.heads.f()"),
        ("house/heads", "import house.a, house.heads\nx = house.heads.f", "a/heads", "import a.heads, house.a\nx = a.heads.f"),
        ("house/heads", "x = __import__('house.heads').f()", "house/room/heads", "x = __import__('house.room.heads').f()"),
    ],
)  # fmt: skip
def test_a_module_that_moved_changes_nothing(world, old, before, new, after):
    world.write(
        {f"{f}/__init__.py": '"""A room."""' for f in ("house", "house/room", "house/room/deep", "a")}
    )
    world.write({"house/a.py": "b = 1", f"{old}.py": "from house.a import b\ndef f(): return b"})
    world.write({"plugin.py": f"def fit():\n{textwrap.indent(before, '    ')}"})
    code = world.code()
    world.move(f"{old}.py", f"{new}.py")
    world.write({"plugin.py": f"def fit():\n{textwrap.indent(after, '    ')}"})
    assert world.code() == code
    assert world.changes({f"{new}.py": "from house.a import b\ndef f(): return -b"})


def test_two_functions_of_one_name_are_two(world):
    world.write(
        {"one.py": "def f(): return 1", "other.py": "def f(): return 2", "plugin.py": "from one import f"}
    )
    assert world.changes({"plugin.py": "from other import f"})
    assert world.changes({"plugin.py": "import one\nx = one.f()"})
    assert world.changes({"plugin.py": "import other\nx = other.f()"})
    world.write({"two.py": "def f(): return 1\ndef g(): return 1", "plugin.py": "from two import f as h"})
    assert world.changes({"plugin.py": "from two import g as h"})


def test_a_re_export_is_followed_to_the_module_that_defines(world):
    world.write(
        {
            "pkg/__init__.py": "from pkg.middle import f",
            "pkg/middle.py": "from pkg.impl import g as f",
            "pkg/impl.py": "def g(): return 1",
            "plugin.py": "from pkg import f\nx = f()",
        }
    )
    assert set(world.reached("plugin").modules) == {"plugin", "pkg", "pkg.middle", "pkg.impl"}
    assert world.changes({"pkg/impl.py": "def g(): return 2"})
    # Another module of the same name for f, and nothing of the plugin's own text changes.
    world.write({"pkg/impl2.py": "def g(): return 3"})
    assert world.changes({"pkg/middle.py": "from pkg.impl2 import g as f"})
    # What stands beside the re-export runs too: it may set whatever f reads.
    assert world.changes({"pkg/__init__.py": "from pkg.middle import f\nx = 1"})


def test_parents_run_and_count_but_empty_ones_do_not(world):
    world.write({"pkg/__init__.py": "", "pkg/sub/__init__.py": "'Room.'", "pkg/sub/a.py": "b = 1"})
    world.write({"plugin.py": "from pkg.sub.a import b"})
    assert set(world.reached("plugin").modules) == {"plugin", "pkg.sub.a"}
    assert not world.changes({"pkg/__init__.py": '"""Another docstring."""'})
    world.write({"pkg/setting.py": "x = 1"})
    assert world.changes({"pkg/__init__.py": "import pkg.setting"})
    assert world.changes({"pkg/setting.py": "x = 2"})


def test_a_circle_of_imports_is_hashed_as_one(world):
    files = {
        "a.py": "import b\ndef f(): return b.g",
        "b.py": "import c\ndef g(): return c.h",
        "c.py": "import a\ndef h(): return a.f",
        "plugin.py": "import a\nx = a.f",
    }
    world.write(files)
    assert set(world.reached("plugin").modules) == {"plugin", "a", "b", "c"}
    codes = {world.code(name) for name in ("a", "b", "c")}
    assert len(codes) == 3
    assert not world.changes({"c.py": "import a  # again\ndef h(): return a.f"})
    assert world.changes({"c.py": "import a\ndef h(): return a.f()"})
    assert world.changes({"b.py": "import c\ndef g(): return c.h()"})
    # Names have no part in it.
    world.write(files)
    code = world.code()
    world.move("c.py", "z.py")
    world.write({"b.py": "import z\ndef g(): return z.h"})
    assert world.code() == code
    # Who imports whom has.
    world.write({"b.py": "import z\nimport a\ndef g(): return z.h"})
    assert world.code() != code


def test_a_module_that_imports_itself_is_a_circle(world):
    world.write({"plugin.py": "import plugin\nx = 1"})
    assert world.changes({"plugin.py": "import plugin\nx = 2"})


def test_what_hides_the_definer_counts_as_the_module_with_all_it_reaches(world):
    world.write({"impl.py": "def f(): return 1"})
    for hiding in (
        "from impl import *",
        "import impl\ndef __getattr__(name): return getattr(impl, name)",
        "try:\n    from impl import f\nexcept ImportError:\n    def f(): return 0",
    ):
        world.write(
            {"facade.py": hiding, "plugin.py": "from facade import f", "impl.py": "def f(): return 1"}
        )
        assert world.changes({"impl.py": "def f(): return 2"}), hiding
        assert world.changes({"facade.py": f"{hiding}\nx = 1"}), hiding
    world.write({"plugin.py": "from impl import *\nx = f()"})
    assert world.changes({"impl.py": "def f(): return 3"})


def test_a_star_import_of_a_package_imports_the_modules_that_it_names(world):
    world.write(
        {"pkg/__init__.py": "__all__ = ['a']", "pkg/a.py": "x = 1", "plugin.py": "from pkg import *\ny = a.x"}
    )
    assert world.changes({"pkg/a.py": "x = 2"})


def test_a_plugin_that_is_a_file_is_followed_under_whatever_name_it_was_loaded(world):
    world.write({"plugin.py": "from helper import f", "helper.py": "f = 1"})

    def code(name):
        world.forget()
        spec = importlib.util.spec_from_file_location(name, world.root / SRC / "plugin.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        return reached(sys.modules[name], distribution=None).code

    before = code("rph_local_plugin_1")
    assert code("rph_local_plugin_2") == before
    world.write({"helper.py": "f = 2"})
    assert code("rph_local_plugin_1") != before


def test_modules_of_an_imported_package_are_found_as_its_attributes(world):
    world.write({"pkg/__init__.py": "", "pkg/sub/__init__.py": "", "pkg/sub/a.py": "b = 1"})
    for text in (
        "import pkg\nx = lambda: pkg.sub.a.b",
        "from pkg import sub\nx = lambda: sub.a.b",
        "import pkg as p\nx = lambda: p.sub.a.b",
    ):
        world.write({"plugin.py": text, "pkg/sub/a.py": "b = 1"})
        assert world.changes({"pkg/sub/a.py": "b = 2"}), text


def test_relative_imports_and_namespace_packages_are_followed(world):
    world.write(
        {"space/pkg/__init__.py": "", "space/pkg/plugin.py": "from . import a\nfrom .b import c\nx = a.y"}
    )
    world.write({"space/pkg/a.py": "y = 1", "space/pkg/b.py": "c = 1"})
    found = world.reached("space.pkg.plugin")
    assert set(found.modules) == {"space.pkg.plugin", "space.pkg.a", "space.pkg.b"}
    assert world.changes({"space/pkg/a.py": "y = 2"}, name="space.pkg.plugin")
    assert world.changes({"space/pkg/b.py": "c = 2"}, name="space.pkg.plugin")


def test_a_file_that_hides_a_module_of_the_standard_library_is_followed(world):
    world.write({"plugin.py": "def f():\n    import antigravity\n    import json", "antigravity.py": "x = 1"})
    assert world.changes({"antigravity.py": "x = 2"})
    assert set(world.reached("plugin").modules) == {"plugin", "antigravity"}


def test_a_module_of_no_file_is_refused(world):
    module = types.ModuleType("made_up")
    with pytest.raises(RphError, match="made_up"):
        reached(module, distribution=None)


# --- what cannot be followed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\ndef f(n): return importlib.import_module(n)",
        "exec('x = 1')",
        "import pkg.other\ngetattr(pkg, 'oth' + 'er')",
        "from pkg import sub\nprint(sub)",
        "def f():\n    from importlib import import_module\n    return import_module('pkg.sub')",
        "import pickle\ndef f(b): return pickle.loads(b)",
        "import subprocess, sys\ndef f(): subprocess.run([sys.executable, '-m', 'pkg.other'])",
        "from pydoc import locate\ndef f(): return locate('pkg.other')",
    ],
)
def test_what_cannot_be_followed_counts_by_all_bytes_of_its_package(world, text):
    world.write(
        {"pkg/__init__.py": "", "pkg/plugin.py": text, "pkg/other.py": "x = 1", "pkg/sub/__init__.py": ""}
    )
    world.write({"pkg/late.py": "import far", "far.py": "x = 1", "pkg/weights.json": "1", "near.py": "x = 1"})
    name = "pkg.plugin"
    assert world.changes({"pkg/other.py": "x = 1  # a comment"}, name=name)
    assert world.changes({"pkg/weights.json": "2"}, name=name)
    assert world.changes({"far.py": "x = 2"}, name=name)  # reached from a module that nobody names
    assert not world.changes({"near.py": "x = 2"}, name=name)
    strays = (".DS_Store", "plugin.py~", "__pycache__/x.pyc", "logs/x.log", ".git/x", "x.py.orig")
    assert not world.changes({f"pkg/{stray}": "x" for stray in strays}, name=name)


def test_a_single_file_that_computes_its_imports_counts_with_the_python_beside_it(world):
    world.write({"plugin.py": "exec('x = 1')", "beside.py": "", "below/far.py": "", "notes.txt": ""})
    assert not world.changes({"below/far.py": "x = 1", "notes.txt": "x", ".hidden.py": "x = 1"})
    # It is of no distribution: its folder is all there is of a package.
    assert world.changes({"beside.py": "x = 1"})
    assert world.changes({"plugin.py": "exec('x = 1')  # a comment"})
    world.write({"single.py": "exec('x = 1')", "other.py": ""}, SITE)
    own = world.distribution("single", record=["single.py"])
    assert not world.changes({"other.py": "x = 1"}, SITE, own, "single")


def test_compiled_modules_count_by_all_bytes_of_their_package(world):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    world.write({"pkg/__init__.py": "", f"pkg/fast{suffix}": "1", "pkg/other.py": ""})
    world.write({"plugin.py": "def f():\n    from pkg.fast import g"})
    assert world.changes({f"pkg/fast{suffix}": "2"})
    assert world.changes({"pkg/other.py": "# a comment"})


def test_the_whole_package_is_what_record_declares(world):
    world.write({"pk/__init__.py": "exec('x = 1')", "pk/data.bin": "1", "pk/notes.txt": "1"}, SITE)
    own = world.distribution("pk", record=["pk/__init__.py", "pk/data.bin", "pk-1.0.dist-info/RECORD"])
    assert not world.changes({"pk/notes.txt": "2"}, SITE, own, "pk")
    assert world.changes({"pk/data.bin": "2"}, SITE, own, "pk")
    # A package beside it, of which RECORD says nothing, is read from its folder.
    world.write({"pk/__init__.py": "import beside\nprint(beside)"}, SITE)
    world.write({"beside/__init__.py": "", "beside/a.txt": "1"})
    assert world.changes({"beside/a.txt": "2"}, SRC, own, "pk")


# --- data -------------------------------------------------------------------------------------------


def test_stray_files_change_nothing(world):
    """Of a package with a dist-info that was written by hand."""
    world.write({"pk/__init__.py": "x = 1"}, SITE)
    own = world.distribution("pk")
    for stray in (".DS_Store", "__init__.py~", "logs/x.log"):
        assert not world.changes({f"pk/{stray}": "x"}, SITE, own, "pk"), stray
    assert world.changes({"pk/__init__.py": "x = 2"}, SITE, own, "pk")


def test_declared_data_count_by_their_bytes(world):
    world.write(
        {
            "pk/__init__.py": "x = 1",
            "pk/w/weights.json": "1",
            "pk/notes.txt": "1",
            "pk/un.py": "",
            "other/x.json": "1",
        },
        SITE,
    )
    record = ["pk/__init__.py", "pk/un.py", "pk/w/weights.json", "other/x.json", "pk-1.0.dist-info/METADATA"]
    own = world.distribution("pk", record=record)
    assert world.changes({"pk/w/weights.json": "2"}, SITE, own, "pk")
    assert not world.changes({"pk/notes.txt": "2"}, SITE, own, "pk")
    assert not world.changes({"pk/un.py": "x = 1"}, SITE, own, "pk")  # code counts where it is reached
    assert world.changes({"other/x.json": "2"}, SITE, own, "pk")  # of a package that holds nothing but data
    assert not world.changes({"pk-1.0.dist-info/METADATA": "Name: pk"}, SITE, own, "pk")
    world.write({"one.py": "x = 1", "one.json": "1", "two.json": "1"}, SITE)
    own = world.distribution("one", record=["one.py", "one.json", "../../bin/one"])
    assert world.changes({"one.json": "2"}, SITE, own, "one")
    assert not world.changes({"two.json": "2", "../bin/one": "#!python"}, SITE, own, "one")


def test_data_of_an_editable_plugin_count_unless_they_are_strays(world):
    world.write({"pk/__init__.py": "x = 1", "pk/weights.json": "1"})
    own = world.distribution("pk", editable=True, record=["__editable__.pk.pth"])
    assert world.changes({"pk/weights.json": "2"}, SRC, own, "pk")
    assert world.changes({"pk/added.json": "1"}, SRC, own, "pk")
    assert not world.changes({"pk/.DS_Store": "", "pk/x.py~": "", "pk/logs/x.log": ""}, SRC, own, "pk")
    world.write({"space/mine/__init__.py": "x = 1", "space/mine/w.json": "1"})  # also in a namespace package
    assert world.changes({"space/mine/w.json": "2"}, SRC, own, "space.mine")


def test_data_of_a_local_file_are_the_files_that_it_names(world):
    read = "from pathlib import Path\nx = (Path(__file__).parent / 'w/weights.json').read_text()"
    world.write({"plugin.py": f"{read}\nimport helper", "w/weights.json": "1", "notes.json": "1"})
    world.write({"helper.py": "y = 'near.csv'", "near.csv": "1", "w/near.csv": "1"})
    assert world.changes({"w/weights.json": "2"})
    assert world.changes({"near.csv": "2"})
    assert not world.changes({"notes.json": "2", "w/near.csv": "2", "w/.DS_Store": ""})
    world.write({"plugin.py": "x = ['', '.', '..', '/', '\\0', 'w', 'a' * 3000, '../src/notes.json']"})
    assert not world.changes({"notes.json": "3"})


# --- packages ---------------------------------------------------------------------------------------


def test_packages_count_by_their_version(world):
    world.write({"compute/__init__.py": "x = 1", "compute/deep.py": "y = 1"}, SITE)
    world.write({"plugin.py": "def f():\n    from compute.deep import y"})
    world.distribution("compute", "1.0")
    before = world.reached("plugin")
    assert before.packages == {"compute": "1.0"}
    assert set(before.modules) == {"plugin"}
    assert not world.changes({"compute/deep.py": "y = 2"}, SITE)  # its version says what it is
    world.distribution("compute", "1.1")
    after = world.reached("plugin")
    assert (after.packages, after.code) == ({"compute": "1.1"}, before.code)


def test_what_came_from_no_index_counts_by_its_files_too(world):
    """`pip install ./folder` or `git+https://...`, again and with the same version."""
    world.write({"lib/__init__.py": "x = 1", "plugin.py": "import lib"}, SITE)
    found = []
    for content in ("aa", "bb", "aa"):
        info = ["lib-1.0.dist-info/INSTALLER,sha256=cc,4", "lib/__pycache__/__init__.cpython-311.pyc,,"]
        info.append(f"../../../bin/lib,sha256={len(found)},9")
        lib = world.distribution("lib", "1.0", record=[])
        path = Path(str(lib.locate_file("lib-1.0.dist-info")))
        (path / "RECORD").write_text("\n".join([f"lib/__init__.py,sha256={content},5", *info]))
        assert world.reached("plugin").packages == {"lib": "1.0"}
        (path / "direct_url.json").write_text('{"url": "file:///lib", "dir_info": {}}')
        found.append(world.reached("plugin").packages["lib"])
    assert found[0] == found[2] != found[1]
    assert all(version.startswith("1.0 ") for version in found)


def test_a_distribution_of_another_name_is_found_by_what_it_installed(world):
    world.write({"skl/__init__.py": "", "tool.py": "", "plugin.py": "import skl\nimport tool"}, SITE)
    world.distribution("sci-kit", "2.0", record=["skl/__init__.py"])
    world.distribution("Tools_X", "3.0", top="tool")
    assert world.reached("plugin").packages == {"sci-kit": "2.0", "tools-x": "3.0"}


def test_a_local_file_is_not_taken_for_a_distribution_of_its_name(world):
    world.distribution("helper", "1.0")
    world.write({"plugin.py": "from helper import f", "helper.py": "f = 1"})
    assert world.reached("plugin").packages == {}
    assert world.changes({"helper.py": "f = 2"})


def test_of_required_packages_those_that_compute_count(world):
    world.write({"lib/__init__.py": "", "plugin.py": "import lib"}, SITE)
    world.distribution("lib", requires=["between", "scipy; python_version < '3'", "torch; extra == 'gpu'"])
    world.distribution("between", requires=["numpy>=1", "rich", "catboost"])
    world.distribution("catboost", "1.2")
    found = world.reached("plugin").packages
    assert found == {"lib": "1.0", "numpy": importlib.metadata.version("numpy"), "catboost": "1.2"}


def test_plumbing_does_not_count(world):
    world.write({"plugin.py": "import pluggy, yaml\nfrom filelock import FileLock\nimport pydantic"})
    assert world.reached("plugin").packages == {}


def test_a_package_that_is_absent_counts_as_that(world):
    world.write({"plugin.py": "try:\n    import fast_thing\nexcept ImportError:\n    fast_thing = None"})
    absent = world.reached("plugin")
    assert absent.packages == {"fast_thing": "absent"}
    world.write({"fast_thing/__init__.py": ""}, SITE)
    world.distribution("fast-thing", "1.0")
    assert world.reached("plugin").packages == {"fast-thing": "1.0"}


def test_an_editable_distribution_counts_by_its_code(world):
    world.write({"lib/__init__.py": "x = 1", "plugin.py": "import lib\ny = lib.x"})
    world.distribution("lib", editable=True, record=["__editable__.lib.pth"], top="lib")
    assert world.reached("plugin").packages == {}
    assert world.changes({"lib/__init__.py": "x = 2"})


def test_a_plugins_own_distribution_counts_by_its_code(world):
    world.write({"pk/__init__.py": "from pk.a import x", "pk/a.py": "x = 1"}, SITE)
    record = ["pk/__init__.py", "pk/a.py"]
    code = world.code("pk", world.distribution("pk", record=record))
    found = world.reached("pk", own := world.distribution("pk", "9.0", record=record))
    assert (found.code, found.packages) == (
        code,
        {},
    )  # the version that a distribution states decides nothing
    assert world.changes({"pk/a.py": "x = 2"}, SITE, own, "pk")
    # To the plugin of another distribution it is a package like any other.
    world.write({"plugin.py": "from pk.a import x"})
    assert world.reached("plugin").packages == {"pk": "9.0"}


def test_a_namespace_is_shared_by_distributions(world):
    world.write({"space/own/__init__.py": "from space.lib import x", "space/lib/__init__.py": "x = 1"}, SITE)
    own = world.distribution("space-own", record=["space/own/__init__.py"])
    world.distribution("space-lib", "2.0", record=["space/lib/__init__.py"])
    found = world.reached("space.own", own)
    assert set(found.modules) == {"space.own"}
    assert found.packages == {"space-lib": "2.0"}


# --- rph itself -------------------------------------------------------------------------------------


def routers():
    files = sorted((Path(__file__).parents[2] / "plugins/routers").glob("*.py"))
    return [importlib.import_module(f"rph_plugins.routers.{p.stem}") for p in files if p.stem != "__init__"]


def test_names_of_rph_are_followed_one_by_one(world):
    world.write(
        {
            "plugin.py": "from rph import RouterCard, hookimpl\nfrom rph.training import heads\nimport rph\nx = rph.Trial"
        }
    )
    found = world.reached("plugin")
    assert {"rph.api", "rph.training.heads"} <= set(found.modules)
    assert not {"rph", "rph.hookspecs"} & set(found.modules)  # what marks a hook computes nothing
    world.write({"plugin.py": "from rph import RphError, load, __version__"})
    assert set(world.reached("plugin").modules) == {"plugin", "rph.errors"}


def test_lazy_names_are_the_packages_they_stand_for(world):
    for text in ("from rph.lazy import np", "import rph.lazy\nx = rph.lazy.np.ones"):
        world.write({"plugin.py": text})
        assert "numpy" in world.reached("plugin").packages, text
    world.write({"plugin.py": "from rph.lazy import np"})
    found = world.reached("plugin")
    assert (set(found.modules), set(found.packages)) == ({"plugin", "rph.lazy"}, {"numpy"})
    world.write({"plugin.py": "from rph.lazy import torch as np"})
    other = world.reached("plugin")
    assert "torch" in other.packages
    assert other.code != found.code
    world.write({"plugin.py": "from rph import lazy"})
    found = world.reached("plugin")
    assert (set(found.modules), set(found.packages)) == ({"plugin", "rph.lazy"}, {"numpy", "torch"})


def test_what_the_built_in_routers_reach(world):
    world.forget()
    found = {module.__name__.rpartition(".")[2]: reached(module, distribution=None) for module in routers()}
    assert len(found) == 21
    assert len({one.code for one in found.values()}) == 21
    heads = next(name for name in found["mlp"].modules if name.rpartition(".")[2] == "heads")
    assert heads not in found["knn"].modules
    for name, one in found.items():
        top = {module.partition(".")[0] for module in one.modules}
        assert top == {"rph", "rph_plugins"}, name
        assert "rph" not in one.modules, name
        assert {"numpy", "torch"} <= set(one.packages), name
        assert not any("registry" in module for module in one.modules), name
    assert "xgboost-cpu" in found["optllm"].packages or "xgboost" in found["optllm"].packages
    assert "scikit-learn" in found["rorf"].packages


if __name__ == "__main__":  # for people: what each router reaches, and how long it takes to tell
    for module in routers():
        start = time.perf_counter()
        one = reached(module, distribution=None)
        print(
            f"{module.__name__} {time.perf_counter() - start:.3f} s\n  {' '.join(one.modules)}\n  {one.packages}"
        )
