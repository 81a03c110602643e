"""What benchmark plugins share: frozen splits, labels, costs, columns, files."""

import hashlib
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.releases import folder

from rph import BenchmarkCard, File, RoutingDataset, Split, UsageError
from rph.data import hub
from rph.data.published import (
    Price,
    check_columns,
    costs,
    labels,
    name_of,
    named,
    paper_note,
    sources,
    split_rows,
    take,
    unique,
)

NAN = float("nan")

# --- the split of a release without one -------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (36_497, [21_898, 3_649, 10_950]),  # RouterBench and R2-Bench in Table 8 of the paper
        (30_968, [18_580, 3_097, 9_291]),
        (36_511, [21_906, 3_651, 10_954]),
    ],
)
def test_the_counts_are_those_of_the_paper(rows, sizes):
    queries = (
        [f"query {i}" for i in range(rows - 16)] + ["Once upon a "] * 3 + [f"query {i}" for i in range(13)]
    )
    assert [len(split) for split in split_rows(queries)] == sizes


def test_rows_stand_in_the_order_of_the_hash_of_their_text():
    queries = [f"query {i}" for i in range(50)]
    train, val, test = split_rows(queries)
    assert [*train, *val, *test] == sorted(
        range(50), key=lambda i: hashlib.sha256(queries[i].encode()).hexdigest()
    )
    assert (len(train), len(val), len(test)) == (30, 5, 15)


def test_texts_equal_in_normal_form_go_to_one_split():
    queries = [f"query {i}" for i in range(48)]
    for again in (" QUERY\t7\n", "Query  7"):
        (split,) = (rows for rows in split_rows([*queries, again]) if 48 in rows)
        assert 7 in split


@given(st.lists(st.integers(0, 200), min_size=1, max_size=300))
def test_equal_texts_never_straddle_two_splits_and_no_row_is_lost(numbers):
    queries = [str(number) for number in numbers]
    splits = split_rows(queries)
    assert sorted(i for rows in splits for i in rows) == list(range(len(queries)))
    texts = [{queries[i] for i in rows} for rows in splits]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])


def test_a_group_that_does_not_fit_moves_on_and_sizes_stay_exact():
    queries = [f"query {i}" for i in range(10)]
    order = [queries[i] for rows in split_rows(queries) for i in rows]
    doubled = [query for query in queries if query != order[9]] + [order[5]]  # the last of train, twice
    train, val, test = split_rows(doubled)
    assert (len(train), len(val), len(test)) == (6, 1, 3)
    assert sum(order[5] in {doubled[i] for i in rows} for rows in (train, val, test)) == 1
    assert order[5] in {doubled[i] for i in test}  # two do not fit into train's or val's last place


# --- names, labels, costs ---------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["a", "b", "a#2", "a#3", "b#2"]), max_size=20))
def test_unique_names_are_unique_and_first_ones_stay(names):
    result = unique(names)
    assert len(set(result)) == len(result)
    firsts = {name: names.index(name) for name in names}
    assert all(result[i] == name for name, i in firsts.items())


def test_a_score_is_a_label_by_the_threshold_and_a_missing_one_stays_missing():
    scores = np.array([[0.0, 0.49, 0.5], [1.0, NAN, 0.51]])
    found = labels("it", scores, 0.5, ["a", "b"], ["x", "y", "z"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0, 0, 1], [1, NAN, 1]])
    with pytest.raises(UsageError, match="2 score") as error:
        labels("it", np.array([[0.5, 1.5], [-1.0, NAN]]), 0.5, ["a", "b"], ["x", "y"])
    assert "1.5, of id 'a' and model 'y'" in error.value.why


def test_costs_are_tokens_times_dollars_per_million_and_missing_stays_missing():
    prices = {"x": Price(1.0, 2.0), "y": Price(0.0, 30.0)}
    found = costs(
        "it", ["y", "x"], prices, np.array([[10, 1000], [NAN, 5]]), np.array([[100, 500], [1, NAN]])
    )
    np.testing.assert_allclose(found, [[100 * 30e-6, 1000e-6 + 1000e-6], [NAN, NAN]], rtol=1e-6)


def test_a_model_without_a_price_is_named_and_never_free():
    with pytest.raises(UsageError, match="no price is known for model 'z'"):
        costs("it", ["x", "z"], {"x": Price(1, 1)}, np.ones((1, 2)), np.ones((1, 2)))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (["a", "c"], "missing: bee"),
        (["a", "bee", "c", "d"], "found besides: d"),
        (["a", "be", "c"], "is 'be' meant to be 'bee'?"),
        (["a", "bee", "c", "c"], "twice: c"),
    ],
)
def test_other_columns_are_told_with_what_was_found_and_expected(found, said):
    with pytest.raises(UsageError, match="3 columns") as error:
        check_columns("the file", found, ["a", "bee", "c"])
    assert said in error.value.why


def test_columns_may_stand_in_any_order_and_further_ones_be_allowed():
    check_columns("the file", ["c", "a"], ["a", "c"])
    check_columns("the file", ["c", "a", "d"], ["a", "c"], others=True)


# --- rows -------------------------------------------------------------------------------------------


def test_taken_rows_take_along_everything_that_is_known_of_them():
    numbers = np.arange(6, dtype=np.float32).reshape(3, 2) / 10
    whole = Split(
        ids=["a", "b", "c"],
        queries=["A?", "B?", "C?"],
        tasks=["x", "y", "z"],
        labels=numbers,
        costs=numbers + 1,
        p_correct=numbers / 2,
        reasons=np.arange(6, dtype=np.uint8).reshape(3, 2),
        languages=["en", "de", "fr"],
    )
    found = take(whole, [2, 0])
    assert {field.name for field in fields(Split)} == set(vars(found))
    for name, value in vars(found).items():
        expected = getattr(whole, name)
        assert list(map(str, value)) == [str(expected[2]), str(expected[0])], name


# --- the name of a subset, the paper's counts -------------------------------------------------------


def split(name, n):
    return Split(
        ids=[f"{name}{i}" for i in range(n)],
        queries=["?"] * n,
        tasks=[""] * n,
        labels=np.ones((n, 1), np.float32),
    )


def test_other_counts_than_the_full_release_make_a_subset():
    data = RoutingDataset(
        name="it", models=("m",), train=split("a", 3), val=split("b", 1), test=split("c", 2)
    )
    assert named(data, {"train": 3, "val": 1, "test": 2}) is data
    part = named(data, {"train": 3, "val": 2, "test": 2})
    assert part.name == f"it-subset-6-{data.fingerprint[:8]}"
    assert "3/1/2 queries in train/val/test; the full release has 3/2/2" in part.subset


def test_the_card_tells_where_the_release_differs_from_the_paper():
    def card(paper):
        return BenchmarkCard(
            name="it",
            title="",
            citation="",
            url="",
            licence="",
            models=(),
            splits={"train": 1000, "val": 2, "test": 3},
            costs=False,
            label_rule="",
            split_rule="",
            paper=paper,
        )

    assert paper_note(card(None)) == paper_note(card({"train": 1000, "val": 2, "test": 3})) == ""
    said = paper_note(card({"train": 4000, "val": 2, "test": 3}))
    assert "has 1,000/2/3" in said and "says 4,000/2/3" in said


# --- files from a folder ----------------------------------------------------------------------------

FILES = tuple(File(repo="o/r", path=path, revision="a" * 40) for path in ("data/one.csv", "two.csv"))


def test_a_folder_in_the_publishers_layout_stands_for_the_hub(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/one.csv").write_text("1")
    with pytest.raises(UsageError, match=r"has no two\.csv"):
        sources("it", FILES, str(tmp_path))
    (tmp_path / "two.csv").write_text("2")
    found = sources("it", FILES, str(tmp_path))
    assert found["data/one.csv"].read_text() == "1"
    assert [path.name for path in found] == ["one.csv", "two.csv"]
    before = found.content
    (tmp_path / "two.csv").write_text("3")
    assert sources("it", FILES, str(tmp_path)).content != before


def test_what_was_converted_earlier_needs_no_file(monkeypatch):
    """The name of the converted data follows from the recorded hashes: 3 GB are not read for it again."""
    monkeypatch.setattr(hub, "sha256", lambda file: f"sum of {file.path}")
    monkeypatch.setattr(hub, "fetch", lambda file, of: pytest.fail("a file was asked for"))
    assert len(sources("it", FILES, None).content) == 64


def test_files_are_converted_once_for_a_content_its_options_and_a_version(tmp_path, rph_home):
    calls = []

    def convert(found, threshold=0.5):
        calls.append((found["two.csv"].read_text(), threshold))
        return RoutingDataset(
            name="it", models=("m",), train=split("a", 3), val=split("b", 1), test=split("c", 2)
        )

    def converted(content, version=1, **options):
        folder.save({"data/one.csv": b"1", "two.csv": content}, tmp_path / "data")
        return sources("it", FILES, str(tmp_path / "data")).converted(convert, version, **options)

    first = converted(b"2", threshold=0.25)
    assert converted(b"2", threshold=0.25).fingerprint == first.fingerprint and calls == [("2", 0.25)]
    converted(b"2", threshold=0.5)
    converted(b"3", threshold=0.5)
    converted(b"3")
    converted(b"3", version=2)
    assert calls[1:] == [("2", 0.5), ("3", 0.5), ("3", 0.5), ("3", 0.5)]
    content = sources("it", FILES, str(tmp_path / "data")).content
    kept = {path.name for path in (rph_home / "benchmarks").iterdir() if path.is_dir()}
    assert {f"it-{content}-threshold0.5-v1", f"it-{content}-v1", f"it-{content}-v2"} < kept and len(kept) == 5


def test_a_threshold_other_than_the_default_is_in_the_name():
    assert name_of("it", 0.5, 0.5) == "it" and name_of("it", 0.75, 0.5) == "it-threshold0.75"
