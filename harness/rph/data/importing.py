"""A user's own results as a benchmark in the form routing-table/1; what is left out is counted and told.

Long form, a row per query and model: the columns query, model, correct and, where known, id, cost, hole, task, language,
split. Wide form, a row per query: query, correct/<model> and, where known, id, cost/<model>, hole/<model>, task, language,
split. CSV, JSONL or Parquet. Both are taken apart into cells (query, model, label, cost, hole) and go the same way from
there, so that equal content gives equal benchmarks.

A cell that is empty is missing, never 0 and never $0; `hole` is the reason why, where it is known (rph.holes.REASONS). A
reason beside a label is left out and told: the label was observed. Rows are counted from 1, the first after a header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rph.api import SPLITS, RoutingDataset, Split, SplitName
from rph.data import checking, parquet, published, validity
from rph.data.columns import (
    LONG,
    OPTIONAL,
    PREFIXES,
    Note,
    Texts,
    coded_column,
    no_rows,
    objects,
    plain,
    short,
    texts_of,
)
from rph.errors import UsageError
from rph.lazy import np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray
SPLIT_OF = {"train": "train", "val": "val", "validation": "val", "dev": "val", "test": "test"}
TRUTHS = {"true": 1.0, "false": 0.0}
RULES = {
    "correct": "a label is a number from 0 to 1, true or false, and empty where nothing was observed",
    "cost": "a cost is in US dollars per call, 0 or more, and empty where it is unknown",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an import read, kept and left out."""

    name: str
    rows: int  # of the file
    queries: int
    models: int
    splits: dict[SplitName, int]
    labels: int  # observed
    missing: float  # share of the cells without a label
    costs: int | None  # known; None: the benchmark has no costs
    notes: Sequence[Note]

    def lines(self) -> list[tuple[str, str]]:
        """What a reader is told, as pairs of a word and a text."""
        cells = self.queries * self.models
        sizes = ", ".join(f"{name} {size:,}" for name, size in self.splits.items())
        return [
            ("benchmark", self.name),
            ("rows read", f"{self.rows:,}"),
            ("queries", f"{self.queries:,} ({sizes})"),
            ("models", f"{self.models:,}"),
            ("labels", f"{self.labels:,} of {cells:,} ({self.missing:.1%} missing)"),
            ("costs", "none" if self.costs is None else f"{self.costs:,} of {cells:,} known"),
            *(("note", f"{note.what}: {note.count:,}, the first: {note.first}") for note in self.notes),
        ]


def report(dataset: RoutingDataset, rows: int, notes: Sequence[Note] = ()) -> Report:
    """The numbers of a benchmark that was made of so many rows."""
    splits = [split for _, split in dataset.splits()]
    cells = sum(split.labels.size for split in splits)
    labels = sum(int((~np.isnan(split.labels)).sum()) for split in splits)
    costs = [int((~np.isnan(split.costs)).sum()) for split in splits if split.costs is not None]
    return Report(
        name=dataset.name,
        rows=rows,
        queries=sum(map(len, splits)),
        models=len(dataset.models),
        splits={name: len(split) for name, split in dataset.splits()},
        labels=labels,
        missing=1 - labels / cells,
        costs=sum(costs) if dataset.has_costs else None,
        notes=notes,
    )


def found(dataset: RoutingDataset) -> list[Note]:
    """What `rph data check` finds in a benchmark, as notes."""
    return [Note(one.what, one.count, one.examples[0]) for one in checking.checked(dataset).findings]


def _numbers(rows: Rows, name: str) -> NDArray[np.float64]:
    """A label or cost column [R]; NaN where it is empty."""
    import pandas as pd
    import pyarrow as pa

    kind = name.partition("/")[0]
    column = plain(rows.frame.column(name))
    of = column.type
    if pa.types.is_string(of) or pa.types.is_large_string(of):
        texts = coded_column(rows.where, name, column)
        parsed = pd.to_numeric(pd.Series(texts.values, dtype=object), errors="coerce").to_numpy(np.float64)
        if kind == "correct":
            truths = [TRUTHS.get(value.lower(), np.nan) for value in texts.values]
            parsed = np.where(np.isnan(parsed), truths, parsed)
        values = parsed[texts.codes]
        wrong = np.isnan(values) & ~texts.empty
    elif any(
        test(of)
        for test in (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)
    ) or (pa.types.is_boolean(of) and kind == "correct"):
        values = column.cast(pa.float64(), safe=False).to_numpy()
        wrong = np.zeros(len(values), bool)
    else:
        raise UsageError(
            f"{rows.where}: column {name!r} does not hold numbers",
            why=f"it is {of}; row {rows.numbers[0]} has {short(column[0].as_py())}",
            fix=RULES[kind],
        )
    most = 1.0 if kind == "correct" else np.finfo(np.float32).max
    wrong |= (values < 0) | (values > most)
    if wrong.any():
        r = int(wrong.argmax())
        raise UsageError(
            f"{rows.where}: {int(wrong.sum()):,} wrong value(s) in column {name!r}",
            why=f"the first is {short(column[r].as_py())}, in row {rows.numbers[r]} (id {rows.ids.of(r)!r})",
            fix=RULES[kind],
        )
    return values


@dataclass(frozen=True)
class Form:
    """Which of the two forms a file has."""

    long: bool
    models: list[str]  # of the wide form
    unused: list[str]  # columns


@dataclass(frozen=True)
class Rows:
    """The rows of a file that have a query and, in the long form, a model; R rows of N queries."""

    where: str  # the file, in messages
    frame: pa.Table
    numbers: NDArray[np.int64]  # [R], their numbers in the file
    query: Texts
    ids: Texts  # its codes number the N queries in the order of their first rows

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """The first row of each query [N]."""
        return np.unique(self.ids.codes, return_index=True)[1]

    def others(self, texts: Texts) -> NDArray[np.int64]:
        """The rows in which a text is not that of their query's first row."""
        return np.flatnonzero(texts.codes != texts.codes[self.first][self.ids.codes])

    def one_each(self, texts: Texts, what: str, fix: str) -> list[str]:
        """The text of each query [N]; two of them are an error."""
        for r in self.others(texts)[:1]:
            first = self.first[self.ids.codes[r]]
            raise UsageError(
                f"{self.where}: id {self.ids.of(r)!r} stands for two {what}",
                why=f"row {self.numbers[first]} has {short(texts.of(first))}, "
                f"row {self.numbers[r]} has {short(texts.of(r))}",
                fix=fix,
            )
        return self.first_of_each(texts)

    def first_of_each(self, texts: Texts) -> list[str]:
        """The text of each query's first row [N]."""
        return [texts.of(r) for r in self.first]


def convert(
    where: str, frame: pa.Table, *, name: str, threshold: float | None = None
) -> tuple[RoutingDataset, list[Note]]:
    """The rows of a file, long or wide, as a benchmark, and what was left out or changed; `where` names the file.

    Label: `correct`, or with a threshold 1 where correct >= threshold and else 0. A query's id, where none is given,
    is the first 16 hex digits of its sha256. The split is the file's, or else published.split_rows.
    """
    if threshold is not None:
        published.check_threshold("import", threshold)
    notes: list[Note] = []
    form = _form(where, frame.column_names)
    _note(notes, "columns not used", form.unused, str)
    rows = _rows(where, frame, form, notes)
    ids = rows.ids.values.tolist()
    queries = rows.one_each(
        rows.query, "queries", "give each query an id of its own, or none: then one is made from its text"
    )
    tasks, languages = (_of_each(rows, name, notes) for name in ("task", "language"))
    models, labels, costs, reasons = _cells(rows, form, threshold, notes)
    # A query on which every call failed is no query that was never asked.
    told = ~np.isnan(labels) | (reasons > 0)
    parts = _parts(rows, queries, told)

    learned = np.asarray(~np.isnan(labels[parts[0]]).all(axis=0))
    _note(
        notes,
        "models left out, without a label in train",
        np.flatnonzero(~learned),
        lambda m: repr(models[m]),
    )
    parts = [part[told[part][:, learned].any(axis=1)] for part in parts]
    _check_parts(rows, parts, "its queries have labels only of models that have none in train")
    kept = np.concatenate(parts)
    left_out = np.setdiff1d(np.arange(len(ids)), kept)
    _note(notes, "queries left out, without any label or reason", left_out, lambda i: f"id {ids[i]!r}")
    costs, reasons = costs[:, learned], reasons[:, learned]
    whole = Split(
        ids=ids,
        queries=queries,
        tasks=tasks or [""] * len(ids),
        labels=np.ascontiguousarray(labels[:, learned], np.float32),
        costs=None if np.isnan(costs[kept]).all() else np.ascontiguousarray(costs, np.float32),
        reasons=np.ascontiguousarray(reasons) if reasons[kept].any() else None,
        languages=languages,
    )
    train, val, test = (published.take(whole, part.tolist()) for part in parts)
    dataset = RoutingDataset(
        name=name,
        models=tuple(model for model, known in zip(models, learned, strict=True) if known),
        train=train,
        val=val,
        test=test,
    )
    validity.check(dataset)
    return dataset, notes


def _form(where: str, names: Sequence[str]) -> Form:
    correct, cost, hole = (
        [name.removeprefix(prefix) for name in names if name.startswith(prefix)] for prefix in PREFIXES
    )
    long, wide = "model" in names, bool(correct)
    if long and wide:
        raise UsageError(
            f"{where} has a column 'model' and a column {'correct/' + correct[0]!r}",
            why="the first makes it long, a row per query and model; the second wide, a row per query",
            fix="take one of them out, or rename it",
        )
    fix = "rename columns: --columns query=YOURS,correct=YOURS,..."
    if wide:
        needed = ["query", *(f"correct/{model}" for model in dict.fromkeys([*cost, *hole]))]
        published.check_columns(where, names, needed, others=True, form="columns of the wide form", fix=fix)
        known = {*needed, "id", "task", "language", "split", *(f"{p}{m}" for p in PREFIXES for m in correct)}
    else:
        form = "columns of the long form, query, model, correct" + (
            "" if long else "; nor those of the wide one, query, correct/<model>"
        )
        published.check_columns(where, names, LONG, others=True, form=form, fix=fix)
        known = {*LONG, *OPTIONAL}
    unused = [name for name in names if name not in known]
    close = {name: get_close_matches(name, known - set(names), n=1) for name in unused}
    return Form(
        long,
        correct,
        [f"{name!r} (is {close[name][0]!r} meant?)" for name in unused if close[name]]
        + [repr(name) for name in unused if not close[name]],
    )


def _rows(where: str, frame: pa.Table, form: Form, notes: list[Note]) -> Rows:
    """The rows with a query and a model, their queries decoded; the others are noted."""
    import pandas as pd
    import pyarrow as pa

    if frame.num_rows == 0:
        raise no_rows(where)
    query = texts_of(where, frame, "query")
    decoded = objects([published.decode_prompt(value) for value in query.values])
    changed = (decoded != query.values)[query.codes]
    codes, values = pd.factorize(decoded)  # two texts may be one when decoded
    query = Texts(codes[query.codes], values)
    no_query = query.empty
    no_model = ~no_query & (texts_of(where, frame, "model").empty if form.long else False)
    for what, which in (
        ("rows left out, without a query", no_query),
        ("rows left out, without a model", no_model),
        ("rows whose query is the text of a list, joined by blank lines", changed),
    ):
        _note(notes, what, np.flatnonzero(which), lambda r: f"row {r + 1}")
    kept = np.flatnonzero(~(no_query | no_model))
    if not len(kept):
        raise UsageError(
            f"{where}: no row is left",
            why="rows without a query, or in the long form without a model, are left out",
            fix="is it the right file?",
        )
    frame = frame.filter(pa.array(~(no_query | no_model)))
    query = Texts(query.codes[kept], query.values)
    return Rows(where, frame, kept + 1, query, _ids(where, frame, query))


def _ids(where: str, frame: pa.Table, query: Texts) -> Texts:
    import pandas as pd

    made = objects([hashlib.sha256(value.encode()).hexdigest()[:16] for value in query.values])
    each = made[query.codes]
    if "id" in frame.column_names:
        given = texts_of(where, frame, "id")
        each = np.where(given.empty, each, given.values[given.codes])
    return Texts(*pd.factorize(each))


def _of_each(rows: Rows, name: str, notes: list[Note]) -> list[str]:
    """The task or language of each query [N]; [] where there is no such column."""
    if name not in rows.frame.column_names:
        return []
    texts = texts_of(rows.where, rows.frame, name)
    _note(
        notes,
        f"rows with another {name} than the query's first row, whose {name} is kept",
        rows.others(texts),
        lambda r: f"row {rows.numbers[r]} (id {rows.ids.of(r)!r})",
    )
    return rows.first_of_each(texts)


def _reasons(rows: Rows, name: str) -> NDArray[np.uint8]:
    """A column of reasons [R] as places in rph.holes.REASONS."""
    if name not in rows.frame.column_names:
        return np.zeros(len(rows.numbers), np.uint8)
    texts = texts_of(rows.where, rows.frame, name)
    places = []
    for code, word in enumerate(texts.values):
        r = int((texts.codes == code).argmax())
        first = f"row {rows.numbers[r]} (id {rows.ids.of(r)!r})"
        places.append(parquet.reason(word.strip(), f"{rows.where}: column {name!r}", first))
    return np.array(places, np.uint8)[texts.codes]


def _cells(
    rows: Rows, form: Form, threshold: float | None, notes: list[Note]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8]]:
    """The models, their labels, costs, and the reasons why labels are missing: all [N, K]."""
    import pandas as pd

    names = rows.frame.column_names
    if form.long:
        model = texts_of(rows.where, rows.frame, "model")
        codes, used = pd.factorize(model.codes)
        models, columns = model.values[used].tolist(), codes[:, None]
        correct = _numbers(rows, "correct")[:, None]  # [R, 1]
        cost = _numbers(rows, "cost")[:, None] if "cost" in names else np.full_like(correct, np.nan)
        hole = _reasons(rows, "hole")[:, None]
    else:
        models, columns = form.models, np.arange(len(form.models))[None]
        correct = np.stack([_numbers(rows, f"correct/{m}") for m in models], axis=1)  # [R, K]
        cost = np.full_like(correct, np.nan)
        for m, name in enumerate(models):
            if f"cost/{name}" in names:
                cost[:, m] = _numbers(rows, f"cost/{name}")
        hole = np.stack([_reasons(rows, f"hole/{m}") for m in models], axis=1)
    if threshold is not None:
        correct = np.where(np.isnan(correct), np.nan, correct >= threshold)

    shape = len(rows.first), len(models)
    # The cell of the benchmark that a cell of the file is: query and model in one number.
    key = (rows.ids.codes[:, None] * len(models) + columns).ravel()
    label, dollars, why = correct.ravel(), cost.ravel(), hole.ravel()
    low = np.full(shape, np.nan).ravel()
    high, costs = low.copy(), low.copy()
    np.fmin.at(low, key, label)
    np.fmax.at(high, key, label)
    known = np.flatnonzero(~np.isnan(dollars))[::-1]
    costs[key[known]] = dollars[known]  # backwards: the first known cost stays
    clash = low < high
    low[clash] = costs[clash] = np.nan
    reasons = np.zeros(len(low), np.uint8)
    given = np.flatnonzero(why)[::-1]
    reasons[key[given]] = why[given]  # as with costs
    beside = np.flatnonzero((reasons > 0) & ~np.isnan(low))
    reasons[beside] = 0

    def cell(at: int) -> str:
        return f"id {rows.ids.values[at // len(models)]!r} and model {models[at % len(models)]!r}"

    said = key[~(np.isnan(label) & np.isnan(dollars))]  # an empty cell repeats nothing
    again = said[pd.Series(said).duplicated().to_numpy()]
    _note(notes, "repeated cells with equal labels, of which one is kept", again[~clash[again]], cell)
    _note(notes, "cells with different labels, now missing", pd.unique(said[clash[said]]), cell)
    _note(notes, "reasons beside a label, left out", beside, cell)
    return models, low.reshape(shape), costs.reshape(shape), reasons.reshape(shape)


def _parts(rows: Rows, queries: Sequence[str], told: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Which queries with a label, or the reason why one is missing, are train, val and test; told [N, K]."""
    seen = np.flatnonzero(told.any(axis=1))
    split = _given_split(rows)
    if split is None:
        parts = [
            seen[np.array(part, int)] for part in published.split_rows([queries[i] for i in seen.tolist()])
        ]
    else:
        parts = [seen[objects(split)[seen] == name] for name in SPLITS]
    none = "the column split gives it none" if split else "a split of 60/10/30 leaves it none"
    _check_parts(rows, parts, f"{len(seen)} of {len(told)} queries have a label; {none}")
    return parts


def _check_parts(rows: Rows, parts: Sequence[NDArray[np.int64]], why: str) -> None:
    for name, part in zip(SPLITS, parts, strict=True):
        if not len(part):
            raise UsageError(
                f"{rows.where}: split {name!r} is empty",
                why=why,
                fix="a benchmark needs all three splits: give it more rows, or correct the column split",
            )


def _given_split(rows: Rows) -> list[str] | None:
    """The split of each query [N] as the file gives it; None where it gives none."""
    if "split" not in rows.frame.column_names:
        return None
    texts = texts_of(rows.where, rows.frame, "split")
    if texts.empty.all():
        return None
    splits = [SPLIT_OF.get(value.strip().lower()) for value in texts.values]
    unknown = np.array([split is None for split in splits])[texts.codes]
    if unknown.any():
        r = int(unknown.argmax())
        raise UsageError(
            f"{rows.where}: {int(unknown.sum()):,} row(s) name no split",
            why=f"the first has {short(texts.of(r))}: row {rows.numbers[r]} (id {rows.ids.of(r)!r})",
            fix=f"write one of {', '.join(SPLIT_OF)} in every row, or leave the column out",
        )
    named = np.array([SPLITS.index(split) for split in splits if split])
    return rows.one_each(Texts(named[texts.codes], objects(SPLITS)), "splits", "keep a query in one split")


def _note(
    notes: list[Note], what: str, found: Sequence[Any] | NDArray[Any], say: Callable[[Any], str]
) -> None:
    if len(found):
        notes.append(Note(what, len(found), say(found[0])))
