"""Exact cosine neighbours: one search that every neighbour-based router shares.

Neighbours are ordered by cosine, highest first, and equal cosines by train row, lowest first. So the first k
of a longer search are exactly what a search for k returns, also where train rows repeat: one search with the
largest k serves a whole grid.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from rph.arrays import to_device
from rph.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from rph.api import Float32

__all__ = ["nearest", "nearest_others"]

BLOCK = 256  # queries searched at once: bounds memory at BLOCK * N cosines; measured fastest of 32 to 512
LOWEST = 4  # height of a block in `blocks_for`
TIED = 32  # queries whose tied cosines are settled at once: bounds memory at TIED * N

_height = ContextVar("height of a block", default=BLOCK)


@contextlib.contextmanager
def blocks_for(queries: int) -> Iterator[None]:
    """Search, in this thread, in blocks no higher than there are queries, to the next power of two.

    A search fills its block of 256 up with zeros, which makes one query cost as much as 256: 31 ms with 20,000
    train rows, where 4 rows take 5. The height moves a cosine by rounding at most; where it was measured, on one
    kind of processor with one thread, heights from 4 on gave the same bits, and lower ones did not. So this is for
    a router at work; results are measured in blocks of one height.
    """
    before = _height.set(min(BLOCK, max(LOWEST, 1 << (queries - 1).bit_length())))
    try:
        yield
    finally:
        _height.reset(before)


def nearest(queries: Float32, train: Float32, k: int, device: str) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """For each block of queries: its slice, the train rows of its k nearest [b, k], and their cosines [b, k].

    `queries` [B, d] and `train` [N, d] have unit rows (`Queries.unit`): their products are cosines.
    k is clipped to N here: the last axis has min(k, N) entries.
    """
    N, d = train.shape
    k = min(k, N)
    height = _height.get()
    columns = to_device(train, device).T  # [d, N]
    cosines = torch.empty((height, N), device=device)
    # Every product has this one shape, the last block's too (its surplus rows are not read): a matrix
    # product of another height may round differently, and a query's neighbours would depend on its batch.
    block = torch.zeros((height, d), device=device)
    for start in range(0, len(queries), height):
        part = to_device(queries[start : start + height], device)
        block[: len(part)] = part
        torch.mm(block, columns, out=cosines)
        yield slice(start, start + len(part)), *_top(cosines[: len(part)], k)


def nearest_others(X: Float32, k: int, device: str) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """As `nearest` of the rows of X [N, d] among X, each without itself: k is clipped to N - 1."""
    for block, rows, cosines in nearest(X, X, k + 1, device):
        own = torch.arange(block.start, block.stop, device=rows.device)[:, None]
        drop = rows == own
        drop[:, -1] |= ~drop.any(dim=1)  # equal rows kept it from the list: the last one goes
        kept = (len(rows), rows.shape[1] - 1)
        yield block, rows[~drop].view(kept), cosines[~drop].view(kept)


def _top(cosines: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Places [b, k] and values [b, k] of the k largest in each row of cosines [b, N], ties by lower place."""
    values, rows = torch.topk(cosines, min(k + 1, cosines.shape[1]))  # one more shows a tie at the edge
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1).nonzero()[:, 0]
    for some in torch.split(tied, TIED):
        rows[some, :k] = _settled(cosines[some], values[some, :k], rows[some, :k])
    return rows[:, :k], values[:, :k]


def _settled(cosines: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """The train rows [t, k] of queries with ties, as one order over (cosine, lower train row) gives them.

    `topk` leaves open which of several equal cosines it returns, and in which order.
    """
    if values.shape[1] == 0:
        return rows
    last = values[:, -1:]
    candidates = cosines == last  # [t, N]: those that share the k-th value
    places = values == last
    chosen = candidates & (candidates.cumsum(1, dtype=torch.int32) <= places.sum(1, keepdim=True))
    rows[places] = chosen.nonzero()[:, 1]
    rows, by_row = rows.sort(dim=1)
    by_cosine = values.gather(1, by_row).argsort(dim=1, descending=True, stable=True)
    return rows.gather(1, by_cosine)
