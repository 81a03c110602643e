"""How sure the numbers of a board are: a paired bootstrap over queries and seeds, and what it says of an order.

A resample draws the N test queries with replacement, the same draw for every router, so that what two routers have in
common cancels in their difference. Seeds are the second source of variance: a resample also draws S - 1 of a router's
S seeds with replacement, each router's on their own. Drawing S - 1 and not S makes the variance of a mean over
seeds unbiased; S would give (S - 1) / S of it, which is 4/5 for five seeds (Rao and Wu 1988, JASA 83, on the rescaled
bootstrap). Weights of queries times weights of seeds make the bootstrap of crossed factors of Owen and Eckles 2012
(arXiv:1106.2125), which errs on the side of too much variance. A router with one seed shows no variance of seeds.

Everything is a function of its arguments. The draws are seeded, those of queries by nothing but N and those of seeds
by the router's name, so that a router's interval stays what it is when another router joins the board.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from rph.machine import cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Float64 = NDArray[np.float64]
    Int8 = NDArray[np.int8]

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 2606_07587
BLOCK = 100  # resamples that a thread draws at once: their weights are BLOCK x N float32
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

    def block(index: int) -> Float64:
        rng = np.random.default_rng([SEED, index])  # a block's own: the order of the threads changes nothing
        # [block, N]: how often a query was drawn.
        weights = np.empty((min(BLOCK, resamples - index * BLOCK), N), np.float32)
        for row in weights:
            row[:] = np.bincount(rng.integers(0, N, N), minlength=N)
        # Sums of 0 and 1 are exact in float32 up to 2^24 queries; other labels lose less than EQUAL.
        sums = (weights @ table).astype(np.float64)
        counts = np.full((len(sums), C), float(N))
        counts[:, partial] = sums[:, C:]
        with np.errstate(invalid="ignore"):
            means: Float64 = sums[:, :C] / counts
        return means

    # One thread of BLAS each: threads that start threads wait for one another.
    with threadpool_limits(1), ThreadPoolExecutor(cores()) as threads:
        return np.concatenate(list(threads.map(block, range(-(-resamples // BLOCK)))))


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
        error = noise.std(axis=0)
        varies = error > EQUAL / 10  # else the two are the same, or always apart by as much
        largest = np.abs(noise[:, varies] / error[varies]).max(axis=1, initial=0)
        needed = np.where(varies, error * np.quantile(largest, LEVEL), EQUAL)
        result[:, j] = np.sign(difference) * (np.abs(difference) > needed)
    return result
