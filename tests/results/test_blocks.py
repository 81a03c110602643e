"""Blocks of a result: a known one is held to its record and arrays, an unknown one comes back as it was."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests import entries

from rph.board import strictfiles
from rph.errors import RphError, UsageError
from rph.results import blocks, files, recompute
from rph.results.blocks import Block
from rph.results.cell import CellResult, Record

COMMITTED = Path(__file__).parents[2] / "leaderboard/results"
# Two seeds, three queries, three models; the seeds' labels are 1, 0, 1 and 1, 1, 0.
PLAIN = entries.entry([[1, 0, 1], [0, 1, 0], [1, 0, 0]], [[0, 0, 0], [0, 1, 2]])


class Misses(Record):
    """A toy block: how often each seed's choice was wrong, and a word."""

    misses: tuple[int, ...]
    word: str


def count(result, arrays):
    return Misses(
        misses=tuple(int(one) for one in (arrays["labels"] == 0).sum(axis=1)),
        word=Misses.model_validate(result.blocks["toy"]).word,
    )


TOY = Block(
    record=Misses,
    arrays={"low": ("float32", "SN"), "bins": ("uint8", ("K", 2))},
    make=lambda dataset, arrays: None,  # no cell has it by itself
    recompute=count,
)
CONTENT = {"misses": [1, 1], "word": "all"}
LOW, BINS = np.array([[1, 0, 1], [1, 1, np.nan]], np.float32), np.ones((3, 2), np.uint8)
ARRAYS = {"toy/low": LOW, "toy/bins": BINS}


def having(content, arrays, entry=PLAIN):
    """The entry with these blocks and their arrays."""
    return dataclasses.replace(
        entry,
        result=entry.result.model_copy(update={"blocks": content}),
        queries=dataclasses.replace(entry.queries, blocks=arrays),
    )


WITH_TOY = having({"toy": CONTENT}, ARRAYS)


@pytest.fixture
def known(monkeypatch):
    """This version knows the toy block."""
    monkeypatch.setitem(blocks.KNOWN, "toy", TOY)


def write(folder, entry):
    return files.write(folder, entry.result, entry.queries)


def changed(path, *, content=None, arrays=None, **fields):
    """Change a written result: the content of its toy block, its arrays (None: taken away), its fields."""
    parsed = json.loads(path.read_text()) | fields
    if content is not None:
        parsed["blocks"]["toy"] = content
    path.write_text(json.dumps(parsed))
    packed = files.queries_path(path)
    with np.load(packed) as old:
        merged = dict(old) | (arrays or {})
    np.savez(packed, **{name: array for name, array in merged.items() if array is not None})


def strictly(path):
    """(the entry or None, what was refused) by the rules for strangers."""
    told = []
    return strictfiles.read(path, lambda rule, file, what: told.append(f"{rule}: {what}")), told


def assert_same(one, other):
    assert one.result == other.result
    mine, theirs = one.queries.arrays(), other.queries.arrays()
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        assert array.dtype == theirs[name].dtype
        np.testing.assert_array_equal(array, theirs[name])


@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_written_comes_back(tmp_path, monkeypatch, is_known):
    if is_known:
        monkeypatch.setitem(blocks.KNOWN, "toy", TOY)
    path = write(tmp_path, WITH_TOY)
    assert json.loads(path.read_text())["format"] == "rph-result/3"
    assert json.loads(path.read_text())["blocks"] == {"toy": CONTENT}
    assert_same(files.read(path), WITH_TOY)
    entry, told = strictly(path)
    assert told == []
    assert_same(entry, WITH_TOY)


NESTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)
NAMES = st.from_regex(blocks.BLOCK_NAME, fullmatch=True).filter(
    lambda name: name not in CellResult.model_fields and name not in blocks.KNOWN
)
NUMBERS = (
    hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32, 64))
)  # fmt: skip


@given(data=st.data())
def test_an_unknown_block_comes_back_and_is_written_again_as_it_was(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("blocks")
    content = data.draw(
        st.dictionaries(NAMES, st.dictionaries(st.text(max_size=5), NESTS, max_size=3), max_size=3)
    )
    names = [f"{block}/{data.draw(NAMES)}" for block in content]
    arrays = {
        name: data.draw(hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, min_side=0))) for name in names
    }
    entry = having(content, arrays)
    path = write(folder / "one", entry)
    again = files.read(path)
    assert_same(again, entry)
    assert recompute.recomputed(again).blocks == content
    kept = CellResult.model_validate_json(again.result.model_dump_json())  # as the run store keeps it
    second = files.write(folder / "two", kept, again.queries)
    for one, other in ((path, second), (files.queries_path(path), files.queries_path(second))):
        assert one.read_bytes() == other.read_bytes()


REFUSED = {
    "an unknown field": ({"content": CONTENT | {"more": 1}}, r"blocks\.toy\.more: Extra inputs"),
    "a field that is missing": ({"content": {"misses": [1, 1]}}, r"blocks\.toy\.word: Field required"),
    "a field of another type": ({"content": CONTENT | {"misses": ["1", 1]}}, r"blocks\.toy\.misses\.0: Input"),
    "an array that is missing": ({"arrays": {"toy/low": None}}, "toy/low"),
    "an array of another type": ({"arrays": {"toy/low": LOW.astype(float)}}, r"toy/low is float64 \(2, 3\), not"),
    "an array of another shape": ({"arrays": {"toy/low": LOW.T.copy()}}, r"toy/low is float32 \(3, 2\), not"),
    "a fixed length that is another": ({"arrays": {"toy/bins": BINS[:, :1]}}, r"toy/bins is uint8 \(3, 1\), not"),
    "an array too many": ({"arrays": {"toy/more": BINS}}, "toy/more"),
    "an array of no block": ({"arrays": {"other/low": LOW}}, "other/low"),
    "arrays without the block": ({"blocks": {}}, "toy/bins"),
    "the block in a format without": ({"format": "rph-result/2"}, "has blocks, which rph-result/2 does not"),
    "the name of a field": ({"blocks": {"toy": CONTENT, "curve": {}}}, "a block is called curve"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_known_block_is_held_to_its_record_and_its_arrays(tmp_path, known, what):
    change, why = REFUSED[what]
    path = write(tmp_path, WITH_TOY)
    changed(path, **change)
    with pytest.raises(UsageError, match=why):
        files.read(path)
    entry, told = strictly(path)
    assert entry is None
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(told)


@pytest.mark.parametrize(
    ("content", "arrays", "why"),
    [
        ({"toy": CONTENT | {"more": 1}}, ARRAYS, "toy.more"),
        ({"toy": CONTENT}, {}, "toy/bins, toy/low"),
        ({"toy": CONTENT}, ARRAYS | {"toy/low": LOW[:1]}, "toy/low is"),
        ({}, ARRAYS, "toy/bins, toy/low"),
        ({"other": {}}, {"other/names": np.array(["a"])}, "only numbers"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, known, content, arrays, why):
    with pytest.raises(RphError, match=why):
        write(tmp_path, having(content, arrays))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_block_holds_no_number_that_json_cannot_write(tmp_path, number):
    path = write(tmp_path, having({"other": {"a": [{"b": -7.25}]}}, {}))
    path.write_text(path.read_text().replace("-7.25", number))
    with pytest.raises(UsageError, match=r"blocks\.other holds a number that is not finite"):
        files.read(path)


def test_a_known_block_is_computed_again_where_it_says_how(known, monkeypatch):
    wrong = having({"toy": {"misses": [0, 0], "word": "all"}, "other": {"misses": [0]}}, ARRAYS)
    assert recompute.recomputed(wrong).blocks == {"toy": CONTENT, "other": {"misses": [0]}}
    monkeypatch.setitem(blocks.KNOWN, "toy", dataclasses.replace(TOY, recompute=None))
    assert recompute.recomputed(wrong).blocks == wrong.result.blocks


def test_what_is_taken_on_trust_is_named(monkeypatch):
    monkeypatch.setitem(blocks.KNOWN, "toy", TOY)
    monkeypatch.setitem(blocks.KNOWN, "claim", dataclasses.replace(TOY, recompute=None))
    said = list(blocks.unverified(["toy", "claim", "other"]))
    assert [line.partition(":")[0] for line in said] == [
        "the block claim",
        "the block other, which this version of rph does not know",
    ]


@pytest.mark.parametrize(("name", "block"), [*blocks.KNOWN.items(), ("toy", TOY)])
def test_a_block_of_this_version_is_one_that_can_be_read(name, block):
    assert all(re.fullmatch(blocks.BLOCK_NAME, one) for one in (name, *block.arrays))
    assert name not in CellResult.model_fields
    assert all(field.is_required() for field in block.record.model_fields.values())
    for kind in block.arrays.values():
        dtype, shape = blocks.form(kind, PLAIN.result)
        assert dtype.kind in "biuf" and len(shape) == len(kind[1])


def test_a_file_of_the_format_before_is_read_and_written_as_it_is(tmp_path):
    paths = list(files.find(COMMITTED))
    assert len(paths) > 100
    for path in paths:
        entry = files.read(path)
        assert (entry.result.format, entry.result.blocks) == ("rph-result/2", {})
        assert write(tmp_path, entry).read_bytes() == path.read_bytes()
