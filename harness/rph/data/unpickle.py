"""Reads a third-party pickle of a DataFrame as data: no code that the pickle names is ever imported or run.

An ordinary unpickler imports and calls whatever the file says. This one knows a handful of pandas and numpy names,
and puts small classes of this module in their place, which only keep the parts: blocks, axes, arrays, dtypes.
The DataFrame is built from the parts afterwards. So a file written by an older pandas or numpy reads the same, and
neither their unpickling code nor a crafted dtype state can be reached. Any other name is refused.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph.errors import UsageError
from rph.lazy import np

if TYPE_CHECKING:
    import pandas as pd

SIMPLE_DTYPE = re.compile(r"O8?|b1|[iu][1248]|f[248]|[US]\d+")  # what a column or an axis may hold


class _Part:
    """Stands for one pickled object. A pickle may set no state where none belongs, not even on the class."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"unexpected state for {type(self).__name__.strip('_')}")


class _Dtype(_Part):
    """numpy.dtype(code, align, copy), then (version, byte order, ...); the rest of the state is not used."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not SIMPLE_DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"dtype {code!r} is none that a table needs")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array(_Part):
    """numpy's _reconstruct(ndarray, (0,), b"b"), then (version, shape, dtype, fortran, bytes or list)."""

    values: Any

    def __init__(self, *_: Any) -> None:
        self.values = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if dtype.numpy == object:
            flat = np.empty(len(data), object)
            flat[:] = data
        else:
            flat = np.frombuffer(data, dtype.numpy)
        self.values = flat.reshape(shape, order="F" if fortran else "C")


class _Buffer(_Array):
    """numpy's _frombuffer(bytes, dtype, shape, order)."""

    def __init__(self, data: Any, dtype: _Dtype, shape: Any, order: Any, *_: Any) -> None:
        self.values = np.frombuffer(data, dtype.numpy).reshape(shape, order=order)


class _Block(_Part):
    """pandas' _unpickle_block(values, placement, ndim): columns of one dtype, [columns, rows]."""

    def __init__(self, values: _Array, placement: Any, ndim: int) -> None:
        self.values, self.placement = values, placement


class _Manager(_Part):
    """pandas' BlockManager(blocks, axes)."""

    def __init__(self, blocks: Any, axes: Any) -> None:
        self.blocks, self.axes = blocks, axes


class _Kind(_Part):
    """A class that is only named, as an argument: ndarray, Index."""


class _RangeKind(_Kind):
    """RangeIndex."""


class _Index(_Part):
    """pandas' _new_Index(class, {data, name} or {start, stop, step, name})."""

    def __init__(self, kind: type[_Kind], parts: dict[str, Any]) -> None:
        if kind is _RangeKind:
            self.values = np.arange(parts["start"], parts["stop"], parts["step"])
        else:
            self.values = parts["data"].values


class _Frame(_Part):
    """pandas' DataFrame."""

    manager: _Manager

    def __setstate__(self, state: Any) -> None:
        self.manager = state["_mgr"]

    def table(self) -> pd.DataFrame:
        """The frame itself, column by column, each with the dtype it was stored with."""
        import pandas as pd

        names, index = (axis.values for axis in self.manager.axes)
        columns: dict[int, Any] = {}  # position -> values
        for block in self.manager.blocks:
            values, placement = block.values.values, block.placement
            if isinstance(placement, slice):
                where = range(*placement.indices(len(names)))
            else:
                where = placement.values.tolist()
            if values.shape != (len(where), len(index)) or not columns.keys().isdisjoint(where):
                raise pickle.UnpicklingError("its blocks do not fit together")
            columns.update(zip(where, values, strict=True))
        if columns.keys() != set(range(len(names))):
            raise pickle.UnpicklingError("its blocks do not cover its columns")
        rows = pd.Index(index, dtype=index.dtype)
        series = {i: pd.Series(columns[i], rows, columns[i].dtype, copy=False) for i in range(len(names))}
        frame = pd.DataFrame(series, index=rows)
        frame.columns = pd.Index(names, dtype=names.dtype)
        return frame


ALLOWED: dict[str, type] = {
    "pandas.core.frame.DataFrame": _Frame,
    "pandas.DataFrame": _Frame,  # pandas 3
    "pandas.core.internals.managers.BlockManager": _Manager,
    "pandas._libs.internals._unpickle_block": _Block,
    "pandas.core.internals.blocks.new_block": _Block,  # pandas 1
    "pandas.core.indexes.base._new_Index": _Index,
    "pandas.core.indexes.base.Index": _Kind,
    "pandas.Index": _Kind,  # pandas 3
    "pandas.core.indexes.numeric.Int64Index": _Kind,  # pandas 1
    "pandas.core.indexes.range.RangeIndex": _RangeKind,
    "pandas.RangeIndex": _RangeKind,  # pandas 3
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Kind,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray._reconstruct": _Array,  # numpy 1
    "numpy._core.numeric._frombuffer": _Buffer,
    "numpy.core.numeric._frombuffer": _Buffer,  # numpy 1
    "builtins.slice": slice,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Called for every global in the file; the file's own names are never imported."""
        try:
            return ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


class _Refused(Exception):
    """A pickle names something that is not needed for a table."""


def read_frame(path: Path) -> pd.DataFrame:
    """The DataFrame pickled at `path`, with its column order, dtypes and index values.

    Raises UsageError for a file that names anything but the constructors of a plain table, before anything runs,
    and for one that is no pickle, is damaged, or holds something else.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist", fix="check the path")
    with path.open("rb") as file:
        if file.read(1) != b"\x80":  # every pickle since protocol 2 starts so
            raise UsageError(
                f"{path} is not a pickle",
                why="its first byte is not that of one; a page or a Git LFS pointer may have been saved in its place",
                fix="download the file again",
            )
        file.seek(0)
        try:
            read = _Unpickler(file).load()
            if isinstance(read, _Frame):
                return read.table()
        except _Refused as refused:
            raise UsageError(
                f"{path} is refused: it names {refused}",
                why="a pickle can run any code it names; only the parts of a plain DataFrame are read, and nothing ran",
                fix="download the publisher's file again; a file of your own, save with plain object and number columns",
            ) from None
        except Exception as error:  # a damaged stream can fail anywhere; none of it is our caller's concern
            raise UsageError(
                f"{path} is cut short or damaged",
                why=f"{type(error).__name__}: {error}",
                fix="download the file again",
            ) from error
    raise UsageError(
        f"{path} holds no DataFrame",
        why=f"the pickle is of a {type(read).__name__.strip('_')}",
        fix="give the file that the publisher released",
    )
