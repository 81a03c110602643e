"""The blocks `tasks` and `languages` of a result: accuracy where the queries are of one kind.

Beside the router stands "best model per task, chosen on train": it reads the name of a query's task and nothing of the query,
and takes the model that was best on the task's train queries. What a router gains over the best single model and not over
this row is coarse structure alone.

Every number is a function of the block's arrays and of those of the core and of `holes`, so that it can be computed again.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rph.arrays import level
from rph.holes import Mask, best_policy, bounds, chosen, policy
from rph.results import metrics, missing
from rph.results.cell import CellResult, Record
from rph.results.missing import Line, Range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import RoutingDataset

    Arrays = Mapping[str, NDArray[Any]]
    Int64 = NDArray[np.int64]

NAME, LANGUAGES = "tasks", "languages"
ROW = "best model per task, chosen on train"
MOST = 1000  # a column with more values on test names queries, not kinds of them
# N test queries. A task stands as a digest of its name, so that a name in the record is one of the benchmark's.
ARRAYS = {
    "task": ("uint64", "N"),
    "best_route": ("uint16", "N"),  # the model's place in CellResult.models
    "best": ("float32", "N"),  # its label; NaN: not observed
    "best_weight": ("float32", "N"),  # what the choice counts; 0: by plan it was not asked
}
LANGUAGE_ARRAYS = {"language": ("uint64", "N")}


class Accuracy(Record):
    """An accuracy, of a router the mean over seeds; None: unknown."""

    value: float | None  # over what was observed
    low: float | None  # with the missing labels of what was chosen counted 0
    high: float | None  # and counted 1

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The two ends; None: unknown."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class Kind(Record):
    """The test queries of one task or language."""

    name: str  # "": it is not known
    n_test: int
    router: Accuracy
    best_single: Accuracy
    oracle: float | None


class Task(Kind):
    """The test queries of one task, and what is chosen for all of them on train."""

    best_per_task: Accuracy
    model: str  # that of `best_per_task`


class Tasks(Record):
    """Accuracy per task, and the row that knows the task and nothing else."""

    tasks: tuple[Task, ...]  # by name
    router: Accuracy  # over all test queries, as the next two
    best_single: Accuracy
    best_per_task: Accuracy
    gain: Range | None  # router - best_per_task, query by query: the same choice is 0
    gap_closed: float | None  # beyond it: (router - it) / (oracle - it); None as CellResult.gap_closed


class Languages(Record):
    """Accuracy per language."""

    languages: tuple[Kind, ...]  # by name


def of(result: CellResult) -> Tasks | None:
    """What a result says of its tasks; None: they are not known, or it is of a version that did not ask."""
    return Tasks.model_validate(result.blocks[NAME]) if NAME in result.blocks else None


def languages_of(result: CellResult) -> Languages | None:
    """What a result says of its languages, as `of`."""
    return Languages.model_validate(result.blocks[LANGUAGES]) if LANGUAGES in result.blocks else None


def line(arrays: Arrays) -> Line | None:
    """What the row chose for each test query, of all arrays of a result's npz; None: it has no such row."""
    if f"{NAME}/best" not in arrays:
        return None
    return Line(*(arrays[f"{NAME}/{name}"] for name in ("best", "best_route", "best_weight")))


# --- the row -----------------------------------------------------------------------------------------


def best_per_task(dataset: RoutingDataset) -> Int64:
    """[N] for each test query the best single model of its task: chosen as that of the table is, on the task's train queries.

    Where no train query with a label has the task, or it is not known, that of the table.
    """
    train, test = dataset.train, dataset.test
    labelled = ~np.isnan(train.labels).all(axis=1)
    of_train, of_test = np.array(train.tasks, object), np.array(test.tasks, object)
    route = metrics.floor_route(dataset)
    for task in set(test.tasks) - {""}:
        learned, asked = labelled & (of_train == task), of_test == task
        if learned.any():
            Y = train.labels[learned]
            model = best_policy(Y, level(Y), _rows(dataset.mask("train"), learned))
            route[asked] = policy(model, level(Y), _rows(dataset.mask("test"), asked).pool, int(asked.sum()))
    return route


def _rows(mask: Mask, which: NDArray[np.bool_]) -> Mask:
    pool, weight = mask
    return Mask(None if pool is None else pool[which], None if weight is None else weight[which])


# --- the blocks --------------------------------------------------------------------------------------


def draw(dataset: RoutingDataset, routes: Int64) -> dict[str, NDArray[Any]] | None:
    """The arrays of `tasks`; None where no test query has a task, or the tasks are more than MOST."""
    digests = _digests(dataset.test.tasks)
    if digests is None:
        return None
    route, mask = best_per_task(dataset), dataset.mask("test")
    weight = np.ones(len(route)) if mask.weight is None else chosen(mask.weight, route)
    return {
        "task": digests,
        "best_route": route.astype(np.uint16),
        "best": chosen(dataset.test.labels, route).astype(np.float32),
        "best_weight": weight.astype(np.float32),
    }


def draw_languages(dataset: RoutingDataset, routes: Int64) -> dict[str, NDArray[Any]] | None:
    """The array of `languages`; None as for `draw`."""
    digests = _digests(dataset.test.languages)
    return None if digests is None else {"language": digests}


def make(dataset: RoutingDataset, arrays: Arrays) -> Tasks | None:
    """The block `tasks`, where the cell has its arrays."""
    if f"{NAME}/task" not in arrays:
        return None
    return _tasks(dataset.test.tasks, dataset.models, arrays)


def make_languages(dataset: RoutingDataset, arrays: Arrays) -> Languages | None:
    """The block `languages`, where the cell has its array."""
    if f"{LANGUAGES}/language" not in arrays:
        return None
    return _languages(dataset.test.languages, arrays)


def recomputed(result: CellResult, arrays: Arrays) -> Tasks:
    """The block `tasks` of a result again, of all arrays of its npz: those of the claimed names that are there."""
    claimed = Tasks.model_validate(result.blocks[NAME])
    return _tasks([task.name for task in claimed.tasks], result.models, arrays)


def recomputed_languages(result: CellResult, arrays: Arrays) -> Languages:
    """The block `languages` again, as `recomputed`."""
    claimed = Languages.model_validate(result.blocks[LANGUAGES])
    return _languages([one.name for one in claimed.languages], arrays)


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "little")


def _digests(names: Sequence[str]) -> NDArray[np.uint64] | None:
    """The digest of each query's task or language [N]; None where there are too many of them, or none is known."""
    known = {name: _digest(name) for name in set(names)}
    if not any(known) or len(known) > MOST:
        return None
    return np.array([known[name] for name in names], np.uint64)


def _tasks(names: Iterable[str], models: Sequence[str], arrays: Arrays) -> Tasks:
    rows = _Rows(arrays)
    row = line(arrays)
    assert row is not None  # the arrays of a block are there together
    model_of = dict(enumerate(models))  # a claimed route may lead to none
    whole, best = rows.accuracy(rows.seeds), rows.accuracy([row])
    share = None if rows.cells is None else missing.share_closed(rows.seeds, row, rows.best, rows.cells)
    sure = rows.cells is None or missing.narrow(share)
    return Tasks(
        tasks=tuple(
            Task(
                **rows.kind(name, of_task),
                best_per_task=rows.accuracy([row], of_task),
                model=model_of.get(int(row.route[of_task][0]), ""),
            )
            for name, of_task in _each(names, arrays[f"{NAME}/task"])
        ),
        router=whole,
        best_single=rows.accuracy([rows.floor]),
        best_per_task=best,
        gain=missing.mean_difference(rows.seeds, row),
        gap_closed=metrics.gap_closed(whole.value, best.value, rows.oracle()) if sure else None,
    )


def _languages(names: Iterable[str], arrays: Arrays) -> Languages:
    rows = _Rows(arrays)
    each = _each(names, arrays[f"{LANGUAGES}/language"])
    return Languages(languages=tuple(Kind(**rows.kind(name, which)) for name, which in each))


def _each(names: Iterable[str], digests: NDArray[np.uint64]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """(name, which queries [N]) by name; at last those of no name, so that a claim without it does not hold."""
    nameless = np.ones(len(digests), np.bool_)
    for name in sorted(set(names)):
        which = digests == np.uint64(_digest(name))
        if which.any():
            nameless &= ~which
            yield name, which
    if nameless.any():
        yield "", nameless


ALL: Any = slice(None)


class _Rows:
    """What the seeds and the rows that no router decides got on test, as far as the core and `holes` hold it."""

    def __init__(self, arrays: Arrays) -> None:
        labels, routes, floor = arrays["labels"], arrays["routes"], arrays["floor"]
        weights = arrays.get("holes/weight", np.ones(labels.shape))
        self.cells = arrays.get("holes/cells")
        self.best = arrays["best"]
        self.seeds = [Line(*seed) for seed in zip(labels, routes, weights, strict=True)]
        self.floor = Line(
            floor,
            arrays.get("holes/floor_route", np.zeros(len(floor))),
            arrays.get("holes/floor_weight", np.ones(len(floor))),
        )

    def oracle(self, which: Any = ALL) -> float | None:
        return metrics.mean_of(self.best[which]).value

    def kind(self, name: str, which: NDArray[np.bool_]) -> dict[str, Any]:
        """The fields of `Kind` for these queries."""
        return {
            "name": name,
            "n_test": int(which.sum()),
            "router": self.accuracy(self.seeds, which),
            "best_single": self.accuracy([self.floor], which),
            "oracle": self.oracle(which),
        }

    def accuracy(self, lines: Sequence[Line], which: Any = ALL) -> Accuracy:
        """The mean over seeds, or of the one line of another row."""
        ends = [bounds(one.labels[which], one.weight[which]) for one in lines]
        return Accuracy(
            value=_mean([metrics.mean_of(one.labels[which], one.weight[which]).value for one in lines]),
            low=_mean([None if end is None else end.low for end in ends]),
            high=_mean([None if end is None else end.high for end in ends]),
        )


def _mean(values: Sequence[float | None]) -> float | None:
    """None where any is unknown."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None
