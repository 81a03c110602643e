"""What every benchmark must be, to be run. Quality is another question: this is what makes numbers meaningless or wrong."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from rph import disk
from rph.api import RoutingDataset, Split
from rph.errors import UsageError
from rph.holes import REASONS, pool_of
from rph.lazy import np

if TYPE_CHECKING:
    from rph.api import Float32
ROWS = 4096  # checked at once


def repeated_in(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def check(dataset: RoutingDataset) -> None:
    """Raise UsageError unless the benchmark can be run: every one passes here before it is."""
    if not isinstance(dataset.name, str) or not disk.NAME.fullmatch(dataset.name):
        raise UsageError(
            f"benchmark name {dataset.name!r} cannot be used",
            why="it becomes part of file names",
            fix="use letters, digits, dot, dash and underscore, beginning with a letter or digit",
        )
    what = f"benchmark {dataset.name!r}"
    if not isinstance(dataset.models, (tuple, list)) or not all(isinstance(m, str) for m in dataset.models):
        raise UsageError(
            f"{what}: `models` are not names",
            why=f"they are {dataset.models!r}",
            fix="give a tuple of strings",
        )
    if not dataset.models or not all(dataset.models):
        raise UsageError(
            f"{what}: `models` is empty or has an empty name",
            why="there is nothing to route to",
            fix="name the models",
        )
    if (repeated := repeated_in(dataset.models)) is not None:
        raise UsageError(f"{what} lists model {repeated!r} twice", fix="list each model once")
    owners: dict[str, str] = {}
    for name, split in dataset.splits():
        where = f"{what}, split {name!r}"
        _check_texts(where, split)
        _check_ids(where, name, split, owners)
        _check_numbers(where, split, dataset.models)
        for kind in ("costs", "p_correct"):
            if (getattr(split, kind) is None) != (getattr(dataset.train, kind) is None):
                raise UsageError(
                    f"{what} has {kind} in some splits and none in others",
                    fix="give them in all splits or in none",
                )
    _check_holes(what, dataset)
    if np.isnan(dataset.val.labels).all():
        raise UsageError(
            f"{what}, split 'val' has no label",
            why="variants are chosen by their accuracy on it",
            fix="add labels, or split the rows another way",
        )
    unseen = np.flatnonzero(np.isnan(np.fmax.reduce(dataset.train.labels, axis=0)))  # NaN only where all are
    if len(unseen):
        names = [dataset.models[m] for m in unseen]
        raise UsageError(
            f"{what}: model {names[0]!r} has no label in the train split"
            + (f", nor have {len(names) - 1} others" if len(names) > 1 else ""),
            why="nothing can be learned about such a model, so it cannot be routed to",
            fix="take it out of the pool, or add labels for it",
        )


def _check_texts(where: str, split: Split) -> None:
    n = len(split.ids)
    if n == 0:
        raise UsageError(f"{where} is empty", why="every split needs queries", fix="give it rows")
    if len(split.queries) != n or len(split.tasks) != n:
        raise UsageError(
            f"{where} has {n} ids, {len(split.queries)} queries and {len(split.tasks)} tasks",
            fix="give one of each per row",
        )
    if len(split.languages) not in (0, n):
        raise UsageError(
            f"{where} has {n} ids and {len(split.languages)} languages",
            fix="give one per row, or none at all",
        )
    columns = {"id": split.ids, "query": split.queries, "task": split.tasks, "language": split.languages}
    for column, texts in columns.items():
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise UsageError(
                    f"{where}: {column} of row {i} is not text", why=f"it is {text!r}", fix="give a string"
                )
            if not text.isascii() and not _is_unicode(text):
                raise UsageError(
                    f"{where}: {column} of row {i} (id {split.ids[i]!a}) is not valid Unicode",
                    why="it holds half of a surrogate pair",
                    fix="repair or leave out the row",
                )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_ids(where: str, name: str, split: Split, owners: dict[str, str]) -> None:
    if "" in split.ids:
        raise UsageError(
            f"{where}: {list(split.ids).count('')} row(s) have no id",
            why="an id names a query in results",
            fix="give ids",
        )
    for query in split.ids:
        if owners.get(query) == name:
            raise UsageError(
                f"{where}: {len(split.ids) - len(set(split.ids))} id(s) are repeated, the first {query!r}",
                why="an id names one query",
                fix="make ids unique, or leave the repeated rows out",
            )
        if query in owners:
            raise UsageError(
                f"{where}: id {query!r} is also in split {owners[query]!r}",
                why="a query of one split must not be seen in another",
                fix="keep it in one split",
            )
        owners[query] = name


def _check_numbers(where: str, split: Split, models: Sequence[str]) -> None:
    shape = (len(split.ids), len(models))
    for kind in ("labels", "costs", "p_correct"):
        array = getattr(split, kind)
        if not isinstance(array, np.ndarray) and (array is not None or kind == "labels"):
            raise UsageError(
                f"{where}: {kind} are of type {type(array).__name__}",
                why="expected a float32 array: a row per query, a column per model",
                fix="np.ascontiguousarray(array, np.float32)",
            )
        if array is not None and (
            array.shape != shape or array.dtype != np.float32 or not array.flags.c_contiguous
        ):
            raise UsageError(
                f"{where}: {kind} are {array.dtype} {array.shape}",
                why=f"expected C-contiguous float32 {shape}: a row per query, a column per model",
                fix="np.ascontiguousarray(array, np.float32)",
            )
    labels, costs, p = split.labels, split.costs, split.p_correct
    if split.reasons is not None:
        _check_reasons(where, split, models, split.reasons)
    _refuse_cells(
        where,
        split,
        models,
        labels,
        lambda values: (values < 0) | (values > 1),
        "label(s) outside [0, 1]",
        "scale or correct them",
    )
    if costs is not None:
        _refuse_cells(
            where,
            split,
            models,
            costs,
            lambda values: (values < 0) | np.isinf(values),
            "negative or infinite cost(s)",
            "costs are US dollars per call; leave an unknown one empty",
        )
    if p is not None:
        _refuse_cells(
            where,
            split,
            models,
            p,
            lambda values: ~((values >= 0) & (values <= 1)),
            "P(correct) outside [0, 1]",
            "give it for every cell",
        )


def _check_reasons(where: str, split: Split, models: Sequence[str], reasons: Any) -> None:
    """Why labels are missing: places in rph.holes.REASONS, and none beside a label."""
    shape = split.labels.shape
    if not isinstance(reasons, np.ndarray) or reasons.shape != shape or reasons.dtype != np.uint8:
        found = (
            f"{reasons.dtype} {reasons.shape}" if isinstance(reasons, np.ndarray) else type(reasons).__name__
        )
        raise UsageError(
            f"{where}: reasons are {found}",
            why=f"expected uint8 {shape}: a row per query, a column per model, each a place in rph.holes.REASONS",
            fix="np.asarray(places, np.uint8)",
        )
    if reasons.max(initial=0) >= len(REASONS):
        raise UsageError(
            f"{where}: {reasons.max()} is the code of no reason",
            why=f"reasons are places in rph.holes.REASONS, which has {len(REASONS)}",
            fix="use REASONS.index(reason), and 0 where nothing is said",
        )
    beside = np.argwhere((reasons > 0) & ~np.isnan(split.labels))
    if len(beside):
        i, m = beside[0]
        raise UsageError(
            f"{where}: {len(beside)} label(s) with a reason why they are missing",
            why=f"the first is {split.labels[i, m]:g} and {REASONS[reasons[i, m]]!r}, "
            f"of id {split.ids[i]!r} and model {models[m]!r}",
            fix="take out the label or the reason: an answer that counts as wrong is 0, and no hole",
        )


def _check_holes(what: str, dataset: RoutingDataset) -> None:
    """What is said of missing labels fits the table: known tasks and models, shares, and blocks that are empty."""
    said = dataset.holes
    if not said.blocks and not said.plan:
        return
    if said.plan and not said.planned:
        raise UsageError(
            f"{what} has a plan, and does not say that its holes are planned",
            why="the shares of a plan are of labels that are missing because they were never asked",
            fix="say `holes: planned` (Holes(planned=True)), or take the plan out",
        )
    tasks = {task for _, split in dataset.splits() for task in split.tasks}
    for names, cells in (("the blocks name", said.blocks), ("the plan names", said.plan)):
        if not said.settled:  # a part of a table may have no rows of some tasks
            _refuse_unknown(f"{what}: {names} task", {task for task, _ in cells}, tasks)
        _refuse_unknown(f"{what}: {names} model", {model for _, model in cells}, dataset.models)
    for (task, model), share in said.plan.items():
        if not 0 < share <= 1:
            raise UsageError(
                f"{what}: by plan model {model!r} was asked a share {share:g} of task {task!r}",
                why="a share is above 0 and at most 1",
                fix="correct it; a model that was not asked at all belongs in `blocks`",
            )
    blocked = Counter(task for task, _ in said.blocks)
    if full := [task for task, count in blocked.items() if count == len(dataset.models)]:
        raise UsageError(
            f"{what}: blocks leave task {full[0]!r} no model",
            why="its queries could be sent to nobody",
            fix="leave its queries out, or correct the blocks",
        )
    if not said.settled:
        _check_empty(what, dataset)


def _check_empty(what: str, dataset: RoutingDataset) -> None:
    """No label in a block that somebody declared."""
    blocks = dataset.holes.blocks
    for name, split in dataset.splits():
        pool = pool_of(split.tasks, dataset.models, blocks)
        if pool is not None and len(wrong := np.argwhere(~pool & ~np.isnan(split.labels))):
            i, m = wrong[0]
            raise UsageError(
                f"{what}, split {name!r}: {len(wrong)} label(s) in a block",
                why=f"blocks say that model {dataset.models[m]!r} was not run on task {split.tasks[i]!r}, "
                f"and it has a label for id {split.ids[i]!r}",
                fix="take out the labels, or the block",
            )


def _refuse_unknown(what: str, names: Collection[str], known: Collection[str]) -> None:
    for name in sorted(names):
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"{what} {name!r}, which it does not have",
                why=f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}",
                fix="correct the name, or take it out",
            )


def _refuse_cells(
    where: str,
    split: Split,
    models: Sequence[str],
    values: Float32,
    bad: Callable[[Float32], Any],
    what: str,
    fix: str,
) -> None:
    """Raise UsageError if `bad` finds any cell; some rows at a time, so that no mask of the whole is made."""
    count, first = 0, None
    for start in range(0, len(values), ROWS):
        found = np.argwhere(bad(values[start : start + ROWS]))
        count += len(found)
        if first is None and len(found):
            first = found[0] + (start, 0)
    if first is not None:
        i, m = first
        raise UsageError(
            f"{where}: {count} {what}",
            why=f"the first is {values[i, m]:g}, of id {split.ids[i]!r} and model {models[m]!r}",
            fix=fix,
        )
