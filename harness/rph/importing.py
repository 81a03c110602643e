"""A user's own results as a benchmark in the form routing-table/1; what is left out is counted and told.

Long form, a row per query and model: the columns query, model, correct and, where known, id, cost, task, split.
Wide form, a row per query: query, correct/<model> and, where known, id, cost/<model>, task, split. CSV, JSONL or
Parquet. Both are taken apart into cells (query, model, label, cost) and go the same way from there, so that equal
content gives equal benchmarks.

A cell that is empty is missing, never 0 and never $0. Rows are counted from 1, the first after a header.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import published, table
from rph.api import SPLITS, RoutingDataset, Split, SplitName
from rph.errors import UsageError
from rph.lazy import np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

LONG = ("query", "model", "correct")
OPTIONAL = ("id", "cost", "task", "split")
PREFIXES = ("correct/", "cost/")
SPLIT_OF = {"train": "train", "val": "val", "validation": "val", "dev": "val", "test": "test"}
TRUTHS = {"true": 1.0, "false": 0.0}
OTHER_MARKS = {";": "';'", "\t": "tabs", "|": "'|'"}  # that spreadsheets put between columns
RULES = {
    "correct": "a label is a number from 0 to 1, true or false, and empty where nothing was observed",
    "cost": "a cost is in US dollars per call, 0 or more, and empty where it is unknown",
}
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Note:
    """One kind of thing that was left out or changed."""

    what: str
    count: int
    first: str


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


# --- files ------------------------------------------------------------------------------------------


def renames(text: str) -> dict[str, str]:
    """`query=prompt,correct=score`: a column of the user's -> what it is called here.

    >>> renames("query=prompt,correct/gpt-4=gpt-4")
    {'prompt': 'query', 'gpt-4': 'correct/gpt-4'}
    """
    found: dict[str, str] = {}
    for part in text.split(",") if text else []:
        target, _, source = part.partition("=")
        if not target or not source:
            raise UsageError(
                f"--columns {text!r} cannot be read",
                why=f"{part!r} is not name=column",
                fix="write --columns query=prompt,correct=score",
            )
        if target not in (*LONG, *OPTIONAL) and not target.startswith(PREFIXES):
            raise UsageError(
                f"--columns {text!r}: no column is called {target!r} here",
                why=_meant(target, [*LONG, *OPTIONAL]),
                fix="write the name of this form first, then yours: query=prompt",
            )
        if source in found:
            raise UsageError(
                f"--columns {text!r} names {source!r} twice",
                why="a column is one thing",
                fix="keep one of the two; without an id, one is made from the query's text",
            )
        found[source] = target
    return found


def read(path: Path, columns: Mapping[str, str]) -> pa.Table:
    """The file's columns as they are, renamed: CSV as text, JSONL and Parquet with their types."""
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise UsageError(
            f"{path} is not a file that can be imported",
            why=f"its name ends in {path.suffix!r}" if path.suffix else "its name has no ending",
            fix=f"give a file whose name ends in {', '.join(readers)}; a publisher's folder: --bench NAME:path={path}",
        )
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", fix="check the path") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'not a file'}",
            why="results are imported from one file",
            fix=f"give a file; a publisher's folder: --bench NAME:path={path}",
        )
    frame = readers[path.suffix.lower()](path)
    names = frame.column_names
    if not names:
        raise _no_rows(str(path))
    for source in columns:
        if source not in names:
            raise UsageError(
                f"{path} has no column {source!r}", why=_meant(source, names), fix="correct --columns"
            )
    return frame.rename_columns([columns.get(name, name) for name in names])


def _meant(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{path} cannot be read", why=str(error.strerror), fix="check the path, and who may read it"
    )


def _no_rows(where: str) -> UsageError:
    return UsageError(f"{where} has no rows", why="there is nothing to import", fix="is it the right file?")


def _utf8(path: Path) -> bytes:
    """The file's bytes, which are text in UTF-8."""
    try:
        content = path.read_bytes()
        content.decode()
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8",
            why=f"byte {error.object[error.start]:#04x} at offset {error.start}",
            fix="save it as UTF-8",
        ) from error
    return content


def _read_parquet(path: Path) -> pa.Table:
    return table.Columns(path).read()


def _read_csv(path: Path) -> pa.Table:
    """Every column as text: what is a number is decided by the column's meaning, not by its look."""
    import pyarrow as pa
    import pyarrow.csv as arrow

    content = _utf8(path)
    marks = content.count(b'"')
    if marks % 2:  # the reader would take the rest of the file for one text
        raise UsageError(
            f"{path}: a quotation mark is opened and never closed",
            why=f"the file has {marks:,} of them, an odd number",
            fix="is the file cut off? A quotation mark inside a text is written twice, the text in quotation marks",
        )
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""))
    try:
        names = next((row for row in rows if row), [])
        other = next((mark for mark in OTHER_MARKS if len(names) == 1 and mark in names[0]), None)
        if other is not None:
            raise UsageError(
                f"{path} is separated by {OTHER_MARKS[other]}, not by commas",
                why=f"its first line is {_short(names[0])}",
                fix="save it with commas between the columns",
            )
        return arrow.read_csv(
            pa.BufferReader(content),
            # One thread, so that an error names the row. A row must fit into a block.
            read_options=arrow.ReadOptions(use_threads=False, block_size=1 << 24),
            parse_options=arrow.ParseOptions(newlines_in_values=True),
            convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
        )
    except (csv.Error, pa.ArrowInvalid) as error:
        raise UsageError(
            f"{path} cannot be read as CSV",
            why=str(error).splitlines()[0][:300],
            fix="is the file cut off? Every row has a value, or nothing, for each column of the first line",
        ) from error


def _read_jsonl(path: Path) -> pa.Table:
    import pyarrow as pa

    rows = []
    # Not splitlines: a JSON text may hold other separators of lines as they are.
    for number, line in enumerate(_utf8(path).decode("utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(
                    f"{path}: line {number} is not JSON",
                    why=f"{error}: {_short(line)}",
                    fix="is the file cut off? Write one JSON object per line",
                ) from error
            if not isinstance(row, dict):
                raise UsageError(
                    f"{path}: line {number} is not an object",
                    why=_short(line),
                    fix='write {"query": ..., "model": ..., "correct": ...}, one per line',
                )
            if "\\ud" in line.lower() and not _is_unicode(row):
                raise UsageError(
                    f"{path}: line {number} is not valid Unicode",
                    why="it holds half of a surrogate pair",
                    fix="repair or leave out the line",
                )
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _array([row.get(name) for row in rows]) for name in names})


def _is_unicode(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _array(values: list[Any]) -> pa.Array:
    """The values of a JSON column; those of several kinds, such as true and 1, as text."""
    import pyarrow as pa

    try:
        return pa.array(values, from_pandas=True)  # NaN is null
    except (pa.ArrowException, OverflowError):
        return pa.array(list(map(_as_text, values)))


def _as_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    nothing = value is None or (isinstance(value, float) and math.isnan(value))
    return None if nothing else json.dumps(value)


# --- columns ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """A column of texts, each different one kept once: row r has values[codes[r]], empty where it is missing."""

    codes: NDArray[np.int64]  # [R]
    values: NDArray[np.object_]

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Which rows hold nothing but blanks [R]."""
        return np.array([not value.strip() for value in self.values], bool)[self.codes]

    def of(self, row: int) -> str:
        text: str = self.values[self.codes[row]]
        return text


def _texts(where: str, frame: pa.Table, name: str) -> Texts:
    import pyarrow as pa

    column = _plain(frame.column(name))
    of = column.type
    text = any(test(of) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null))
    if not text and (name == "query" or not pa.types.is_integer(of)):
        raise UsageError(
            f"{where}: column {name!r} is not text",
            why=f"it is {of}; the first value is {_short(column[0].as_py())}",
            fix="write it as strings",
        )
    return _coded(where, name, column)


def _numbers(rows: Rows, name: str) -> NDArray[np.float64]:
    """A label or cost column [R]; NaN where it is empty."""
    import pandas as pd
    import pyarrow as pa

    kind = name.partition("/")[0]
    column = _plain(rows.frame.column(name))
    of = column.type
    if pa.types.is_string(of) or pa.types.is_large_string(of):
        texts = _coded(rows.where, name, column)
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
            why=f"it is {of}; row {rows.numbers[0]} has {_short(column[0].as_py())}",
            fix=RULES[kind],
        )
    most = 1.0 if kind == "correct" else np.finfo(np.float32).max
    wrong |= (values < 0) | (values > most)
    if wrong.any():
        r = int(wrong.argmax())
        raise UsageError(
            f"{rows.where}: {int(wrong.sum()):,} wrong value(s) in column {name!r}",
            why=f"the first is {_short(column[r].as_py())}, in row {rows.numbers[r]} (id {rows.ids.of(r)!r})",
            fix=RULES[kind],
        )
    return values


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column itself where it is written as codes of a dictionary."""
    import pyarrow as pa

    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _coded(where: str, name: str, column: pa.ChunkedArray) -> Texts:
    import pyarrow as pa

    coded = column.cast(pa.large_string()).fill_null("").combine_chunks().dictionary_encode()
    try:
        values = coded.dictionary.to_pylist()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where}: column {name!r} is not UTF-8", why=str(error), fix="write it as UTF-8"
        ) from error
    return Texts(coded.indices.to_numpy().astype(np.int64), _objects(values))


def _objects(values: Sequence[str]) -> NDArray[np.object_]:
    return np.array(values, dtype=np.object_)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


# --- conversion -------------------------------------------------------------------------------------


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
                why=f"row {self.numbers[first]} has {_short(texts.of(first))}, "
                f"row {self.numbers[r]} has {_short(texts.of(r))}",
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
    tasks = _tasks(rows, notes)
    models, labels, costs = _cells(rows, form, threshold, notes)
    parts = _parts(rows, queries, labels)

    learned = np.asarray(~np.isnan(labels[parts[0]]).all(axis=0))
    _note(
        notes,
        "models left out, without a label in train",
        np.flatnonzero(~learned),
        lambda m: repr(models[m]),
    )
    parts = [part[~np.isnan(labels[part][:, learned]).all(axis=1)] for part in parts]
    _check_parts(rows, parts, "its queries have labels only of models that have none in train")
    kept = np.concatenate(parts)
    left_out = np.setdiff1d(np.arange(len(ids)), kept)
    _note(notes, "queries left out, without any label", left_out, lambda i: f"id {ids[i]!r}")
    costs = costs[:, learned]
    whole = Split(
        ids=ids,
        queries=queries,
        tasks=tasks,
        labels=np.ascontiguousarray(labels[:, learned], np.float32),
        costs=None if np.isnan(costs[kept]).all() else np.ascontiguousarray(costs, np.float32),
    )
    train, val, test = (published.take(whole, part.tolist()) for part in parts)
    dataset = RoutingDataset(
        name=name,
        models=tuple(model for model, known in zip(models, learned, strict=True) if known),
        train=train,
        val=val,
        test=test,
    )
    table.check(dataset)
    return dataset, notes


def _form(where: str, names: Sequence[str]) -> Form:
    correct, cost = (
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
        needed = ["query", *(f"correct/{model}" for model in cost)]
        published.check_columns(where, names, needed, others=True, form="columns of the wide form", fix=fix)
        known = {*needed, "id", "task", "split", *(f"{p}{m}" for p in PREFIXES for m in correct)}
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
        raise _no_rows(where)
    query = _texts(where, frame, "query")
    decoded = _objects([published.decode_prompt(value) for value in query.values])
    changed = (decoded != query.values)[query.codes]
    codes, values = pd.factorize(decoded)  # two texts may be one when decoded
    query = Texts(codes[query.codes], values)
    no_query = query.empty
    no_model = ~no_query & (_texts(where, frame, "model").empty if form.long else False)
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

    made = _objects([hashlib.sha256(value.encode()).hexdigest()[:16] for value in query.values])
    each = made[query.codes]
    if "id" in frame.column_names:
        given = _texts(where, frame, "id")
        each = np.where(given.empty, each, given.values[given.codes])
    return Texts(*pd.factorize(each))


def _tasks(rows: Rows, notes: list[Note]) -> list[str]:
    if "task" not in rows.frame.column_names:
        return [""] * len(rows.first)
    tasks = _texts(rows.where, rows.frame, "task")
    _note(
        notes,
        "rows with another task than the query's first row, whose task is kept",
        rows.others(tasks),
        lambda r: f"row {rows.numbers[r]} (id {rows.ids.of(r)!r})",
    )
    return rows.first_of_each(tasks)


def _cells(
    rows: Rows, form: Form, threshold: float | None, notes: list[Note]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """The models, their labels [N, K] and costs [N, K]."""
    import pandas as pd

    names = rows.frame.column_names
    if form.long:
        model = _texts(rows.where, rows.frame, "model")
        codes, used = pd.factorize(model.codes)
        models, columns = model.values[used].tolist(), codes[:, None]
        correct = _numbers(rows, "correct")[:, None]  # [R, 1]
        cost = _numbers(rows, "cost")[:, None] if "cost" in names else np.full_like(correct, np.nan)
    else:
        models, columns = form.models, np.arange(len(form.models))[None]
        correct = np.stack([_numbers(rows, f"correct/{m}") for m in models], axis=1)  # [R, K]
        cost = np.full_like(correct, np.nan)
        for m, name in enumerate(models):
            if f"cost/{name}" in names:
                cost[:, m] = _numbers(rows, f"cost/{name}")
    if threshold is not None:
        correct = np.where(np.isnan(correct), np.nan, correct >= threshold)

    shape = len(rows.first), len(models)
    # The cell of the benchmark that a cell of the file is: query and model in one number.
    key = (rows.ids.codes[:, None] * len(models) + columns).ravel()
    label, dollars = correct.ravel(), cost.ravel()
    low = np.full(shape, np.nan).ravel()
    high, costs = low.copy(), low.copy()
    np.fmin.at(low, key, label)
    np.fmax.at(high, key, label)
    known = np.flatnonzero(~np.isnan(dollars))[::-1]
    costs[key[known]] = dollars[known]  # backwards: the first known cost stays
    clash = low < high
    low[clash] = costs[clash] = np.nan

    def cell(at: int) -> str:
        return f"id {rows.ids.values[at // len(models)]!r} and model {models[at % len(models)]!r}"

    said = key[~(np.isnan(label) & np.isnan(dollars))]  # an empty cell repeats nothing
    again = said[pd.Series(said).duplicated().to_numpy()]
    _note(notes, "repeated cells with equal labels, of which one is kept", again[~clash[again]], cell)
    _note(notes, "cells with different labels, now missing", pd.unique(said[clash[said]]), cell)
    return models, low.reshape(shape), costs.reshape(shape)


def _parts(rows: Rows, queries: Sequence[str], labels: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Which queries with a label are train, val and test."""
    seen = np.flatnonzero(~np.isnan(labels).all(axis=1))
    split = _given_split(rows)
    if split is None:
        parts = [
            seen[np.array(part, int)] for part in published.split_rows([queries[i] for i in seen.tolist()])
        ]
    else:
        parts = [seen[_objects(split)[seen] == name] for name in SPLITS]
    none = "the column split gives it none" if split else "a split of 60/10/30 leaves it none"
    _check_parts(rows, parts, f"{len(seen)} of {len(labels)} queries have a label; {none}")
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
    texts = _texts(rows.where, rows.frame, "split")
    if texts.empty.all():
        return None
    splits = [SPLIT_OF.get(value.strip().lower()) for value in texts.values]
    unknown = np.array([split is None for split in splits])[texts.codes]
    if unknown.any():
        r = int(unknown.argmax())
        raise UsageError(
            f"{rows.where}: {int(unknown.sum()):,} row(s) name no split",
            why=f"the first has {_short(texts.of(r))}: row {rows.numbers[r]} (id {rows.ids.of(r)!r})",
            fix=f"write one of {', '.join(SPLIT_OF)} in every row, or leave the column out",
        )
    named = np.array([SPLITS.index(split) for split in splits if split])
    return rows.one_each(Texts(named[texts.codes], _objects(SPLITS)), "splits", "keep a query in one split")


def _note(
    notes: list[Note], what: str, found: Sequence[Any] | NDArray[Any], say: Callable[[Any], str]
) -> None:
    if len(found):
        notes.append(Note(what, len(found), say(found[0])))
