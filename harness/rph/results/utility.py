"""Quality for money: the utility of the paper, cost curves, AIQ, and what two models leave between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rph.arrays import observed_means
from rph.holes import DENSE, Mask, chosen, preference
from rph.lazy import np
from rph.results.metrics import Mean, cost_of, mean_of, route

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Float64 = NDArray[np.float64]
    Int64 = NDArray[np.int64]
    Bool = NDArray[np.bool_]

LAMBDAS = (0.0, 0.2, 0.5, 0.7, 0.9)  # paper, App. E.4
CURVE = tuple(step / 20 for step in range(21))  # the lambdas of an accuracy-cost curve


# --- cost-aware utility -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CostScale:
    """How US dollars become the scaled cost of the utility: min-max over the pool of the train-split means.

    A model without any known price is in no pool where money counts: for router, floor and oracle alike. A query in whose
    pool no model has one is left out.
    """

    mean: Float64  # [K] mean train cost per model, US dollars: what is known before a call; NaN: no price is known
    low: float  # of `mean`
    high: float

    @classmethod
    def fit(cls, train_costs: Floats) -> CostScale | None:
        """train_costs [N, K] -> the scale, or None where no model has a known price."""
        mean = observed_means(train_costs)
        if np.isnan(mean).all():
            return None
        return cls(mean, float(np.nanmin(mean)), float(np.nanmax(mean)))

    @property
    def priced(self) -> Bool:
        """[K] the models with a known price."""
        return ~np.isnan(self.mean)

    def pool(self, pool: Bool | None) -> Bool | None:
        """A pool [N, K] (None: all models) without those that have no price: [N, K] or [1, K]; None: all stay."""
        if self.priced.all():
            return pool
        return self.priced[None] if pool is None else pool & self.priced

    def payable(self, pool: Bool | None) -> Bool | None:
        """[N] the queries in whose pool [N, K] (None: all models) a model has a price; None: all of them."""
        inside = self.pool(pool)
        if inside is None:
            return None
        found: Bool = np.asarray(inside.any(axis=1))
        return None if found.all() else found

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
    level: Floats,
    *,
    mask: Mask = DENSE,
    selector_costs: Floats | None = None,
) -> Mean:
    """Realised utility at `lam` in [0, 1]: route by U = (1-lam) score - lam cost~, earn (1-lam) label - lam cost~.

    U(lambda) of the paper, Sec. 3 and App. E.4; its tables give the realised value. cost~ is the scaled cost: of the
    train mean when choosing, since a call's cost is not known before the call, and of the call itself when
    earning (of the train mean, where that is unknown). `selector_costs [N, K]` replace the train means in choosing: a
    router's own predictions, or, an oracle leak, the realised costs; where one is NaN the train mean stands in.

    A query whose chosen label is missing is left out. At lam = 0 this is the accuracy of choosing among the models with a
    price, all of them where there is no scale; how dear they are is not read. At lam > 0 without prices (`costs` or `scale`
    is None) nothing is observed: the value is None.
    """
    if 0 < lam <= 1 and (costs is None or scale is None):
        return Mean(None, 0.0, 0)
    route = utility_route(scores, scale, lam, level, pool=mask.pool, selector_costs=selector_costs)
    earned = chosen(Y, route)
    if lam > 0 and costs is not None and scale is not None:
        earned = (1 - lam) * earned - lam * scale.scaled(cost_of(route, costs, scale.mean))
    return mean_of(_paid(earned, scale, mask.pool), chosen(mask.weight, route))


class Spent(NamedTuple):
    """What the choices at one lambda get and cost."""

    accuracy: Mean
    cost: Mean  # US dollars per query


def spent(
    scores: Floats,
    Y: Floats,
    costs: Floats,
    scale: CostScale,
    lam: float,
    level: Floats,
    *,
    mask: Mask = DENSE,
    selector_costs: Floats | None = None,
) -> Spent:
    """Accuracy and cost of routing as `utility` does at `lam`: a point of the accuracy-cost curve."""
    route = utility_route(scores, scale, lam, level, pool=mask.pool, selector_costs=selector_costs)
    labels, dollars = (
        _paid(values, scale, mask.pool) for values in (chosen(Y, route), cost_of(route, costs, scale.mean))
    )
    return Spent(mean_of(labels, chosen(mask.weight, route)), mean_of(dollars))


def _paid(values: Float64, scale: CostScale | None, pool: Bool | None) -> Float64:
    """The values [N] of what was chosen, NaN for the queries of which no model could be paid."""
    kept = None if scale is None else scale.payable(pool)
    return values if kept is None else np.where(kept, values, np.nan)


def utility_route(
    scores: Floats,
    scale: CostScale | None,
    lam: float,
    level: Floats,
    *,
    pool: Bool | None = None,
    selector_costs: Floats | None = None,
) -> Int64:
    """The model [N] that `utility` chooses at `lam` in [0, 1], of those with a price in the `pool` [N, K].

    At lam = 0 the best score decides, and no price is read but for its being there. Where the pool has no such model,
    which one is returned means nothing (`CostScale.payable`). Raises ValueError beyond [0, 1], and at lam > 0 without a
    scale.
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"lambda is {lam}, not in [0, 1]")
    inside = pool if scale is None else scale.pool(pool)
    if lam == 0:
        return route(scores, level, inside)
    if scale is None:
        raise ValueError(f"lambda is {lam}, and there are no prices to choose by")
    known = np.where(scale.priced, scale.mean, scale.high)  # who has none is in no pool
    if selector_costs is not None:
        known = np.where(np.isnan(selector_costs), known, selector_costs.astype(np.float64))
    return route((1 - lam) * scores.astype(np.float64) - lam * scale.scaled(known), level, inside)


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


def gap_recovered(scores: Floats, Y: Floats, level: Floats) -> Recovered | None:
    """APGR and CPT of a pool of two: scores, Y [N, 2], level [2]. Ong et al. 2024 (arXiv:2406.18665), Sec. 2.3.

    The strong model is the one better on train. Sending it the share c of the queries on which its score leads most
    gives an accuracy q(c), and PGR(c) = (q(c) - q(0)) / (q(1) - q(0)). Where leads are equal the queries go in random
    order, in expectation: q is linear there. The mean over c is the exact area, where theirs takes ten shares.
    Queries with a missing label are left out. None where K is not 2 or the strong model is not better on these.

    >>> gap_recovered(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([0.9, 0.5]))
    Recovered(apgr=0.75, cpt50=0.25, cpt80=0.4)
    """
    if Y.shape[1] != 2:
        return None
    strong = int(preference(level)[0])
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
