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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rph.arrays import observed_means
from rph.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Float64 = NDArray[np.float64]
    Int64 = NDArray[np.int64]
    Bool = NDArray[np.bool_]

LAMBDAS = (0.0, 0.2, 0.5, 0.7, 0.9)  # paper, App. E.4
CURVE = tuple(step / 20 for step in range(21))  # the lambdas of an accuracy-cost curve
CLIP = 1e-7  # BCE reads a P of 0 as this, and a P of 1 as 1 minus this: one wrong cell costs at most 16 nats
COLLAPSED = (
    0.99  # a router whose `top_share` is at least this has collapsed: in effect it routes to one model
)
ROUNDING = 1e-6  # a probability computed in float32 may leave [0, 1] by this much


class Mean(NamedTuple):
    """A mean over queries. `value` is None where nothing was observed; `coverage` = n / N (0 where N = 0)."""

    value: float | None
    coverage: float
    n: int  # queries counted


def _mean(values: Floats) -> Mean:
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


def _chosen(route: Int64, table: Floats) -> Float64:
    """table [N, K] at each query's chosen model: [N]."""
    return table[np.arange(len(table)), route].astype(np.float64)


def accuracy(route: Int64, Y: Floats) -> Mean:
    """Mean label of the chosen models: A_r of the paper, Sec. 3. Queries whose chosen label is missing are left out."""
    return _mean(_chosen(route, Y))


def cost(route: Int64, costs: Floats) -> Mean:
    """Mean US dollars per query of the chosen models. Queries whose chosen cost is unknown are left out."""
    return _mean(_chosen(route, costs))


def constant(model_index: int, Y: Floats) -> Mean:
    """Accuracy of sending every query to one model."""
    return _mean(Y[:, model_index])


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
    return _mean(observed_means(Y.T))


def oracle(Y: Floats) -> Mean:
    """Mean of the best observed label per query: A_oracle of the paper, Sec. 3. At least `random`."""
    best = np.where(np.isnan(Y), -np.inf, Y).max(axis=1)
    return _mean(np.where(np.isneginf(best), np.nan, best))


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


# --- cost-aware utility -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CostScale:
    """How US dollars become the scaled cost of the utility: min-max over the pool of the train-split means."""

    mean: Float64  # [K] mean train cost per model, US dollars: what is known before a call
    low: float  # of `mean`
    high: float

    @classmethod
    def fit(cls, train_costs: Floats) -> CostScale | None:
        """train_costs [N, K] -> the scale, or None where a model's price is unknown (all its costs are NaN)."""
        mean = observed_means(train_costs)
        if np.isnan(mean).any():
            return None
        return cls(mean, float(mean.min()), float(mean.max()))

    def scaled(self, costs: Floats) -> Float64:
        """US dollars -> scaled cost: 0 at the cheapest model's mean, 1 at the dearest's; NaN stays NaN.

        A single call may lie outside [0, 1]; it is not clipped. Where all prices are equal, money decides nothing
        and the scaled cost is 0.
        """
        dollars = costs.astype(np.float64)
        span = self.high - self.low
        if span <= 1e-9 * self.high:  # equal but for rounding, which dividing by the span would blow up
            return dollars * 0
        scaled: Float64 = (dollars - self.low) / span
        return scaled


def utility(
    scores: Floats,
    Y: Floats,
    costs: Floats | None,
    scale: CostScale | None,
    lam: float,
    prior: Floats,
    *,
    selector_costs: Floats | None = None,
) -> Mean:
    """Realised utility at `lam` in [0, 1]: route by U = (1-lam) score - lam cost~, earn (1-lam) label - lam cost~.

    U(lambda) of the paper, Sec. 3 and App. E.4; its tables give the realised value. cost~ is the scaled cost: of the
    train mean when choosing, since a call's cost is not known before the call, and of the call itself when
    earning. `selector_costs [N, K]` replace the train means in choosing: a router's own predictions, or, an oracle
    leak, the realised costs; where one is NaN the train mean stands in.

    A query whose chosen label or cost is missing is left out. At lam = 0 this is the accuracy, and costs are
    not read. At lam > 0 without prices (`costs` or `scale` is None) nothing is observed: the value is None.
    """
    if 0 < lam <= 1 and (costs is None or scale is None):
        return Mean(None, 0.0, 0)
    chosen = utility_route(scores, scale, lam, prior, selector_costs=selector_costs)
    if lam == 0 or costs is None or scale is None:
        return accuracy(chosen, Y)
    return _mean((1 - lam) * _chosen(chosen, Y) - lam * scale.scaled(_chosen(chosen, costs)))


def utility_route(
    scores: Floats,
    scale: CostScale | None,
    lam: float,
    prior: Floats,
    *,
    selector_costs: Floats | None = None,
) -> Int64:
    """The model [N] that `utility` chooses at `lam` in [0, 1]. At lam = 0 `route`, and no price is read.

    Raises ValueError beyond [0, 1], and at lam > 0 without a scale.
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"lambda is {lam}, not in [0, 1]")
    if lam == 0:
        return route(scores, prior)
    if scale is None:
        raise ValueError(f"lambda is {lam}, and there are no prices to choose by")
    known = scale.mean
    if selector_costs is not None:
        known = np.where(np.isnan(selector_costs), scale.mean, selector_costs.astype(np.float64))
    return route((1 - lam) * scores.astype(np.float64) - lam * scale.scaled(known), prior)


# --- quality for money ---------------------------------------------------------------------------------


def frontier(cost: Floats, quality: Floats) -> Int64:
    """The points that no other point beats, cheapest first: indices into cost, quality [P].

    A point is beaten by one that is no dearer and no worse, and better in one of the two; of equal points the
    first stands for all. A point with an unknown coordinate is in no order with the others and is left out.

    >>> frontier(np.array([1.0, 3.0, 2.0, 2.0]), np.array([0.5, 0.8, 0.4, 0.7])).tolist()
    [0, 3, 1]
    """
    known = np.flatnonzero(~(np.isnan(cost) | np.isnan(quality)))
    order = known[np.lexsort((-quality[known], cost[known]))]  # cheapest first, the best of equal cost first
    before = np.maximum.accumulate(np.concatenate([[-np.inf], quality[order]]))[:-1]
    kept: Int64 = order[quality[order] > before]
    return kept


def cost_hull(cost: Floats, quality: Floats) -> tuple[Float64, Float64]:
    """The least concave, non-decreasing curve over the points [P], from (0, 0): costs and qualities of its corners.

    What mixtures of the points reach: the non-decreasing convex hull of RouterBench, Sec. 3 (arXiv:2403.12031). Between
    corners it is linear, as one flips a coin; to the left of the cheapest point one flips it against giving no
    answer, for nothing; to the right of the best it stays. Costs are US dollars, at least 0.
    """
    cost, quality = np.append(0.0, cost), np.append(0.0, quality)
    corners: list[tuple[float, float]] = []
    for index in frontier(cost, quality):
        c, q = float(cost[index]), float(quality[index])
        while len(corners) > 1:
            (c1, q1), (c2, q2) = corners[-2:]
            if (q2 - q1) * (c - c2) > (q - q2) * (c2 - c1):  # the last corner bends down: it stays
                break
            corners.pop()
        corners.append((c, q))
    return np.array([c for c, _ in corners]), np.array([q for _, q in corners])


def aiq(cost: Floats, quality: Floats, low: float, high: float) -> float | None:
    """Mean of `cost_hull` over costs from low to high: AIQ of RouterBench, Sec. 3 (arXiv:2403.12031).

    cost, quality [P] are the points of one router, NaN where unknown: mean US dollars per query and accuracy. `low`
    and `high` must be the same for all that are compared; here the costs of the pool's cheapest and dearest
    model. RouterBench's code has no (0, 0), begins at a router's own cheapest point and divides by the largest
    cost of all; its numbers are not these. None where no point is known or there is no range.

    >>> aiq(np.array([1.0, 3.0]), np.array([0.25, 0.75]), low=1.0, high=5.0)
    0.625
    """
    if not high > low or not len(frontier(cost, quality)):
        return None
    at, curve = cost_hull(cost, quality)
    inside = (at > low) & (at < high)
    x = np.concatenate([[low], at[inside], [high]])
    return float(np.trapezoid(np.interp(x, at, curve), x) / (high - low))


# --- two models: how much of the stronger one's gain for how many of its calls -------------------------


class Recovered(NamedTuple):
    """What a router between a strong and a weak model recovers of the gap between them. RouteLLM, Sec. 2.3."""

    apgr: float  # mean of the performance gap recovered over all shares of strong calls
    cpt50: float | None  # least share of strong calls that recovers half of the gap; None: never
    cpt80: float | None


def gap_recovered(scores: Floats, Y: Floats, prior: Floats) -> Recovered | None:
    """APGR and CPT of a pool of two: scores, Y [N, 2], prior [2]. Ong et al. 2024 (arXiv:2406.18665), Sec. 2.3.

    The strong model is the one better on train. Sending it the share c of the queries on which its score leads most
    gives an accuracy q(c), and PGR(c) = (q(c) - q(0)) / (q(1) - q(0)). Where leads are equal the queries go in random
    order, in expectation: q is linear there. The mean over c is the exact area, where theirs takes ten shares.
    Queries with a missing label are left out. None where K is not 2 or the strong model is not better on these.

    >>> gap_recovered(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([0.9, 0.5]))
    Recovered(apgr=0.75, cpt50=0.25, cpt80=0.4)
    """
    if Y.shape[1] != 2:
        return None
    strong = best_single_model(prior)
    seen = ~np.isnan(Y).any(axis=1)
    lead = (scores[:, strong] - scores[:, 1 - strong])[seen].astype(np.float64)
    gain = (Y[:, strong] - Y[:, 1 - strong])[seen].astype(np.float64)
    if not len(gain) or gain.sum() <= 0:
        return None
    order = np.argsort(-lead, kind="stable")
    ends = np.flatnonzero(np.diff(lead[order], append=-np.inf))  # the last of each group of equal leads
    share = np.concatenate([[0.0], (ends + 1) / len(gain)])
    pgr = np.concatenate([[0.0], gain[order].cumsum()[ends] / gain.sum()])
    return Recovered(
        float(np.trapezoid(pgr, share)), _first_share(share, pgr, 0.5), _first_share(share, pgr, 0.8)
    )


def _first_share(share: Float64, pgr: Float64, level: float) -> float | None:
    """Where the piecewise linear curve first reaches the level."""
    reached = np.flatnonzero(pgr >= level)
    if not len(reached):
        return None
    i = int(reached[0])
    along = (level - pgr[i - 1]) / (pgr[i] - pgr[i - 1])
    return float(share[i - 1] + along * (share[i] - share[i - 1]))


# --- how good are the probabilities -----------------------------------------------------------------


def _probabilities(P: Floats) -> Float64:
    outside = ~((P >= -ROUNDING) & (P <= 1 + ROUNDING))  # so written that NaN is outside
    if outside.any():
        raise ValueError(f"{outside.sum()} values are not probabilities; the first is {P[outside][0]}")
    return P.astype(np.float64).clip(0, 1)


def bce(P: Floats, Y: Floats) -> float | None:
    """Mean binary cross-entropy in nats over the observed cells: P, Y [N, K]. Paper, Sec. 5.3 and Tab. 5.

    P is clipped to [1e-7, 1 - 1e-7]. Raises ValueError where P is not in [0, 1]; None where nothing was observed.
    """
    P = _probabilities(P)
    seen = ~np.isnan(Y)
    if not seen.any():
        return None
    p, y = P[seen].clip(CLIP, 1 - CLIP), Y[seen].astype(np.float64)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean())


def base_rate_bce(prior: Floats, Y: Floats) -> float | None:
    """`bce` of predicting each model's train mean for every query: what a useful probability must beat.

    A model never observed on train gets the mean of the others (0.5 if there is none), so that the cells are
    those of `bce`.
    """
    known = prior[~np.isnan(prior)]
    others = float(known.mean()) if len(known) else 0.5
    rates = np.where(np.isnan(prior), others, prior)
    return bce(np.broadcast_to(rates, Y.shape), Y)


def ece(P: Floats, Y: Floats, bins: int = 15) -> float | None:
    """Expected calibration error over the observed cells: sum over bins of (share of cells) |mean label - mean P|.

    Guo et al. 2017 (arXiv:1706.04599), Eq. 3, with P(correct) of a cell in the place of a class confidence. `bins`
    of equal width, each closed below and open above, but for the last. Raises ValueError where P is not
    in [0, 1]; None where nothing was observed.
    """
    P = _probabilities(P)
    seen = ~np.isnan(Y)
    if not seen.any():
        return None
    p, y = P[seen], Y[seen].astype(np.float64)
    bin_of = np.minimum((p * bins).astype(np.int64), bins - 1)
    excess = np.bincount(bin_of, weights=y - p, minlength=bins)  # per bin: its cells x (mean label - mean P)
    return float(np.abs(excess).sum() / len(p))


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
    gap, change = _mean(difference).value, _mean(np.abs(exchanged)).value
    signed = _mean(exchanged).value
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


# --- scores that are not probabilities --------------------------------------------------------------

RIDGE = 1e-9  # on the squares of both standardised parameters: keeps separable labels finite
STEPS = 100  # of Newton; about ten are used, twenty where labels are separable


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


def fit_sigmoid(scores: Floats, Y: Floats) -> tuple[float, float]:
    """(a, b) of the one monotone map sigma(a s + b), a >= 0, that makes the observed labels most likely.

    Platt scaling with two parameters for all models together, so that no model gains on another: scores, Y [N, K].
    Maximum likelihood on standardised scores, with a ridge of 1e-9 on the mean loss. Labels that contradict the order
    of the scores, or scores all equal, give a = 0 and the mean label: no P(correct) to choose by. Fit it on scores of
    queries that the router did not learn from. Raises ValueError where nothing was observed.
    """
    seen = ~np.isnan(Y)
    if not seen.any():
        raise ValueError("no label was observed: there is nothing to fit the map to")
    s, y = scores[seen].astype(np.float64), Y[seen].astype(np.float64)
    middle, spread = s.mean(), s.std()
    if spread > 1e-9 * np.abs(s).max():
        slope, offset = _newton((s - middle) / spread, y)
        if slope > 0:
            return float(slope / spread), float(offset - slope * middle / spread)
    mean = y.mean().clip(
        CLIP, 1 - CLIP
    )  # the loss is convex: if its best slope is not positive, 0 is the best allowed
    return 0.0, float(np.log(mean / (1 - mean)))


def _newton(z: Float64, y: Float64) -> Floats:
    """The [2] slope and offset that minimise mean BCE + RIDGE/2 |.|^2, by Newton steps, halved until they descend."""
    ones = np.ones_like(z)
    parameters: Floats = np.zeros(2)
    step: Floats = np.zeros(2)
    loss = np.inf
    for _ in range(STEPS):
        trial = parameters - step
        logit = trial[0] * z + trial[1]
        trial_loss = float(np.mean(np.logaddexp(0, logit) - y * logit) + RIDGE / 2 * trial @ trial)
        if trial_loss > loss:
            step /= 2
            if np.abs(step).max() < 1e-12:
                break
            continue
        parameters, loss = trial, trial_loss
        p = _sigmoid(logit)
        gradient: Float64 = np.array([np.mean((p - y) * x) for x in (z, ones)]) + RIDGE * parameters
        if np.abs(gradient).max() < 1e-10:
            break
        w = p * (1 - p)
        curvature: Float64 = np.array([[np.mean(w * x * v) for v in (z, ones)] for x in (z, ones)])
        curvature += RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
    return parameters


def _sigmoid(logit: Float64) -> Float64:
    p: Float64 = np.exp(-np.logaddexp(0, -logit))  # neither overflows nor loses small probabilities
    return p


def apply_sigmoid(scores: Floats, a: float, b: float) -> Float64:
    """sigma(a scores + b), in float64: with a > 0 the order within a query, and so its route at lambda = 0, stays.

    Only rounding can make two scores equal, where both are above a probability of about 1 - 1e-15.
    """
    return _sigmoid(a * scores.astype(np.float64) + b)


def row_minmax(scores: Floats) -> Float64:
    """scores [N, K] scaled to [0, 1] within each query; a query that scores all models alike gets 0.5.

    The scale on which scores without bounds enter a utility unmapped (`native`).
    """
    s = scores.astype(np.float64)
    low, high = s.min(axis=1, keepdims=True), s.max(axis=1, keepdims=True)
    flat = np.full_like(s, 0.5)
    scaled: Float64 = np.divide(s - low, high - low, out=flat, where=np.broadcast_to(high > low, s.shape))
    return scaled
