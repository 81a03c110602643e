"""A user's file as columns of text: CSV, JSONL and Parquet read as they are, renamed, and decoded."""

from __future__ import annotations

import csv
import io
import json
import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph.data import parquet
from rph.errors import UsageError
from rph.lazy import np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

LONG = ("query", "model", "correct")
OPTIONAL = ("id", "cost", "hole", "task", "language", "split")
PREFIXES = ("correct/", "cost/", "hole/")
OTHER_MARKS = {";": "';'", "\t": "tabs", "|": "'|'"}  # that spreadsheets put between columns
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Note:
    """One kind of thing that was left out or changed."""

    what: str
    count: int
    first: str


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
        raise no_rows(str(path))
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


def no_rows(where: str) -> UsageError:
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
    return parquet.Columns(path).read()


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
                why=f"its first line is {short(names[0])}",
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
                    why=f"{error}: {short(line)}",
                    fix="is the file cut off? Write one JSON object per line",
                ) from error
            if not isinstance(row, dict):
                raise UsageError(
                    f"{path}: line {number} is not an object",
                    why=short(line),
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


def texts_of(where: str, frame: pa.Table, name: str) -> Texts:
    import pyarrow as pa

    column = plain(frame.column(name))
    of = column.type
    text = any(test(of) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null))
    if not text and (name == "query" or not pa.types.is_integer(of)):
        raise UsageError(
            f"{where}: column {name!r} is not text",
            why=f"it is {of}; the first value is {short(column[0].as_py())}",
            fix="write it as strings",
        )
    return coded_column(where, name, column)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column itself where it is written as codes of a dictionary."""
    import pyarrow as pa

    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def coded_column(where: str, name: str, column: pa.ChunkedArray) -> Texts:
    import pyarrow as pa

    coded = column.cast(pa.large_string()).fill_null("").combine_chunks().dictionary_encode()
    try:
        values = coded.dictionary.to_pylist()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where}: column {name!r} is not UTF-8", why=str(error), fix="write it as UTF-8"
        ) from error
    return Texts(coded.indices.to_numpy().astype(np.int64), objects(values))


def objects(values: Sequence[str]) -> NDArray[np.object_]:
    return np.array(values, dtype=np.object_)


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
