"""Parquet files, a column at a time: texts, matrices of a column per model, and reasons of missing labels."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph.errors import UsageError
from rph.holes import REASONS
from rph.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32


class Columns:
    """A Parquet file of which each column is read when it is asked for: 112 models are never in memory twice."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        with _parquet_errors(path):
            self._file = pq.ParquetFile(path)  # read_table would add columns for a folder named a=b
        self.schema = self._file.schema_arrow
        self.column_names: list[str] = self.schema.names

    def column(self, name: str) -> Any:
        return self.read([name]).column(name)

    def read(self, columns: Sequence[str] | None = None) -> Any:
        """Columns, or fields within columns (`column.field`), as a pyarrow table; all without `columns`."""
        with _parquet_errors(self.path):
            return self._file.read(columns, use_threads=False)


@contextlib.contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UsageError(
            f"{path} cannot be read as Parquet",
            why=str(error).splitlines()[0],
            fix="write it again as Parquet",
        ) from error


def _text_column(path: Path, rows: Any, name: str) -> Any:
    """A column of text, nulls and all, as pyarrow has it; ids may be whole numbers."""
    import pyarrow as pa

    column = rows.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if name == "id" and pa.types.is_integer(kind):
        return column.cast(pa.string())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise UsageError(
            f"{path}: column {name!r} is not text", why=f"it is {kind}", fix="write it as strings"
        )
    return column


def texts(path: Path, rows: Any, name: str, ids: Sequence[str] = (), *, nulls: bool = False) -> list[str]:
    """A column of text; a null is an error, with `nulls` "". `ids` name the rows in messages."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _text_column(path, rows, name)
    if column.null_count and nulls:
        column = column.cast(pa.large_string()).fill_null("")
    elif column.null_count:
        first = pc.index(pc.is_null(column), True).as_py()
        where = f"row {first}" + (f" (id {ids[first]!r})" if ids else "")
        raise UsageError(
            f"{path}: column {name!r} has {column.null_count} null value(s)",
            why=f"the first is in {where}",
            fix="fill them in, or leave these rows out",
        )
    try:
        found: list[str] = column.to_pylist()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: column {name!r} is not text in UTF-8", why=str(error), fix="write it again in UTF-8"
        ) from error
    del column
    pa.default_memory_pool().release_unused()
    return found


def matrix(path: Path, rows: Any, kind: str, models: Sequence[str], ids: Sequence[str]) -> Float32:
    """The columns `kind/<model>` as [N, K]; null becomes NaN."""
    import pyarrow as pa

    cells = np.empty((len(ids), len(models)), np.float32)
    for m, model in enumerate(models):
        column = rows.column(f"{kind}/{model}")
        of = column.type
        if not any(
            test(of)
            for test in (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
        ):
            raise UsageError(
                f"{path}: column '{kind}/{model}' is not numeric",
                why=f"it is {of}"
                + (f"; the first value is {column[0].as_py()!r} (id {ids[0]!r})" if ids else ""),
                fix="write numbers, and null where nothing was observed",
            )
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which check() refuses
            cells[:, m] = column.cast(pa.float64()).to_numpy()
    return cells


def reasons(path: Path, rows: Columns, models: Sequence[str], ids: Sequence[str]) -> NDArray[np.uint8] | None:
    """The columns `hole/<model>` as places in REASONS [N, K]; None where there is no such column."""
    import pyarrow as pa

    there = [(m, name) for m, model in enumerate(models) if (name := f"hole/{model}") in rows.column_names]
    found = np.zeros((len(ids), len(models)), np.uint8)
    for m, name in there:
        column = _text_column(path, rows, name).cast(pa.large_string()).fill_null("")
        coded = column.combine_chunks().dictionary_encode()
        codes = coded.indices.to_numpy()
        places = []
        for code, word in enumerate(coded.dictionary.to_pylist()):
            at = int((codes == code).argmax())
            places.append(reason(word, f"{path}: column {name!r}", f"id {ids[at]!r}"))
        found[:, m] = np.array(places, np.uint8)[codes]
    return found if there else None


def reason(word: str, where: str, first: str) -> int:
    """The place of a word in REASONS; in a message `where` names the column and `first` the first row that has it."""
    if word not in REASONS:
        close = difflib.get_close_matches(word, REASONS[1:], n=1)
        raise UsageError(
            f"{where} has an unknown reason: {word!r}",
            why=f"the first is of {first}; "
            + (f"did you mean {close[0]!r}?" if close else f"the reasons are {', '.join(REASONS[1:])}"),
            fix="write one of them where a label is missing, or leave the cell empty",
        )
    return REASONS.index(word)
