"""Trials of a router: alone or together, and what a failure may and may not take with it."""

from dataclasses import dataclass

import numpy as np
import pytest

from rph.api import Labelled, Queries, RouterCard, RouterSpec, Trial
from rph.engine.inputs import Inputs
from rph.engine.trials import run
from rph.results.outcomes import Failed, Scored

K = 3
CARD = RouterCard(
    name="toy",
    title="a toy",
    paper="none",
    year=2026,
    family="toy",
    licence="MIT",
    deterministic=False,
    calibrated=True,
)


@dataclass(frozen=True)
class Config:
    value: float = 0.5
    fault: str = ""


class Gone(BaseException):
    """As some libraries have: neither an Exception nor Ctrl-C."""


def faulty(scores, fault):
    if fault == "gone":
        raise Gone("away")
    if fault == "raise":
        raise RuntimeError("broken on purpose")
    if fault == "nan":
        scores[1, 2] = np.nan
    if fault == "infinite":
        scores[0, 0] = np.inf
    if fault == "too large for float32":
        scores = scores.astype(np.float64)
        scores[0, 0] = 1e39
    if fault == "columns":
        return scores[:, :2]
    if fault == "rows":
        return scores[:-1]
    if fault == "integers":
        return scores.astype(int)
    if fault == "not a probability":
        return scores + 1
    return scores


class Toy:
    def fit(self, train, val, *, variant, seed, device):
        self.variant = variant

    def scores(self, queries):
        return faulty(np.full((len(queries), K), self.variant.value, np.float64), self.variant.fault)


class Group:
    def __init__(self, trials):
        self.trials = trials

    def scores(self, queries):
        return [
            faulty(np.full((len(queries), K), trial.variant.value, np.float32), trial.variant.fault)
            for trial in self.trials
        ]


def inputs():
    X = np.eye(4, dtype=np.float32)
    labelled = Labelled(
        X=X, texts=list("abcd"), Y=np.ones((4, K), np.float32), C=None, models=("a", "b", "c")
    )
    queries = Queries(X=X, texts=list("abcd"))
    return Inputs(train=labelled, val=labelled, val_queries=queries, test_queries=queries, device="cpu")


def spec(fit_many=None):
    return RouterSpec(card=CARD, grid=(Config(),), router=Toy, fit_many=fit_many)


def outcomes(spec, trials):
    batches = list(run(spec, trials, inputs()))
    return [len(batch) for batch in batches], dict(pair for batch in batches for pair in batch)


def trials_of(*configs, seeds=(42,)):
    return [Trial(variant=config, seed=seed) for seed in seeds for config in configs]


FAULTS = {
    "raise": "RuntimeError: broken on purpose",
    "gone": "Gone: away",
    "nan": "1 of 12 scores are NaN or infinite",
    "infinite": "1 of 12 scores are NaN or infinite",
    "too large for float32": "1 of 12 scores are NaN or infinite as float32",
    "columns": r"shape \(4, 2\), not \(4, 3\)",
    "rows": r"shape \(3, 3\), not \(4, 3\)",
    "integers": "not floating point",
    "not a probability": "the card says calibrated",
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_keeps_its_traceback_and_loses_no_other_trial(fault, together):
    import re

    fit_many = (lambda train, val, trials, device: Group(trials)) if together else None
    trials = trials_of(Config(0.1), Config(0.2, fault), Config(0.3))
    sizes, found = outcomes(spec(fit_many), trials)
    assert sizes == [1, 1, 1]
    good, bad, also_good = (found[trial] for trial in trials)
    assert isinstance(good, Scored) and isinstance(also_good, Scored)
    assert (good.val[0, 0], also_good.test[0, 0]) == (np.float32(0.1), np.float32(0.3))
    assert isinstance(bad, Failed)
    assert re.search(FAULTS[fault], bad.reason)
    assert "seed 42" in bad.reason and "Traceback" in bad.traceback


def test_scores_are_kept_as_float32():
    _, found = outcomes(spec(), trials_of(Config(0.1)))
    assert next(iter(found.values())).val.dtype == np.float32


def test_a_group_is_one_batch_per_seed():
    calls = []

    def fit_many(train, val, trials, device):
        calls.append(list(trials))
        return Group(trials)

    trials = trials_of(Config(0.1), Config(0.2), seeds=(42, 7))
    sizes, found = outcomes(spec(fit_many), trials)
    assert sizes == [2, 2]
    assert calls == [trials[:2], trials[2:]]
    assert [found[trial].val[0, 0] for trial in trials] == pytest.approx([0.1, 0.2, 0.1, 0.2])


def test_a_single_trial_needs_no_group():
    def fit_many(*_):
        raise AssertionError("one trial is no group")

    sizes, _ = outcomes(spec(fit_many), trials_of(Config(0.1)))
    assert sizes == [1]


@pytest.mark.parametrize(
    ("fit_many", "says"),
    [
        (
            lambda train, val, trials, device: Group(trials[:-1]),
            "ValueError: it has the scores of 1 and 1 trials and the costs of 2, not of 2",
        ),
        (
            lambda train, val, trials, device: None,
            "AttributeError: 'NoneType' object has no attribute 'scores'",
        ),
        (5, "TypeError: 'int' object is not callable"),
    ],
)
def test_where_fit_many_is_broken_trials_are_run_one_by_one_and_say_why(fit_many, says):
    sizes, found = outcomes(spec(fit_many), trials_of(Config(0.1), Config(0.2)))
    assert sizes == [1, 1]
    assert all(isinstance(outcome, Scored) for outcome in found.values())
    notes = {outcome.note for outcome in found.values()}
    assert notes == {f"fit_many failed for 2 trials, which were trained one by one: {says}"}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_a_group_that_is_too_large_is_run_in_halves_that_fit(error):
    asked = []

    def fit_many(train, val, trials, device):
        asked.append(len(trials))
        if len(trials) > 3:
            raise error
        return Group(trials)

    trials = trials_of(*(Config(value / 10) for value in range(1, 8)))
    sizes, found = outcomes(spec(fit_many), trials)
    assert asked == [7, 3, 4, 2, 2] and sizes == [3, 2, 2]
    assert {outcome.note for outcome in found.values()} == {""}  # as it is meant
    assert [found[trial].val[0, 0] for trial in trials] == pytest.approx(
        [value / 10 for value in range(1, 8)]
    )


def test_a_bad_variant_costs_its_group_the_halves_that_hold_it():
    asked = []

    def fit_many(train, val, trials, device):
        asked.append(len(trials))
        return Group(trials)

    trials = trials_of(*(Config(0.1, "nan" if place == 5 else "") for place in range(8)))
    sizes, found = outcomes(spec(fit_many), trials)
    assert asked == [8, 4, 4, 2, 2] and sizes == [4, 1, 1, 2]
    assert [isinstance(found[trial], Failed) for trial in trials] == [place == 5 for place in range(8)]


def test_what_a_router_sees_holds_no_test_labels():
    names = {field for field in vars(inputs().test_queries)}
    assert names == {"X", "texts"}
