"""Scores as probabilities: how good they are, and the one map for scores that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rph.lazy import np
from rph.results.metrics import ROUNDING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Float64 = NDArray[np.float64]
    Int64 = NDArray[np.int64]
    Bool = NDArray[np.bool_]
CLIP = 1e-7  # BCE reads a P of 0 as this, and a P of 1 as 1 minus this: one wrong cell costs at most 16 nats


# --- how good are the probabilities -----------------------------------------------------------------


def _probabilities(P: Floats) -> Float64:
    outside = ~((P >= -ROUNDING) & (P <= 1 + ROUNDING))  # so written that NaN is outside
    if outside.any():
        raise ValueError(f"{outside.sum()} values are not probabilities; the first is {P[outside][0]}")
    return P.astype(np.float64).clip(0, 1)


def bce(P: Floats, Y: Floats, weight: Floats | None = None) -> float | None:
    """Mean binary cross-entropy in nats over the observed cells: P, Y [N, K]. Paper, Sec. 5.3 and Tab. 5.

    `weight` [N, K] is what each cell counts (rph.holes.Mask); None: 1. P is clipped to [1e-7, 1 - 1e-7]. Raises ValueError where P is not in [0, 1]; None where nothing was observed.
    """
    P = _probabilities(P)
    seen = ~np.isnan(Y)
    if not seen.any():
        return None
    p, y = P[seen].clip(CLIP, 1 - CLIP), Y[seen].astype(np.float64)
    losses = -(y * np.log(p) + (1 - y) * np.log1p(-p))
    return float(losses.mean() if weight is None else np.average(losses, weights=weight[seen]))


def base_rate_bce(means: Floats, Y: Floats, weight: Floats | None = None) -> float | None:
    """`bce` of predicting each model's train mean for every query: what a useful probability must beat.

    A model never observed on train gets the mean of the others (0.5 if there is none), so that the cells are
    those of `bce`.
    """
    known = means[~np.isnan(means)]
    others = float(known.mean()) if len(known) else 0.5
    rates = np.where(np.isnan(means), others, means)
    return bce(np.broadcast_to(rates, Y.shape), Y, weight)


def ece(P: Floats, Y: Floats, bins: int = 15, *, weight: Floats | None = None) -> float | None:
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
    counted = np.ones(len(p)) if weight is None else weight[seen].astype(np.float64)
    # Per bin: its cells x (mean label - mean P).
    excess = np.bincount(bin_of, weights=counted * (y - p), minlength=bins)
    return float(np.abs(excess).sum() / counted.sum())


# --- scores that are not probabilities --------------------------------------------------------------

RIDGE = 1e-9  # on the squares of both standardised parameters: keeps separable labels finite
STEPS = 100  # of Newton; about ten are used, twenty where labels are separable


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
