"""The blocks `holes` and `prices` of a result: what is known in spite of missing labels and prices, and what is not.

`holes` stands beside every result on a table whose test labels are not all there (rph.holes says which kinds of hole there
are). Everything in it is a function of its arrays and of those of the core, so that it can be computed again. `prices`
stands beside one on a table that has prices of some models and not of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rph.holes import REASONS, Bounds, Mask, best_policy, bounds, chosen, policy
from rph.results import metrics
from rph.results.cell import CellResult, Record
from rph.results.utility import CostScale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import RoutingDataset, SplitName

    Arrays = Mapping[str, NDArray[Any]]
    Float64 = NDArray[np.float64]
    Int64 = NDArray[np.int64]

NAME, PRICES = "holes", "prices"
SURE = 0.02  # a share of the gap closed whose bounds lie further apart than this is not known
OBSERVED, BLOCK, HOLE = 0, 1, 2  # of `cells`; from HOLE on it is HOLE + the place of its reason in REASONS
UNASKED = HOLE + REASONS.index("planned")
# S seeds, N test queries, K models; labels and routes of the chosen, the floor's label and the best one are of the core.
ARRAYS = {
    "cells": ("uint8", "NK"),  # OBSERVED, BLOCK, or which other hole
    "weight": ("float32", "SN"),  # what each choice counts; 0: by plan it was not asked
    "floor_route": ("uint16", "N"),  # the best single model, or the next in level where it is not in the pool
    "floor_weight": ("float32", "N"),
    "control_route": ("uint16", "N"),  # of metrics.knowing
    "control": ("float32", "N"),  # its label
}


class Range(Record):
    """A number with the missing labels counted for the worst, and for the best."""

    low: float
    high: float


class Holes(Record):
    """What the missing labels of the test split leave open. Ranges count them 0 and 1.

    What a plan left out is in the oracle's upper end alone: of a choice it is in neither.
    """

    tasks_known: bool  # False: no query has a task, so that blocks cannot be told from other holes
    cells: dict[str, int]  # test cells: observed, block, planned, and for the others the reason or "unknown"
    small_pools: int  # test queries with fewer than two models in their pool: there is nothing to route
    model_coverage: tuple[float, ...]  # share of the test queries on which each model was observed
    accuracy: Range | None  # mean over seeds
    per_seed: tuple[Range | None, ...]
    best_single: Range | None
    oracle: Range | None
    gain: Range | None  # accuracy - best single, query by query: the same choice is 0
    gap_closed: Range | None  # gain / (oracle - best single); None: there may be no gap
    control: Range | None  # of a route that knows which labels are missing
    control_gain: Range | None  # control - best single


def draw(dataset: RoutingDataset, routes: Int64) -> dict[str, NDArray[Any]] | None:
    """The block's arrays for the routes [S, N] of a cell; None where every test label that can be chosen is there."""
    Y, mask = dataset.test.labels, dataset.mask("test")
    if not np.isnan(Y).any() and mask.pool is None:
        return None
    reasons = np.zeros(Y.shape, np.uint8) if dataset.test.reasons is None else dataset.test.reasons
    cells = np.where(np.isnan(Y), HOLE + reasons, OBSERVED)
    if mask.weight is not None:
        cells = np.where(np.isnan(Y) & (mask.weight == 0), UNASKED, np.where(cells == UNASKED, HOLE, cells))
    if mask.pool is not None:
        cells = np.where(mask.pool, cells, BLOCK)
    floor = metrics.floor_route(dataset)
    control = metrics.knowing(Y, dataset.level, mask.pool)
    ones = np.ones(len(Y))
    weights = [ones if mask.weight is None else chosen(mask.weight, route) for route in (*routes, floor)]
    return {
        "cells": cells.astype(np.uint8),
        "weight": np.stack(weights[:-1]).astype(np.float32),
        "floor_route": floor.astype(np.uint16),
        "floor_weight": weights[-1].astype(np.float32),
        "control_route": control.astype(np.uint16),
        "control": chosen(Y, control).astype(np.float32),
    }


def record(arrays: Arrays, *, tasks_known: bool) -> Holes:
    """What all arrays of a result's npz say; `tasks_known`: whether its queries have tasks."""
    mine = {name: arrays[f"{NAME}/{name}"] for name in ARRAYS}
    cells, best = mine["cells"], arrays["best"]
    floor = Line(arrays["floor"], mine["floor_route"], mine["floor_weight"])
    control = Line(mine["control"], mine["control_route"], control_weight(mine))
    lines = [Line(*one) for one in zip(arrays["labels"], arrays["routes"], mine["weight"], strict=True)]
    per_seed = [_range(bounds(line.labels, line.weight)) for line in lines]
    gain = mean_difference(lines, floor)
    return Holes(
        tasks_known=tasks_known,
        cells=_counts(cells),
        small_pools=int(((cells != BLOCK).sum(axis=1) < 2).sum()),
        model_coverage=tuple(float(share) for share in (cells == OBSERVED).mean(axis=0)),
        accuracy=_mean(per_seed),
        per_seed=tuple(per_seed),
        best_single=_range(bounds(floor.labels, floor.weight)),
        oracle=_oracle(best, cells),
        gain=gain,
        gap_closed=_share(gain, _gap(best, cells, floor)),
        control=_range(bounds(control.labels, control.weight)),
        control_gain=difference(control, floor),
    )


def make(dataset: RoutingDataset, arrays: Arrays) -> Holes | None:
    """The block, where the cell has its arrays."""
    if f"{NAME}/cells" not in arrays:
        return None
    return record(arrays, tasks_known=any(dataset.test.tasks))


def wrong(models: Sequence[str], arrays: Arrays) -> Iterator[str]:
    """What no cell of these models can have in the block's arrays: kinds, routes and weights that there are not."""
    if (arrays[f"{NAME}/cells"] >= HOLE + len(REASONS)).any():
        yield f"{NAME}/cells has a kind of hole that there is not"
    for name in ("floor_route", "control_route"):
        if (arrays[f"{NAME}/{name}"] >= len(models)).any():
            yield f"{NAME}/{name} leads to no model: there are {len(models)}"
    for name in ("weight", "floor_weight"):
        weight = arrays[f"{NAME}/{name}"]
        if not (np.isfinite(weight) & (weight >= 0)).all():
            yield f"{NAME}/{name} holds what is no weight"


def recomputed(result: CellResult, arrays: Arrays) -> Holes:
    """The block of a result again, of all arrays of its npz."""
    return record(arrays, tasks_known=bool(result.blocks[NAME]["tasks_known"]))


def control_weight(mine: Arrays) -> NDArray[np.float32]:
    """[N] what the control's choices count: it takes what was observed, so each 1 but for a query of which nothing was asked."""
    cell = np.take_along_axis(mine["cells"], mine["control_route"].astype(np.int64)[:, None], axis=1)[:, 0]
    return np.where(cell == UNASKED, 0, 1).astype(np.float32)


class Line:
    """What one seed, or a row that no router decides, chose: all [N]."""

    def __init__(self, labels: Any, route: Any, weight: Any) -> None:
        self.labels, self.route, self.weight = labels.astype(np.float64), route, weight.astype(np.float64)


def difference(a: Line, b: Line) -> Range | None:
    """The accuracy of a less that of b, per query: missing labels for the worst and the best of a, the same choice 0."""
    if not a.weight.any() or not b.weight.any():
        return None
    of_a, of_b = a.weight / a.weight.sum(), b.weight / b.weight.sum()
    same = a.route == b.route  # a missing label of both is one label, of which each has its own share

    def least(one: Float64, share: Float64, other: Float64, other_share: Float64) -> float:
        low = np.where(np.isnan(one), same & (share < other_share), one)
        high = np.where(np.isnan(other), np.where(same, low, 1), other)
        return float((share * low - other_share * high).sum())

    return Range(low=least(a.labels, of_a, b.labels, of_b), high=0 - least(b.labels, of_b, a.labels, of_a))


def top(best: NDArray[Any], cells: NDArray[np.uint8]) -> Float64:
    """[N] the best label that a pool may hold: 1 where one of its labels is missing."""
    found: Float64 = np.where((cells >= HOLE).any(axis=1), 1.0, best.astype(np.float64))
    return found


def _oracle(best: NDArray[Any], cells: NDArray[np.uint8]) -> Range:
    return Range(low=float(np.nan_to_num(best).mean(dtype=np.float64)), high=float(top(best, cells).mean()))


def _gap(best: NDArray[Any], cells: NDArray[np.uint8], floor: Line) -> Range:
    """Oracle - best single, per query: where the floor's label is missing it may be the best there is."""
    at_least = np.where(np.isnan(floor.labels), 0, best - floor.labels)
    at_most = top(best, cells) - np.nan_to_num(floor.labels)
    return Range(low=float(at_least.mean()), high=float(at_most.mean()))


def mean_difference(lines: Sequence[Line], floor: Line) -> Range | None:
    """`difference` of seeds to a row, mean over seeds."""
    return _mean([difference(line, floor) for line in lines])


def share_closed(
    lines: Sequence[Line], floor: Line, best: NDArray[Any], cells: NDArray[np.uint8]
) -> Range | None:
    """What seeds close, in the mean, of the gap between a row and the oracle; None: there may be no gap."""
    return _share(mean_difference(lines, floor), _gap(best, cells, floor))


def _share(gain: Range | None, gap: Range) -> Range | None:
    if gain is None or not gap.low > 0:
        return None
    return Range(
        low=gain.low / (gap.high if gain.low > 0 else gap.low),
        high=gain.high / (gap.low if gain.high > 0 else gap.high),
    )


def sure(holes: Record | None) -> bool:
    """Whether a share of the gap closed may be given beside this block."""
    return narrow(holes.gap_closed) if isinstance(holes, Holes) else True


def narrow(share: Range | None) -> bool:
    """Whether the bounds of a share lie no further apart than SURE."""
    return share is not None and share.high - share.low <= SURE


def _counts(cells: NDArray[np.uint8]) -> dict[str, int]:
    names = ("observed", "block", "unknown", *REASONS[1:])
    counts = np.bincount(cells.ravel(), minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _range(found: Bounds | None) -> Range | None:
    return None if found is None else Range(low=found.low, high=found.high)


def _mean(ranges: list[Range | None]) -> Range | None:
    known = [one for one in ranges if one is not None]
    if len(known) < len(ranges):
        return None
    return Range(
        low=float(np.mean([one.low for one in known])), high=float(np.mean([one.high for one in known]))
    )


# --- prices ------------------------------------------------------------------------------------------


class Prices(Record):
    """A pool of which some models have no price: cost and utility are of the others alone, for floor and oracle too."""

    unpriced: tuple[str, ...]
    queries: int  # test queries in whose pool a model has a price: the others count in none of these
    best_single_model: str  # of the models with a price
    best_single: float | None
    oracle: float | None


def make_prices(dataset: RoutingDataset, arrays: Arrays) -> Prices | None:
    """The block; None where all prices are known, and where none is."""
    scale = None if dataset.train.costs is None else CostScale.fit(dataset.train.costs)
    if scale is None or scale.priced.all():
        return None
    models, level = np.array(dataset.models)[scale.priced], dataset.level[scale.priced]
    Y, mask = _of_models(dataset, "train", scale.priced)
    best = best_policy(Y, level, mask)
    Y, mask = _of_models(dataset, "test", scale.priced)
    return Prices(
        unpriced=tuple(m for m, known in zip(dataset.models, scale.priced, strict=True) if not known),
        queries=len(Y),
        best_single_model=str(models[best]),
        best_single=metrics.accuracy(policy(best, level, mask.pool, len(Y)), Y, mask).value,
        oracle=metrics.oracle(Y, mask).value,
    )


def _of_models(
    dataset: RoutingDataset, split: SplitName, kept: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], Mask]:
    """Labels and mask of some models, for the queries that have one of them in their pool."""
    mask, Y = dataset.mask(split), getattr(dataset, split).labels
    queries = np.full(len(Y), True) if mask.pool is None else (mask.pool & kept).any(axis=1)
    cells = np.ix_(queries, kept)
    return Y[cells], Mask(
        None if mask.pool is None else mask.pool[cells],
        None if mask.weight is None else mask.weight[cells],
    )


def without_utility(result: CellResult) -> str | None:
    """Why a result has no utility at all, as `no costs`; None: it has one."""
    if result.utility is not None:
        return None
    costs = result.reference.model_cost or (None,) * len(result.models)
    unknown = [model for model, cost in zip(result.models, costs, strict=True) if cost is None]
    if len(unknown) == len(costs):
        return "no costs"
    return f"no price is known of {', '.join(unknown)}" if unknown else "no cost is known on train"


def priced_pool(result: CellResult) -> str | None:
    """What cost and utility are over, where some models have no price; None: they are over all models."""
    if PRICES not in result.blocks:
        return None
    found = Prices.model_validate(result.blocks[PRICES])
    best, oracle = (
        "n/a" if value is None else f"{100 * value:.2f} %" for value in (found.best_single, found.oracle)
    )
    queries = f" on {found.queries} of {result.n_test} queries" if found.queries < result.n_test else ""
    return (
        f"No price is known of {', '.join(found.unpriced)}: cost, utility and cost curves are of choices among the other"
        f" {len(result.models) - len(found.unpriced)} models{queries}, of which the best single is"
        f" {found.best_single_model}, {best}; oracle {oracle}."
    )


# --- in words ----------------------------------------------------------------------------------------


def of(result: CellResult) -> Holes | None:
    """The block of a result; None where no label is missing."""
    return Holes.model_validate(result.blocks[NAME]) if NAME in result.blocks else None


def notes(result: CellResult) -> Iterator[str]:
    """What a reader of a board must know of the missing labels and prices behind it, a line each."""
    if (holes := of(result)) is not None:
        yield from _of_labels(holes)
    elif result.coverage < 1:
        yield "Of what was chosen, labels are missing; this result says no more of them (before rph-result/3)."
    if (over := priced_pool(result)) is not None:
        yield over


def _of_labels(holes: Holes) -> Iterator[str]:
    total = sum(holes.cells.values())
    kinds = ", ".join(f"{kind} {count / total:.1%}" for kind, count in holes.cells.items())
    yield f"Labels of the test split: {kinds}."
    if "block" in holes.cells:
        yield "block: a model that was not run on a task is not in that task's pool, for nobody: router, best single, oracle."
    if "planned" in holes.cells:
        yield "planned: by a plan not asked. Values are means over what was asked, each weighted by 1 / share asked."
    if not holes.tasks_known:
        yield (
            "No query has a task, so that models never run on a task cannot be told from failed calls: all count as "
            "failed. A column `task` tells them apart."
        )
    if holes.small_pools:
        yield f"{holes.small_pools:,} test queries have fewer than two models in their pool: there is nothing to route."
    few = [share for share in holes.model_coverage if share < 1]
    if few:
        yield (
            f"{len(few)} of {len(holes.model_coverage)} models were not observed on every test query (the least on "
            f"{min(few):.0%}): their own accuracies are over different queries."
        )
