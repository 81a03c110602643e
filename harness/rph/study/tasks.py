"""What routers gain over knowing a query's task: accuracy per task and per language, from result files.

The paper's claim that routers learn coarse structure only has its sharpest form here: a router is held against the best model of
each task, chosen on train (rph.results.tasks), which reads no query. Means over encoders and groups are those of
rph.board.sets. Results without the block, of queries without tasks or of a version that did not ask, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rph.board.sets import Group, average, averages, encoder_notes, groups
from rph.errors import UsageError
from rph.results import tasks
from rph.results.cell import DIGITS, CellResult
from rph.results.files import Entry
from rph.results.sheets import Column, Sheet, Value
from rph.results.tasks import Accuracy, Kind, Task

ROUTERS_WIDE, ROUTERS_WIDE_OPEN = 8, 4  # routers that stand beside each other in one table


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Accuracy on the test queries of each task, or of each language, on one benchmark."""

    name: str  # of the group
    what: Literal["task", "language"]
    kinds: tuple[Kind, ...]  # what no router decides; of tasks each is a Task
    routers: dict[str, tuple[Accuracy, ...]]  # router -> of each kind, mean over encoders; best router first
    notes: tuple[str, ...]

    @property
    def open(self) -> bool:
        """Whether labels of what was chosen are missing."""
        fixed = [one for kind in self.kinds for one in _fixed(kind)]
        routers = [one for of_kinds in self.routers.values() for one in of_kinds]
        return any(one.low != one.high for one in (*fixed, *routers))


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """Routers beside the row that knows the task and nothing else, on one benchmark."""

    per_task: Kinds
    oracle: float | None
    best_per_task: Accuracy  # over all test queries, as the next three
    best_single: Accuracy
    accuracy: dict[str, Accuracy]  # router -> mean over encoders; best first, by the lower bound
    gain: dict[str, tuple[float | None, float | None]]  # router - best per task, query by query: low and high
    gap_closed: dict[str, float | None]  # of what best per task leaves to the oracle

    def above(self, router: str, read: Callable[[Task], Accuracy]) -> int:
        """Tasks on which the router is above a row, whatever the missing labels are."""
        pairs = zip(self.per_task.kinds, self.per_task.routers[router], strict=True)
        return sum(_above(mine, read(task)) for task, mine in pairs if isinstance(task, Task))


def _above(one: Accuracy, other: Accuracy) -> bool:
    return one.low is not None and other.high is not None and round(one.low - other.high, DIGITS) > 0


def _fixed(kind: Kind) -> list[Accuracy]:
    return [kind.best_single, kind.best_per_task] if isinstance(kind, Task) else [kind.best_single]


def beyond(entries: Sequence[Entry]) -> list[Beyond]:
    """One per group with a result that has tasks."""
    return [_beyond(group, _notes(group, entries)) for group in _having(entries, tasks.NAME)]


def per_language(entries: Sequence[Entry]) -> list[Kinds]:
    """One per group with a result that has languages."""

    def kinds(result: CellResult) -> tuple[Kind, ...]:
        found = tasks.languages_of(result)
        assert found is not None  # the group is of those that have it
        return found.languages

    return [
        _kinds(group, "language", kinds, list(group.routers), tuple(encoder_notes(group)))
        for group in _having(entries, tasks.LANGUAGES)
    ]


def _having(entries: Sequence[Entry], block: str) -> list[Group]:
    return groups(entry for entry in entries if block in entry.result.blocks)


def _notes(group: Group, entries: Sequence[Entry]) -> tuple[str, ...]:
    lacking = [
        f"{entry.result.router} x {entry.result.encoder}"
        for entry in entries
        if entry.result.bench == group.bench and tasks.NAME not in entry.result.blocks
    ]
    left_out = [f"{group.bench}: left out, without tasks: {', '.join(lacking)}."] if lacking else []
    return (*encoder_notes(group), *left_out)


def _beyond(group: Group, notes: tuple[str, ...]) -> Beyond:
    def block(result: CellResult) -> tasks.Tasks:
        found = tasks.of(result)
        assert found is not None  # the group is of those that have it
        return found

    def low(result: CellResult) -> float | None:
        return None if result.bounds is None else result.bounds[0]

    order = list(averages(group, low))
    first = group.entries[0].result
    return Beyond(
        per_task=_kinds(group, "task", lambda result: block(result).tasks, order, notes),
        oracle=first.oracle,
        best_per_task=block(first).best_per_task,
        best_single=block(first).best_single,
        accuracy={
            router: _average([block(entry.result).router for entry in group.of(router)]) for router in order
        },
        gain={router: _gain([block(entry.result) for entry in group.of(router)]) for router in order},
        gap_closed={
            router: average([block(entry.result).gap_closed for entry in group.of(router)]).mean
            for router in order
        },
    )


def _kinds(
    group: Group,
    what: Literal["task", "language"],
    read: Callable[[CellResult], tuple[Kind, ...]],
    order: Sequence[str],
    notes: tuple[str, ...],
) -> Kinds:
    def of(router: str) -> tuple[Accuracy, ...]:
        of_encoders = [read(entry.result) for entry in group.of(router)]
        return tuple(_average([one.router for one in same]) for same in zip(*of_encoders, strict=True))

    return Kinds(
        name=group.name,
        what=what,
        kinds=read(group.entries[0].result),
        routers={router: of(router) for router in order},
        notes=notes,
    )


def _average(of_encoders: Sequence[Accuracy]) -> Accuracy:
    return Accuracy(
        value=average([one.value for one in of_encoders]).mean,
        low=average([one.low for one in of_encoders]).mean,
        high=average([one.high for one in of_encoders]).mean,
    )


def _gain(of_encoders: Sequence[tasks.Tasks]) -> tuple[float | None, float | None]:
    gains = [one.gain for one in of_encoders]
    low = average([None if gain is None else gain.low for gain in gains]).mean
    return low, average([None if gain is None else gain.high for gain in gains]).mean


# --- sheets ------------------------------------------------------------------------------------------

ENDS = "low, high: missing labels of what was chosen counted 0, and counted 1. The oracle is of observed labels, a lower bound."
PER_TASK = "Best per task: the model that is best on the task's train queries. It knows a query's task, and reads no query."


def task_sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """Per benchmark: routers beside the best model per task; accuracy per task; per language where it is known.

    Raises UsageError where no result has tasks.
    """
    found, languages = beyond(entries), per_language(entries)
    if not found and not languages:
        raise UsageError(
            "no result has tasks or languages",
            why="the queries of their benchmarks have none, or they were written before results had them",
            fix="give the benchmark a column `task`, then write the results again: `rph eval ... --out FOLDER`",
        )
    per_task = [sheet for one in found for sheet in (_beyond_sheet(one), *_kind_sheets(one.per_task))]
    return [*per_task, *(sheet for one in languages for sheet in _kind_sheets(one))]


def _beyond_sheet(found: Beyond) -> Sheet:
    is_open = found.per_task.open
    nothing: list[Value] = [None] * (5 if is_open else 4)
    fixed = {
        "oracle": Accuracy(value=found.oracle, low=None, high=None),
        tasks.ROW: found.best_per_task,
        "best single": found.best_single,
    }

    def ends(one: Accuracy) -> list[Value]:
        return [one.value, one.low, one.high] if is_open else [one.value]

    rows: list[tuple[Value, ...]] = [(name, *ends(one), *nothing) for name, one in fixed.items()]
    rows += [
        (
            router,
            *ends(accuracy),
            *(found.gain[router] if is_open else found.gain[router][:1]),
            found.gap_closed[router],
            found.above(router, lambda task: task.best_single),
            found.above(router, lambda task: task.best_per_task),
        )
        for router, accuracy in found.accuracy.items()
    ]
    gain = [f"minus best per task{end}" for end in ((" low", " high") if is_open else ("",))]
    return Sheet(
        f"{found.per_task.name}: what routers gain over knowing the task",
        (
            Column("route"),
            Column("accuracy", "percent"),
            *([Column("low", "percent"), Column("high", "percent")] if is_open else []),
            *(Column(name, "percent") for name in gain),
            Column("gap closed beyond", "percent", 1),
            Column("tasks above best single", "count"),
            Column("tasks above best per task", "count"),
        ),
        tuple(rows),
        (
            PER_TASK,
            "Gap closed beyond: (router - best per task) / (oracle - best per task).",
            f"The last two columns: of {len(found.per_task.kinds)} tasks, those on which the router's accuracy is the higher one"
            + (", whatever the missing labels are." if is_open else "."),
            *([ENDS] if is_open else []),
            *found.per_task.notes,
        ),
    )


def _kind_sheets(found: Kinds) -> Iterator[Sheet]:
    """One row per task or language, and as many tables as it takes to set all routers beside the same rows."""
    is_open, of_tasks = found.open, found.what == "task"
    # A router's name has no blank: none of these columns can have the name of a router's.
    fixed = [
        Column(f"{found.what} name"),
        Column("test queries", "count"),
        Column("the oracle", "percent", 1),
    ]
    if of_tasks:
        fixed += [*_columns("best per task", is_open), Column("model per task")]
    fixed += _columns("best single", is_open)
    notes = (*([PER_TASK] if of_tasks else []), *([ENDS] if is_open else []), *found.notes)
    names, wide = list(found.routers), ROUTERS_WIDE_OPEN if is_open else ROUTERS_WIDE
    parts = [names[i : i + wide] for i in range(0, len(names), wide)]
    for i, routers in enumerate(parts, 1):
        rows: list[tuple[Value, ...]] = []
        for k, kind in enumerate(found.kinds):
            row: list[Value] = [kind.name or "(none)", kind.n_test, kind.oracle]
            if isinstance(kind, Task):
                row += [*_ends(kind.best_per_task, is_open), kind.model]
            row += _ends(kind.best_single, is_open)
            for router in routers:
                row += _ends(found.routers[router][k], is_open)
            rows.append(tuple(row))
        yield Sheet(
            f"{found.name}: accuracy per {found.what}" + (f", {i} of {len(parts)}" if len(parts) > 1 else ""),
            (*fixed, *(column for router in routers for column in _columns(router, is_open))),
            tuple(rows),
            notes if i == len(parts) else (),
        )


def _columns(name: str, is_open: bool) -> list[Column]:
    names = [f"{name} low", f"{name} high"] if is_open else [name]
    return [Column(one, "percent", 1) for one in names]


def _ends(accuracy: Accuracy, is_open: bool) -> list[Value]:
    return [accuracy.low, accuracy.high] if is_open else [accuracy.value]
