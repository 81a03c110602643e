"""A third-party pickle is read as data: what it names is never run."""

import os
import pickle
import pickletools
from functools import partial

import numpy as np
import pandas as pd
import pytest

from rph import UsageError
from rph.data.unpickle import read_frame


def save(path, thing, protocol=5):
    path.write_bytes(pickle.dumps(thing, protocol=protocol))
    return path


def frame():
    return pd.DataFrame(
        {
            "text": pd.Series(["a", "b", None], dtype=object),
            "score": [1.0, np.nan, 0.25],
            "count": [1, 2, 3],
            "more": [4.0, 5.0, 6.0],
            "flag": [True, False, True],
        }
    ).set_axis(pd.Index(["text", "score", "count", "more", "flag"], dtype=object), axis=1)


def without_frames(data):
    """The same pickle without FRAME opcodes, so that its bytes can be edited."""
    cuts = [position for op, _, position in pickletools.genops(data) if op.name == "FRAME"]
    for position in reversed(cuts):
        data = data[:position] + data[position + 9 :]
    return data


def as_numpy_1(data):
    """The pickle as numpy 1 spelled it: numpy.core instead of numpy._core."""
    data = without_frames(data)
    for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        old = name.replace(b"_core", b"core")
        data = data.replace(b"\x8c" + bytes([len(name)]) + name, b"\x8c" + bytes([len(old)]) + old)
        data = data.replace(b"c" + name + b"\n", b"c" + old + b"\n")
    return data


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_frame_comes_back_as_it_was(tmp_path, protocol):
    path = save(tmp_path / "f.pkl", frame(), protocol)
    pd.testing.assert_frame_equal(read_frame(path), frame())


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_names_of_numpy_1_are_understood(tmp_path, protocol):
    data = as_numpy_1(pickle.dumps(frame(), protocol=protocol))
    assert b"numpy.core" in data and b"numpy._core" not in data
    (tmp_path / "f.pkl").write_bytes(data)
    pd.testing.assert_frame_equal(read_frame(tmp_path / "f.pkl"), frame())


def test_an_index_other_than_a_range_is_kept(tmp_path):
    expected = frame().iloc[[2, 0]].copy()
    pd.testing.assert_frame_equal(read_frame(save(tmp_path / "f.pkl", expected)), expected)


def test_repeated_column_names_are_kept(tmp_path):
    expected = frame()
    expected.columns = pd.Index(["text", "x", "x", "more", "flag"], dtype=object)
    pd.testing.assert_frame_equal(read_frame(save(tmp_path / "f.pkl", expected)), expected)


def test_big_endian_numbers_keep_their_values(tmp_path):
    big = pd.DataFrame({"x": np.array([1.5, 2.5], ">f8")})
    big.columns = pd.Index(["x"], dtype=object)
    assert read_frame(save(tmp_path / "f.pkl", big))["x"].tolist() == [1.5, 2.5]


class Call:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def marker_calls(marker):
    text = f"open({str(marker)!r}, 'w').close()"
    return {
        "posix.system": Call(os.system, f"touch {marker}"),
        "builtins.eval": Call(eval, text),
        "builtins.exec": Call(exec, text),
        "functools.partial": Call(partial, eval, text),
        "read_pickle": Call(pd.read_pickle, str(marker)),
        "numpy.load": Call(np.load, str(marker)),
        "builtins.getattr": Call(getattr, "text", "upper"),
    }


@pytest.mark.parametrize(
    "named",
    [
        "posix.system",
        "builtins.eval",
        "builtins.exec",
        "functools.partial",
        "read_pickle",
        "numpy.load",
        "builtins.getattr",
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_any_other_global_is_refused_by_name_and_nothing_runs(tmp_path, named, protocol):
    marker = tmp_path / "ran"
    path = save(tmp_path / "f.pkl", [frame(), marker_calls(marker)[named]], protocol)
    with pytest.raises(UsageError) as refused:
        read_frame(path)
    assert "is refused" in refused.value.what
    # At protocol 2 bytes are spelled with _codecs.encode, which comes first and is refused just as well.
    assert named in refused.value.what or (protocol == 2 and "_codecs.encode" in refused.value.what)
    assert not marker.exists()


def test_a_call_alone_is_refused_too(tmp_path):
    marker = tmp_path / "ran"
    path = save(tmp_path / "f.pkl", Call(os.system, f"touch {marker}"))
    with pytest.raises(UsageError, match=r"names posix\.system"):
        read_frame(path)
    assert not marker.exists()


def text(value):
    encoded = value.encode()
    return b"\x8c" + bytes([len(encoded)]) + encoded


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pandas", "io.common.os.system"),
        ("os", "system"),
        ("pandas.core.frame", "DataFrame.eval"),
        ("numpy", "dtype.__class__"),
        ("builtins", "slice.__reduce__"),
    ],
)
def test_a_dotted_name_reaches_nothing(tmp_path, module, name):
    marker = tmp_path / "ran"
    # PROTO 4, module, name, STACK_GLOBAL, argument, TUPLE1, REDUCE, STOP
    data = b"\x80\x04" + text(module) + text(name) + b"\x93" + text(f"touch {marker}") + b"\x85R."
    (tmp_path / "f.pkl").write_bytes(data)
    with pytest.raises(UsageError, match="is refused") as refused:
        read_frame(tmp_path / "f.pkl")
    assert f"{module}.{name}" in refused.value.what
    assert not marker.exists()


def test_a_pickle_cannot_change_the_classes_that_read_it(tmp_path):
    # PROTO 4, the DataFrame class itself, state {"manager": "x"}, BUILD, STOP
    data = b"\x80\x04" + text("pandas.core.frame") + text("DataFrame") + b"\x93"
    data += b"}" + text("manager") + text("x") + b"sb."
    (tmp_path / "f.pkl").write_bytes(data)
    with pytest.raises(UsageError):
        read_frame(tmp_path / "f.pkl")
    pd.testing.assert_frame_equal(read_frame(save(tmp_path / "g.pkl", frame())), frame())


@pytest.mark.parametrize("code", ["M8", "V8", "f8,O8", "O16"])
def test_a_dtype_that_no_table_needs_is_refused(tmp_path, code):
    data = b"\x80\x04" + text("numpy") + text("dtype") + b"\x93" + text(code) + b"\x89\x88\x87R."
    (tmp_path / "f.pkl").write_bytes(data)
    with pytest.raises(UsageError, match="none that a table needs"):
        read_frame(tmp_path / "f.pkl")


def test_a_file_that_is_no_pickle_is_said_to_be_none(tmp_path):
    (tmp_path / "f.pkl").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UsageError, match="is not a pickle"):
        read_frame(tmp_path / "f.pkl")


def test_an_empty_file_is_no_pickle(tmp_path):
    (tmp_path / "f.pkl").touch()
    with pytest.raises(UsageError, match="is not a pickle"):
        read_frame(tmp_path / "f.pkl")


def test_a_pickle_cut_short_anywhere_is_an_error_of_ours(tmp_path):
    data = pickle.dumps(frame(), protocol=5)
    for length in range(1, len(data)):
        (tmp_path / "f.pkl").write_bytes(data[:length])
        with pytest.raises(UsageError, match="cut short or damaged"):
            read_frame(tmp_path / "f.pkl")


@pytest.mark.parametrize("thing", [{"a": 1}, [1, 2], "text", np.zeros(3)])
def test_a_pickle_of_something_else_is_no_frame(tmp_path, thing):
    with pytest.raises(UsageError, match="holds no DataFrame"):
        read_frame(save(tmp_path / "f.pkl", thing))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_frame(tmp_path / "f.pkl")


@pytest.mark.real_data
def test_the_real_file_reads_as_pandas_reads_it(real_data):
    path = real_data / "routerbench" / "routerbench_5shot.pkl"
    pd.testing.assert_frame_equal(read_frame(path), pd.read_pickle(path))
