"""A user's results become a benchmark: what each cell says is kept, what is left out is told, what is wrong is named."""

import csv
import hashlib
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rph import UsageError
from rph.data import routing_table, validity
from rph.data.columns import read, renames
from rph.data.importing import convert, report
from rph.data.published import split_rows
from rph.holes import REASONS

NAN = float("nan")
LONG = ["id", "query", "model", "correct", "cost", "task", "split"]


def put(path, rows):
    """Write rows, the first of them the names of the columns, as the ending of the file's name says."""
    names, *values = rows
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in values))
    else:
        columns = zip(names, zip(*values, strict=True), strict=True)
        pq.write_table(pa.table({name: pa.array(cells) for name, cells in columns}), path)
    return path


def load(path, columns="", **options):
    return convert(path.name, read(path, renames(columns)), name="mine", **options)


def cells(dataset):
    """{(id, model): (label, cost)} with None for what is missing."""

    def number(value):
        return None if np.isnan(value) else round(float(value), 6)

    return {
        (name, model): (
            number(split.labels[i, m]),
            None if split.costs is None else number(split.costs[i, m]),
        )
        for _, split in dataset.splits()
        for i, name in enumerate(split.ids)
        for m, model in enumerate(dataset.models)
    }


def told(notes):
    return {note.what: (note.count, note.first) for note in notes}


def hashed(query):
    return hashlib.sha256(query.encode()).hexdigest()[:16]


SMALL = [
    LONG,
    ["q1", "one?", "a", 1, 0.25, "t", "train"],
    ["q1", "one?", "b", 0, 0.5, "t", "train"],
    ["q2", "two?", "b", 0.5, None, "t", "validation"],
    ["q2", "two?", "a", None, 0.125, "t", "validation"],
    ["q3", "three?", "b", 1, 0, "u", "test"],
]
SMALL_CELLS = {
    ("q1", "a"): (1, 0.25),
    ("q1", "b"): (0, 0.5),
    ("q2", "a"): (None, 0.125),
    ("q2", "b"): (0.5, None),
    ("q3", "a"): (None, None),
    ("q3", "b"): (1, 0),
}


def small(**changes):
    """SMALL with other values: column=(row, value), rows counted from 1."""
    rows = [list(row) for row in SMALL]
    for name, (row, value) in changes.items():
        rows[row][LONG.index(name)] = value
    return rows


# --- what a cell says -------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_long_rows_become_cells_and_empty_ones_stay_missing(tmp_path, ending):
    dataset, notes = load(put(tmp_path / f"results.{ending}", SMALL))
    assert cells(dataset) == SMALL_CELLS
    assert dataset.models == ("a", "b") and not notes
    assert {name: (s.ids, s.queries, s.tasks) for name, s in dataset.splits()} == {
        "train": (["q1"], ["one?"], ["t"]),
        "val": (["q2"], ["two?"], ["t"]),
        "test": (["q3"], ["three?"], ["u"]),
    }


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_wide_rows_say_the_same(tmp_path, ending):
    wide = [
        ["id", "query", "task", "split", "correct/a", "cost/b", "correct/b", "cost/a"],
        ["q1", "one?", "t", "train", 1, 0.5, 0, 0.25],
        ["q2", "two?", "t", "val", None, None, 0.5, 0.125],
        ["q3", "three?", "u", "test", None, 0, 1, None],
    ]
    dataset, notes = load(put(tmp_path / f"results.{ending}", wide))
    assert cells(dataset) == SMALL_CELLS and not notes
    assert dataset.fingerprint == load(put(tmp_path / "long.csv", SMALL))[0].fingerprint


def test_a_wide_file_may_price_some_models_only(tmp_path):
    wide = [["query", "split", "correct/a", "correct/b", "cost/b"]]
    wide += [[name, name, 1, 0, 0.5] for name in ("train", "val", "test")]
    dataset, _ = load(put(tmp_path / "results.csv", wide))
    assert np.isnan(dataset.train.costs[0]).tolist() == [True, False]


def test_models_keep_the_order_of_their_first_rows(tmp_path):
    rows = [["query", "model", "correct", "split"]]
    rows += [[s, m, 1, s] for s in ("train", "val", "test") for m in ("zeta", "alpha", "mid")]
    assert load(put(tmp_path / "results.csv", rows))[0].models == ("zeta", "alpha", "mid")


@pytest.mark.parametrize("costs", [{}, {"cost": None}])
def test_a_file_without_any_cost_has_no_costs(tmp_path, costs):
    rows = [["query", "model", "correct", "split", *costs]]
    rows += [[name, "a", 1, name, *costs.values()] for name in ("train", "val", "test")]
    dataset, notes = load(put(tmp_path / "results.csv", rows))
    assert not dataset.has_costs
    assert report(dataset, 3, notes).costs is None


def test_costs_of_left_out_models_alone_are_no_costs(tmp_path):
    rows = small()[:2] + [[*row[:4], None, *row[5:]] for row in SMALL[2:]]
    rows[1][3:5] = [None, 0.25]  # model a: a cost, and no label anywhere
    dataset, _ = load(put(tmp_path / "results.csv", rows))
    assert dataset.models == ("b",) and not dataset.has_costs


@pytest.mark.parametrize(
    ("text", "label"),
    [("1", 1), ("0", 0), ("true", 1), ("False", 0), ("TRUE", 1), ("0.5", 0.5), ("1e-1", 0.1), ("", None)],
)
def test_a_label_in_csv(tmp_path, text, label):
    dataset, _ = load(put(tmp_path / "results.csv", small(correct=(4, text))))
    assert cells(dataset)["q2", "a"][0] == label


@pytest.mark.parametrize("values", [[True, False, 0.5, None, 1], ["true", 0, "0.5", None, "1"]])
def test_labels_of_several_kinds_in_jsonl(tmp_path, values):
    rows = [LONG, *([*row[:3], value, *row[4:]] for row, value in zip(SMALL[1:], values, strict=True))]
    assert cells(load(put(tmp_path / "results.jsonl", rows))[0]) == SMALL_CELLS


def test_nan_in_numbers_is_missing_and_booleans_are_labels(tmp_path):
    frame = pd.DataFrame(SMALL[1:], columns=LONG)
    frame["correct"] = [1, 0, 0.5, NAN, 1]
    frame.to_parquet(tmp_path / "results.parquet")
    assert cells(load(tmp_path / "results.parquet")[0]) == SMALL_CELLS
    booleans = [LONG, *([*row[:3], value, *row[4:]] for row, value in zip(SMALL[1:], [True, False, True, None, True], strict=True))]  # fmt: skip
    dataset, _ = load(put(tmp_path / "booleans.parquet", booleans))
    assert cells(dataset) == SMALL_CELLS | {("q2", "b"): (1, None)}
    (tmp_path / "nan.jsonl").write_text(
        put(tmp_path / "null.jsonl", SMALL).read_text().replace("null", "NaN")
    )
    assert cells(load(tmp_path / "nan.jsonl")[0]) == SMALL_CELLS


@pytest.mark.parametrize(("threshold", "label"), [(0.25, 1), (0.5, 1), (0.51, 0)])
def test_with_a_threshold_a_label_is_whether_it_is_reached(tmp_path, threshold, label):
    found = cells(load(put(tmp_path / "results.csv", SMALL), threshold=threshold)[0])
    assert found == SMALL_CELLS | {("q2", "b"): (label, None)}


@pytest.mark.parametrize("threshold", [0, 1.5, NAN])
def test_a_threshold_that_no_label_depends_on_is_refused(tmp_path, threshold):
    with pytest.raises(UsageError, match="not above 0 and at most 1"):
        load(put(tmp_path / "results.csv", SMALL), threshold=threshold)


@pytest.mark.parametrize(
    "text", ["NA", "null", "None", "nan", "12", "true", "2024-01-01", " padded ", 'say "x",\r\nthen\ny']
)
def test_a_query_is_the_text_that_stands_there(tmp_path, text):
    rows = small(query=(5, text))
    for ending in ("csv", "jsonl"):
        assert load(put(tmp_path / f"results.{ending}", rows))[0].test.queries == [text]


def test_other_line_separators_in_json_texts_do_not_end_a_line(tmp_path):
    lines = put(tmp_path / "results.jsonl", small(query=(5, "one\u2028two\x85"))).read_text()
    (tmp_path / "raw.jsonl").write_text(lines.encode().decode("unicode_escape"), encoding="utf-8")
    assert load(tmp_path / "raw.jsonl")[0].test.queries == ["one\u2028two\x85"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path, ending):
    path = put(tmp_path / f"results.{ending}", SMALL)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert cells(load(path)[0]) == SMALL_CELLS


def test_turns_of_a_list_are_joined_and_may_then_be_a_query_met_before(tmp_path):
    rows = [["query", "model", "correct", "split"]]
    rows += [["['Be brief.', 'Why?']", "a", 1, "train"], ["Be brief.\n\nWhy?", "b", 0, "train"]]
    rows += [["val", "a", 1, "val"], ["test", "a", 1, "test"]]
    dataset, notes = load(put(tmp_path / "results.csv", rows))
    assert dataset.train.queries == ["Be brief.\n\nWhy?"]
    assert dataset.train.labels.tolist() == [[1, 0]]
    assert told(notes) == {"rows whose query is the text of a list, joined by blank lines": (1, "row 1")}


# --- why a label is missing -------------------------------------------------------------------------


def reasons(dataset):
    """{(id, model): reason} of the cells that have one."""
    return {
        (split.ids[i], dataset.models[m]): REASONS[split.reasons[i, m]]
        for _, split in dataset.splits()
        if split.reasons is not None
        for i, m in np.argwhere(split.reasons).tolist()
    }


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_reasons_and_languages_are_read_from_both_forms(tmp_path, ending):
    said = ["", None, "", " failed ", None]
    long = [[*SMALL[0], "hole", "language"]]
    long += [[*row, word, f"{row[0]} en"] for row, word in zip(SMALL[1:], said, strict=True)]
    long += [["q3", "three?", "a", None, None, "u", "test", "cut", "q3 en"]]
    dataset, notes = load(put(tmp_path / f"long.{ending}", long))
    assert cells(dataset) == SMALL_CELLS and not notes
    assert reasons(dataset) == {("q2", "a"): "failed", ("q3", "a"): "cut"}
    assert [split.languages for _, split in dataset.splits()] == [["q1 en"], ["q2 en"], ["q3 en"]]
    wide = [
        ["id", "query", "task", "split", "language", "correct/a", "correct/b", "cost/a", "cost/b", "hole/a"],
        ["q1", "one?", "t", "train", "q1 en", 1, 0, 0.25, 0.5, ""],
        ["q2", "two?", "t", "val", "q2 en", None, 0.5, 0.125, None, "failed"],
        ["q3", "three?", "u", "test", "q3 en", None, 1, None, 0, "cut"],
    ]
    assert load(put(tmp_path / f"wide.{ending}", wide))[0].fingerprint == dataset.fingerprint


def test_a_file_that_gives_no_reason_has_none(tmp_path):
    dataset, _ = load(
        put(tmp_path / "results.csv", [[*SMALL[0], "hole"], *([*row, ""] for row in SMALL[1:])])
    )
    assert all(split.reasons is None for _, split in dataset.splits())
    assert dataset.fingerprint == load(put(tmp_path / "plain.csv", SMALL))[0].fingerprint


def test_a_reason_beside_a_label_is_left_out_and_told(tmp_path):
    rows = [[*SMALL[0], "hole"], *([*row, "empty"] for row in SMALL[1:])]
    rows += [["q3", "three?", "a", None, None, "u", "test", "failed"]]
    rows += [["q3", "three?", "a", None, None, "u", "test", "cut"]]  # of two the first is kept
    dataset, notes = load(put(tmp_path / "results.csv", rows))
    assert cells(dataset) == SMALL_CELLS
    assert reasons(dataset) == {("q2", "a"): "empty", ("q3", "a"): "failed"}
    assert told(notes) == {"reasons beside a label, left out": (4, "id 'q1' and model 'a'")}


def test_a_query_on_which_every_call_failed_is_no_query_that_was_never_asked(tmp_path):
    lost = [
        ["q4", "four?", model, None, None, "u", "test", why] for model, why in (("a", "failed"), ("b", "cut"))
    ]
    never = [["q5", "five?", model, None, None, "u", "test", ""] for model in "ab"]
    rows = [[*SMALL[0], "hole"], *([*row, ""] for row in SMALL[1:]), *lost, *never]
    dataset, notes = load(put(tmp_path / "results.csv", rows))
    assert list(dataset.test.ids) == ["q3", "q4"] and np.isnan(dataset.test.labels[1]).all()
    assert told(notes) == {"queries left out, without any label or reason": (1, "id 'q5'")}


def test_a_reason_that_is_not_known_is_an_error_with_row_and_id(tmp_path):
    rows = [[*SMALL[0], "hole"], *([*row, "time-out"] for row in SMALL[1:])]
    with pytest.raises(UsageError, match="column 'hole' has an unknown reason: 'time-out'") as error:
        load(put(tmp_path / "results.csv", rows))
    assert "row 1 (id 'q1')" in error.value.why and "planned, failed, empty" in error.value.why


def test_reasons_of_a_model_without_labels_column_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="columns of the wide form") as error:
        load(put(tmp_path / "results.csv", [["query", "correct/a", "hole/b"], ["?", 1, "cut"]]))
    assert "correct/b" in error.value.why


# --- ids, tasks, splits -----------------------------------------------------------------------------


def test_an_id_that_is_not_given_is_made_from_the_query(tmp_path):
    rows = small()
    rows[1][0] = rows[2][0] = ""
    assert load(put(tmp_path / "some.csv", rows))[0].train.ids == [hashed("one?")]
    dataset, _ = load(put(tmp_path / "none.csv", [row[1:] for row in SMALL]))
    assert [s.ids for _, s in dataset.splits()] == [[hashed(q)] for q in ("one?", "two?", "three?")]
    assert len(hashed("")) == 16


def test_integer_ids_are_their_digits(tmp_path):
    rows = [LONG, *([7 if row[0] == "q1" else 12, *row[1:5], 3, row[6]] for row in SMALL[1:4]), [900, *SMALL[5][1:5], 4, "test"]]  # fmt: skip
    for ending in ("csv", "jsonl", "parquet"):
        dataset, _ = load(put(tmp_path / f"results.{ending}", rows))
        assert (dataset.train.ids, dataset.test.ids, dataset.test.tasks) == (["7"], ["900"], ["4"])


def test_equal_queries_with_ids_of_their_own_are_two_queries(tmp_path):
    rows = [*SMALL, ["q4", "one?", "a", 0, None, "t", "train"]]
    dataset, _ = load(put(tmp_path / "results.csv", rows))
    assert (dataset.train.ids, dataset.train.queries) == (["q1", "q4"], ["one?", "one?"])


def test_an_id_with_two_queries_is_an_error_that_names_both(tmp_path):
    with pytest.raises(UsageError, match="id 'q1' stands for two queries") as error:
        load(put(tmp_path / "results.csv", small(query=(2, "other?"))))
    assert error.value.why == "row 1 has 'one?', row 2 has 'other?'"


def test_a_query_in_two_splits_is_an_error_that_names_both(tmp_path):
    with pytest.raises(UsageError, match="id 'q2' stands for two splits") as error:
        load(put(tmp_path / "results.csv", small(split=(4, "test"))))
    assert error.value.why == "row 3 has 'val', row 4 has 'test'"
    load(put(tmp_path / "same.csv", small(split=(4, "dev"))))  # another name of val


def test_of_two_tasks_the_first_is_kept_and_the_other_told(tmp_path):
    dataset, notes = load(put(tmp_path / "results.csv", small(task=(2, "other"))))
    assert dataset.train.tasks == ["t"]
    assert list(told(notes).values()) == [(1, "row 2 (id 'q1')")]


@pytest.mark.parametrize("name", ["val", "validation", "dev", "Validation", " val"])
def test_the_names_of_a_split(tmp_path, name):
    rows = small(split=(3, name))
    rows[4][6] = name
    assert load(put(tmp_path / "results.csv", rows))[0].val.ids == ["q2"]


@pytest.mark.parametrize("name", ["holdout", ""])
def test_another_name_of_a_split_is_an_error_with_row_and_id(tmp_path, name):
    with pytest.raises(UsageError, match="name no split") as error:
        load(put(tmp_path / "results.csv", small(split=(5, name))))
    assert f"{name!r}: row 5 (id 'q3')" in error.value.why and "validation" in error.value.fix


@pytest.mark.parametrize("split", [{}, {"split": ""}])
def test_without_a_split_it_is_the_frozen_one(tmp_path, split):
    queries = [f"question {i}" for i in range(20)]
    rows = [
        ["query", "model", "correct", *split],
        *([q, "a", i % 2, *split.values()] for i, q in enumerate(queries)),
    ]
    dataset, _ = load(put(tmp_path / "results.csv", rows))
    expected = [[queries[i] for i in part] for part in split_rows(queries)]
    assert [s.queries for _, s in dataset.splits()] == expected
    assert [len(part) for part in expected] == [12, 2, 6]


def test_a_split_that_gets_no_query_is_told_with_its_cause(tmp_path):
    with pytest.raises(UsageError, match="split 'val' is empty") as error:
        load(put(tmp_path / "given.csv", [*SMALL[:3], *SMALL[5:]]))
    assert "2 of 2 queries have a label; the column split gives it none" in error.value.why
    with pytest.raises(UsageError, match="split 'val' is empty") as error:
        load(put(tmp_path / "models.csv", small(correct=(2, None))))
    assert "labels only of models that have none in train" in error.value.why
    with pytest.raises(UsageError, match="split 'train' is empty") as error:
        load(put(tmp_path / "few.csv", [row[:6] for row in SMALL[:3]]))
    assert "a split of 60/10/30 leaves it none" in error.value.why


# --- what is left out -------------------------------------------------------------------------------


def test_repeated_rows_with_equal_labels_count_once_with_the_first_known_cost(tmp_path):
    again = [["q2", "two?", "b", 0.5, 0.75, "t", "val"], ["q2", "two?", "b", 0.5, 0.875, "t", "val"]]
    dataset, notes = load(
        put(tmp_path / "results.csv", [*SMALL, *again, ["q2", "two?", "b", "", "", "t", "val"]])
    )
    assert cells(dataset) == SMALL_CELLS | {("q2", "b"): (0.5, 0.75)}
    assert told(notes) == {
        "repeated cells with equal labels, of which one is kept": (2, "id 'q2' and model 'b'")
    }


def test_repeated_rows_with_different_labels_make_the_cell_missing(tmp_path):
    rows = [*SMALL, ["q3", "three?", "b", 1, 1, "u", "test"], ["q1", "one?", "b", 1, 0.5, "t", "train"]]
    rows += [["q1", "one?", "b", 0, 0.5, "t", "train"], ["q4", "four?", "b", 1, None, "t", "train"]]
    dataset, notes = load(put(tmp_path / "results.csv", rows))
    assert cells(dataset)["q1", "b"] == (None, None)
    assert told(notes) == {
        "repeated cells with equal labels, of which one is kept": (1, "id 'q3' and model 'b'"),
        "cells with different labels, now missing": (1, "id 'q1' and model 'b'"),
    }


def test_labels_that_one_threshold_makes_equal_do_not_clash(tmp_path):
    rows = [*SMALL, ["q2", "two?", "b", 0.75, None, "t", "val"]]
    path = put(tmp_path / "results.csv", rows)
    assert cells(load(path, threshold=0.5)[0])["q2", "b"] == (1, None)
    with pytest.raises(UsageError, match="split 'val' is empty"):  # its one label clashes
        load(path)


def test_repeated_wide_rows_are_merged_cell_by_cell(tmp_path):
    wide = [["query", "split", "correct/a", "correct/b"], ["val", "val", 1, 1], ["test", "test", 1, 1]]
    wide += [
        ["one", "train", 1, None],
        ["one", "train", 1, 1],
        ["two", "train", 0, 1],
        ["two", "train", 1, 1],
    ]
    dataset, notes = load(put(tmp_path / "results.csv", wide))
    one, two = (hashed(q) for q in ("one", "two"))
    found = {key: label for key, (label, _) in cells(dataset).items() if key[0] in (one, two)}
    assert found == {(one, "a"): 1, (one, "b"): 1, (two, "a"): None, (two, "b"): 1}
    assert told(notes) == {
        "repeated cells with equal labels, of which one is kept": (2, f"id {one!r} and model 'a'"),
        "cells with different labels, now missing": (1, f"id {two!r} and model 'a'"),
    }


def test_rows_without_query_model_or_label_are_left_out_and_counted(tmp_path):
    rows = [SMALL[0], ["q7", " ", "zeta", 1, None, "t", "train"], *SMALL[1:]]
    rows += [["q8", "eight?", "", 1, None, "t", "train"], ["q9", "", "", "no label", None, "t", "nowhere"]]
    rows += [["q10", "ten?", "a", "", 0.5, "t", "train"], ["q10", "ten?", "b", None, None, "t", "train"]]
    dataset, notes = load(put(tmp_path / "results.csv", rows))
    assert cells(dataset) == SMALL_CELLS and dataset.models == ("a", "b")
    assert told(notes) == {
        "rows left out, without a query": (2, "row 1"),
        "rows left out, without a model": (1, "row 7"),
        "queries left out, without any label or reason": (1, "id 'q10'"),
    }


def test_a_model_without_a_label_in_train_is_left_out_with_the_queries_of_it_alone(tmp_path):
    rows = [*SMALL, ["q4", "four?", "late", 1, 1, "t", "test"], ["q3", "three?", "late", 1, 1, "u", "test"]]
    rows += [["q1", "one?", "never", "", 1, "t", "train"]]
    dataset, notes = load(put(tmp_path / "results.csv", rows))
    assert cells(dataset) == SMALL_CELLS
    assert told(notes) == {
        "models left out, without a label in train": (2, "'late'"),
        "queries left out, without any label or reason": (1, "id 'q4'"),
    }


def test_columns_not_used_are_told_first_those_that_look_misspelt(tmp_path):
    rows = [[*row[:4], "x", row[4], *row[5:]] for row in SMALL]
    rows[0][4:6] = ["judge", "costs"]
    dataset, notes = load(put(tmp_path / "results.csv", rows))
    assert not dataset.has_costs
    assert told(notes) == {"columns not used": (2, "'costs' (is 'cost' meant?)")}


# --- the report, and the folder ---------------------------------------------------------------------


def test_the_report_counts_what_was_kept(tmp_path):
    rows = [*SMALL, ["q9", "", "a", 1, None, "t", "train"]]
    dataset, notes = load(put(tmp_path / "results.csv", rows))
    made = report(dataset, 6, notes)
    assert (made.name, made.rows, made.queries, made.models) == ("mine", 6, 3, 2)
    assert made.splits == {"train": 1, "val": 1, "test": 1}
    assert (made.labels, made.costs) == (4, 4)
    assert made.missing == pytest.approx(2 / 6)
    assert made.lines() == [
        ("benchmark", "mine"),
        ("rows read", "6"),
        ("queries", "3 (train 1, val 1, test 1)"),
        ("models", "2"),
        ("labels", "4 of 6 (33.3% missing)"),
        ("costs", "4 of 6 known"),
        ("note", "rows left out, without a query: 1, the first: row 6"),
    ]


def test_the_folder_that_is_written_gives_the_same_benchmark(tmp_path):
    dataset, notes = load(put(tmp_path / "results.csv", SMALL))
    routing_table.write(dataset, tmp_path / "out", citation="me", source="here")
    again = routing_table.read(tmp_path / "out")
    assert again.fingerprint == dataset.fingerprint
    assert report(again, 5, notes) == report(dataset, 5, notes)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
SCORE = st.sampled_from([None, 0, 1, 0.5, 0.1])
COST = st.sampled_from([None, 0, 0.001, 12.5])
HOLE = st.sampled_from([None, None, "failed", "planned"])


@st.composite
def tables(draw):
    """(models, rows); a row is id, query, task, split, labels, costs, holes. Ids may repeat with their query and split."""
    models = draw(st.lists(TEXT.filter(str.strip), min_size=1, max_size=3, unique=True))
    k = len(models)
    splits = draw(st.sampled_from([("train", "val", "test"), ("",)]))
    rows = []
    for i in range(draw(st.integers(4, 14))):
        row = [
            f"q{i}",
            draw(TEXT) + str(i) if draw(st.integers(0, 9)) else "",
            draw(TEXT),
            splits[i % len(splits)],
        ]
        for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
            rows.append([*row, *(draw(st.lists(of, min_size=k, max_size=k)) for of in (SCORE, COST, HOLE))])
    return models, rows


def outcome(path):
    """The benchmark and the notes, or the error."""
    try:
        dataset, notes = load(path)
    except UsageError as error:
        return error.what.removeprefix(path.name)
    validity.check(dataset)
    return dataset.models, dataset.fingerprint, [note for note in notes if not note.what.startswith("rows")]


@settings(max_examples=60)
@given(drawn=tables(), endings=st.tuples(*[st.sampled_from(["csv", "jsonl", "parquet"])] * 2))
def test_one_table_written_long_and_wide_gives_equal_benchmarks(drawn, endings):
    models, rows = drawn
    long = [[*LONG, "hole"]] + [
        [name, query, model, label, cost, task, split, hole]
        for name, query, task, split, labels, costs, holes in rows
        for model, label, cost, hole in zip(models, labels, costs, holes, strict=True)
    ]
    kinds = ("correct", "cost", "hole")
    wide = [["id", "query", "task", "split", *(f"{kind}/{m}" for kind in kinds for m in models)]]
    wide += [[*row[:4], *row[4], *row[5], *row[6]] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        first, second = (
            outcome(put(Path(folder) / f"{form}.{ending}", content))
            for form, ending, content in zip(("long", "wide"), endings, (long, wide), strict=True)
        )
    assert first == second


@settings(max_examples=60)
@given(drawn=tables(), order=st.randoms(use_true_random=False))
def test_every_cell_is_what_its_rows_say_in_whatever_order(drawn, order):
    models, rows = drawn
    expected = {}
    for name, query, _, _, labels, costs, _ in rows:
        if query:
            for model, label, cost in zip(models, labels, costs, strict=True):
                expected.setdefault((name, model), []).append((label, cost))
    long = [
        [n, q, m, y, c, t, s]
        for n, q, t, s, ys, cs, _ in rows
        for m, y, c in zip(models, ys, cs, strict=True)
    ]
    order.shuffle(long)
    with tempfile.TemporaryDirectory() as folder:
        try:
            dataset, _ = load(put(Path(folder) / "long.csv", [LONG, *long]))
        except UsageError as error:
            assert "is empty" in error.what or "no row is left" in error.what
            return
    found = cells(dataset)
    assert found
    for key, (label, cost) in found.items():
        labels = {y for y, _ in expected[key]} - {None}
        costs = {round(c, 6) for _, c in expected[key] if c is not None}
        if len(labels) > 1:
            assert (label, cost) == (None, None)
        else:
            assert label == (labels.pop() if labels else None)
            assert cost in (costs if costs and dataset.has_costs else {None})


# --- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("correct", "yes"),
        ("correct", "1,0"),
        ("correct", "nan"),
        ("correct", "-0.1"),
        ("correct", "1.01"),
        ("correct", "inf"),
        ("cost", "$1"),
        ("cost", "true"),
        ("cost", "-0.5"),
        ("cost", "inf"),
        ("cost", "1e39"),
    ],
)
def test_a_wrong_value_in_csv_is_named_with_its_row_and_id(tmp_path, change, value):
    rows = [*small(**{change: (3, value)}), ["q9", "nine?", "b", 1, 1, "t", "train"]]
    rows.insert(1, ["", "", "a", 1, 1, "t", "train"])  # left out, and counted as a row of the file
    with pytest.raises(UsageError, match=rf"1 wrong value\(s\) in column '{change}'") as error:
        load(put(tmp_path / "results.csv", rows))
    assert error.value.why == f"the first is {value!r}, in row 4 (id 'q2')"
    assert error.value.fix


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("correct", 2, "the first is 2"),
        ("correct", [1], "list<"),
        ("cost", True, "it is bool"),
        ("query", 5, "it is int64"),
        ("query", ["a"], "it is list<"),
        ("id", 0.5, "it is double"),
        ("model", {"a": 1}, "it is struct<"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_column_of_another_type_is_told(tmp_path, ending, name, value, said):
    rows = [LONG, *([value if column == name else cell for column, cell in zip(LONG, row, strict=True)] for row in SMALL[1:])]  # fmt: skip
    with pytest.raises(UsageError, match=repr(name)) as error:
        load(put(tmp_path / f"results.{ending}", rows))
    assert said in error.value.why


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["query", "model", "score"], ["missing: correct", "found besides: score"]),
        (["query", "models", "correct"], ["missing: model", "is 'models' meant to be 'model'?"]),
        (["Query", "Model", "Correct"], ["is 'Query' meant to be 'query'?"]),
        (["query", "model", "correct", "model"], ["twice: model"]),
        (["prompt", "correct/a", "correct/b"], ["missing: query", "found besides: prompt"]),
        (["query", "correct/a", "cost/aa"], ["missing: correct/aa", "is 'correct/a' meant"]),
        (["query", "model", "correct", "correct/a"], ["a row per query and model"]),
    ],
)
def test_columns_of_neither_form_are_told_with_found_and_expected(tmp_path, names, said):
    with pytest.raises(UsageError, match=r"column") as error:
        load(put(tmp_path / "results.csv", [names, ["1"] * len(names)]))
    for part in said:
        assert part in error.value.why
    assert error.value.fix


def test_columns_are_renamed_and_may_be_swapped(tmp_path):
    rows = [["query", "id", "model", "score", "cost", "task", "split"], *SMALL[1:]]
    dataset, _ = load(put(tmp_path / "results.csv", rows), "id=query,query=id,correct=score")
    assert cells(dataset) == SMALL_CELLS


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("query", "is not name=column"),
        ("query=", "is not name=column"),
        ("corect=score", "did you mean 'correct'?"),
        ("query=a,id=a", "a column is one thing"),
        ("query=querry", "did you mean 'query'?"),
        ("correct=model", "twice: correct"),
    ],
)
def test_renames_that_cannot_be_are_told(tmp_path, columns, said):
    with pytest.raises(UsageError) as error:
        load(put(tmp_path / "results.csv", SMALL), columns)
    assert said in error.value.why and error.value.fix


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_other_text_than_utf8_is_named_with_its_offset(tmp_path, ending):
    path = put(tmp_path / f"results.{ending}", [*SMALL, ["q9", "nine?", "a", 1, 1, "t", "train"]])
    content = path.read_bytes().replace(b"nine", b"n\xefne")
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"results.{ending} is not UTF-8") as error:
        load(path)
    assert error.value.why == f"byte 0xef at offset {content.index(0xEF)}"


def test_other_text_than_utf8_in_parquet_is_told(tmp_path):
    raw = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    pq.write_table(pa.table({"query": raw, "model": ["a"], "correct": [1]}), tmp_path / "results.parquet")
    with pytest.raises(UsageError, match="column 'query' is not UTF-8"):
        load(tmp_path / "results.parquet")


@pytest.mark.parametrize(
    ("ending", "cut", "said"),
    [
        ("csv", 15, "Expected 7 columns, got"),
        ("jsonl", 5, "line 5 is not JSON"),
        ("parquet", 20, "cannot be read as Parquet"),
    ],
)
def test_a_file_that_is_cut_off_is_told(tmp_path, ending, cut, said):
    path = put(tmp_path / f"results.{ending}", SMALL)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UsageError) as error:
        load(path)
    assert said in f"{error.value.what} {error.value.why}"


def test_a_quotation_mark_that_is_never_closed_does_not_swallow_the_rest(tmp_path):
    (tmp_path / "results.csv").write_text('model,correct,query\na,1,"one\nb,1,two\nc,1,three\n')
    with pytest.raises(UsageError, match="opened and never closed"):
        load(tmp_path / "results.csv")


def test_a_row_of_csv_with_other_columns_is_named(tmp_path):
    (tmp_path / "results.csv").write_text("query,model,correct\none,a,1\ntwo, and more,a,1\n")
    with pytest.raises(UsageError, match="cannot be read as CSV") as error:
        load(tmp_path / "results.csv")
    assert "Row #3" in error.value.why and "Expected 3 columns, got 4" in error.value.why


@pytest.mark.parametrize("line", ["[1]", "3", '"text"'])
def test_a_line_of_json_that_is_no_object_is_named(tmp_path, line):
    (tmp_path / "results.jsonl").write_text('{"query": "?"}\n' + line)
    with pytest.raises(UsageError, match="line 2 is not an object"):
        load(tmp_path / "results.jsonl")


@pytest.mark.parametrize("row", [{"query": "half \ud83d"}, {"query": ["half \ud83d"]}, {"half \ud83d": 1}])
def test_half_of_a_surrogate_pair_is_named_with_its_line(tmp_path, row):
    lines = [{"query": "whole 😀", "model": "a"}, row]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UsageError, match="line 2 is not valid Unicode"):
        load(tmp_path / "results.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", b"", "Empty CSV file"),
        ("long.csv", b"x" * 200_000, "field larger than field limit"),
        ("empty.jsonl", b"", "there is nothing to import"),
        ("header.csv", b"query,model,correct\n", "there is nothing to import"),
        ("blank.jsonl", b"\n", "there is nothing to import"),
        ("blank.csv", b"query,model,correct\n,a,1\n", "without a model, are left out"),
        ("results.xlsx", b"", "its name ends in '.xlsx'"),
        ("results", b"", "its name has no ending"),
    ],
)
def test_a_file_with_nothing_to_import_is_told(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as error:
        load(tmp_path / name)
    assert said in error.value.why and error.value.fix


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load(tmp_path / "results.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        load(tmp_path / "folder.csv")
    with pytest.raises(UsageError, match=r"(?s)cannot be read.*too long"):
        load(tmp_path / f"{'x' * 300}.csv")


@pytest.mark.parametrize(("mark", "name"), [(";", "';'"), ("\t", "tabs"), ("|", "'|'")])
def test_a_file_with_another_mark_between_its_columns_is_told_so(tmp_path, mark, name):
    path = tmp_path / "results.csv"
    path.write_text(f"query{mark}model{mark}correct\nq{mark}m{mark}0,5\n")
    with pytest.raises(UsageError, match=f"is separated by {re.escape(name)}, not by commas"):
        load(path)


def test_all_labels_missing_is_told(tmp_path):
    with pytest.raises(UsageError, match="split 'train' is empty") as error:
        load(put(tmp_path / "results.csv", [LONG, *([*row[:3], None, *row[4:]] for row in SMALL[1:])]))
    assert "0 of 3 queries have a label" in error.value.why
