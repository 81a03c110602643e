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
CLIP = 1e-7  # BCE reads a P of 0 as this, and a P of 1 as 1 minus this: one wrong cell costs at most 16 nats
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
    if not 0 <= lam <= 1:
        raise ValueError(f"lambda is {lam}, not in [0, 1]")
    if lam == 0:
        return accuracy(route(scores, prior), Y)
    if costs is None or scale is None:
        return Mean(None, 0.0, 0)
    known = scale.mean
    if selector_costs is not None:
        known = np.where(np.isnan(selector_costs), scale.mean, selector_costs.astype(np.float64))
    chosen = route((1 - lam) * scores.astype(np.float64) - lam * scale.scaled(known), prior)
    return _mean((1 - lam) * _chosen(chosen, Y) - lam * scale.scaled(_chosen(chosen, costs)))


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

    n = observed labels of at least 0.5, so that a query with n = 0 is unsolvable and in neither. Hard: n = 1, or
    1 < n <= max(8, ceil(K/2)) and `top_model`, the best model over all queries, is wrong. Easy: the other solvable
    ones. Where the top model's label decides and is missing, the query is in neither: we do not know.
    """
    n = (Y >= 0.5).sum(axis=1)  # NaN >= 0.5 is false
    top = Y[:, top_model]
    few = (n > 1) & (n <= max(8, -(-Y.shape[1] // 2)))
    hard: Bool = (n == 1) | (few & (top < 0.5))
    easy: Bool = (n > 1) & ~hard & ~(few & np.isnan(top))
    return hard, easy


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
    of the scores, or scores all equal, give a = 0 and the mean label. Fit it on scores of queries that the
    router did not learn from. Raises ValueError where nothing was observed.
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
