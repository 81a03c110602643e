"""How sure the numbers of a board are: a paired bootstrap over queries and seeds, and what it says of an order.

A resample draws the N test queries with replacement, the same draw for every router, so that what two routers have in
common cancels in their difference. Seeds are the second source of variance: a resample also draws S - 1 of a router's
S seeds with replacement, each router's on their own. Drawing S - 1 and not S makes the variance of a mean over
seeds unbiased; S would give (S - 1) / S of it, which is 4/5 for five seeds (Rao and Wu 1988, JASA 83, on the rescaled
bootstrap). Weights of queries times weights of seeds make the bootstrap of crossed factors of Owen and Eckles 2012
(arXiv:1106.2125), which errs on the side of too much variance. A router with one seed shows no variance of seeds.

Where labels of what was chosen are missing, an accuracy has a lower and an upper end (rph.holes), and so has a difference:
`resample_bounds`. There what two routers chose alike is one label, known or not, and cannot part them.

Everything is a function of its arguments. The draws are seeded, those of queries by nothing but N and those of seeds
by the router's name, so that a router's interval stays what it is when another router joins the board.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from rph.machine import cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Float64 = NDArray[np.float64]
    Int8 = NDArray[np.int8]
    Int64 = NDArray[np.int64]

T = TypeVar("T")
LEVEL = 0.95
RESAMPLES = 10_000
SEED = 2606_07587
BLOCK = 100  # resamples that a thread draws at once: their weights are BLOCK x N float32
ROUNDING = 1e-12  # of sums of labels and weights in float64
EQUAL = 1e-6  # accuracies closer than this are the same: sums in float32 differ by less, other routes by more


def resample(outcomes: Mapping[str, Floats], *, resamples: int = RESAMPLES) -> Float64:
    """Resampled accuracies [B, R] of R routers, each a name and the outcomes [S, N] of its S seeds; NaN = not observed.

    A router's accuracy is, in a resample as in a result file, the mean over its seeds of the mean over the observed
    queries: a ratio estimate where labels are missing. A resample in which a seed of some router has no observed query
    says nothing and is left out, so that B is below `resamples` where labels are very sparse.
    """
    return resample_boards([outcomes], resamples=resamples)[0]


def resample_boards(boards: Sequence[Mapping[str, Floats]], *, resamples: int = RESAMPLES) -> list[Float64]:
    """What `resample` gives for each of several boards of the same N queries; drawing them, most of the work, is done once."""
    columns = np.concatenate([labels for outcomes in boards for labels in outcomes.values()])
    means = _column_means(columns, resamples)  # [B, all seeds of all routers of all boards]
    found, start = [], 0
    for outcomes in boards:
        width = sum(map(len, outcomes.values()))
        found.append(_over_seeds(outcomes, means[:, start : start + width], resamples))
        start += width
    return found


def _over_seeds(outcomes: Mapping[str, Floats], means: Float64, resamples: int) -> Float64:
    """Resampled means of each seed [B, all seeds of all routers] -> of each router [B, R], less those with a NaN."""
    result = np.empty((resamples, len(outcomes)))
    start = 0
    for r, (name, of_router) in enumerate(outcomes.items()):
        S = len(of_router)
        result[:, r] = (means[:, start : start + S] * _seed_weights(name, S, resamples)).sum(axis=1)
        start += S
    return result[~np.isnan(result).any(axis=1)]


def _seed_weights(name: str, S: int, resamples: int) -> Float64:
    """The weight of each seed in each resample: [B, S], rows add up to 1."""
    if S == 1:
        return np.ones((resamples, 1))
    rng = np.random.default_rng([SEED, *name.encode()])
    weights: Float64 = rng.multinomial(S - 1, np.full(S, 1 / S), size=resamples) / (S - 1)
    return weights


def _column_means(columns: Floats, resamples: int) -> Float64:
    """Resampled mean over the observed queries of each column: [C, N] -> [B, C]; NaN where none was drawn."""
    C, N = columns.shape
    seen = ~np.isnan(columns)
    partial = np.flatnonzero(~seen.all(axis=1))  # only these need to count their queries
    table = np.concatenate([np.where(seen, columns, 0), seen[partial]])
    table = table.astype(np.float32).T  # [N, C + partial]

    def block(weights: Floats, _: slice) -> Float64:
        # Sums of 0 and 1 are exact in float32 up to 2^24 queries; other labels lose less than EQUAL.
        sums = (weights @ table).astype(np.float64)
        counts = np.full((len(sums), C), float(N))
        counts[:, partial] = sums[:, C:]
        with np.errstate(invalid="ignore"):
            means: Float64 = sums[:, :C] / counts
        return means

    return np.concatenate(_in_blocks(block, N, resamples))


def _in_blocks(what: Callable[[Floats, slice], T], N: int, resamples: int) -> list[T]:
    """`what` of each block of resamples: how often each query was drawn [block, N], and which resamples these are."""

    def block(index: int) -> T:
        rng = np.random.default_rng([SEED, index])  # a block's own: the order of the threads changes nothing
        rows = slice(index * BLOCK, min((index + 1) * BLOCK, resamples))
        weights = np.empty((rows.stop - rows.start, N), np.float32)
        for row in weights:
            row[:] = np.bincount(rng.integers(0, N, N), minlength=N)
        return what(weights, rows)

    # One thread of BLAS each: threads that start threads wait for one another.
    with threadpool_limits(1), ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(block, range(-(-resamples // BLOCK))))


# --- where labels are missing ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """What the S seeds of one router, or of a row that no router decides, chose on N queries, and what that earns."""

    low: Floats  # [S, N] labels, the missing ones counted 0
    high: Floats  # [S, N] and counted 1
    routes: Int64  # [S, N] the models
    weight: Floats | None = None  # [S, N] what each choice counts (rph.holes.Mask); None: each 1

    @property
    def open(self) -> bool:
        """Whether it has two ends, or weights: else `resample` says all there is to say."""
        return self.weight is not None or bool((self.low != self.high).any())


@dataclass(frozen=True, kw_only=True, eq=False)
class Bounded:
    """Accuracies of R routers in B resamples, and their differences, query by query."""

    low: Float64  # [B, R]
    high: Float64  # [B, R]
    least: Float64  # [B, R, R] accuracy of i less that of j, missing labels for the worst of i; what both chose is 0

    def of(self, rows: Sequence[int]) -> Bounded:
        """Of these rows alone."""
        return Bounded(low=self.low[:, rows], high=self.high[:, rows], least=self.least[:, rows][:, :, rows])

    @property
    def most(self) -> Float64:
        """[B, R, R] the same for the best of i."""
        return -self.least.swapaxes(1, 2)


def observed_bounds(board: Mapping[str, Choices]) -> Bounded:
    """The accuracies and differences themselves, as one resample."""
    sums = _Sums(board)
    ones = np.ones((1, sums.N))
    weights = [np.full((1, S), 1 / S) for S in sums.seeds]
    return sums.of(ones, weights)


def resample_bounds(boards: Sequence[Mapping[str, Choices]], *, resamples: int = RESAMPLES) -> list[Bounded]:
    """Resampled ends of accuracies and of their differences, for several boards of the same N queries.

    A difference is averaged over pairs of seeds, which are drawn as in `resample`; so are the queries. Resamples in which
    nothing counts of some seed are left out.
    """
    sums = [_Sums(board) for board in boards]
    weights = [
        [_seed_weights(name, len(chosen.low), resamples) for name, chosen in board.items()]
        for board in boards
    ]

    def block(drawn: Floats, rows: slice) -> list[Bounded]:
        return [one.of(drawn, [w[rows] for w in mine]) for one, mine in zip(sums, weights, strict=True)]

    blocks = _in_blocks(block, sums[0].N, resamples)
    found = []
    for parts in zip(*blocks, strict=True):
        low, high, least = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("low", "high", "least")
        )
        kept = ~np.isnan(low).any(axis=1)
        found.append(Bounded(low=low[kept], high=high[kept], least=least[kept]))
    return found


class _Sums:
    """The sums over queries that a board's ends and differences are made of; a column is a seed of a router."""

    def __init__(self, board: Mapping[str, Choices]) -> None:
        self.seeds = [len(chosen.low) for chosen in board.values()]
        low, high, routes = (
            np.concatenate([getattr(chosen, name) for chosen in board.values()])
            for name in ("low", "high", "routes")
        )
        weight = np.concatenate(
            [np.ones_like(each.low) if each.weight is None else each.weight for each in board.values()]
        )
        self.C, self.N = low.shape
        missing = (high - low) * weight  # [C, N]
        self.gaps = np.flatnonzero(missing.any(axis=1))  # the columns with two ends
        self.weighted = np.flatnonzero((weight != 1).any(axis=1))
        self.table = np.concatenate([low * weight, missing[self.gaps], weight[self.weighted]]).T
        # What two columns chose alike is one label: where it is missing it parts them by nothing. Few queries are so.
        self.queries = np.flatnonzero(missing.any(axis=0))
        routes, missing = routes[:, self.queries], missing[:, self.queries]
        pairs, columns = [], []
        for a, b in combinations(self.gaps.tolist(), 2):
            alike = np.where(routes[a] == routes[b], np.minimum(missing[a], missing[b]), 0)
            if alike.any():
                pairs.append((a, b))
                columns.append(alike)
        self.pairs = np.array(pairs, np.int64).reshape(-1, 2)
        self.alike = np.array(columns).reshape(len(pairs), len(self.queries)).T  # [queries, pairs]

    def of(self, drawn: Floats, seed_weights: Sequence[Float64]) -> Bounded:
        """For draws of the queries [B, N] and of the seeds, [B, S] of each router."""
        B, C, R = len(drawn), self.C, len(self.seeds)
        sums = (drawn @ self.table.astype(drawn.dtype)).astype(np.float64)
        counts = np.full((B, C), float(self.N))
        counts[:, self.weighted] = sums[:, C + len(self.gaps) :]
        with np.errstate(invalid="ignore"):
            low = sums[:, :C] / counts
            high = low.copy()
            high[:, self.gaps] += sums[:, C : C + len(self.gaps)] / counts[:, self.gaps]
        once = np.zeros((B, C, C))
        alike = (drawn[:, self.queries] @ self.alike.astype(drawn.dtype)).astype(np.float64)
        a, b = self.pairs.T
        once[:, a, b] = once[:, b, a] = alike
        routers = np.zeros((B, R, C))  # the weight of each column in each router
        start = 0
        for r, weights in enumerate(seed_weights):
            routers[:, r, start : start + weights.shape[1]] = weights
            start += weights.shape[1]
        mean_low, mean_high = ((routers @ each[:, :, None])[:, :, 0] for each in (low, high))
        with np.errstate(invalid="ignore"):
            # What counts the same is a lesser share of the more: only that is in both.
            once /= np.maximum(counts[:, :, None], counts[:, None])
        least = mean_low[:, :, None] - mean_high[:, None] + routers @ once @ routers.swapaxes(1, 2)
        least[np.abs(least) < ROUNDING] = 0  # the same choices throughout
        return Bounded(low=mean_low, high=mean_high, least=least)


def verdicts_of_bounds(observed: Bounded, resampled: Bounded) -> Int8:
    """Who can be told apart whatever the missing labels are: as `verdicts`, of `observed_bounds` and `resample_bounds`.

    Router i is better than j where even the least difference is above 0 beyond chance, worse where even the most is
    below. Both ends are among the comparisons that hold together in a column.
    """
    least = observed.least[0]
    R = len(least)
    result = np.zeros((R, R), np.int8)
    for j in range(R):
        # i less j at its least, and j less i at its least: [2, R] and [B, 2, R].
        difference = np.stack([least[:, j], least[j]])
        noise = np.stack([resampled.least[:, :, j], resampled.least[:, j]], axis=1) - difference
        needed = _needed(noise.reshape(len(noise), -1)).reshape(2, R)
        result[:, j] = (difference[0] > needed[0]).astype(np.int8) - (difference[1] > needed[1])
    return result


def _needed(noise: Float64) -> Float64:
    """How large each of several differences must be to be told at LEVEL together (max-t): noise [B, D] -> [D]."""
    error = noise.std(axis=0)
    varies = error > EQUAL / 10  # else the two are the same, or always apart by as much
    largest = np.abs(noise[:, varies] / error[varies]).max(axis=1, initial=0)
    return np.where(varies, error * np.quantile(largest, LEVEL), EQUAL)


# --- what resamples say ------------------------------------------------------------------------------


def interval(values: Float64) -> tuple[float, float]:
    """The percentile interval of resampled values [B], at LEVEL."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def wins(accuracies: Float64) -> Float64:
    """Share of the resamples [B, R] in which each router is the best: [R]. Ties share, so that it adds up to 1."""
    best = accuracies > accuracies.max(axis=1, keepdims=True) - EQUAL
    share: Float64 = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return share


def verdicts(observed: Float64, accuracies: Float64) -> Int8:
    """Who can be told apart: [i, j] is 1 where router i is better than j, -1 where it is worse, 0 where neither is shown.

    `observed` [R] are the accuracies, `accuracies` [B, R] the resampled ones. A column is one question, where does
    router j stand, and its R - 1 comparisons hold together at LEVEL: each difference, in standard errors, is held
    against the quantile of the largest one that chance makes in the column (max-t). With that probability no
    verdict in a column is wrong, however many routers there are. This is the marginal confidence set for the rank of
    Mogstad, Romano, Shaikh and Wilhelm 2024, "Inference for Ranks" (Review of Economic Studies 91); what
    no other router is better than is the best at LEVEL, as in Hsu's multiple comparisons with the best.
    """
    R = len(observed)
    result = np.zeros((R, R), np.int8)
    for j in range(R):
        difference = observed - observed[j]  # [R]
        noise = accuracies - accuracies[:, [j]] - difference  # [B, R]
        result[:, j] = np.sign(difference) * (np.abs(difference) > _needed(noise))
    return result
