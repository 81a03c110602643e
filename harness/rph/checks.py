"""The conformance suite: what every router owes, as small named checks on small worlds made here.

One implementation, three faces: `rph check router NAME`, and in `rph.testing` a decorator and a fixture for pytest.

A check is a function over a RouterSpec that returns where the router conforms and raises where it does not; the first
line of its docstring says what it holds, its name with dashes is its id. It fits the default variant only, unless it
says otherwise. Every world is made anew from a seed, so that a router that writes to one spoils no other check.

Which checks a method cannot pass by design its card says, with the reason, in `expected_failures`: such a check must
then fail, or the result is `unexpected-pass`.

Letters: N queries, d embedding dimensions, K models.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import random
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rph import metrics
from rph.api import Labelled, Queries, RouterSpec, Trial, variant_name
from rph.arrays import observed_means, unit_rows
from rph.errors import RphError, UsageError
from rph.lazy import np, torch
from rph.registry import wrong_with_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32, Router
    from rph.arrays import Floats

Status = Literal["passed", "failed", "expected-failure", "unexpected-pass", "skipped"]

SEED = 42
NAN = float("nan")
WORDS = ("algebra", "poem", "compiler", "river", "verdict", "enzyme")  # typical of a topic, numbered


# --- running ----------------------------------------------------------------------------------------


class Violation(AssertionError):
    """A check found that the router does not conform."""


class NotApplicable(Exception):
    """A check says nothing about this router."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that routers owe. Calling it raises where `spec` does not conform."""

    id: str
    holds: str  # in one line
    function: Callable[[RouterSpec], None]

    def __call__(self, spec: RouterSpec) -> None:
        self.function(spec)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check said of one router."""

    router: str
    check: str  # its id
    status: Status
    detail: str  # why, in one line; "" where it passed
    seconds: float

    @property
    def ok(self) -> bool:
        """Nothing to repair: neither a failure nor a pass where the card announces a failure."""
        return self.status not in ("failed", "unexpected-pass")


CHECKS: dict[str, Check] = {}  # by id, in the order in which they run


def _check(function: Callable[[RouterSpec], None]) -> Callable[[RouterSpec], None]:
    name = function.__name__.replace("_", "-")
    CHECKS[name] = Check(id=name, holds=(function.__doc__ or "").partition("\n")[0], function=function)
    return function


def run_checks(
    spec: RouterSpec,
    *,
    only: Iterable[str] | None = None,
    expected: Mapping[str, str] | None = None,
) -> Iterator[CheckResult]:
    """Run the checks on a router, all or `only` those ids, one result as each ends.

    `expected` names further failures to expect, id -> reason, besides those of the card. Raises at once where an
    id is unknown: UsageError for one given here, RphError for one of the card.
    """
    reasons = expected_failures(spec, expected)
    chosen = list(CHECKS.values() if only is None else find_checks(only))
    return (run_check(spec, check, expected=reasons.get(check.id)) for check in chosen)


def run_check(spec: RouterSpec, check: Check, *, expected: str | None = None) -> CheckResult:
    """Run one check; `expected` is why the router cannot pass it, None where it should. Whatever a router raises
    is a failure of the check.
    """
    start = time.perf_counter()
    status, detail = _verdict(spec, check)
    if expected is not None and status == "failed":
        status, detail = "expected-failure", f"{expected} ({detail})"
    elif expected is not None and status == "passed":
        status, detail = "unexpected-pass", f"it passes, but is expected to fail: {expected}"
    return CheckResult(
        router=spec.name,
        check=check.id,
        status=status,
        detail=" ".join(detail.split()),
        seconds=time.perf_counter() - start,
    )


def _verdict(spec: RouterSpec, check: Check) -> tuple[Status, str]:
    try:
        check(spec)
    except NotApplicable as reason:
        return "skipped", str(reason)
    except Violation as violation:
        return "failed", str(violation)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is its failure, also `sys.exit`
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "failed", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return "passed", ""


def find_checks(ids: Iterable[str]) -> list[Check]:
    """The checks of these ids. Raises UsageError for an unknown one."""
    wanted = list(ids)
    for unknown in (name for name in wanted if name not in CHECKS):
        close = difflib.get_close_matches(unknown, CHECKS, n=3)
        raise UsageError(
            f"there is no check {unknown!r}",
            why=f"did you mean {' or '.join(map(repr, close))}?" if close else "",
            fix=f"the checks are: {', '.join(CHECKS)}",
        )
    return [CHECKS[name] for name in wanted]


def expected_failures(spec: RouterSpec, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Check id -> why the router cannot pass it: those of its card, and `more`. All ids must be known."""
    for name, _ in spec.card.expected_failures:
        if name not in CHECKS:
            raise RphError(
                f"the card of router {spec.name!r} expects a failure of {name!r}, which is no check",
                why=f"the checks are: {', '.join(CHECKS)}",
                fix="correct its expected_failures",
            )
    find_checks(more or ())
    return {**dict(spec.card.expected_failures), **(more or {})}


# --- worlds -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class World:
    """Queries whose P(correct) is known."""

    train: Labelled
    val: Labelled
    test: Queries
    P: Float32  # [N, K] P(correct) of the test queries


def _world(
    X: Floats,
    P: Floats,
    topics: NDArray[np.int64],
    sizes: tuple[int, int],
    rng: Any,
) -> World:
    """Splits after `sizes` train and val rows. Labels are one draw of P [N, K]; texts have words of the topic [N]."""
    Y = (rng.random(P.shape) < P).astype(np.float32)
    K = P.shape[1]
    dollars = 0.001 * np.arange(1, K + 1)[rng.permutation(K)]  # each model's price
    C = (dollars * rng.uniform(0.5, 1.5, P.shape)).astype(np.float32)
    words = [f"{WORDS[t % len(WORDS)]}{i}" for t in range(topics.max() + 1) for i in range(8)]
    drawn = rng.integers(0, 8, (len(X), 6))
    texts = [
        " ".join([words[8 * t + i] for i in row]) + " please" for t, row in zip(topics, drawn, strict=True)
    ]
    X32, models = X.astype(np.float32), tuple(f"model-{m}" for m in range(K))

    def part(start: int, end: int) -> Labelled:
        rows = slice(start, end)
        return Labelled(
            X=X32[rows].copy(), texts=texts[rows], Y=Y[rows].copy(), C=C[rows].copy(), models=models
        )

    end = sum(sizes)
    return World(
        train=part(0, sizes[0]),
        val=part(sizes[0], end),
        test=Queries(X=X32[end:].copy(), texts=texts[end:]),
        P=P[end:].astype(np.float32),
    )


def smooth_world(
    train: int = 240,
    val: int = 80,
    test: int = 120,
    *,
    K: int = 5,
    d: int = 6,
    slope: float = 3.0,
    draw: int = 0,
) -> World:
    """P of each model is a logistic function of the embedding, which has length 1 like that of most encoders."""
    rng = np.random.default_rng([SEED, 1, draw])
    X = unit_rows(rng.standard_normal((train + val + test, d)).astype(np.float32))
    logit = slope * X @ rng.standard_normal((d, K)) + 0.5 * rng.standard_normal(K)
    topics = X[:, :3].argmax(axis=1)
    return _world(X, 1 / (1 + np.exp(-logit)), topics, (train, val), rng)


def calibration_world() -> World:
    """Large enough to tell whether probabilities are calibrated. Of 40 draws, the one in which train is closest to test:
    the mean labels on train are within .002 of the mean P on test, so that the luck of the labels is not held against a router.
    """
    return smooth_world(3000, 500, 2000, K=3, d=4, slope=2.0, draw=2)


def cluster_world(train: int = 800, val: int = 200, test: int = 400, *, groups: int = 4, d: int = 8) -> World:
    """Separate clusters of queries, each with a specialist: P is .9 for it and .25 for the others."""
    rng = np.random.default_rng([SEED, 2])
    topics = rng.integers(0, groups, train + val + test)
    X = 3 * np.eye(groups, d)[topics] + 0.4 * rng.standard_normal((len(topics), d))
    specialist = np.arange(groups)[
        rng.permutation(groups)
    ]  # of each cluster: no model's place is its cluster's
    P = np.where(np.arange(groups) == specialist[topics][:, None], 0.9, 0.25)
    P[:, specialist[0]] += 0.05  # one model is the best on average
    return _world(X, P, topics, (train, val), rng)


def unrelated_world(p: Sequence[float], train: int = 800, val: int = 200, test: int = 2000) -> World:
    """Labels that have nothing to do with the query: model m has P = p[m] everywhere."""
    rng = np.random.default_rng([SEED, 3])
    X = rng.standard_normal((train + val + test, 6))
    topics = rng.integers(0, 3, len(X))
    return _world(X, np.tile(p, (len(X), 1)), topics, (train, val), rng)


def with_missing(known: Labelled, share: float) -> Labelled:
    """The queries with a share of their labels not observed."""
    Y = known.Y.copy()
    Y[np.random.default_rng([SEED, 4]).random(Y.shape) < share] = NAN
    return replace(known, Y=Y)


def with_column(known: Labelled, model: int, label: float) -> Labelled:
    """The queries with one label for all of a model's."""
    Y = known.Y.copy()
    Y[:, model] = label
    return replace(known, Y=Y)


# --- what the checks share --------------------------------------------------------------------------


def _fit(spec: RouterSpec, world: World, *, seed: int = SEED, variant: Any = None) -> Router:
    router = spec.router()
    router.fit(world.train, world.val, variant=variant or spec.grid[0], seed=seed, device="cpu")
    return router


def _scores(spec: RouterSpec, world: World, *, seed: int = SEED) -> Float32:
    return _fit(spec, world, seed=seed).scores(world.test)


def _require(condition: object, detail: str) -> None:
    if not condition:
        raise Violation(detail)


def _require_finite(scores: Float32, world: World, where: str) -> None:
    _require(isinstance(scores, np.ndarray), f"{where}: scores are a {type(scores).__name__}, not an array")
    shape = (len(world.test), world.train.Y.shape[1])
    _require(scores.shape == shape, f"{where}: scores have the shape {scores.shape}, not {shape}")
    bad = int((~np.isfinite(scores)).sum())
    _require(bad == 0, f"{where}: {bad} of {scores.size} scores are not finite")


def _require_close(found: Float32, wanted: Float32, what: str, tolerance: float = 1e-6) -> None:
    """Equal up to float32 rounding: 1e-6, or 1e-6 of the largest score where that is above 1."""
    _require(found.shape == wanted.shape, f"{what}: shapes {found.shape} and {wanted.shape}")
    if found.size == 0:
        return
    gap = np.abs(found.astype(np.float64) - wanted)
    allowed = tolerance * max(1.0, float(np.abs(wanted).max()))
    rows = int((~(gap <= allowed)).any(axis=1).sum())  # so written that NaN is a difference
    _require(
        rows == 0, f"{what}: the scores of {rows} of {len(gap)} queries differ, by up to {gap.max():.2g}"
    )


def _require_equal(found: Float32, wanted: Float32, what: str) -> None:
    if not np.array_equal(found, wanted):
        _require_close(found, wanted, what, tolerance=0)
        raise Violation(f"{what}: the scores are of types {found.dtype} and {wanted.dtype}, or not finite")


def _routes(scores: Float32, world: World) -> NDArray[np.int64]:
    return metrics.route(scores, observed_means(world.train.Y))


def _expected_accuracy(scores: Float32, world: World) -> float:
    """Mean P(correct) of the routed models: accuracy without the luck of the labels."""
    return float(world.P[np.arange(len(world.P)), _routes(scores, world)].mean())


@contextlib.contextmanager
def _global_chance_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


# --- chance and order -------------------------------------------------------------------------------


@_check
def deterministic_under_a_seed(spec: RouterSpec) -> None:
    """Two fits with one seed give the same scores, bit for bit, whatever state global chance is in."""
    found = []
    for state in (1, 2):
        with _global_chance_kept():
            random.seed(state)
            np.random.seed(state)
            torch.manual_seed(state)
            found.append(_scores(spec, smooth_world()))
    _require_equal(found[1], found[0], "two fits with one seed")


@_check
def seed_changes_nothing_if_the_card_says_so(spec: RouterSpec) -> None:
    """A router whose card says deterministic gives the same scores with another seed."""
    if not spec.card.deterministic:
        raise NotApplicable("the card does not say deterministic")
    found = [_scores(spec, smooth_world(), seed=seed) for seed in (SEED, SEED + 1)]
    _require_equal(found[1], found[0], "fits with two seeds")


@_check
def global_chance_untouched(spec: RouterSpec) -> None:
    """Fitting and scoring leave the global random states of Python, numpy and torch as they were."""
    world = smooth_world()
    with _global_chance_kept():
        before = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()
        _scores(spec, world)
        _require(random.getstate() == before[0], "the state of `random` changed")
        _require(repr(np.random.get_state()) == before[1], "the state of `numpy.random` changed")
        _require(
            torch.equal(torch.get_rng_state(), before[2]), "the state of torch's global generator changed"
        )


@_check
def two_predicts_equal(spec: RouterSpec) -> None:
    """Scoring the same queries twice gives the same scores, bit for bit."""
    world = smooth_world()
    router = _fit(spec, world)
    _require_equal(router.scores(world.test), router.scores(world.test), "scoring twice")


@_check
def batch_equals_one_by_one(spec: RouterSpec) -> None:
    """A query's scores do not depend on the other queries of its batch."""
    world = smooth_world()
    router = _fit(spec, world)
    whole = router.scores(world.test)
    for size, count in ((1, 20), (7, 35)):
        parts = [router.scores(_rows(world.test, range(i, i + size))) for i in range(0, count, size)]
        _require_close(np.concatenate(parts), whole[:count], f"batches of {size} against all at once")


@_check
def permuted_queries_permute_rows(spec: RouterSpec) -> None:
    """Queries in another order get the same scores in that order."""
    world = smooth_world()
    router = _fit(spec, world)
    order = np.random.default_rng(SEED).permutation(len(world.test))
    shuffled = router.scores(_rows(world.test, order.tolist()))
    _require_close(shuffled, router.scores(world.test)[order], "queries in another order")


def _rows(queries: Queries, rows: Iterable[int]) -> Queries:
    rows = list(rows)
    return Queries(X=np.ascontiguousarray(queries.X[rows]), texts=[queries.texts[i] for i in rows])


@_check
def permuted_models_permute_columns(spec: RouterSpec) -> None:
    """Models in another order get the same scores in that order; routes as good, where the seed decides too."""
    world = cluster_world(400, 100, 300)
    order = [2, 0, 3, 1]
    other = replace(
        world,
        train=_models(world.train, order),
        val=_models(world.val, order),
        P=np.ascontiguousarray(world.P[:, order]),
    )
    plain, permuted = _scores(spec, world), _scores(spec, other)
    if spec.card.deterministic:
        _require_close(permuted, plain[:, order], "models in another order")
        return
    before, after = _expected_accuracy(plain, world), _expected_accuracy(permuted, other)
    _require(
        abs(before - after) <= 0.05,
        f"with the models in another order the expected routing accuracy goes from {before:.3f} to {after:.3f}",
    )


def _models(known: Labelled, order: list[int]) -> Labelled:
    """The same queries with the models in another order."""
    return replace(
        known,
        Y=np.ascontiguousarray(known.Y[:, order]),
        C=None if known.C is None else np.ascontiguousarray(known.C[:, order]),
        models=tuple(known.models[m] for m in order),
    )


# --- the contract -----------------------------------------------------------------------------------


@_check
def well_formed_grid(spec: RouterSpec) -> None:
    """The grid has 1 to 15 distinct frozen variants with names of their own, the default first."""
    problem = wrong_with_grid(spec.grid)
    _require(not problem, problem)
    default = type(spec.grid[0])()
    _require(spec.grid[0] == default, f"the default, {variant_name(default)}, is not the first variant")


@_check
def finite_float_scores(spec: RouterSpec) -> None:
    """Scores are a finite array of floats, one row per query and one column per model."""
    world = smooth_world()
    scores = _scores(spec, world)
    _require_finite(scores, world, "the default variant")
    _require(scores.dtype.kind == "f", f"scores are of type {scores.dtype}, not a float")
    _require(np.abs(scores).max() <= np.finfo(np.float32).max, "scores are too large for float32")


@_check
def scores_before_fit_raise(spec: RouterSpec) -> None:
    """A router that was not fitted raises rather than scores."""
    try:
        spec.router().scores(smooth_world().test)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - as above
        return
    raise Violation("it scores without having been fitted")


@_check
def state_round_trip(spec: RouterSpec) -> None:
    """A router back from its state, saved as plain arrays without pickle, gives the same routes and scores."""
    world = smooth_world()
    router = _fit(spec, world)
    state = router.state()
    for name, value in state.items():
        plain = isinstance(value, np.ndarray) and value.dtype.kind != "O"
        _require(plain, f"state {name!r} is a {type(value).__name__}, not an array of plain values")
    file = io.BytesIO()
    np.savez(file, **state)  # type: ignore[arg-type]  # a key may not be one of savez's own arguments
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        loaded = {name: stored[name] for name in stored.files}
    again = spec.router.from_state(loaded, variant=spec.grid[0], device="cpu")
    before, after = router.scores(world.test), again.scores(world.test)
    _require_close(after, before, "the router from its state")
    changed = int((_routes(after, world) != _routes(before, world)).sum())
    _require(changed == 0, f"the router from its state routes {changed} of {len(before)} queries differently")


@_check
def inputs_unchanged(spec: RouterSpec) -> None:
    """Fitting and scoring change no input, and accept arrays that are read-only."""
    world = smooth_world()
    given = [world.train, world.val, world.test]
    before = [_contents(queries) for queries in given]
    _scores(spec, world)
    for name, queries, was in zip(("train", "val", "test"), given, before, strict=True):
        _require(_contents(queries) == was, f"the {name} queries were changed")
    frozen = smooth_world()
    for queries in (frozen.train, frozen.val, frozen.test):
        for array in _arrays(queries):
            array.setflags(write=False)
    _scores(spec, frozen)


def _arrays(queries: Queries) -> list[Float32]:
    labels = [queries.Y, queries.C] if isinstance(queries, Labelled) else []
    return [array for array in (queries.X, *labels) if array is not None]


def _contents(queries: Queries) -> tuple[object, ...]:
    return tuple(queries.texts), *(array.tobytes() for array in _arrays(queries))


@_check
def fit_many_equals_one_by_one(spec: RouterSpec) -> None:
    """Trials fitted together route as when fitted one by one: the first, middle and last variant, two seeds."""
    if spec.fit_many is None:
        raise NotApplicable("the router has no fit_many")
    world = smooth_world(test=400)
    places = sorted({0, len(spec.grid) // 2, len(spec.grid) - 1})
    trials = [Trial(variant=spec.grid[place], seed=SEED) for place in places]
    trials.append(Trial(variant=spec.grid[0], seed=SEED + 1))
    together = spec.fit_many(world.train, world.val, trials, "cpu").scores(world.test)
    _require(len(together) == len(trials), f"{len(together)} arrays of scores for {len(trials)} trials")
    for trial, found in zip(trials, together, strict=True):
        alone = _fit(spec, world, seed=trial.seed, variant=trial.variant).scores(world.test)
        what = f"{variant_name(trial.variant)}, seed {trial.seed}"
        share = float((_routes(found, world) != _routes(alone, world)).mean())
        _require(share <= 0.005, f"{what}: {share:.1%} of the queries go elsewhere than when fitted alone")
        moved = abs(_expected_accuracy(found, world) - _expected_accuracy(alone, world))
        _require(moved <= 0.005, f"{what}: the expected accuracy is {moved:.4f} off that of fitting alone")


# --- honesty ----------------------------------------------------------------------------------------


@_check
def no_test_labels(spec: RouterSpec) -> None:
    """Scoring asks the queries for no labels or costs, and labels put there all the same change nothing."""
    world = smooth_world()
    router, asked = _fit(spec, world), list[str]()

    def sealed(name: str) -> property:
        def get(queries: Queries) -> Any:
            asked.append(name)
            raise Violation(f"scoring asks the queries for {name}")

        return property(get)

    hidden = {name: sealed(name) for name in ("Y", "C", "labels", "costs", "p_correct")}
    Sealed = type("Sealed", (Queries,), hidden)
    plain, poisoned = router.scores(world.test), []
    given = router.scores(Sealed(X=world.test.X.copy(), texts=list(world.test.texts)))
    _require(not asked, f"scoring asks the queries for {' and '.join(sorted(set(asked)))}")
    _require_close(given, plain, "queries whose labels are sealed")
    for label in (0.0, 1.0, NAN):
        Y = np.full(plain.shape, label, np.float32)
        queries = Labelled(X=world.test.X, texts=world.test.texts, Y=Y, C=Y, models=world.train.models)
        poisoned.append(router.scores(queries))
    for found in poisoned:
        _require_close(found, plain, "queries with made-up labels")


@_check
def no_network(spec: RouterSpec) -> None:
    """Fitting and scoring open no network connection."""
    world, opened = smooth_world(), list[str]()
    real = socket.socket

    class Guarded(real):  # type: ignore[valid-type,misc]
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family in (-1, socket.AF_INET, socket.AF_INET6):  # sockets within the machine are no network
                opened.append("a socket")
                raise Violation("it opens a network connection")
            super().__init__(family, *args, **kwargs)

    def guarded(*args: Any, **kwargs: Any) -> Any:
        opened.append("an address")
        raise Violation("it looks up a network address")

    names = {"socket": Guarded, "getaddrinfo": guarded, "create_connection": guarded}
    before = {name: getattr(socket, name) for name in names}
    try:
        for name, value in names.items():
            setattr(socket, name, value)
        _scores(spec, world)
    finally:
        for name, value in before.items():
            setattr(socket, name, value)
    _require(not opened, f"it asks for {' and '.join(sorted(set(opened)))} of the network")


# --- hard cases -------------------------------------------------------------------------------------


@_check
def pools_of_any_size(spec: RouterSpec) -> None:
    """Pools of 1, 2, 9 and 112 models work."""
    for K in (1, 2, 9, 112):
        world = smooth_world(120, 40, 20, K=K)
        _require_finite(_scores(spec, world), world, f"{K} models")


@_check
def constant_columns(spec: RouterSpec) -> None:
    """Models that are always right or always wrong break nothing, and one always wrong is not chosen."""
    world = smooth_world()
    train, val = world.train, world.val
    world = replace(
        world,
        train=with_column(with_column(train, 1, 1.0), 3, 0.0),
        val=with_column(with_column(val, 1, 1.0), 3, 0.0),
    )
    scores = _scores(spec, world)
    _require_finite(scores, world, "constant columns")
    share = float((_routes(scores, world) == 3).mean())
    _require(share <= 0.01, f"{share:.0%} of the queries go to the model that is always wrong")


@_check
def always_right_model(spec: RouterSpec) -> None:
    """A model that is always right gets at least 90% of the queries, where the others are far from sure."""
    world = smooth_world(slope=1.0)
    world = replace(world, train=with_column(world.train, 2, 1.0), val=with_column(world.val, 2, 1.0))
    share = float((_routes(_scores(spec, world), world) == 2).mean())
    _require(share >= 0.9, f"only {share:.0%} of the queries go to the model that is always right")


@_check
def never_observed_model(spec: RouterSpec) -> None:
    """A model without a single label gets finite scores, and probabilities where the card says calibrated."""
    world = smooth_world()
    world = replace(world, train=with_column(world.train, 1, NAN), val=with_column(world.val, 1, NAN))
    scores = _scores(spec, world)
    _require_finite(scores, world, "a model never observed")
    if spec.card.calibrated:
        _require_probabilities(scores)


@_check
def nan_payloads(spec: RouterSpec) -> None:
    """With 60% of the labels missing, the bits of their NaNs change nothing, bit for bit."""
    found = []
    for other_bits in (False, True):
        world = smooth_world(300, 100)
        train, val = with_missing(world.train, 0.6), with_missing(world.val, 0.6)
        if other_bits:
            for Y in (train.Y, val.Y):
                bits, missing = Y.view(np.uint32), np.isnan(Y)
                sign_and_payload = np.random.default_rng(SEED).integers(1, 1 << 22, missing.sum(), np.uint32)
                bits[missing] = 0x7FC00000 | sign_and_payload | ((sign_and_payload & 1) << 31)
        world = replace(world, train=train, val=val)
        found.append(_scores(spec, world))
        _require_finite(found[-1], world, "60% of the labels missing")
    _require_equal(found[1], found[0], "missing labels with other NaN bits")


@_check
def missing_is_not_wrong(spec: RouterSpec) -> None:
    """The best model gets at least 80% of the queries, though 70% of its labels are missing."""
    world = unrelated_world((0.4, 0.85, 0.35, 0.3), 500, 200, 300)

    def rarely(known: Labelled) -> Labelled:
        Y = known.Y.copy()
        Y[np.random.default_rng(SEED).random(len(Y)) < 0.7, 1] = NAN
        return replace(known, Y=Y)

    world = replace(world, train=rarely(world.train), val=rarely(world.val))
    share = float((_routes(_scores(spec, world), world) == 1).mean())
    _require(share >= 0.8, f"only {share:.0%} of the queries go to a model that is best but rarely observed")


@_check
def queries_without_labels(spec: RouterSpec) -> None:
    """Training queries without any label change nothing."""
    world = smooth_world()
    more, train = smooth_world(test=40, d=6).test, world.train
    rng = np.random.default_rng(SEED)
    order = np.argsort(np.concatenate([np.arange(len(train)), rng.uniform(0, len(train), len(more))]))
    texts = [*train.texts, *(f"unheard {i}" for i in range(len(more)))]
    blank = np.full((len(more), train.Y.shape[1]), NAN, np.float32)
    padded = Labelled(
        X=np.concatenate([train.X, 3 * more.X])[order],
        texts=[texts[i] for i in order],
        Y=np.concatenate([train.Y, blank])[order],
        C=None if train.C is None else np.concatenate([train.C, blank])[order],
        models=train.models,
    )
    wanted = _scores(spec, world)
    _require_close(_scores(spec, replace(world, train=padded)), wanted, "with queries that have no label")


@_check
def few_training_queries(spec: RouterSpec) -> None:
    """Six training queries are enough to fit: fewer than any number of neighbours or clusters."""
    world = smooth_world(6, 6, 20, K=3)
    train = replace(world.train, Y=np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]] * 2, np.float32))
    world = replace(world, train=train)
    _require_finite(_scores(spec, world), world, "six training queries")


@_check
def unknown_costs(spec: RouterSpec) -> None:
    """A router that does not need costs works without them, and where some are unknown."""
    if "costs" in spec.card.needs:
        raise NotApplicable("the card says that the router needs costs")
    for share, what in ((1.0, "no costs"), (0.5, "half of the costs unknown")):
        world = smooth_world()

        def priced(known: Labelled, share: float = share) -> Labelled:
            if share == 1.0 or known.C is None:
                return replace(known, C=None)
            C = known.C.copy()
            C[np.random.default_rng(SEED).random(C.shape) < share] = NAN
            return replace(known, C=C)

        world = replace(world, train=priced(world.train), val=priced(world.val))
        _require_finite(_scores(spec, world), world, what)


# --- learning ---------------------------------------------------------------------------------------


@_check
def planted_clusters(spec: RouterSpec) -> None:
    """Where each cluster of queries has its specialist, at least 80% of what Bayes gains is gained."""
    world = cluster_world()
    best = float(world.P.mean(axis=0).max())
    bayes = metrics.bayes_expected(world.P)
    found = _expected_accuracy(_scores(spec, world), world)
    gained = (found - best) / (bayes - best)
    _require(
        gained >= 0.8,
        f"{gained:.0%} of the gain: expected accuracy {found:.3f}, best single model {best:.3f}, Bayes {bayes:.3f}",
    )


@_check
def unrelated_labels(spec: RouterSpec) -> None:
    """Where labels have nothing to do with queries, accuracy is within 3 s.e. of the best single model's."""
    world = unrelated_world((0.5, 0.75, 0.35, 0.55))
    best = float(world.P[0].max())
    standard_error = (best * (1 - best) / len(world.test)) ** 0.5
    found = _expected_accuracy(_scores(spec, world), world)
    _require(
        found >= best - 3 * standard_error,
        f"expected accuracy {found:.3f} where always the best model gives {best:.3f}, s.e. {standard_error:.3f}",
    )


def _require_calibrated_card(spec: RouterSpec) -> None:
    if not spec.card.calibrated:
        raise NotApplicable("the card does not say calibrated")


def _require_probabilities(scores: Float32) -> None:
    low, high = float(scores.min()), float(scores.max())
    inside = low >= -metrics.ROUNDING and high <= 1 + metrics.ROUNDING
    _require(inside, f"scores from {low:.4g} to {high:.4g} are no probabilities")


@_check
def calibrated_probabilities(spec: RouterSpec) -> None:
    """Calibrated scores on a logistic law: each model's mean is within .02 of its mean P, and 10-bin ECE < .05."""
    _require_calibrated_card(spec)
    world = calibration_world()
    scores = _scores(spec, world)
    _require_probabilities(scores)
    off = np.abs(scores.mean(axis=0, dtype=np.float64) - world.P.mean(axis=0, dtype=np.float64))
    _require(off.max() < 0.02, f"a model's mean score is {off.max():.3f} off its mean P(correct)")
    ece = metrics.ece(scores, world.P, bins=10)  # against P itself: no luck of labels in it
    _require(ece is not None and ece < 0.05, f"the expected calibration error is {ece:.3f}")


@_check
def better_than_the_base_rate(spec: RouterSpec) -> None:
    """Calibrated scores on the training queries have a lower cross-entropy than each model's mean label."""
    _require_calibrated_card(spec)
    world = smooth_world(600)
    train = world.train
    found = metrics.bce(_fit(spec, world).scores(Queries(X=train.X, texts=train.texts)), train.Y)
    base = metrics.base_rate_bce(observed_means(train.Y), train.Y)
    _require(
        found is not None and base is not None and found < base,
        f"BCE {found:.3f} on the training queries; the mean labels have {base:.3f}",
    )
