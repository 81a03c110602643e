"""The conformance suite: sound routers pass it, and each check fails for a router with the fault that it is for."""

import contextlib
import dataclasses
import json
import os
import random
import socket
import textwrap
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from rph import Labelled, RphError, UsageError
from rph.api import MAX_VARIANTS, VariantCard
from rph.arrays import model_means
from rph.conformance import worlds
from rph.conformance.routers import CHECKS, run_checks
from rph.registry import installed
from rph.testing import check_router as check_router  # noqa: PLC0414 - a fixture
from rph.testing import parametrize_with_router_checks

pytest_plugins = ["pytester"]

KNN = installed().load("router", "knn").spec
KMEANS = installed().load("router", "kmeans").spec


@parametrize_with_router_checks(["knn", KMEANS])
def test_sound_routers_conform(spec, check):
    check(spec)


# --- routers with one fault each: kNN, but ------------------------------------------------------------


class Knn(KNN.router):
    """kNN that lets a subclass change what it learns from, and what it says."""

    noise = 0.0

    def fit(self, train, val, *, variant, seed, device):
        self.train, self.seed = train, seed
        self.before(train, val)
        super().fit(self.seen(train), val, variant=variant, seed=seed, device=device)

    def scores(self, queries):
        return self.after(super().scores(queries), queries).astype(np.float32)

    def state(self):
        return {**super().state(), "seed": np.array(self.seed)}

    @classmethod
    def from_state(cls, state, *, variant, device):
        router = super().from_state(state, variant=variant, device=device)
        models = tuple(f"model-{m}" for m in range(state["Y"].shape[1]))
        router.train = Labelled(
            X=state["X"], texts=[""] * len(state["X"]), Y=state["Y"], C=None, models=models
        )
        router.seed = int(state["seed"])
        return router

    def before(self, train, val):
        pass

    def seen(self, train):
        return train

    def after(self, scores, queries):
        return scores


def faulty(*, router=Knn, grid=KNN.grid, fit_many=None, **card):
    return replace(KNN, router=router, grid=grid, fit_many=fit_many, card=replace(KNN.card, **card))


FAULTY = []  # (the check that must fail, and what fails with it), the router


def fault(check, *also, **how):
    def add(router):
        FAULTY.append(((check, *also), router.__name__, faulty(router=router, **how)))
        return router

    return add


FITS = Counter()


@fault("deterministic-under-a-seed", deterministic=False)
class DrawsFromTheSystem(Knn):
    def before(self, train, val):
        again = FITS[train.Y.tobytes()] % 2  # only the second fit on the same labels
        FITS[train.Y.tobytes()] += 1
        self.noise = again * 2e-7 * (1 + os.urandom(1)[0] / 255)

    def after(self, scores, queries):
        return scores * (1 - self.noise)


@fault("deterministic-under-a-seed", "every-seed-matters", deterministic=False)
class DrawsFromGlobalChance(Knn):
    def before(self, train, val):
        state = np.random.get_state()
        self.noise = 2e-7 * np.random.standard_normal()
        np.random.set_state(state)

    def after(self, scores, queries):
        return scores * (1 - self.noise)


@fault("every-seed-matters")
class UsesTheSeed(Knn):
    def after(self, scores, queries):
        return scores * (1 - 1e-5 * (self.seed % 97))


@fault("every-seed-matters", deterministic=False)
class SaysThatItKnowsChance(Knn):
    pass


@fault("every-field-matters")
class IgnoresK(Knn):
    def fit(self, train, val, *, variant, seed, device):
        super().fit(train, val, variant=replace(variant, k=100), seed=seed, device=device)


@fault("no-row-that-trained-calibrates")
class CalibratesOnWhatItLearnt(Knn):
    @staticmethod
    def calibration_rows(n, seed):
        return np.arange(10)

    def state(self):
        return {**super().state(), "parameter/labels": super().state()["Y"]}


@fault("global-chance-untouched")
class DrawsFromPython(Knn):
    def before(self, train, val):
        random.random()


@fault("global-chance-untouched")
class DrawsFromNumpy(Knn):
    def before(self, train, val):
        np.random.random()


@fault("global-chance-untouched")
class DrawsFromTorch(Knn):
    def before(self, train, val):
        torch.rand(1)


@fault("two-predicts-equal")
class ForgetsToSwitchDropoutOff(Knn):
    last = None

    def after(self, scores, queries):
        again, self.last = queries is self.last, queries
        return scores * (1 - 1e-6) if again else scores


@fault("batch-equals-one-by-one")
class KnowsTheBatch(Knn):
    def after(self, scores, queries):
        return scores * (1 - 1e-4 * (len(queries) == 1))


@fault("permuted-queries-permute-rows")
class KnowsTheOrder(Knn):
    def after(self, scores, queries):
        scores = scores.copy()
        scores[50:] *= 1 - 1e-4
        return scores


@fault("permuted-models-permute-columns")
class DislikesTheFirstModel(Knn):
    def after(self, scores, queries):
        return scores * np.where(np.arange(scores.shape[1]) == 0, 0.999, 1)


@fault("permuted-models-permute-columns", "every-seed-matters", deterministic=False, calibrated=False)
class LikesTheFirstModelMuchMore(Knn):
    def after(self, scores, queries):
        models = self.train.models
        return scores + (np.arange(scores.shape[1]) == 0) * (sorted(models) != list(models))


@fault("finite-float-scores", calibrated=False)
class ScoresIntegers(Knn):
    def scores(self, queries):
        return (super().scores(queries) * 1e6).astype(np.int64)


@fault("finite-float-scores", calibrated=False)
class ScoresBeyondFloat32(Knn):
    def scores(self, queries):
        return super().scores(queries).astype(np.float64) * 1e39


@fault("scores-before-fit-raise")
class ScoresBeforeFit(Knn):
    def scores(self, queries):
        return super().scores(queries) if hasattr(self, "group") else np.zeros((len(queries), 1), np.float32)


@fault("state-round-trip")
class NeedsPickle(Knn):
    def state(self):
        return {**super().state(), "models": np.array(self.train.models, dtype=object)}


@fault("state-round-trip")
class ForgetsPartOfItsState(Knn):
    def state(self):
        return {**super().state(), "Y": 1 - self.group.Y}


@fault("inputs-unchanged")
class WritesToVal(Knn):
    def before(self, train, val):
        val.X[0, 0] += 1


@fault("inputs-unchanged")
class NeedsWritableArrays(Knn):
    def before(self, train, val):
        train.Y[0, 0] = train.Y[0, 0]


@fault("no-test-labels")
class LooksForLabels(Knn):
    def after(self, scores, queries):
        with contextlib.suppress(Exception):
            queries.Y  # noqa: B018
        return scores


@fault("no-test-labels")
class UsesLabels(Knn):
    def after(self, scores, queries):
        return scores * (0.5 if "Y" in vars(queries) and queries.Y[0, 0] == 1 else 1)


@fault("no-network")
class OpensASocket(Knn):
    def before(self, train, val):
        with contextlib.suppress(Exception):
            socket.socket().close()


@fault("no-network")
class ResolvesAName(Knn):
    def before(self, train, val):
        if socket.getaddrinfo.__module__ != "socket":  # no look-up of ours in a test
            socket.getaddrinfo("example.invalid", 443)


@fault("pools-of-any-size")
class FailsOnLargePools(Knn):
    def before(self, train, val):
        assert train.Y.shape[1] < 100, "too many models"


@fault("constant-columns")
class FailsOnConstantColumns(Knn):
    def before(self, train, val):
        assert (model_means(train.Y) > 0).all(), "only one class"


@fault("constant-columns")
class RoutesToWhatIsAlwaysWrong(Knn):
    def after(self, scores, queries):
        return np.where(model_means(self.train.Y) == 0, 2, scores)


@fault("always-right-model")
class DoubtsPerfection(Knn):
    def after(self, scores, queries):
        return np.where(model_means(self.train.Y) == 1, 0.1, scores)


@fault("never-observed-model")
class CannotDoWithoutLabelsOfEachModel(Knn):
    def after(self, scores, queries):
        return np.where(np.isnan(self.train.Y).all(axis=0), np.nan, scores)


@fault("never-observed-model")
class ScoresTheUnknownFarBelow(Knn):  # and says calibrated
    def after(self, scores, queries):
        return np.where(np.isnan(self.train.Y).all(axis=0), -4000, scores)


@fault("nan-payloads")
class ReadsUnderTheMask(Knn):
    def after(self, scores, queries):
        Y = self.train.Y
        return scores * (1 - 1e-3 * (Y.view(np.uint32)[np.isnan(Y)] & 1).any())


@fault("missing-is-not-wrong", "a-label-that-becomes-observed-matters")
@fault("a-label-that-becomes-observed-matters", "missing-is-not-wrong")
class TakesMissingForWrong(Knn):
    def seen(self, train):
        return replace(train.observed, Y=np.nan_to_num(train.observed.Y))


@fault("queries-without-labels")
class CountsQueriesWithoutLabels(Knn):
    def seen(self, train):
        return replace(train, Y=np.where(np.isnan(train.Y).all(axis=1, keepdims=True), 0.5, train.Y))


@fault("few-training-queries")
class WantsManyQueries(Knn):
    def before(self, train, val):
        assert len(train) >= 20, "k is 20"


@fault("unknown-costs")
class ReadsCosts(Knn):
    def before(self, train, val):
        train.C.sum()


@fault("unknown-costs")
class PassesUnknownCostsOn(Knn):
    def after(self, scores, queries):
        C = self.train.observed.C
        return scores if C is None else np.where(np.isnan(C.sum(axis=0)), np.nan, scores)


@fault("planted-clusters", "every-field-matters", calibrated=False)
class RoutesToOneModel(Knn):
    def after(self, scores, queries):
        return np.tile(model_means(self.train.observed.Y), (len(queries), 1))


@fault("unrelated-labels", calibrated=False)
class Overfits(Knn):
    def after(self, scores, queries):
        phase = 997 * queries.unit[:, :1] + 50 * model_means(self.train.Y)  # the same model, the same phase
        return scores + 0.2 * np.sin(phase)


@fault("calibrated-probabilities")
class Overconfident(Knn):
    def after(self, scores, queries):
        return np.minimum(scores + 0.03, 1)


@fault("calibrated-probabilities")
class NotProbabilities(Knn):
    def after(self, scores, queries):
        return scores * (2 if len(queries) == 2000 else 1)


@fault("calibrated-probabilities")
class ShrinksToTheMean(Knn):
    def after(self, scores, queries):
        return 0.5 * scores + 0.5 * model_means(self.train.observed.Y)


@fault("better-than-the-base-rate")
class InvertsWhatItLearnedFrom(Knn):
    def after(self, scores, queries):
        return 1 - scores if len(queries) == len(self.train) else scores


# --- what the faults lead to --------------------------------------------------------------------------


def mixed_up(train, val, trials, device):
    return KNN.fit_many(train, val, trials[::-1], device)


FAULTY += [
    (("fit-many-equals-one-by-one",), "mixed up", faulty(fit_many=mixed_up)),
    (("well-formed-grid",), "equal variants", faulty(grid=(KNN.grid[0], KNN.grid[0]))),
]


def failed(spec, only=None):
    return {result.check for result in run_checks(spec, only=only) if result.status == "failed"}


@pytest.mark.parametrize(
    ("checks", "spec"), [(c, s) for c, _, s in FAULTY], ids=[f"{c[0]}-{n}" for c, n, _ in FAULTY]
)
def test_a_router_with_one_fault_fails_the_check_for_it_and_no_other(checks, spec):
    assert failed(spec) == set(checks)


def test_every_check_has_a_fault_that_it_finds():
    assert {checks[0] for checks, _, _ in FAULTY} == set(CHECKS)


@dataclass(frozen=True)
class Config:
    k: int = 100
    weights: str = "uniform"
    comment: str = ""


@dataclass
class Thawed:
    k: int = 100
    weights: str = "uniform"

    __hash__ = object.__hash__


@dataclass(frozen=True)
class Precise:
    rate: float = 1e-3


@pytest.mark.parametrize(
    ("grid", "why"),
    [
        ((), "0 variants"),
        (tuple(Config(k) for k in range(100, 101 + MAX_VARIANTS)), "16 variants"),
        (KNN.grid[::-1], "the default, k=100,weights=uniform, is not the first variant"),
        ((Thawed(),), "Thawed is not frozen"),
        ((KNN.grid[0], Config(20)), "more than one class"),
        (("k=100",), "'k=100', which is no instance of a dataclass"),
        ((Precise(), Precise(0.0010000001)), "two variants of its grid are both named rate=0.001"),
    ],
)
def test_a_grid_that_is_not_well_formed_is_told_what_is_wrong(grid, why):
    (result,) = run_checks(faulty(grid=grid), only=["well-formed-grid"])
    assert result.status == "failed" and why in result.detail


# --- running ------------------------------------------------------------------------------------------


class Raises(Knn):
    def before(self, train, val):
        raise ValueError("no\nluck")


class Leaves(Knn):
    def before(self, train, val):
        raise SystemExit(3)


class Gone(BaseException):
    """As some libraries have: neither an Exception nor Ctrl-C."""


class Goes(Knn):
    def before(self, train, val):
        raise Gone("away")


class Interrupted(Knn):
    def before(self, train, val):
        raise KeyboardInterrupt


def test_results_come_in_the_order_asked_for_and_as_plain_records():
    results = list(run_checks(KNN, only=["no-network", "planted-clusters"]))
    assert [(r.router, r.check, r.status, r.detail) for r in results] == [
        ("knn", "no-network", "passed", ""),
        ("knn", "planted-clusters", "passed", ""),
    ]
    assert all(r.ok and r.seconds > 0 for r in results)
    assert json.loads(json.dumps(dataclasses.asdict(results[0])))["check"] == "no-network"
    with pytest.raises(dataclasses.FrozenInstanceError):
        results[0].status = "failed"


def test_all_checks_run_by_default_each_with_a_name_and_a_line_that_says_what_it_holds():
    assert [r.check for r in run_checks(KNN)] == list(CHECKS)
    for name, check in CHECKS.items():
        assert name == check.id == check.function.__name__.replace("_", "-")
        assert check.holds.endswith(".") and 20 < len(check.holds) <= 120


def test_a_check_that_does_not_apply_is_skipped_with_a_reason():
    (result,) = run_checks(faulty(calibrated=False), only=["calibrated-probabilities"])
    assert (result.status, result.detail, result.ok) == ("skipped", "the card does not say calibrated", True)


def test_what_the_default_is_goes_before_what_the_card_says_of_all_variants():
    checks = ["calibrated-probabilities", "better-than-the-base-rate"]
    ranks = replace(faulty(router=NotProbabilities), describe=lambda variant: VariantCard(calibrated=False))
    assert [r.status for r in run_checks(ranks, only=checks)] == ["skipped", "skipped"]
    estimates = faulty(router=NotProbabilities, calibrated=False)
    estimates = replace(
        estimates, describe=lambda variant: VariantCard(calibrated=variant == estimates.grid[0])
    )
    assert failed(estimates, only=checks) == {"calibrated-probabilities"}


@pytest.mark.parametrize(
    ("router", "detail"),
    [(Raises, "ValueError: no luck (test_routers.py:"), (Leaves, "SystemExit: 3 ("), (Goes, "Gone: away (")],
)
def test_whatever_a_router_raises_is_a_failure_with_its_place(router, detail):
    (result,) = run_checks(faulty(router=router), only=["two-predicts-equal"])
    assert result.status == "failed" and not result.ok and result.detail.startswith(detail)


def test_an_interrupt_of_the_user_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        list(run_checks(faulty(router=Interrupted)))


def test_global_chance_and_sockets_are_as_before_whatever_a_check_did():
    before = random.getstate(), torch.get_rng_state(), socket.socket, socket.getaddrinfo
    list(
        run_checks(
            faulty(router=DrawsFromTorch), only=["global-chance-untouched", "deterministic-under-a-seed"]
        )
    )
    list(run_checks(faulty(router=Raises), only=["no-network"]))
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert (socket.socket, socket.getaddrinfo) == before[2:]


def test_a_failure_that_the_card_announces_is_expected_and_a_pass_is_then_not():
    announced = (("no-network", "asks a server"), ("two-predicts-equal", "it is noisy"))
    spec = faulty(router=OpensASocket, expected_failures=announced)
    network, twice, grid = run_checks(spec, only=["no-network", "two-predicts-equal", "well-formed-grid"])
    assert network.status == "expected-failure" and network.ok
    assert network.detail.startswith("asks a server (") and "socket" in network.detail
    assert twice.status == "unexpected-pass" and not twice.ok and "it is noisy" in twice.detail
    assert grid.status == "passed"


def test_failures_can_be_expected_by_the_caller_too():
    (result,) = run_checks(faulty(router=OpensASocket), only=["no-network"], expected={"no-network": "known"})
    assert result.status == "expected-failure"


def test_a_check_that_does_not_apply_is_skipped_even_where_a_failure_is_expected():
    spec = faulty(calibrated=False, expected_failures=(("calibrated-probabilities", "ranks only"),))
    (result,) = run_checks(spec, only=["calibrated-probabilities"])
    assert result.status == "skipped"


def test_unknown_ids_are_errors_before_anything_runs():
    with pytest.raises(UsageError, match=r"no check 'no-netwrok'\n.*did you mean 'no-network'"):
        run_checks(KNN, only=["no-netwrok"])
    with pytest.raises(UsageError, match="no check 'magic'"):
        run_checks(KNN, expected={"magic": "why not"})
    with pytest.raises(RphError, match="card of router 'knn' expects a failure of 'magic'"):
        run_checks(faulty(expected_failures=(("magic", "why not"),)))


# --- pytest's face ------------------------------------------------------------------------------------


def test_the_decorator_names_tests_and_marks_expected_failures_as_strict():
    spec = faulty(expected_failures=(("no-network", "asks a server"),))
    mark = parametrize_with_router_checks(
        ["kmeans", spec], expected_failed_checks={"nan-payloads": "reads them"}
    )
    names, parameters = mark.mark.args
    assert names == ("spec", "check")
    assert [p.id for p in parameters] == [
        f"{router}-{check}" for router in ("kmeans", "knn") for check in CHECKS
    ]
    marked = {p.id: (m.name, m.kwargs) for p in parameters for m in p.marks}
    reads, asks = {"reason": "reads them", "strict": True}, {"reason": "asks a server", "strict": True}
    assert marked == {
        "kmeans-nan-payloads": ("xfail", reads),
        "knn-no-network": ("xfail", asks),
        "knn-nan-payloads": ("xfail", reads),
    }


def test_the_decorator_and_the_fixture_in_a_plugin_authors_tests(pytester):
    pytester.makepyfile(
        textwrap.dedent("""
            from dataclasses import replace
            from rph.registry import installed
            from rph.testing import parametrize_with_router_checks

            pytest_plugins = ["rph.testing"]

            KNN = installed().load("router", "knn").spec
            REASONS = {"no-network": "only a claim", "well-formed-grid": "too small"}

            @parametrize_with_router_checks(
                [replace(KNN, grid=(KNN.grid[1],), fit_many=None)], expected_failed_checks=REASONS
            )
            def test_mine(spec, check):
                check(spec)

            def test_all_at_once(check_router):
                check_router("knn", only=["no-network"])

            def test_all_that_went_wrong_is_named(check_router):
                check_router(replace(KNN, grid=()), only=["no-network", "well-formed-grid"])
        """)
    )
    outcome = pytester.runpytest("-p", "no:cacheprovider", "-rA")
    # fit_many is skipped, the grid xfails, no-network passes though a failure was expected, the last test must fail
    outcome.assert_outcomes(passed=len(CHECKS) - 4 + 1, skipped=2, xfailed=1, failed=2)
    outcome.stdout.fnmatch_lines_random(
        [
            "*FAILED*test_mine?knn-no-network?*",
            "*router 'knn' does not conform:",
            "*well-formed-grid (failed): its grid has 0 variants*",
        ]
    )


def test_the_fixture_takes_expected_failures(check_router):
    spec = faulty(router=OpensASocket)
    check_router(spec, only=["no-network"], expected_failed_checks={"no-network": "known"})
    with pytest.raises(pytest.fail.Exception, match=r"no-network \(failed\): it asks for a socket"):
        check_router(spec, only=["no-network"])


# --- the worlds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [worlds.smooth_world, worlds.cluster_world, worlds.calibration_world])
def test_a_world_is_the_same_every_time_and_shares_nothing_with_the_last_one(make):
    one, other = make(), make()
    for a, b in ((one.train, other.train), (one.val, other.val)):
        for name in ("X", "Y", "C"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
            assert not np.shares_memory(getattr(a, name), getattr(b, name))
        assert a.texts == b.texts and a.models == b.models
    assert np.array_equal(one.test.X, other.test.X) and np.array_equal(one.P, other.P)


def test_in_the_cluster_world_every_cluster_has_its_specialist_and_one_model_is_best_on_average():
    world = worlds.cluster_world()
    cluster = world.test.X[:, :4].argmax(axis=1)
    specialists = [np.unique(world.P[cluster == c].argmax(axis=1)).tolist() for c in range(4)]
    assert sorted(m for (m,) in specialists) == [0, 1, 2, 3] and specialists != [[0], [1], [2], [3]]
    assert world.P.max() == pytest.approx(0.95) and world.P.min() == pytest.approx(0.25)
    vocabularies = [
        {w for text, c in zip(world.test.texts, cluster, strict=True) if c == g for w in text.split()}
        for g in range(4)
    ]
    assert set.intersection(*vocabularies) == {"please"} and all(len(v) == 9 for v in vocabularies)
    assert world.train.Y.mean(axis=0) == pytest.approx(world.P.mean(axis=0), abs=0.05)


def test_in_the_calibration_world_the_luck_of_the_train_labels_is_small():
    world = worlds.calibration_world()
    assert np.abs(world.train.Y.mean(axis=0) - world.P.mean(axis=0)).max() < 0.002


def test_masks_and_columns_leave_the_other_labels():
    train = worlds.smooth_world().train
    sparse = worlds.with_missing(train, 0.6)
    seen = ~np.isnan(sparse.Y)
    assert 0.37 < seen.mean() < 0.43 and np.array_equal(sparse.Y[seen], train.Y[seen])
    constant = worlds.with_column(train, 1, 1.0)
    assert (constant.Y[:, 1] == 1).all() and np.array_equal(
        constant.Y[:, [0, 2, 3, 4]], train.Y[:, [0, 2, 3, 4]]
    )
    assert not np.isnan(train.Y).any() and (train.Y[:, 1] == 0).any()
