"""The registry against real distributions, written to disk and read through their metadata."""

import subprocess
import sys
import textwrap
from importlib.metadata import distributions, entry_points

import pytest

import rph
from rph import RphError, UsageError, hookspecs, registry
from rph.distribution import OURS, upgrade
from rph.registry import Plugin, Registry, allow_list

ROUTER = """
from dataclasses import dataclass
from rph import RouterCard, RouterSpec, hookimpl

@dataclass(frozen=True)
class Config:
    k: int = 1

class Mine:
    pass

@hookimpl
def register_router():
    card = RouterCard(
        name={name!r}, title="t", paper="p", year=2026, family="f", licence="MIT",
        deterministic=True, calibrated=True, aliases={aliases!r},
    )
    return RouterSpec(card=card, grid=tuple(Config(k) for k in range({variants})), router=Mine)
"""

ENCODER = """
from rph import EncoderCard, EncoderSpec, hookimpl as implements

@implements
def register_encoder():
    card = EncoderCard(
        name={name!r}, title="t", hf_id="", revision="", dim=2, pooling="mean", normalise=True,
        prefix="", max_tokens=None, dtype="float32", licence="MIT", citation="c",
    )
    return EncoderSpec(card=card, build=lambda: None)
"""


def router(name, variants=1, aliases=()):
    return ROUTER.format(name=name, variants=variants, aliases=aliases)


def encoder(name):
    return ENCODER.format(name=name)


class Site:
    """A folder on sys.path that distributions are installed into."""

    def __init__(self, folder):
        self.folder = folder

    def install(self, distribution, points, files, version="1.0", metadata=()):
        """Write the files, and metadata that publishes `points` (entry point -> module); `metadata` are more lines of it."""
        for name, source in files.items():
            self.write(name, source)
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        head = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}", *metadata, ""]
        (info / "METADATA").write_text("\n".join(head))
        lines = [f"{point} = {module}" for point, module in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[rph]", *lines, ""]))

    def write(self, name, source):
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
        return file

    def points(self):
        found = [p for d in distributions(path=[str(self.folder)]) for p in d.entry_points]
        return [point for point in found if point.group == "rph"]

    def registry(self, allow=None):
        """What is installed here, beside the built-in plugins."""
        ours = [point for point in entry_points(group="rph") if point.dist.name == OURS]
        return Registry([*ours, *self.points()], allow)


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield Site(folder)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def mine(site):
    """One healthy third-party router."""
    site.install("rph-mine", {"router-mine": "mod_mine"}, {"mod_mine.py": router("mine")})
    return site


def error_of(call, *args):
    with pytest.raises(RphError) as caught:
        call(*args)
    return caught.value


# --- finding ----------------------------------------------------------------------------------------


def test_built_in_plugins_are_named_without_importing_any():
    code = """
        import sys
        from rph import registry
        found = registry.installed()
        print(*found.names("router"), *found.names("encoder"), *found.names("benchmark"))
        print(*[name for name in sys.modules if name.startswith("rph_plugins")])
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    names, imported = run.stdout.split("\n")[:2]
    assert {"knn", "kmeans", "mlp", "elo", "minilm", "lsa", "routerbench", "synthetic"} <= set(names.split())
    assert imported == ""


def test_an_installed_plugin_loads_by_name(mine):
    plugin = mine.registry().load("router", "mine")
    assert (plugin.name, plugin.spec.card.name) == ("mine", "mine")
    assert (plugin.source.distribution, plugin.source.version) == ("rph-mine", "1.0")
    assert plugin.source.origin == "rph-mine 1.0"


def test_a_plugin_is_imported_only_when_it_is_asked_for(mine):
    found = mine.registry()
    assert "mine" in found.names("router")
    assert "mod_mine" not in sys.modules
    found.load("router", "mine")
    assert "mod_mine" in sys.modules


def test_an_unknown_name_gets_the_closest_ones():
    error = error_of(registry.installed().load, "router", "knnn")
    assert isinstance(error, UsageError)
    assert error.what == "router 'knnn' is not installed"
    assert "did you mean" in error.why and "'knn'" in error.why
    assert error.fix == "`rph list routers` names them all"


def test_a_name_close_to_none_gets_the_whole_list(mine):
    error = error_of(Registry(mine.points()).load, "router", "zzz")
    assert error.why == "installed: mine"
    assert error_of(Registry([]).load, "encoder", "zzz").why == "installed: none"


def test_sources_come_by_kind_then_name(site):
    site.install("b", {"router-b": "x", "benchmark-a": "x", "encoder-z": "x"}, {})
    site.install("a", {"router-a": "x"}, {})
    order = [source.full_name for source in Registry(site.points()).sources()]
    assert order == ["router-a", "router-b", "encoder-z", "benchmark-a"]


def test_an_entry_point_of_another_kind_is_left_alone(site):
    site.install("later", {"scorer-new": "x", "router": "x", "router-": "x"}, {})
    assert list(Registry(site.points()).sources()) == []


def test_an_alias_finds_its_plugin(site):
    site.install("a", {"router-long-name": "mod_a"}, {"mod_a.py": router("long-name", aliases=("ln",))})
    assert site.registry().load("router", "ln").name == "long-name"


def test_a_name_goes_before_an_alias(site):
    site.install("a", {"router-a": "mod_a"}, {"mod_a.py": router("a", aliases=("b",))})
    site.install("b", {"router-b": "mod_b"}, {"mod_b.py": router("b")})
    assert site.registry().load("router", "b").name == "b"


def test_an_alias_of_two_plugins_is_an_error_that_names_both(site):
    site.install("one", {"router-a": "mod_a"}, {"mod_a.py": router("a", aliases=("x",))})
    site.install("two", {"router-b": "mod_b"}, {"mod_b.py": router("b", aliases=("x",))}, version="2.1")
    error = error_of(site.registry().load, "router", "x")
    assert error.what == "router 'x' is an alias of 2 plugins: 'a' of one 1.0 and 'b' of two 2.1"


# --- broken plugins ---------------------------------------------------------------------------------

BROKEN = {
    "an import that raises": ("import no_such_module_at_all", "ModuleNotFoundError: No module named"),
    "a syntax error": ("def", "SyntaxError"),
    "an import that exits": ("raise SystemExit('bye')", "SystemExit: bye"),
    "another name than its entry point": (
        router("other"),
        "registers the name 'other', but its entry point is named 'router-broken'",
    ),
    "a wrong return type": (
        "from rph import hookimpl\n@hookimpl\ndef register_router():\n    return {'name': 'broken'}",
        "TypeError: register_router returned dict, not RouterSpec",
    ),
    "a hook that raises": (
        "from rph import hookimpl\n@hookimpl\ndef register_router():\n    raise KeyError('x')",
        "KeyError: 'x'",
    ),
    "a misspelt hook": (
        "from rph import hookimpl\n@hookimpl\ndef register_ruoter():\n    return None",
        "register_ruoter",
    ),
    "a hook with an argument": (
        "from rph import hookimpl\n@hookimpl\ndef register_router(settings):\n    return None",
        "{'settings'}",
    ),
    "a hook without the decorator": (
        "def register_router():\n    return None",
        "TypeError: module mod_broken has no @rph.hookimpl function register_router",
    ),
    "too many variants": (router("broken", variants=16), "its grid has 16 variants; 1 to 15 are allowed"),
    "no variant": (router("broken", variants=0), "its grid has 0 variants"),
    "an exception of its own kind": ("class Gone(BaseException): pass\nraise Gone('x')", "Gone: x"),
    "a card of another kind": (
        router("broken").replace("card=card", "card=3"),
        "the name on its card is None",
    ),
    "a router that is none": (
        router("broken").replace("router=Mine", "router=None"),
        "its router is None, not",
    ),
    "a year that is not whole": (
        router("broken").replace("2026", "20.5"),
        "its card's year is 20.5, not int",
    ),
}


def with_grid(grid, imports="", decorator="@dataclass(frozen=True)"):
    source = router("broken").replace("tuple(Config(k) for k in range(1))", grid)
    return f"{imports}\n" + source.replace("@dataclass(frozen=True)", decorator)


BROKEN |= {
    "variants that are dicts": (with_grid("({'k': 1},)"), "its grid holds {'k': 1}, which is no instance of"),
    "variants that are classes": (with_grid("(Config,)"), "which is no instance of a dataclass"),
    "variants that are nothing": (with_grid("(None,)"), "its grid holds None"),
    "variants that can change": (
        with_grid("(Config(),)", decorator="@dataclass"),
        "its grid's Config is not frozen",
    ),
    "lists in a variant": (
        with_grid("(Config([1]),)"),
        "its variant Config(k=[1]) cannot be stored (unhashable",
    ),
    "a numpy number": (
        with_grid("(Config(np.int64(1)),)", "import numpy as np"),
        "int64 is not JSON serializable",
    ),
    "a path": (
        with_grid("(Config(Path('x')),)", "from pathlib import Path"),
        "Path is not JSON serializable",
    ),
    "infinity": (
        with_grid("(Config(float('inf')),)"),
        "its variant Config(k=inf) cannot be stored (Out of range",
    ),
    "not a number": (
        with_grid("(Config(), Config(float('nan')))"),
        "its variant Config(k=nan) cannot be stored",
    ),
    "equal variants": (with_grid("(Config(1.0), Config(1))"), "two variants of its grid are equal"),
    "variants of one name": (
        with_grid("(Config(0.001), Config(0.0010000001))"),
        "two variants of its grid are both named k=0.001",
    ),
    "no grid": (with_grid("5"), "its grid is 5, not tuple"),
}


@pytest.mark.parametrize(("source", "why"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_reported_and_stops_no_other(mine, source, why):
    mine.install("rph-broken", {"router-broken": "mod_broken"}, {"mod_broken.py": source})
    found = mine.registry()
    first = error_of(found.load, "router", "broken")
    assert not isinstance(first, UsageError)
    assert first.what == "router 'broken' is installed but cannot be used"
    assert why in first.why
    assert first.fix.endswith("report it to the authors of rph-broken")
    assert found.load("router", "mine").name == "mine"
    assert error_of(found.load, "router", "broken").why == first.why  # asked again, the same answer
    outcomes = {source.name: found.try_load(source) for source in found.sources() if source.kind == "router"}
    assert isinstance(outcomes["broken"], RphError)
    assert isinstance(outcomes["mine"], Plugin)


BOOST = 'Requires-Dist: no-such-boost; extra == "trees"'
REQUIREMENTS = {
    "a module that an extra brings": (
        ["Provides-Extra: docs", "Provides-Extra: trees", "Requires-Dist: numpy", BOOST],
        "No module named 'no_such_boost'; it comes with the extra rph-broken[trees]",
        "pip install 'rph-broken[trees]'",
    ),
    "a module that no extra brings": (
        ['Requires-Dist: no-such-boost; python_version >= "3"', "Provides-Extra: docs"],
        "No module named 'no_such_boost'",
        "report it to the authors of rph-broken",
    ),
    "another rph": (
        [f"Requires-Dist: {OURS}<0.1"],
        f"No module named 'no_such_boost'; it needs {OURS}<0.1, and this is {rph.__version__}",
        upgrade("<0.1"),
    ),
    "another rph, by its former name": (
        ["Requires-Dist: rph<0.1"],
        f"needs {OURS}<0.1, and this is {rph.__version__}; it requires rph, which pip takes from another project, and means {OURS}",
        upgrade("<0.1"),
    ),
    "something, and it requires rph by its former name": (
        ["Requires-Dist: rph>=0.1.0"],
        f"No module named 'no_such_boost'; it requires rph, which pip takes from another project, and means {OURS}",
        "report it to the authors of rph-broken",
    ),
    "another rph for an extra only": (
        [f'Requires-Dist: {OURS}>=9; extra == "docs"', "Provides-Extra: docs"],
        "No module named 'no_such_boost'",
        "report it to the authors of rph-broken",
    ),
    "something that cannot be read": (
        ["Requires-Dist: ???", "Provides-Extra: trees", BOOST],
        "; it comes with the extra rph-broken[trees]",
        "pip install 'rph-broken[trees]'",
    ),
}


@pytest.mark.parametrize(("metadata", "why", "fix"), REQUIREMENTS.values(), ids=REQUIREMENTS)
def test_what_a_broken_plugin_lacks_is_said_as_far_as_its_metadata_tell(site, metadata, why, fix):
    files = {"mod_broken.py": "import no_such_boost.trees"}
    site.install("rph-broken", {"router-broken": "mod_broken"}, files, metadata=metadata)
    error = error_of(site.registry().load, "router", "broken")
    assert error.why.endswith(why) and error.fix.endswith(fix)


@pytest.mark.parametrize("api", [hookspecs.API_VERSION, hookspecs.API_VERSION + 1, "one"])
def test_a_plugin_for_a_later_api_is_refused_and_told_so(site, api):
    source = router("a").replace("router=Mine", f"router=Mine, api={api!r}")
    site.install("rph-a", {"router-a": "mod_a"}, {"mod_a.py": source})
    if api == hookspecs.API_VERSION:
        assert site.registry().load("router", "a").spec.api == api
        return
    error = error_of(site.registry().load, "router", "a")
    if api == "one":
        assert error.why.startswith("TypeError")
        return
    assert error.what == "router 'a' is written for a newer rph"
    assert error.why == f"it states API version {api}, and rph {rph.__version__} has version {api - 1}"
    assert error.fix == f"{upgrade()}, or install an older rph-a"


def test_a_later_records_unknown_fields_are_no_reason_to_refuse_it_for_another(site):
    source = router("a").replace("router=Mine", "router=Mine, api=99").replace("2026", "'2026'")
    file = site.write("later.py", source)
    found = site.registry()
    found.add_file(file)
    error = error_of(found.load, "router", "a")
    assert error.what == "router 'a' is written for a newer rph"
    assert error.fix == upgrade()  # a file has no older version to install


def test_a_list_will_do_for_a_tuple(site):
    source = router("a", aliases=["b"]).replace("grid=tuple(", "grid=list(")
    site.install("a", {"router-a": "mod_a"}, {"mod_a.py": source})
    assert site.registry().load("router", "b").name == "a"


def test_a_plugin_that_states_no_version_is_of_the_first(mine):
    assert mine.registry().load("router", "mine").spec.api == 1


def test_fifteen_variants_are_allowed(site):
    site.install("a", {"router-a": "mod_a"}, {"mod_a.py": router("a", variants=15)})
    assert len(site.registry().load("router", "a").spec.grid) == 15


def test_an_entry_point_that_names_no_module_is_reported(site):
    site.install("a", {"router-a": "mod_a:Mine"}, {"mod_a.py": router("a")})
    assert error_of(site.registry().load, "router", "a").why == (
        "TypeError: its entry point names a type, not a module"
    )


def test_ctrl_c_during_an_import_is_not_the_plugins_failure(mine):
    mine.install("rph-slow", {"router-slow": "mod_slow"}, {"mod_slow.py": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        mine.registry().load("router", "slow")
    file = mine.write("slow.py", "raise KeyboardInterrupt")
    for _ in range(2):  # the second time too: no half-run module is left behind
        with pytest.raises(KeyboardInterrupt):
            mine.registry().add_file(file)


def test_one_module_may_register_a_router_and_an_encoder(site):
    both = router("both") + encoder("both")
    site.install("both", {"router-both": "mod_both", "encoder-both": "mod_both"}, {"mod_both.py": both})
    found = site.registry()
    plugins = found.load("router", "both"), found.load("encoder", "both")
    assert [type(plugin.spec).__name__ for plugin in plugins] == ["RouterSpec", "EncoderSpec"]
    assert plugins[0].module is plugins[1].module


# --- rivals -----------------------------------------------------------------------------------------


@pytest.fixture
def rivals(mine):
    mine.install("rph-one", {"router-twice": "mod_one"}, {"mod_one.py": router("twice")}, version="1.2")
    mine.install("rph-two", {"router-twice": "mod_two"}, {"mod_two.py": router("twice")}, version="3.4")
    return mine


def test_two_distributions_with_one_name_are_an_error_that_names_both(rivals):
    found = rivals.registry()
    error = error_of(found.load, "router", "twice")
    assert isinstance(error, UsageError)
    assert error.what.startswith("router 'twice' is provided 2 times: by ")
    assert "rph-one 1.2" in error.what and "rph-two 3.4" in error.what
    assert "RPH_PLUGINS" in error.fix
    assert not {"mod_one", "mod_two"} & set(sys.modules)  # neither was run
    assert found.load("router", "mine").name == "mine"
    assert len([source for source in found.sources() if source.name == "twice"]) == 2


def test_the_allow_list_settles_a_rivalry(rivals):
    plugin = rivals.registry(allow=frozenset({"rph-two"})).load("router", "twice")
    assert plugin.source.origin == "rph-two 3.4"


def test_a_distribution_that_takes_a_built_in_name_cannot_replace_it(mine):
    mine.install("rph-thief", {"router-knn": "mod_thief"}, {"mod_thief.py": router("knn")})
    error = error_of(mine.registry().load, "router", "knn")
    assert f"by {OURS} " in error.what and "by rph-thief 1.0" in error.what


# --- the allow-list ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"RPH_PLUGINS": ""}, frozenset()),
        ({"RPH_PLUGINS": "router-mine, rph-other,"}, frozenset({"router-mine", "rph-other"})),
    ],
)
def test_rph_plugins_is_read_as_unset_none_or_a_list(environ, expected):
    assert allow_list(environ) == expected


@pytest.mark.parametrize(
    ("value", "third_party"),
    [
        (None, {"mine", "other", "third"}),
        ("", set()),
        ("router-mine", {"mine"}),
        ("rph-other", {"other", "third"}),
        ("router-third,rph-mine", {"mine", "third"}),
    ],
)
def test_rph_plugins_chooses_by_plugin_or_by_distribution(mine, monkeypatch, value, third_party):
    mine.install("rph-other", {"router-other": "mod_other", "router-third": "mod_third"}, {})
    if value is not None:
        monkeypatch.setenv("RPH_PLUGINS", value)
    names = set(registry.installed().names("router"))  # from sys.path, as a command finds them
    assert names & {"mine", "other", "third"} == third_party
    assert {"knn", "kmeans", "mlp", "elo"} <= names


def test_a_plugin_that_the_list_leaves_out_is_said_to_be_switched_off(mine):
    error = error_of(mine.registry(allow=frozenset()).load, "router", "mine")
    assert error.what == "router 'mine' is switched off"
    assert "by rph-mine" in error.why
    assert error.fix == "add router-mine to RPH_PLUGINS, or unset it"
    assert "mod_mine" not in sys.modules


# --- strict mode ------------------------------------------------------------------------------------


def test_strict_mode_accepts_what_works(mine):
    Registry(mine.points()).require_all()


def test_strict_mode_names_every_failure_once(rivals):
    rivals.install("rph-broken", {"router-broken": "mod_broken"}, {"mod_broken.py": "1 / 0"})
    error = error_of(Registry(rivals.points()).require_all)
    assert error.what.startswith("2 installed plugin(s) cannot be used")
    assert error.why.count("'twice'") == 1
    assert "'broken' is installed but cannot be used (ZeroDivisionError" in error.why


# --- local files ------------------------------------------------------------------------------------


def test_a_local_file_is_a_plugin(site):
    file = site.write("my_router.py", router("local") + encoder("local-too"))
    found = site.registry()
    added = found.add_file(file)
    assert [source.full_name for source in added] == ["router-local", "encoder-local-too"]
    plugin = found.load("router", "local")
    assert plugin.source.origin == f"local file {file}"
    assert plugin.module is found.load("encoder", "local-too").module


def test_a_local_file_needs_no_place_on_the_allow_list(site):
    found = site.registry(allow=frozenset())
    found.add_file(site.write("my_router.py", router("local")))
    assert found.load("router", "local").name == "local"


def test_one_file_given_twice_by_two_paths_is_one_plugin(site, monkeypatch):
    file = site.write("my_router.py", router("local"))
    found = site.registry()
    found.add_file(file)
    monkeypatch.chdir(site.folder)
    found.add_file(type(file)("my_router.py"))
    assert found.load("router", "local").name == "local"


def test_two_local_files_of_one_file_name_are_two_plugins(site):
    found = site.registry()
    found.add_file(site.write("a/my_router.py", router("a")))
    found.add_file(site.write("b/my_router.py", router("b")))
    assert [found.load("router", name).name for name in "ab"] == ["a", "b"]


BAD_FILES = {
    "a syntax error": ("def", "SyntaxError"),
    "an import that raises": ("1 / 0", "ZeroDivisionError: division by zero"),
    "an import that exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "a hook that raises": (
        "def register_router():\n    raise KeyError('x')",
        "KeyError: 'x' (bad.py:2)",
    ),
    "a hook that exits": (
        "def register_router():\n    raise SystemExit",
        "SystemExit:  (bad.py:2)",
    ),
    "a hook that returns nothing": (
        "def register_router():\n    pass",
        "register_router returned NoneType, not RouterSpec",
    ),
    "an exception of its own kind": ("class Gone(BaseException): pass\nraise Gone('x')", "Gone: x"),
    "a name that can be no file": (router("../x y"), "the name on its card is '../x y'; a name is made of"),
    "the name that stands for all": (router("all"), "and is not 'all'"),
    "no name": (router(None), "the name on its card is None"),
    "a year in words": (router("a").replace("2026", "'last'"), "its card's year is 'last', not int"),
    "aliases that are one text": (
        router("a", aliases="abc"),
        "its card's aliases is 'abc', not tuple[str, ...]",
    ),
    "expected failures without reasons": (
        router("a").replace("aliases=()", "expected_failures=('x',)"),
        "its card's expected_failures is ('x',), not tuple[tuple[str, str], ...]",
    ),
    "a deviation that is not text": (
        router("a").replace("aliases=()", "fidelity=(1,)"),
        "its card's fidelity is (1,), not tuple[str, ...]",
    ),
}


@pytest.mark.parametrize(("source", "why"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_broken_file_is_the_users_mistake(site, source, why):
    file = site.write("bad.py", source)
    for _ in range(2):
        error = error_of(site.registry().add_file, file)
        assert isinstance(error, UsageError)
        assert error.what == f"plugin file {str(file)!r} cannot be used"
        assert why in error.why


def test_a_missing_file_a_folder_and_another_ending_are_said_plainly(site):
    found = site.registry()
    assert error_of(found.add_file, site.folder / "none.py").what.endswith("none.py' does not exist")
    assert error_of(found.add_file, site.folder).what.endswith("is a folder")
    assert error_of(found.add_file, site.write("plugin.txt", "")).why == "its name does not end in .py"


def test_a_file_that_registers_nothing_is_said_plainly(site):
    error = error_of(site.registry().add_file, site.write("empty.py", "x = 1"))
    assert error.what.endswith("registers nothing")
    assert "register_router, register_encoder, register_benchmark" in error.why


def test_a_file_without_the_decorator_is_reported(site):
    found = site.registry()
    found.add_file(site.write("bare.py", router("bare").replace("@hookimpl\n", "")))
    error = error_of(found.load, "router", "bare")
    assert "has no @rph.hookimpl function register_router" in error.why
    assert error.what == "router 'bare' cannot be used"
    assert error.fix == f"repair {site.folder / 'bare.py'}"


def test_a_file_with_the_name_of_an_installed_plugin_is_an_error_that_names_both(mine):
    file = mine.write("my_router.py", router("mine"))
    found = mine.registry()
    found.add_file(file)
    error = error_of(found.load, "router", "mine")
    assert error.what == f"router 'mine' is provided 2 times: by rph-mine 1.0 and by local file {file}"
    assert error.fix == "give the one in your file another name"
