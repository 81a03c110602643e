"""Every number of a leaderboard, as pure functions on arrays: defined once, cited, computed in float64.

Letters: N queries, K models. `Y [N, K]` are labels in [0, 1], NaN = not observed; `costs [N, K]` are US dollars
per call, NaN = unknown; `scores [N, K]` are finite, higher is better; `prior [K]` are the observed label means
of the train split, NaN where a model was never observed.

A missing label is never 0: a query whose value is unknown is left out of the mean, and the coverage is given
beside it. Two means with a coverage below 1 may therefore run over different queries, so that an accuracy can
then exceed the oracle; with dense labels it cannot.

"The paper" is "The Routing Plateau", arXiv:2606.07587.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rph.arrays import observed_means
from rph.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def mean_of(values: Floats) -> Mean:
    """values [N], NaN = left out."""
    seen = values[~np.isnan(values)].astype(np.float64)
    value = float(seen.mean()) if len(seen) else None
    return Mean(value, len(seen) / len(values) if len(values) else 0.0, len(seen))


# --- routes and their accuracy ----------------------------------------------------------------------


def _preference(prior: Floats) -> Int64:
    """Models from the first to the last in a tie: higher prior, then lower index; NaN is last."""
    order: Int64 = np.argsort(np.where(np.isnan(prior), np.inf, -prior), kind="stable")
    return order


def route(scores: Floats, prior: Floats) -> Int64:
    """The chosen model of each query: scores [N, K], prior [K] -> [N]. Paper, Sec. 3: argmax of the scores.

    The paper is silent on ties, and `argmax` alone would favour the first column of a file. Here they go to the
    model with the higher prior, then to the lower index; exactly, with no small number added to a score.

    >>> route(np.array([[0.5, 0.5, 0.1]]), prior=np.array([0.6, 0.7, 0.9])).tolist()
    [1]
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: it has no place in an order")
    order = _preference(prior)
    chosen: Int64 = order[scores[:, order].argmax(axis=1)]  # argmax takes the first of equals
    return chosen


def chosen_of(route: Int64, table: Floats) -> Float64:
    """table [N, K] at each query's chosen model: [N]."""
    return table[np.arange(len(table)), route].astype(np.float64)


def accuracy(route: Int64, Y: Floats) -> Mean:
    """Mean label of the chosen models: A_r of the paper, Sec. 3. Queries whose chosen label is missing are left out."""
    return mean_of(chosen_of(route, Y))


def cost(route: Int64, costs: Floats) -> Mean:
    """Mean US dollars per query of the chosen models. Queries whose chosen cost is unknown are left out."""
    return mean_of(chosen_of(route, costs))


def constant(model_index: int, Y: Floats) -> Mean:
    """Accuracy of sending every query to one model."""
    return mean_of(Y[:, model_index])


def best_single_model(prior: Floats) -> int:
    """Index of the model best on train: the floor that one could deploy. Ties as in `route`."""
    return int(_preference(prior)[0])


def best_single_hindsight(Y: Floats) -> Mean:
    """The best constant route of this very split, which nobody could have known: at least any `constant`.

    With missing labels, each model is judged on the queries it was observed on.
    """
    best = best_single_model(observed_means(Y))
    return constant(best, Y)


def random(Y: Floats) -> Mean:
    """Expected accuracy of a uniformly random route over the observed models of each query."""
    return mean_of(observed_means(Y.T))


def oracle(Y: Floats) -> Mean:
    """Mean of the best observed label per query: A_oracle of the paper, Sec. 3. At least `random`."""
    best = np.where(np.isnan(Y), -np.inf, Y).max(axis=1)
    return mean_of(np.where(np.isneginf(best), np.nan, best))


def bayes(p_correct: Floats, Y: Floats, prior: Floats) -> Mean:
    """Accuracy of routing by the true P(correct) [N, K]: what the best possible router got on these labels.

    Only a synthetic world knows P(correct). Oracle minus this is chance that no router can predict.
    """
    return accuracy(route(p_correct, prior), Y)


def bayes_expected(p_correct: Floats) -> float:
    """Expected accuracy of the best possible router: mean over queries of the highest P(correct)."""
    return float(p_correct.max(axis=1).mean(dtype=np.float64))


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


def hard_easy(Y: Floats, top_model: int) -> tuple[Bool, Bool]:
    """Which queries are hard, which are easy: Y [N, K] -> two masks [N]. Paper, Sec. 5.1.

    n = labels of at least 0.5, so that a query with n = 0 is unsolvable and in neither. Hard: n = 1, or
    1 < n <= max(8, ceil(K/2)) and `top_model`, the best model over all queries, is wrong. Easy: the other solvable
    ones. Where missing labels could make a query one or the other, it is in neither: we do not know.

    >>> nan = np.nan  # the last two: n is 1 or 2, the top model is right or wrong
    >>> hard_easy(np.array([[0, 1, 0], [1, 1, nan], [1, 0, nan], [nan, 1, 1]]), top_model=0)
    (array([ True, False, False, False]), array([False,  True, False, False]))
    """
    least = (Y >= 0.5).sum(axis=1)  # NaN >= 0.5 is false
    most = least + np.isnan(Y).sum(axis=1)
    few = max(8, -(-Y.shape[1] // 2))
    top = Y[:, top_model]
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


def exchange(route_a: Int64, labels_a: Floats, route_b: Int64, labels_b: Floats) -> Exchange:
    """Do two routers exchange errors, or is one better? All [N]: their routes, and the labels of what they chose.

    A query where either label is missing counts in the disagreement alone. With dense labels the accuracy gap is the
    disagreement times the signed change.

    >>> routes, labels = np.array([0, 0, 0, 1]), np.array([1.0, 0.0, 1.0, 1.0])
    >>> exchange(routes, labels, np.array([0, 1, 1, 0]), np.array([1.0, 1.0, 0.0, 0.0]))[:3]
    (0.75, 0.25, 1.0)
    """
    apart = route_a != route_b
    difference = labels_a.astype(np.float64) - labels_b.astype(np.float64)
    exchanged = difference[apart]
    gap, change = mean_of(difference).value, mean_of(np.abs(exchanged)).value
    signed = mean_of(exchanged).value
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
