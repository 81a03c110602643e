"""Missing labels: three kinds of hole, told apart and treated apart. Everything that reads labels asks here.

Block: in a task, a model was not run at all. It is known from the train split alone (or said in bench.yaml), so the model
is not in that task's pool, and every chooser stays in the pool: router, best single, random, Bayes, oracle.

Planned: a plan drawn before any answer says which cells were asked. What was asked is a fair sample of what was not, so a
choice that was not asked is left out, and one that was counts 1 / share asked of its (task, model).

Any other: a call that failed, an answer that is empty, cut or could not be scored, or a label that is missing for a reason
nobody knows. It may well depend on the answer. Beside a value stand its bounds, with these labels counted 0 and 1, and
whatever is decided (selection on val, checkpoints, best single, order) goes by the lower one.

Letters: N queries, K models. Labels `Y [N, K]` are in [0, 1], NaN = missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from rph.lazy import np, torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Float32 = NDArray[np.float32]
    Float64 = NDArray[np.float64]
    Int64 = NDArray[np.int64]
    Bool = NDArray[np.bool_]

Cell = tuple[str, str]  # a task and a model
SUPPORT = 20  # train queries that a task needs before a model without a label there is a block
# What a column `hole/<model>` may say; the place of each is its code in `Split.reasons`. "" says nothing.
REASONS = ("", "planned", "failed", "empty", "cut", "unscored")
PLANNED = REASONS.index("planned")


@dataclass(frozen=True, kw_only=True)
class Holes:
    """What the makers of a benchmark say of its missing labels."""

    planned: bool = False  # those without a reason of their own were never asked, by a plan drawn beforehand
    blocks: frozenset[Cell] = frozenset()  # a model that was not run on a task
    # Share of a task's queries that a model was asked.
    plan: Mapping[Cell, float] = field(default_factory=dict)
    settled: bool = False  # `blocks` are all there are: found on the whole table, of which this is a part


def said(holes: Holes) -> list[Any]:
    """All that is said of missing labels, in one order, as JSON holds it."""
    plan = sorted((*cell, float(share)) for cell, share in holes.plan.items())
    return [holes.planned, sorted(holes.blocks), plan, holes.settled]


class Mask(NamedTuple):
    """What may be chosen of a split, and how much a choice counts. Known of val and test too, so no router sees it there."""

    pool: Bool | None = None  # [N, K] False: a block; None: all models are in every pool
    weight: Float32 | None = None  # [N, K] 0: planned and not asked; None: each choice counts 1


DENSE = Mask()


class Bounds(NamedTuple):
    """A mean with the missing labels counted 0, and counted 1."""

    low: float
    high: float


# --- which cells are which ---------------------------------------------------------------------------


def found_blocks(tasks: Sequence[str], models: Sequence[str], Y: Floats) -> frozenset[Cell]:
    """The blocks of a train split: in a task of at least SUPPORT queries, a model without any label.

    A task on which no model has a label has none, nor have queries without a task: there is nothing to tell by.
    """
    names, codes = _codes(tasks)
    queries, labels = _per_task(codes, len(names), np.asarray(~np.isnan(Y)))
    told = (queries >= SUPPORT) & labels.any(axis=1)  # [tasks]
    empty = np.argwhere((labels == 0) & told[:, None]).tolist()
    return frozenset((names[t], models[m]) for t, m in empty if names[t])


def pool_of(tasks: Sequence[str], models: Sequence[str], blocks: Iterable[Cell]) -> Bool | None:
    """[N, K] which models are in each query's pool; None where all are in all."""
    out: dict[str, set[str]] = {}
    for task, model in blocks:
        out.setdefault(task, set()).add(model)
    names, codes = _codes(tasks)
    table = np.array([[model not in out.get(name, ()) for model in models] for name in names], np.bool_)
    pool: Bool = table.reshape(len(names), len(models))[codes]
    return None if table.all() else pool


def planned_cells(Y: Floats, reasons: NDArray[np.uint8] | None, planned: bool) -> Bool:
    """[N, K] which labels are missing by plan: those that say so and, on a planned table, those that say nothing."""
    said = np.zeros(Y.shape, np.uint8) if reasons is None else reasons
    unasked: Bool = np.isnan(Y) & ((said == PLANNED) | (planned & (said == 0)))
    return unasked


def weight_of(
    tasks: Sequence[str],
    models: Sequence[str],
    Y: Floats,
    reasons: NDArray[np.uint8] | None,
    holes: Holes,
) -> Float32 | None:
    """[N, K] what each choice counts: 1 / share asked of its (task, model), 0 where it was not asked; None: all count 1.

    The share is the plan's, where it gives one, else that of these queries. A (task, model) of which nothing was asked
    here has no fair sample: its labels are missing as any other, and count 1.
    """
    unasked = planned_cells(Y, reasons, holes.planned)
    if (pool := pool_of(tasks, models, holes.blocks)) is not None:
        unasked &= pool
    if not unasked.any():
        return None
    names, codes = _codes(tasks)
    queries, left_out = _per_task(codes, len(names), unasked)
    share = 1 - left_out / np.maximum(queries, 1)[:, None]  # [tasks, K]
    never = share == 0
    for (task, model), planned in holes.plan.items():
        if task in names and model in models:
            share[names.index(task), models.index(model)] = planned
    weight = np.divide(1, share, out=np.ones_like(share), where=(share > 0) & ~never)[codes]
    found: Float32 = np.where(unasked & ~never[codes], 0, weight).astype(np.float32)
    return found


def _codes(tasks: Sequence[str]) -> tuple[list[str], Int64]:
    """The tasks' names, sorted, and the place of each query's [N]."""
    names = sorted(set(tasks))
    place = {name: i for i, name in enumerate(names)}
    return names, np.array([place[task] for task in tasks], np.int64)


def _per_task(codes: Int64, tasks: int, cells: Bool) -> tuple[Int64, Int64]:
    """Queries of each task [tasks], and how many of its cells are set, per model [tasks, K]."""
    counts = np.zeros((tasks, cells.shape[1]), np.int64)
    np.add.at(counts, codes, cells)
    return np.bincount(codes, minlength=tasks).astype(np.int64), counts


# --- what a choice earns -----------------------------------------------------------------------------


def lower(labels: Any, weight: Any = None) -> Any:
    """Mean over the last axis of the labels [..., N] of what was chosen, missing ones counted 0: what decisions go by.

    Arrays and tensors alike, so that a selection on val and the checkpoints of a head go by one measure. `weight` [..., N]
    as of `Mask`; NaN where nothing counts.
    """
    earned = np.nan_to_num(labels) if isinstance(labels, np.ndarray) else torch.nan_to_num(labels)
    if weight is None:
        return earned.sum(-1) / earned.shape[-1]  # bit for bit nanmean; CUDA's mean multiplies by 1 / N
    return (earned * weight).sum(-1) / weight.sum(-1)


def bounds(labels: Floats, weight: Floats | None = None) -> Bounds | None:
    """The bounds of a mean of labels [N] of what was chosen; None where nothing counts."""
    if not len(labels) or (weight is not None and not weight.any()):
        return None
    highest = np.where(np.isnan(labels), 1, labels)
    exact = None if weight is None else weight.astype(np.float64)
    return Bounds(
        float(lower(labels.astype(np.float64), exact)), float(lower(highest.astype(np.float64), exact))
    )


def chosen(table: Floats | None, route: Int64) -> Any:
    """table [N, K] at each query's chosen model: [N] float64; None stays None."""
    return None if table is None else table[np.arange(len(route)), route].astype(np.float64)


# --- choosing without looking at the query -----------------------------------------------------------


def preference(level: Floats) -> Int64:
    """Models from the first to the last in a tie: higher level, then lower index; NaN is last."""
    order: Int64 = np.argsort(np.where(np.isnan(level), np.inf, -level), kind="stable")
    return order


def policy(model: int, level: Floats, pool: Bool | None, n: int) -> Int64:
    """[n] the route "this model where it is in the pool, else the next in level"."""
    if pool is None:
        return np.full(n, model, np.int64)
    return np.where(pool[:, model], model, first_of(preference(level), pool))


def first_of(order: Int64, pool: Bool) -> Int64:
    """[N] the first model of an order that is in each query's pool."""
    found: Int64 = order[pool[:, order].argmax(axis=1)]
    return found


def best_policy(Y: Floats, level: Floats, mask: Mask = DENSE) -> int:
    """The model whose `policy` is best by the lower bound; ties go by level. On a dense table the best mean label.

    A label that is missing earns nothing, so that one good label makes no best model. A model that is in no pool is none.
    """
    order = models = preference(level)
    earned = np.nan_to_num(Y.astype(np.float64))
    counted = np.ones_like(earned) if mask.weight is None else mask.weight.astype(np.float64)
    earned *= counted
    if mask.pool is not None:
        models = order[np.asarray(mask.pool.any(axis=0))[order]]
        other = first_of(order, mask.pool)[:, None]
        earned, counted = (
            np.where(mask.pool, table, np.take_along_axis(table, other, axis=1))
            for table in (earned, counted)
        )
    total = counted.sum(axis=0)
    values = np.divide(earned.sum(axis=0), total, out=np.zeros(len(order)), where=total > 0)
    return int(models[values[models].argmax()])
