"""What is reported of a finished cell, and how it is computed from stored scores.

Every number is a function of (dataset, val and test scores of the chosen variant's seeds): no training, so that
`rph score` can compute all of it again. Metrics that read scores as probabilities use, for a variant that is not
calibrated, one shared monotone map sigma(a*s + b) fitted on val (probabilities.fit_sigmoid). At
lambda = 0 routes are those of the raw scores; where the map is flat (a = 0), what weighs P(correct) against a price
is unknown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from rph.api import RoutingDataset
from rph.arrays import observed_means
from rph.distribution import current
from rph.holes import chosen
from rph.results import metrics
from rph.results.outcomes import Scored
from rph.results.probabilities import apply_sigmoid, base_rate_bce, bce, ece, fit_sigmoid, row_minmax
from rph.results.utility import CURVE, LAMBDAS, CostScale, gap_recovered, spent
from rph.results.utility import utility as realised_utility

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

DIGITS = 9  # of an accuracy that ranks: rounding must not part equals
Distribution = Annotated[str, AfterValidator(current)]  # files from before its first release call ours `rph`
BLOCK_NAME = r"[a-z][a-z0-9_]{0,39}"  # of a block, and of an array in it
Utilities = dict[str, float | None]  # lambda, as "0.2" -> mean realised utility
Blocks = dict[Annotated[str, StringConstraints(pattern=f"^{BLOCK_NAME}$")], dict[str, JsonValue]]


class Record(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reference(Record):
    """What no router decides: the same for every router on a benchmark. Accuracies on the test split."""

    best_single: float | None  # of the policy of the model that is best on train: the floor one could deploy
    best_single_model: str
    best_single_hindsight: float | None  # of the one that is best on test itself
    random: float | None  # expected, uniform over each query's pool
    oracle: float | None
    bayes: float | None  # of argmax P(correct), where a control world knows it
    bayes_expected: float | None  # the expectation of `bayes` over fresh labels
    base_rate_bce: float | None  # BCE of predicting each model's train mean for every query
    model_accuracy: tuple[float | None, ...]  # of each model on every query; None: never observed
    model_cost: tuple[float | None, ...] | None  # mean US dollars per call; None: the benchmark has no costs
    correct_mass: (
        tuple[float, ...] | None
    )  # share of each model in what is answered correctly (paper, Fig. 4)
    hard_correct_mass: tuple[float, ...] | None  # the same on hard queries; None: there are none
    hard_share: float  # of the test queries (paper, Sec. 5.1)
    easy_share: float
    n_train: int
    n_val: int
    n_test: int


class Point(Record):
    """What routing by the utility at one lambda gives on test."""

    lam: float
    accuracy: float | None
    cost: float | None  # mean US dollars per query


class Measured(Record):
    """What one seed's scores give on test."""

    test_accuracy: float | None
    coverage: float
    bce: float | None
    ece: float | None
    hard_accuracy: float | None
    easy_accuracy: float | None
    cost: float | None  # mean US dollars per query of the models chosen at lambda 0 among those with a price
    utility: Utilities | None  # None: the benchmark has no costs
    utility_native: Utilities | None  # of scores that are no probabilities, scaled to [0, 1] per query
    curve: tuple[Point, ...] | None  # accuracy against cost; None: no costs
    apgr: float | None  # of a pool of two models (utility.gap_recovered), as the next two
    cpt50: float | None
    cpt80: float | None
    selections: tuple[int, ...]  # queries sent to each model
    hard_selections: tuple[int, ...]  # hard ones among them
    selection_entropy: float  # bits


class Method(Record):
    """What the router's card says of it: a board is built where the router is not installed."""

    title: str
    paper: str
    year: int
    family: str
    licence: str
    calibrated: bool
    fidelity: tuple[str, ...]


class Configuration(Record):
    """One finished trial: a point of the paper's Fig. 2."""

    variant_name: str
    seed: int
    val_accuracy: float | None
    test_accuracy: float | None


class CellResult(Record):
    """One finished cell (benchmark, router, encoder): the headline, and what it is a function of."""

    format: Literal["rph-result/2", "rph-result/3"] = "rph-result/3"  # /2 is what /3 is without blocks
    bench: str
    subset: str  # not empty: the benchmark's rows are not its full release
    bench_fingerprint: str
    router: str
    router_distribution: Distribution
    router_version: str
    method: Method
    encoder: str
    encoder_identity: str
    protocol: str
    protocol_version: int
    models: tuple[str, ...]
    variant: dict[str, Any]
    variant_name: str
    deterministic: bool
    seeds: tuple[int, ...]
    test_accuracy_mean: float | None
    test_accuracy_std: float | None  # sample std over seeds; 0 for a deterministic router, None for one seed
    val_accuracy: float
    best_single: float | None
    random: float | None
    oracle: float | None
    gap_closed: float | None  # share of oracle - best_single
    learnable_gap_closed: float | None  # share of bayes - best_single, where Bayes is known
    coverage: float
    n_test: int
    utility: Utilities | None
    utility_native: Utilities | None
    score_scale: Literal["native", "sigmoid fitted on val"]
    selector_cost: Literal["train mean", "router's own", "realised (oracle leak)"]
    cost: float | None
    bce: float | None
    ece: float | None
    hard_accuracy: float | None
    easy_accuracy: float | None
    selection_share: dict[str, float]  # model -> share of test queries, mean over seeds
    hard_selection_share: dict[str, float] | None  # of the hard queries; None: there are none
    selection_entropy: float
    curve: tuple[Point, ...] | None
    apgr: float | None
    cpt50: float | None
    cpt80: float | None
    reference: Reference
    per_seed: tuple[Measured, ...]
    configurations: tuple[Configuration, ...]  # every finished trial, in the order of seeds and variants
    seconds: float  # of all finished trials of the cell that the protocol asked for, fit and scoring
    trials: int  # finished trials that the protocol asked for
    failed_trials: tuple[str, ...]  # one line each
    times_test_was_scored: int  # trials of this cell in the store, over all versions of the router
    device: str
    packages: dict[Distribution, str]
    blocks: Blocks = {}  # what is not of the core, by name (blocks.py)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The accuracy with the missing labels of what was chosen counted 0, and counted 1; the lower one decides.

        The two are the accuracy where no label is missing. None where nothing counts.
        """
        if "holes" in self.blocks:
            found: Any = self.blocks["holes"]["accuracy"]
            return None if found is None else (found["low"], found["high"])
        accuracy = self.test_accuracy_mean
        if accuracy is None or self.coverage == 1:
            return None if accuracy is None else (accuracy, accuracy)
        low = statistics.fmean((one.test_accuracy or 0.0) * one.coverage for one in self.per_seed)
        return low, low + 1 - self.coverage  # before there were blocks every choice counted 1

    @property
    def lower(self) -> float | None:
        """What it is ordered by: the accuracy with the missing labels of what was chosen counted 0."""
        return None if self.bounds is None else self.bounds[0]

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if problems := list(_misfits(self)):
            raise PydanticCustomError("misfit", "{problems}", {"problems": "; ".join(problems)})
        return self


def _misfits(result: CellResult) -> Iterator[str]:
    """Lists that belong together and are not equally long, models out of the pool, curves over other lambdas."""
    S, K = len(result.seeds), len(result.models)
    if result.n_test < 1 or S < 1 or K < 1:
        yield f"it has {result.n_test} test queries, {S} seeds and {K} models"
    if len(set(result.models)) < K:
        yield "a model stands twice in its pool"
    if len(result.per_seed) != S:
        yield f"per_seed has {len(result.per_seed)} entries for {S} seeds"
    reference = result.reference
    per_model: dict[str, Sequence[Any] | None] = {
        "reference.model_accuracy": reference.model_accuracy,
        "reference.model_cost": reference.model_cost,
        "reference.correct_mass": reference.correct_mass,
        "reference.hard_correct_mass": reference.hard_correct_mass,
    }
    for i, measured in enumerate(result.per_seed):
        per_model[f"per_seed.{i}.selections"] = measured.selections
        per_model[f"per_seed.{i}.hard_selections"] = measured.hard_selections
    for name, values in per_model.items():
        if values is not None and len(values) != K:
            yield f"{name} has {len(values)} values for {K} models"
    for name, shares in (("", result.selection_share), ("hard_", result.hard_selection_share)):
        if shares is not None and set(shares) != set(result.models):
            yield f"{name}selection_share is not of the models in the pool"
    if reference.best_single_model not in result.models:
        yield "reference.best_single_model is not in the pool"
    if (result.score_scale == "native") != result.method.calibrated:
        yield f"score_scale is {result.score_scale!r} where method.calibrated is {result.method.calibrated}"
    lambdas = [f"{lam:g}" for lam in LAMBDAS]
    measurements: dict[str, CellResult | Measured] = {
        "": result,
        **{f"per_seed.{i}.": m for i, m in enumerate(result.per_seed)},
    }
    for where, one in measurements.items():
        if K != 2 and (one.apgr, one.cpt50, one.cpt80) != (None, None, None):
            yield f"{where}apgr or a CPT is given, which are of two models; there are {K}"
        for name, utility in (("utility", one.utility), ("utility_native", one.utility_native)):
            if utility is not None and list(utility) != lambdas:
                yield f"{where}{name} is not at lambda {', '.join(lambdas)}"
        if one.curve is not None and tuple(point.lam for point in one.curve) != CURVE:
            yield f"{where}curve is not over the harness's lambdas"
    if result.blocks and result.format == "rph-result/2":
        yield "it has blocks, which rph-result/2 does not"
    for name, content in result.blocks.items():
        if name in CellResult.model_fields:
            yield f"a block is called {name}, as a field is"
        if not _finite(content):
            yield f"blocks.{name} holds a number that is not finite; what is not known is null"


def _finite(value: JsonValue) -> bool:
    """Whether every number in a nest of JSON is one that JSON can write."""
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(_finite, inner))


def utility_unknown(result: CellResult) -> str | None:
    """Why there is no utility above lambda = 0 although there are prices; None where there is, or are none."""
    flat = [
        str(seed)
        for seed, one in zip(result.seeds, result.per_seed, strict=True)
        if one.utility is not None and all(one.utility[f"{lam:g}"] is None for lam in LAMBDAS if lam)
    ]
    if result.method.calibrated or not flat:
        return None
    return (
        "no utility above lambda = 0: on val, no rising map of its scores to P(correct) is better than a constant"
        f" (seed {', '.join(flat)})"
    )


def reference(dataset: RoutingDataset) -> Reference:
    """The rows of a table that no router decides. Metrics alone compute them; no router can select by them."""
    test, mask, level = dataset.test, dataset.mask("test"), dataset.level
    Y, p, K = test.labels, test.p_correct, len(dataset.models)
    floor = metrics.floor_route(dataset)
    hard, easy = metrics.hard_easy(Y, chosen(Y, floor), mask.pool)
    inside = Y if mask.pool is None else np.where(mask.pool, Y, np.float32(np.nan))
    return Reference(
        best_single=metrics.accuracy(floor, Y, mask).value,
        best_single_model=dataset.models[dataset.best_single],
        best_single_hindsight=metrics.best_single_hindsight(Y, level, mask).value,
        random=metrics.random(Y, mask).value,
        oracle=metrics.oracle(Y, mask).value,
        bayes=None if p is None else metrics.bayes(p, Y, level, mask).value,
        bayes_expected=None if p is None else metrics.bayes_expected(p, mask.pool),
        base_rate_bce=base_rate_bce(observed_means(dataset.train.labels), Y, mask.weight),
        model_accuracy=tuple(metrics.constant(model, Y, mask).value for model in range(K)),
        model_cost=None if test.costs is None else _means(test.costs),
        correct_mass=_mass(inside),
        hard_correct_mass=_mass(inside[hard]),
        hard_share=float(hard.mean()),
        easy_share=float(easy.mean()),
        n_train=len(dataset.train),
        n_val=len(dataset.val),
        n_test=len(test),
    )


def _means(table: Array) -> tuple[float | None, ...]:
    """Mean of each column, None where nothing is known."""
    return tuple(None if np.isnan(mean) else float(mean) for mean in observed_means(table))


def _mass(labels: Array) -> tuple[float, ...] | None:
    mass = metrics.correct_mass(labels)
    return None if np.isnan(mass).any() else tuple(map(float, mass))


def measure(
    dataset: RoutingDataset, scored: Scored, *, calibrated: bool, realised_selector: bool = False
) -> Measured:
    """Everything the test split says about one seed's scores; `calibrated`: they are P(correct) as they are."""
    test, mask, K = dataset.test, dataset.mask("test"), len(dataset.models)
    route = metrics.route_of(scored.test, dataset)
    labels, weight = chosen(test.labels, route), chosen(mask.weight, route)
    accuracy = metrics.mean_of(labels, weight)
    hard, easy = metrics.hard_easy(test.labels, chosen(test.labels, metrics.floor_route(dataset)), mask.pool)
    counts = metrics.selection_counts(route, K)
    P = probabilities(scored, dataset.val.labels, calibrated)
    weighed = None if not calibrated and np.ptp(P) == 0 else P  # a flat map says nothing of any model
    recovered = None if weighed is None else gap_recovered(weighed, test.labels, dataset.level)
    pay = Pay(dataset, scored.test, dataset.test.costs if realised_selector else scored.costs)
    points = pay.curve(weighed)
    at_hard, at_easy = (
        metrics.mean_of(labels[kind], None if weight is None else weight[kind]) for kind in (hard, easy)
    )
    return Measured(
        test_accuracy=accuracy.value,
        coverage=accuracy.coverage,
        bce=bce(P, test.labels, mask.weight),
        ece=ece(P, test.labels, weight=mask.weight),
        hard_accuracy=at_hard.value,
        easy_accuracy=at_easy.value,
        cost=None if points is None else points[0].cost,
        utility=pay.utilities(weighed),
        utility_native=None if calibrated else pay.utilities(row_minmax(scored.test)),
        curve=points,
        apgr=None if recovered is None else recovered.apgr,
        cpt50=None if recovered is None else recovered.cpt50,
        cpt80=None if recovered is None else recovered.cpt80,
        selections=tuple(int(count) for count in counts),
        hard_selections=tuple(int(count) for count in metrics.selection_counts(route[hard], K)),
        selection_entropy=metrics.selection_entropy(counts),
    )


def probabilities(scored: Scored, labels: Array, calibrated: bool) -> Array:
    """Test scores as P(correct) [N, K]: as they are, or mapped by a sigmoid fitted on the val scores and the val labels."""
    if calibrated:
        return np.clip(scored.test, 0, 1)  # rph.engine.trials refused anything beyond rounding
    a, b = fit_sigmoid(scored.val, labels)
    return apply_sigmoid(scored.test, a, b)


class Pay:
    """Utility and curve of one seed's raw scores [N, K] on test: at lambda = 0 by these, above by weighed ones.

    All of it is over the models with a known price, at lambda = 0 too: else a point of the curve would be of other models.
    `selector` [N, K] are the costs to choose by: the router's own, or the realised ones; None: the train means.
    """

    def __init__(self, dataset: RoutingDataset, raw: Array, selector: Array | None) -> None:
        self.dataset, self.raw, self.selector, self.mask = dataset, raw, selector, dataset.mask("test")
        train, test = dataset.train.costs, dataset.test.costs
        # None: there are no costs, or none is known on train: no scale, hence no utility.
        self.scale = None if train is None or test is None else CostScale.fit(train)

    def utilities(self, weighed: Array | None) -> Utilities | None:
        """Utility at each lambda; None without prices, and None above 0 where the weighed scores are unknown."""
        if self.scale is None:
            return None
        test, found = self.dataset.test, {}
        for lam in LAMBDAS:
            scores = self.raw if lam == 0 else weighed
            found[f"{lam:g}"] = (
                None
                if scores is None
                else realised_utility(
                    scores, test.labels, test.costs, self.scale, lam, self.dataset.level,
                    mask=self.mask, selector_costs=self.selector,
                ).value
            )  # fmt: skip
        return found

    def curve(self, weighed: Array | None) -> tuple[Point, ...] | None:
        """Accuracy and cost at each lambda of the curve, by the same scores."""
        test, scale = self.dataset.test, self.scale
        if scale is None or test.costs is None:
            return None
        points = []
        for lam in CURVE:
            scores = self.raw if lam == 0 else weighed
            if scores is None:
                points.append(Point(lam=lam, accuracy=None, cost=None))
                continue
            found = spent(
                scores, test.labels, test.costs, scale, lam, self.dataset.level,
                mask=self.mask, selector_costs=self.selector,
            )  # fmt: skip
            points.append(Point(lam=lam, accuracy=found.accuracy.value, cost=found.cost.value))
        return tuple(points)


def summary(
    measured: Sequence[Measured], reference: Reference, models: Sequence[str], *, sure: bool = True
) -> dict[str, Any]:
    """The fields of CellResult that are functions of the per-seed measurements and the reference rows.

    `sure`: missing labels leave the gap closed open by so little (missing.sure) that a number of it may be given.
    """
    accuracies = [m.test_accuracy for m in measured]
    accuracy = _mean(accuracies)
    hard = [m.hard_selections for m in measured]
    return {
        "test_accuracy_mean": accuracy,
        "best_single": reference.best_single,
        "random": reference.random,
        "oracle": reference.oracle,
        "n_test": reference.n_test,
        "gap_closed": metrics.gap_closed(accuracy, reference.best_single, reference.oracle) if sure else None,
        "learnable_gap_closed": metrics.gap_closed(accuracy, reference.best_single, reference.bayes)
        if sure
        else None,
        "coverage": statistics.fmean(m.coverage for m in measured),
        "utility": _mean_utilities([m.utility for m in measured]),
        "utility_native": _mean_utilities([m.utility_native for m in measured]),
        "cost": _mean([m.cost for m in measured]),
        "bce": _mean([m.bce for m in measured]),
        "ece": _mean([m.ece for m in measured]),
        "hard_accuracy": _mean([m.hard_accuracy for m in measured]),
        "easy_accuracy": _mean([m.easy_accuracy for m in measured]),
        "selection_share": _shares([m.selections for m in measured], models),
        "hard_selection_share": _shares(hard, models) if sum(hard[0]) else None,
        "curve": _mean_curve([m.curve for m in measured]),
        "apgr": _mean([m.apgr for m in measured]),
        "cpt50": _mean([m.cpt50 for m in measured]),
        "cpt80": _mean([m.cpt80 for m in measured]),
        "selection_entropy": statistics.fmean(m.selection_entropy for m in measured),
    }


def accuracy_std(measured: Sequence[Measured], *, deterministic: bool) -> float | None:
    """Sample standard deviation of test accuracy over seeds; 0 where seeds change nothing.

    None for one seed, and where the mean is unknown.
    """
    values = [m.test_accuracy for m in measured if m.test_accuracy is not None]
    if len(values) < len(measured):
        return None
    if deterministic:
        return 0.0
    return statistics.stdev(values) if len(values) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where any value is unknown: a mean over other seeds than the rest would mislead."""
    known = [value for value in values if value is not None]
    # fmean of five equal values is not always that value; this is.
    return statistics.mean(known) if known and len(known) == len(values) else None


def _mean_utilities(utilities: Sequence[Utilities | None]) -> Utilities | None:
    known = [utility for utility in utilities if utility is not None]
    if not known or len(known) < len(utilities):
        return None
    return {lam: _mean([utility[lam] for utility in known]) for lam in known[0]}


def _shares(counts: Sequence[Sequence[int]], models: Sequence[str]) -> dict[str, float]:
    """Counts per seed and model -> model -> share of the queries, mean over seeds."""
    shares = np.mean([np.array(row) / sum(row) for row in counts], axis=0)
    return dict(zip(models, map(float, shares), strict=True))


def _mean_curve(curves: Sequence[tuple[Point, ...] | None]) -> tuple[Point, ...] | None:
    known = [curve for curve in curves if curve is not None]
    if not known or len(known) < len(curves):
        return None
    return tuple(
        Point(
            lam=points[0].lam,
            accuracy=_mean([point.accuracy for point in points]),
            cost=_mean([point.cost for point in points]),
        )
        for points in zip(*known, strict=True)
    )
