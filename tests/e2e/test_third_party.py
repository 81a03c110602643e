"""What others publish: generated packages, the example, a wrong router, and plugins that cannot be used."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions

import pytest
from tests import environments, package_index, toys

from rph.cli import scaffold
from rph.distribution import OURS, upgrade

SMOKE = ("--protocol", "smoke", "--json")
SYNTHETIC = "synthetic:n=600,k=4"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of rph."""
    return environments.build_wheel(tmp_path_factory.mktemp("wheel") / "ours")


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel):
    """A fresh environment with the wheel of rph."""
    return environments.Environment.new(tmp_path_factory.mktemp("third-party") / "venv", wheel)


def succeed(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- generated packages -------------------------------------------------------------------------------

GENERATED = {  # kind and name: the folder, and how it is evaluated
    ("router", "my-router"): ("rph-my-router", "my-router", SYNTHETIC, "lsa"),
    ("encoder", "ngrams"): ("rph-ngrams-encoder", "knn", SYNTHETIC, "ngrams"),
    ("benchmark", "small-questions"): ("rph-small-questions-benchmark", "knn", "small-questions", "lsa"),
}


@pytest.mark.parametrize(("kind", "name"), GENERATED, ids=[kind for kind, _ in GENERATED])
def test_a_generated_package_installs_passes_its_tests_and_is_evaluated(environment, tmp_path, kind, name):
    folder, router, bench, encoder = GENERATED[kind, name]
    assert succeed(environment.run("rph", "new", kind, name, cwd=tmp_path)) == f"{folder}\n"
    package = tmp_path / folder
    assert (
        package / ".github" / "workflows" / "test.yml"
    ).is_file()  # also from the wheel, which could lose hidden files
    ruff = (sys.executable, "-m", "ruff")
    for command in (("check", "--no-cache"), ("format", "--check", "--no-cache")):
        done = subprocess.run([*ruff, *command], cwd=package, check=False, capture_output=True, text=True)
        succeed(done)
    environment.install(package)
    succeed(environment.run("python", "-m", "pytest", "-q", cwd=package))
    arguments = ("--router", router, "--bench", bench, "--encoder", encoder)
    (cell,) = json.loads(succeed(environment.run("rph", "eval", *arguments, *SMOKE)))
    assert (cell["router"], cell["encoder"]) == (router, encoder)
    assert cell["random"] < cell["test_accuracy_mean"] <= cell["oracle"]
    (card,) = json.loads(succeed(environment.run("rph", "show", name, "--json")))
    assert (card["kind"], card["distribution"], card["version"]) == (kind, folder, "0.1.0")


# --- by name from an index ----------------------------------------------------------------------------

EVERYTHING = "docs,offline,new,ray,report,serve,site,browser,dev"  # all the extras
BY_NAME = {  # what is asked for -> what it must bring, beside ours
    "rph-my-router": {"rph-my-router"},
    f"{OURS}[{EVERYTHING}]": set(),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory, wheel):
    """A folder of wheels: ours, a generated package's, a stub for all that ours requires, and another project's `rph`."""
    folder = tmp_path_factory.mktemp("index")
    package = scaffold.write("router", "my-router", folder / "sources")
    for built in (wheel, environments.build_wheel(folder / "built", package)):
        shutil.copy(built, folder)
        package_index.write_stubs(folder / built.name)
    (folder / wheel.name).write_bytes(wheel.read_bytes())  # and no stub of ours, which the package requires
    package_index.write_stub(folder, "rph", "99.0")
    return folder


@pytest.mark.parametrize("asked", BY_NAME)
def test_installed_by_name_it_is_ours_and_no_index_is_asked_for_rph(index, tmp_path, asked):
    venv = tmp_path / "venv"
    succeed(environments.call(sys.executable, "-m", "venv", "--without-pip", venv))
    with package_index.PackageIndex(index) as served:
        pip = ("-m", "pip", "--python", venv / "bin" / "python", "install", "--index-url", served.url, asked)
        nothing = dict.fromkeys(environments.PIP, "0") | {"PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
        succeed(environments.call(sys.executable, *pip, **nothing, PIP_CONFIG_FILE=os.devnull))
    assert {OURS, *BY_NAME[asked]} < served.asked and "rph" not in served.asked
    (site,) = venv.glob("lib/python*/site-packages")
    installed = {found.name for found in distributions(path=[str(site)])}
    assert {OURS, *BY_NAME[asked]} < installed and "rph" not in installed
    ours = (environments.ROOT / "harness" / "rph" / "__init__.py").read_bytes()
    assert (site / "rph" / "__init__.py").read_bytes() == ours


def test_all_extras_are_asked_for_above(wheel):
    (ours,) = distributions(name=OURS, path=[str(wheel)])
    assert set(ours.metadata.get_all("Provides-Extra")) == set(EVERYTHING.split(","))


# --- the example --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example(environment, tmp_path_factory):
    """The example, installed from a copy: a build writes beside its sources."""
    folder = tmp_path_factory.mktemp("example") / "rph-softmax-router"
    shutil.copytree(environments.ROOT / "examples" / "rph-softmax-router", folder)
    environment.install(folder)
    return folder


def test_the_example_is_listed_with_its_distribution_and_version(environment, example):
    (line,) = [
        line for line in succeed(environment.run("rph", "list", "routers")).splitlines() if "softmax" in line
    ]
    assert "rph-softmax-router 1.0.0" in line


def test_the_example_passes_its_own_tests(environment, example):
    succeed(environment.run("python", "-m", "pytest", "-q", cwd=example))


def test_the_example_passes_rph_check(environment, example):
    only = ("planted-clusters", "state-round-trip", "missing-is-not-wrong")  # its own tests run all
    options = [option for check in only for option in ("--only", check)]
    assert "softmax: 3 passed" in succeed(environment.run("rph", "check", "router", "softmax", *options))


def test_the_example_is_ranked(environment, example):
    arguments = ("--router", "softmax", "--router", "knn", "--bench", SYNTHETIC, "--encoder", "lsa")
    table = succeed(environment.run("rph", "eval", *arguments, "--protocol", "smoke"))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if "│" in line]
    ranked = {row[1]: float(row[2].split()[0]) for row in rows if row[0].isdigit()}
    assert set(ranked) == {"softmax", "knn"}
    assert list(ranked.values()) == sorted(ranked.values(), reverse=True)
    (random,) = [float(row[2]) for row in rows if row[1] == "random"]
    assert ranked["softmax"] > random


def test_the_examples_result_is_prepared_as_a_submission(environment, example, tmp_path):
    cell = ("--router", "softmax", "--bench", SYNTHETIC, "--encoder", "lsa")
    succeed(environment.run("rph", "eval", *cell, "--out", tmp_path / "results"))
    (result,) = (tmp_path / "results").rglob("*.json")
    clone = tmp_path / "clone"
    (clone / "leaderboard" / "results").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", clone], check=True)
    said = succeed(environment.run("rph", "leaderboard", "submit", result, "--into", clone))
    placed = clone / "leaderboard" / "results" / result.relative_to(tmp_path / "results")
    assert placed.read_bytes() == result.read_bytes() and "git " in said
    (text,) = (clone / ".git").glob("rph-pull-request.md")
    assert "softmax" in text.read_text()
    assert json.loads(placed.read_text())["router_distribution"] == "rph-softmax-router"


# --- a wrong router -----------------------------------------------------------------------------------

WRONG = """
from dataclasses import dataclass

import numpy as np

import rph


@dataclass(frozen=True)
class Config:
    ridge: float = 1.0  # the default, which is not in the grid


class Wrong:
    W = np.zeros((1, 1))

    def fit(self, train, val, *, variant, seed, device):
        train.X[0] = 0  # the harness's own array
        Y = np.nan_to_num(train.Y)  # missing taken for wrong
        self.W = np.linalg.solve(train.X.T @ train.X + np.eye(train.X.shape[1]), train.X.T @ Y)
        self.W += 1e-3 * np.random.normal(size=self.W.shape)  # global chance

    def scores(self, queries):
        scores = queries.X @ self.W
        return scores - scores.mean(axis=0)  # depends on the batch

    def state(self):
        return {}  # nothing of what was learned

    @classmethod
    def from_state(cls, state, *, variant, device):
        return cls()


@rph.hookimpl
def register_router():
    card = rph.RouterCard(
        name="wrong", title="wrong", paper="none", year=2026, family="none", licence="MIT",
        deterministic=True, calibrated=True,
    )
    return rph.RouterSpec(card=card, grid=(Config(ridge=2.0),), router=Wrong)
"""
BROKEN = {
    "deterministic-under-a-seed",
    "every-seed-matters",
    "global-chance-untouched",
    "batch-equals-one-by-one",
    "well-formed-grid",
    "state-round-trip",
    "inputs-unchanged",
    "missing-is-not-wrong",
    "calibrated-probabilities",
}


def test_check_names_each_check_that_a_wrong_router_breaks(rph, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(WRONG)
    code, output, _ = rph("check", "router", "wrong", "--plugin", file, "--json")
    assert code == 1
    status = {result["check"]: result["status"] for result in json.loads(output)}
    assert {check for check in BROKEN if status[check] != "failed"} == set()
    assert status["no-network"] == status["permuted-queries-permute-rows"] == "passed"
    code, output, _ = rph("check", "router", "wrong", "--plugin", file, "--only", "inputs-unchanged")
    assert code == 1 and "inputs-unchanged" in output and "the train queries were changed" in output


# --- plugins that cannot be used ----------------------------------------------------------------------

ROUTER = """
import rph
from dataclasses import dataclass
{imports}

@dataclass(frozen=True)
class Config:
    k: int = 1

@rph.hookimpl
def register_router():
    card = rph.RouterCard(
        name={name!r}, title="t", paper="p", year=2026, family="f", licence="MIT", deterministic=True, calibrated=True,
        {field}
    )
    return rph.RouterSpec(card=card, grid=(Config(),), router=object, api={api})
"""


@pytest.fixture
def unusable(tmp_path, monkeypatch):
    """Five distributions with unusable routers, on the path as pip would leave them."""
    site = tmp_path / "site"
    site.mkdir()

    def install(distribution, name, requires=(), *, imports="", field="", api=1):
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(ROUTER.format(name=name, imports=imports, field=field, api=api))
        info = site / f"{module}-2.0.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", "Version: 2.0", *requires]
        (info / "METADATA").write_text("\n".join([*lines, ""]))
        (info / "entry_points.txt").write_text(f"[rph]\nrouter-{name} = {module}\n")

    install("rph-gone", "gone", imports="import a_module_that_is_gone")
    boost = ("Provides-Extra: boost", 'Requires-Dist: no-such-boost>=2; extra == "boost"')
    install("rph-extra", "extra", boost, imports="import no_such_boost.trees")
    install("rph-later", "later", api=2)
    install("rph-newest", "newest", (f"Requires-Dist: {OURS}>=9",), field="colour='red',")
    install("rph-one", "twin")
    install("rph-two", "twin")
    monkeypatch.syspath_prepend(site)


REASONS = {
    "gone": ("No module named 'a_module_that_is_gone'", "authors of rph-gone"),
    "extra": ("it comes with the extra rph-extra[boost]", "pip install 'rph-extra[boost]'"),
    "later": ("it states API version 2", upgrade()),
    "newest": (f"it needs {OURS}>=9, and this is ", upgrade(">=9")),
    "twin": ("rph-two 2.0", "uninstall one of them"),
}


def test_each_unusable_plugin_is_reported_and_none_stops_rph(rph, unusable, tmp_path):
    code, output, _ = rph("plugins", "--json")
    rows = json.loads(output)
    assert code == 0
    failed = {row["name"]: row["reason"] for row in rows if row["status"] == "failed"}
    assert set(failed) == set(REASONS)
    assert all(REASONS[name][0] in reason for name, reason in failed.items())
    code, output, error = rph("list", "routers")
    assert code == 0 and "knn" in output
    assert all(f"router {name!r} is not listed" in error for name in REASONS)
    bench = toys.write_bench(tmp_path / "bench")
    assert rph("eval", "--router", "knn", "--bench", bench, "--encoder", "lsa", *SMOKE)[0] == 0


@pytest.mark.parametrize("name", REASONS)
def test_asked_for_an_unusable_plugin_rph_says_why_and_what_to_do(rph, unusable, name):
    code, _, error = rph("check", "router", name)
    why, fix = REASONS[name]
    assert code in (1, 2) and why in error and fix in error and "Traceback" not in error
