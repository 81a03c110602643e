"""What is in a trial's key: all code that runs in one, and nothing that decides no number."""

import gc
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import rph_plugins
from tests import worlds

import rph
from rph import Trial
from rph.distribution import OURS
from rph.engine import keys, trials
from rph.engine.inputs import Inputs, with_shared_texts
from rph.engine.reach import reached
from rph.registry import installed
from rph.results.outcomes import Scored

CODE = tuple(package.__path__[0] for package in (rph, rph_plugins))  # as frames name it
WORDS = ("prove", "integral", "poem", "compile", "river", "verdict")


@pytest.fixture(scope="module")
def inputs():
    """A small world with costs and words, as a worker of another process sees it."""
    rng = np.random.default_rng(0)

    def texts(n):
        return [" ".join(rng.choice(WORDS, 4)) for _ in range(n)]

    train, val = worlds.world(n=80, K=3), worlds.world(n=40, K=3, seed=1)
    costs = rng.random((120, 3), np.float32)
    train = rph.Labelled(X=train.X, texts=texts(80), Y=train.Y, C=costs[:80], models=train.models)
    val = rph.Labelled(X=val.X, texts=texts(40), Y=val.Y, C=costs[80:], models=train.models)
    val_queries = rph.Queries(X=val.X, texts=val.texts)
    test_queries = rph.Queries(X=worlds.some_queries(20).X, texts=texts(20))
    return with_shared_texts(
        Inputs(train=train, val=val, val_queries=val_queries, test_queries=test_queries, device="cpu")
    )


def traced(act):
    """The files of ours in which a line is executed while `act` runs, in any thread."""
    files = set()

    def trace(frame, event, argument):
        files.add(frame.f_code.co_filename)

    # What an earlier test left unfinished, as a generator of a cell, must not end in the middle of the trial.
    gc.collect()
    gc.disable()
    before = sys.gettrace()
    sys.settrace(trace)
    threading.settrace(trace)
    try:
        done = act()
    finally:
        sys.settrace(before)
        threading.settrace(None)
        gc.enable()
    return {str(Path(file).resolve()) for file in files if file.startswith(CODE)}, done


@pytest.mark.parametrize("name", installed().names("router"))
def test_no_line_runs_in_a_trial_that_its_key_does_not_hold(briefly, name, inputs):
    plugin = installed().load("router", name)
    grid = plugin.spec.grid
    asked = [Trial(variant=variant, seed=1) for variant in {grid[0]: None, grid[-1]: None}]
    files, batches = traced(lambda: list(trials.run(plugin.spec, asked, inputs)))
    assert all(isinstance(outcome, Scored) for batch in batches for _, outcome in batch)
    held = [keys.reach_of(plugin), reached(trials, distribution=None)]
    known = {str(Path(file).resolve()) for found in held for file in found.modules.values()}
    assert files and files <= known


def test_how_inputs_are_made_is_held_by_the_key():
    found = set(reached(trials, distribution=None).modules)
    assert {"rph.engine.trials", "rph.engine.inputs", "rph.api", "rph.arrays"} <= found


def test_routers_count_by_what_they_reach():
    plugins = {
        name: keys.software(installed().load("router", name)) for name in ("knn", "mlp", "optllm", "rorf")
    }
    assert len({found.router for found in plugins.values()}) == 4
    assert len({found.trial for found in plugins.values()}) == 1
    assert set(plugins["knn"].packages) == {"numpy", "torch"}
    assert any(name.startswith("xgboost") for name in plugins["optllm"].packages)
    assert "scikit-learn" in plugins["rorf"].packages
    assert not any(OURS in found.packages for found in plugins.values())  # a release changes no number


def test_a_difference_is_named():
    one = keys.Software(router="r", trial="t", packages={"numpy": "2.0", "torch": "2.13"})
    other = keys.Software(router="s", trial="u", packages={"numpy": "2.1", "xgboost": "3"})
    assert one.differences(one) == []
    assert one.differences(other) == [
        "numpy",
        "torch",
        "xgboost",
        "code of the router",
        "code that runs trials",
    ]
