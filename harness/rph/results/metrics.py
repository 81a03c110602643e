"""Every number of a leaderboard, as pure functions on arrays: defined once, cited, computed in float64.

Letters: N queries, K models. `Y [N, K]` are labels in [0, 1], NaN = not observed; `costs [N, K]` are US dollars
per call, NaN = unknown; `scores [N, K]` are finite, higher is better; `level [K]` are the models' levels on train
(rph.arrays.level), NaN where a model was never observed; `mask` says which models are in a query's pool and what a
choice counts (rph.holes.Mask).

A missing label is never 0: a query whose value is unknown is left out of the mean, and the coverage is given
beside it. Two means with a coverage below 1 may therefore run over different queries: what they are compared by are
their bounds, with the missing labels counted 0 and 1, over the same queries (rph.holes).

"The paper" is "The Routing Plateau", arXiv:2606.07587.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rph.arrays import observed_means
from rph.holes import DENSE, Bounds, Mask, best_policy, bounds, chosen, first_of, policy, preference
from rph.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32, RoutingDataset, SplitName

    Floats = NDArray[np.floating[Any]]
    Float64 = NDArray[np.float64]
    Int64 = NDArray[np.int64]
    Bool = NDArray[np.bool_]
COLLAPSED = (
    0.99  # a router whose `top_share` is at least this has collapsed: in effect it routes to one model
)
ROUNDING = 1e-6  # a probability computed in float32 may leave [0, 1] by this much


class Mean(NamedTuple):
    """A mean over queries. `value` is None where nothing was observed; `coverage` = n / N (0 where N = 0)."""

    value: float | None
    coverage: float
    n: int  # queries counted


def mean_of(values: Floats, weight: Floats | None = None) -> Mean:
    """values [N], NaN = left out; `weight` [N] is what each counts, None: 1."""
    kept = ~np.isnan(values)
    if weight is not None:
        kept &= weight > 0
    seen = values[kept].astype(np.float64)
    value = None
    if len(seen):
        value = float(seen.mean() if weight is None else np.average(seen, weights=weight[kept]))
    return Mean(value, len(seen) / len(values) if len(values) else 0.0, len(seen))


# --- routes and their accuracy ----------------------------------------------------------------------


def route(scores: Floats, level: Floats, pool: Bool | None = None) -> Int64:
    """The chosen model of each query: scores [N, K], level [K], pool [N, K] -> [N]. Paper, Sec. 3: argmax of the scores.

    A model that is not in a query's pool cannot be chosen. The paper is silent on ties, and `argmax` alone would favour
    the first column of a file. Here they go to the model with the higher level, then to the lower index; exactly,
    with no small number added to a score.

    >>> route(np.array([[0.5, 0.5, 0.1]]), level=np.array([0.6, 0.7, 0.9])).tolist()
    [1]
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: it has no place in an order")
    if pool is not None:
        scores = np.where(pool, scores, -np.inf)
    order = preference(level)
    found: Int64 = order[scores[:, order].argmax(axis=1)]  # argmax takes the first of equals
    return found


def accuracy(route: Int64, Y: Floats, mask: Mask = DENSE) -> Mean:
    """Mean label of the chosen models: A_r of the paper, Sec. 3. Queries whose chosen label is missing are left out."""
    return mean_of(chosen(Y, route), chosen(mask.weight, route))


def accuracy_bounds(route: Int64, Y: Floats, mask: Mask = DENSE) -> Bounds | None:
    """`accuracy` with the missing labels counted 0, and counted 1; None where nothing counts."""
    return bounds(chosen(Y, route), chosen(mask.weight, route))


def cost(route: Int64, costs: Floats, train_costs: Floats) -> Mean:
    """Mean US dollars per query of the chosen models; costs [N, K], train_costs [K] their mean on train.

    The unknown cost of a call is its model's train mean; where that is unknown too the query is left out.
    """
    return mean_of(cost_of(route, costs, train_costs))


def cost_of(route: Int64, costs: Floats, train_costs: Floats) -> Float64:
    """[N] US dollars of each chosen call, as `cost` counts it."""
    dollars = chosen(costs, route)
    found: Float64 = np.where(np.isnan(dollars), train_costs[route], dollars)
    return found


def constant(model_index: int, Y: Floats, mask: Mask = DENSE) -> Mean:
    """Accuracy of sending every query to one model."""
    return accuracy(np.full(len(Y), model_index), Y, mask)


def floor_route(dataset: RoutingDataset, split: SplitName = "test") -> Int64:
    """[N] the best single model, chosen on train, or the next in level where it is not in a query's pool."""
    pool, n = dataset.mask(split).pool, len(getattr(dataset, split))
    return policy(dataset.best_single, dataset.level, pool, n)


def route_of(scores: Float32, dataset: RoutingDataset, split: SplitName = "test") -> Int64:
    """[N] the `route` of a split's scores [N, K]: in its pools, ties by the dataset's levels."""
    return route(scores, dataset.level, dataset.mask(split).pool)


def val_accuracy(route: Int64, dataset: RoutingDataset) -> float | None:
    """What variants are chosen by: accuracy of a route [V] of the val queries, missing labels counted 0."""
    found = accuracy_bounds(route, dataset.val.labels, dataset.mask("val"))
    return None if found is None else found.low


def test_accuracy(route: Int64, dataset: RoutingDataset) -> float | None:
    """Accuracy of a route [N] of the test queries; reported, never selected by."""
    return accuracy(route, dataset.test.labels, dataset.mask("test")).value


def best_single_hindsight(Y: Floats, level: Floats, mask: Mask = DENSE) -> Mean:
    """The best single model of this very split, which nobody could have known, as best single is chosen on train."""
    pool = mask.pool
    return accuracy(policy(best_policy(Y, level, mask), level, pool, len(Y)), Y, mask)


def random(Y: Floats, mask: Mask = DENSE) -> Mean:
    """Expected accuracy of a uniformly random route over each query's pool.

    Where labels are missing, over its observed models. Those left out by plan count by the weights of what was asked, over
    all queries together: within a query alone the models that were asked more often would count more.
    """
    inside = Y if mask.pool is None else np.where(mask.pool, Y, np.nan)
    if mask.weight is None:
        return mean_of(observed_means(inside.T))
    weight = mask.weight.astype(np.float64) * ~np.isnan(inside)
    total = weight.sum(axis=1)
    earned = (weight * np.nan_to_num(inside)).sum(axis=1)
    models = Y.shape[1] if mask.pool is None else mask.pool.sum(axis=1)
    return mean_of(np.divide(earned, total, out=np.full(len(Y), np.nan), where=total > 0), total / models)


def best_labels(Y: Floats, mask: Mask = DENSE) -> tuple[Float64, Float64]:
    """The label of the best model in each query's pool: two [N], a lower bound and an upper one.

    The lower is the best observed label (NaN: none is), the upper is 1 where a missing one of the pool could be right.
    """
    seen = ~np.isnan(Y)
    inside = np.ones_like(seen) if mask.pool is None else mask.pool
    best = np.where(seen & inside, Y, -np.inf).max(axis=1).astype(np.float64)
    low = np.where(np.isneginf(best), np.nan, best)
    return low, np.where((inside & ~seen).any(axis=1), 1.0, low)


def oracle(Y: Floats, mask: Mask = DENSE) -> Mean:
    """Mean of the best observed label per query: A_oracle of the paper, Sec. 3. At least `random`; a lower bound."""
    return mean_of(best_labels(Y, mask)[0])


def bayes(p_correct: Floats, Y: Floats, level: Floats, mask: Mask = DENSE) -> Mean:
    """Accuracy of routing by the true P(correct) [N, K]: what the best possible router got on these labels.

    Only a synthetic world knows P(correct). Oracle minus this is chance that no router can predict.
    """
    return accuracy(route(p_correct, level, mask.pool), Y, mask)


def bayes_expected(p_correct: Floats, pool: Bool | None = None) -> float:
    """Expected accuracy of the best possible router: mean over queries of the highest P(correct) in the pool."""
    inside = p_correct if pool is None else np.where(pool, p_correct, 0)
    return float(inside.max(axis=1).mean(dtype=np.float64))


def knowing(Y: Floats, level: Floats, pool: Bool | None = None) -> Int64:
    """[N] a control route that knows which labels are missing: the best level among the observed models of the pool.

    No router can see that. Where it beats the best single model, the holes tell of the answers, or of whose calls were lost.
    """
    inside = np.ones(Y.shape, bool) if pool is None else pool
    seen = ~np.isnan(Y) & inside
    return first_of(preference(level), np.where(seen.any(axis=1, keepdims=True), seen, inside))


def gap_closed(accuracy: float | None, best_single: float | None, oracle: float | None) -> float | None:
    """(accuracy - best single) / (oracle - best single): 0 at the best single model, 1 at the oracle.

    None where one of them is unknown or there is no gap to close. Paper, Sec. 6, takes a router for the floor
    where we take the best single model.

    >>> gap_closed(0.75, best_single=0.5, oracle=1.0)
    0.5
    """
    if accuracy is None or best_single is None or oracle is None or oracle <= best_single:
        return None
    return (accuracy - best_single) / (oracle - best_single)


class OracleGap(NamedTuple):
    """What stands between a router and the oracle, in accuracy; the two add up to oracle - accuracy."""

    irreducible: float  # oracle - Bayes: which answer will be right is chance, even to who knows P(correct)
    learnable: float  # Bayes - accuracy: what the router misses; below 0 where it was lucky


def oracle_gap(accuracy: float | None, bayes: float | None, oracle: float | None) -> OracleGap | None:
    """The oracle gap in two parts, where a control world knows the accuracy of the best possible router.

    None where one of the three is unknown.

    >>> oracle_gap(0.5, bayes=0.75, oracle=1.0)
    OracleGap(irreducible=0.25, learnable=0.25)
    """
    if accuracy is None or bayes is None or oracle is None:
        return None
    return OracleGap(oracle - bayes, bayes - accuracy)


# --- where routers fail -----------------------------------------------------------------------------


def hard_easy(Y: Floats, top: Floats, pool: Bool | None = None) -> tuple[Bool, Bool]:
    """Which queries are hard, which are easy: Y [N, K], top [N], pool [N, K] -> two masks [N]. Paper, Sec. 5.1.

    n = labels of at least 0.5, so that a query with n = 0 is unsolvable and in neither. Hard: n = 1, or
    1 < n <= max(8, ceil(K/2)) and the best model over all queries, whose label is `top`, is wrong. Easy: the other
    solvable ones. Models out of the pool do not count, in K neither. Where missing labels could make a query one or the
    other, it is in neither: we do not know.

    >>> nan = np.nan  # the last two: n is 1 or 2, the top model is right or wrong
    >>> hard_easy(np.array([[0, 1, 0], [1, 1, nan], [1, 0, nan], [nan, 1, 1]]), top=np.array([0, 1, 1, nan]))
    (array([ True, False, False, False]), array([False,  True, False, False]))
    """
    inside = np.ones(Y.shape, bool) if pool is None else pool
    least = ((Y >= 0.5) & inside).sum(axis=1)  # NaN >= 0.5 is false
    most = least + (np.isnan(Y) & inside).sum(axis=1)
    few = np.maximum(8, -(-inside.sum(axis=1) // 2))
    hard: Bool = (least > 0) & ((most == 1) | ((most <= few) & (top < 0.5)))
    easy: Bool = (least > few) | ((least > 1) & (top >= 0.5))
    return hard, easy


def correct_mass(Y: Floats) -> Float64:
    """Which models are right: Y [N, K] -> [K] shares that add up to 1 (NaN where no query was solved). Paper, Fig. 4.

    The paper does not define its "correctness mass". Here each solvable query weighs 1, shared by its models in
    proportion to their observed labels: what an oracle that breaks its ties at random would select.
    """
    labels = np.nan_to_num(Y.astype(np.float64))
    total = labels.sum(axis=1, keepdims=True)
    solved = total[:, 0] > 0
    if not solved.any():
        return np.full(Y.shape[1], np.nan)
    mass: Float64 = (labels[solved] / total[solved]).mean(axis=0)
    return mass


def selection_counts(route: Int64, K: int) -> Int64:
    """How many queries each of the K models is chosen for: [K]. Paper, Fig. 4."""
    return np.bincount(route, minlength=K).astype(np.int64)


def selection_entropy(counts: Int64) -> float:
    """Shannon entropy of the selection in bits: 0 for a constant route, log2 K for an even spread.

    >>> selection_entropy(np.array([2, 2, 0]))
    1.0
    """
    share = counts[counts > 0] / counts.sum()
    return float(share @ np.log2(1 / share))


def total_variation(p: Floats, q: Floats) -> float:
    """Half the L1 distance of two distributions [K]: 0 where they are equal, 1 where they share nothing.

    >>> total_variation(np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.25, 0.25]))
    0.25
    """
    return float(np.abs(p.astype(np.float64) - q.astype(np.float64)).sum() / 2)


class Exchange(NamedTuple):
    """How two routers differ on N queries. Paper, Sec. 5.2 and Tab. 4."""

    disagreement: float  # share of all queries on which they choose different models
    accuracy_gap: float | None  # |mean of Y_a - Y_b| over all queries
    change: float | None  # mean of |Y_a - Y_b| where they disagree, wins of both sides; None: they never do
    signed_change: float | None  # |mean of Y_a - Y_b| where they disagree: what is left once wins cancel out


def exchange(
    route_a: Int64,
    labels_a: Floats,
    route_b: Int64,
    labels_b: Floats,
    *,
    weight_a: Floats | None = None,
    weight_b: Floats | None = None,
) -> Exchange:
    """Do two routers exchange errors, or is one better? All [N]: their routes, the labels of what they chose, their weights.

    Where they chose alike the difference is 0, whether or not the label is known. Where they did not and either label is
    missing, the query counts in the disagreement alone. With dense labels the accuracy gap is the disagreement times the
    signed change.

    >>> routes, labels = np.array([0, 0, 0, 1]), np.array([1.0, 0.0, 1.0, 1.0])
    >>> exchange(routes, labels, np.array([0, 1, 1, 0]), np.array([1.0, 1.0, 0.0, 0.0]))[:3]
    (0.75, 0.25, 1.0)
    """
    apart = route_a != route_b
    difference = np.where(apart, labels_a.astype(np.float64) - labels_b.astype(np.float64), 0)
    weight = None
    if weight_a is not None and weight_b is not None:  # both labels must have been asked
        weight = np.where(apart, weight_a.astype(np.float64) * weight_b, 1)
    exchanged, of_them = difference[apart], None if weight is None else weight[apart]
    gap, change = mean_of(difference, weight).value, mean_of(np.abs(exchanged), of_them).value
    signed = mean_of(exchanged, of_them).value
    return Exchange(
        disagreement(route_a, route_b),
        None if gap is None else abs(gap),
        change,
        None if signed is None else abs(signed),
    )


def top_share(counts: Int64) -> float:
    """Share of the queries that go to the model with the most: at least 1 / K, 1 for a constant route.

    >>> top_share(np.array([3, 1, 0]))
    0.75
    """
    return float(counts.max() / counts.sum())


def disagreement(a: Int64, b: Int64) -> float:
    """Share of queries on which two routes [N] choose different models. Paper, Tab. 4.

    >>> disagreement(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]))
    0.25
    """
    return float((a != b).mean())


def score_correlation(scores: Sequence[Floats]) -> Float64:
    """Spearman correlations [R, R] of R routers' scores, each [N, K], over all cells, after a query's mean is taken off.

    What decides a route is how a query's scores compare with one another, and neither their level nor, for a rank
    correlation, their scale. NaN beside a router that gives all models of every query equal scores.
    """
    from scipy.stats import rankdata

    ranks = []
    for S in scores:
        centred = S.astype(np.float64) - S.mean(axis=1, keepdims=True, dtype=np.float64)
        # Float32 scores that were equal differ by rounding once different means are taken off.
        step = max(8 * float(np.finfo(np.float32).eps * np.abs(S).max()), np.finfo(np.float64).tiny)
        ranks.append(rankdata((centred / step).round().ravel()))
    R = np.stack(ranks)
    R -= R.mean(axis=1, keepdims=True)
    norms = np.sqrt((R**2).sum(axis=1))
    with np.errstate(invalid="ignore"):
        correlation: Float64 = R @ R.T / np.outer(norms, norms)
    return correlation
