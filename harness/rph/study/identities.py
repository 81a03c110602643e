"""Which routers are the same function under frozen embeddings: routes that differ and scores that agree, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rph.errors import UsageError
from rph.results import metrics

if TYPE_CHECKING:
    from rph.arrays import Float64
    from rph.engine.evaluate import Finished


@dataclass(frozen=True, kw_only=True)
class Identities:
    """How alike R routers are on the test queries of one (benchmark, encoder).

    In the order of a clustering: routers that route alike stand together. The first seed of each result is read.
    """

    bench: str
    encoder: str
    routers: tuple[str, ...]
    correlation: Float64  # [R, R] Spearman, of scores less the query's mean; NaN for a router without order
    disagreement: Float64  # [R, R] share of the queries that two routers send to different models


def identities(cells: Sequence[Finished]) -> list[Identities]:
    """Pairwise likeness of the routers of each (benchmark, encoder) among the cells.

    Raises UsageError where a pair has fewer than two routers.
    """
    groups: dict[tuple[str, str], list[Finished]] = {}
    for cell in cells:
        groups.setdefault((cell.result.bench, cell.result.encoder), []).append(cell)
    return [_identities(*pair, group) for pair, group in groups.items()]


def _identities(bench: str, encoder: str, cells: Sequence[Finished]) -> Identities:
    if len(cells) < 2:
        raise UsageError(
            f"{bench} x {encoder} has one finished router",
            why="identities compare routers with one another",
            fix="give --router twice or more, or all",
        )
    scores = [cell.test_scores()[0] for cell in cells]
    routes = [cell.routes()[0] for cell in cells]
    disagreement = np.array([[metrics.disagreement(a, b) for b in routes] for a in routes])
    order = clustered(disagreement)
    return Identities(
        bench=bench,
        encoder=encoder,
        routers=tuple(cells[i].result.router for i in order),
        correlation=metrics.score_correlation([scores[i] for i in order]),
        disagreement=disagreement[np.ix_(order, order)],
    )


def clustered(distances: Float64) -> list[int]:
    """The leaves of an average-linkage clustering, in the order that puts neighbours closest together."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(distances, checks=False), method="average", optimal_ordering=True)
    order: list[int] = leaves_list(tree).tolist()
    return order
