"""Means over nearest neighbours where labels are missing: the local estimate of any table, for several rules at once.

Each model has its own neighbours: the nearest queries on which it was observed. One search serves all models, all
rules and all tables that are laid side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from rph.arrays import model_means, to_device
from rph.lazy import np, torch
from rph.training.neighbours import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from rph.api import Float32, Queries
    from rph.arrays import Float64

    Rule = tuple[int, "Weights"]  # k, and how the k are weighed

__all__ = ["Memory", "Weights", "best_k", "local_means", "r_squared"]

Weights = Literal["uniform", "cosine"]  # of the neighbours; cosine: closer ones weigh more
SCORED = 20_000  # rows that R^2 is measured on, at most
GATHERED = 1 << 21  # neighbour labels gathered at once: bounds memory at 16 MiB an array
DEEPER = 1.25  # the shared search goes this much deeper than the usual share of missing labels asks for
FARTHEST = 1e-6  # what a neighbour weighs at least


def local_means(
    queries: Float32,
    X: Float32,
    T: Float32,
    rules: Sequence[Rule],
    device: str,
    own: NDArray[np.int64] | None = None,
) -> Float32:
    """Each model's mean of T over the k nearest queries on which it was observed, for several k: [V, B, K].

    `queries` [B, d] and `X` [N, d] have unit rows; T [N, K], NaN = not observed; `own` [B] is a row of X that is
    left out. A model with fewer than k uses all it has; one without any gets NaN.

    One search serves all models and rules. Where it did not reach k observations of a model, which can only be
    where some are missing, the model's own rows are searched for that query.
    """
    largest = max(k for k, _ in rules)
    table = to_device(T, device)
    left_out = None if own is None else to_device(own, device)
    available = (~torch.isnan(table)).sum(dim=0)  # [K]
    out = np.full((len(rules), len(queries), T.shape[1]), np.nan, np.float32)
    short = np.zeros((len(queries), T.shape[1]), bool)

    depth = _depth(T, largest) + (own is not None)
    for part, near, cosines in _parts(queries, X, depth, T.shape[1], device):
        labels = table[near]  # [b, L, K]
        enough = available
        if left_out is not None:
            itself = left_out[part, None]
            enough = available - (~torch.isnan(table[itself[:, 0]])).long()
            labels = labels.masked_fill((near == itself)[..., None], torch.nan)
        reached = (~torch.isnan(labels)).sum(dim=1)
        short[part] = (reached < enough.clamp(max=largest)).cpu().numpy()
        out[:, part] = _first(labels, cosines, rules).cpu().numpy()

    for m in np.flatnonzero(short.any(axis=0)):
        some = np.flatnonzero(short[:, m])
        rows = np.flatnonzero(~np.isnan(T[:, m]))
        column = table[to_device(rows, device), m]
        for part, near, cosines in _parts(queries[some], X[rows], largest + (own is not None), 1, device):
            labels = column[near][..., None]  # [b, L, 1]
            if own is not None:
                itself = to_device(own[some[part]], device)[:, None]
                labels = labels.masked_fill((to_device(rows, device)[near] == itself)[..., None], torch.nan)
            out[:, some[part], m] = _first(labels, cosines, rules)[..., 0].cpu().numpy()
    return out


def _depth(T: Float32, k: int) -> int:
    """How many neighbours usually hold k observations of a model."""
    share = (~np.isnan(T)).mean(axis=0)
    known = share[share > 0]
    if not known.size or known.min() == 1:
        return k
    return int(np.ceil(DEEPER * k / np.median(known)))


def _parts(
    queries: Float32, X: Float32, k: int, models: int, device: str
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The blocks of `nearest`, cut so that the labels gathered for one are not too many."""
    for block, near, cosines in nearest(queries, X, k, device):
        rows = max(1, GATHERED // max(1, near.shape[1] * models))
        start = block.start
        for some, close in zip(torch.split(near, rows), torch.split(cosines, rows), strict=True):
            yield slice(start, start + len(some)), some, close
            start += len(some)


def _first(labels: Tensor, cosines: Tensor, rules: Sequence[Rule]) -> Tensor:
    """labels [b, L, K], nearest first, NaN = not observed -> [V, b, K] means over the first k observed.

    In float64: the order of a sum depends on the batch; rounded to float32 afterwards, the means do not.
    """
    seen = ~torch.isnan(labels)
    place = seen.cumsum(dim=1, dtype=torch.int32)  # 1 at the nearest observed
    values = labels.nan_to_num(0.0).double()
    closeness = cosines.double().clamp(min=FARTHEST)[..., None]  # [b, L, 1]
    means = []
    for k, weights in rules:
        end = int((place < k).sum(dim=1).max()) + 1 if len(labels) else 0  # beyond it nothing counts
        weight = (seen[:, :end] & (place[:, :end] <= k)).double()
        if weights == "cosine":
            weight = weight * closeness[:, :end]
        means.append((values[:, :end] * weight).sum(dim=1) / weight.sum(dim=1))  # 0 / 0 is NaN
    return torch.stack(means)


def r_squared(found: Float32, T: Float32) -> Float64:
    """found [V, N, K] against T [N, K], NaN = not observed -> [V], R^2 averaged over the models whose T varies.

    NaN where there is no such model.
    """
    seen = ~np.isnan(T) & ~np.isnan(found[0])
    count = seen.sum(axis=0)
    truth = np.where(seen, T, 0).astype(np.float64)
    centred = np.where(seen, truth - truth.sum(axis=0) / np.maximum(count, 1), 0)
    total = np.square(centred).sum(axis=0)  # [K]
    errors = np.where(seen, found - truth, 0)
    varies = total > 1e-12 * np.square(truth).sum(axis=0)
    if not varies.any():
        return np.full(len(found), np.nan)
    quality: Float64 = 1 - (np.square(errors).sum(axis=1)[:, varies] / total[varies]).mean(axis=1)
    return quality


def best_k(X: Float32, tables: Sequence[Float32], candidates: Sequence[int], device: str) -> list[int]:
    """For each table [N, K] the candidate k whose leave-one-out means have the best R^2; the smallest of equals.

    Leaving one out does not depend on the order of the queries, as folds do. Of many queries an even selection is
    scored.
    """
    candidates = [k for k in candidates if k < len(X)] or [1]
    rules: list[Rule] = [(k, "uniform") for k in candidates]
    rows = np.linspace(0, len(X) - 1, min(len(X), SCORED)).astype(np.int64)
    found = local_means(X[rows], X, np.concatenate(tables, axis=1), rules, device, own=rows)
    chosen = []
    for means, T in zip(np.split(found, len(tables), axis=2), tables, strict=True):
        quality = r_squared(means, T[rows])
        chosen.append(candidates[-1 if np.isnan(quality).all() else int(np.nanargmax(quality))])
    return chosen


class Memory:
    """Training queries with their labels and costs: P and C by neighbours, for all variants of a router at once."""

    def __init__(self, X: Float32, Y: Float32, C: Float32 | None, device: str) -> None:
        self.X = X  # [N, d] unit rows
        self.Y = Y  # [N, K] labels, NaN = not observed
        self.C = C  # [N, K] US dollars, NaN = unknown
        self.device = device

    def best(self, candidates: Sequence[int]) -> tuple[int, int]:
        """`best_k` for labels and for costs, which without costs means nothing."""
        tables = [self.Y] if self.C is None else [self.Y, self.C]
        chosen = best_k(self.X, tables, candidates, self.device)
        return chosen[0], chosen[-1]

    def scores(self, queries: Queries, rules: Sequence[Rule]) -> Float32:
        """P [V, B, K], mean labels; a model never observed gets the pool's mean."""
        return self._filled(local_means(queries.unit, self.X, self.Y, rules, self.device))

    def costs(self, queries: Queries, rules: Sequence[Rule]) -> Float32 | list[None]:
        """C [V, B, K], mean costs in US dollars; NaN for a model without any. None each where there are none."""
        if self.C is None:
            return [None] * len(rules)
        return local_means(queries.unit, self.X, self.C, rules, self.device)

    def left_out_scores(self, rule: Rule) -> Float32:
        """[N, K], as `scores` of the training queries, each without itself."""
        own = np.arange(len(self.X))
        result: Float32 = self._filled(local_means(self.X, self.X, self.Y, [rule], self.device, own=own))[0]
        return result

    def _filled(self, found: Float32) -> Float32:
        np.copyto(found, model_means(self.Y), where=np.isnan(found))
        return found
