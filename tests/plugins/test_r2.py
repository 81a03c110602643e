"""R2-Bench in the publisher's own layout, made up in tests/releases/r2.py."""

import hashlib
import re

import numpy as np
import pytest
from rph_plugins.benchmarks import r2
from rph_plugins.benchmarks.r2 import BUDGETS, COUNTS, MODELS, PRICES, load
from tests.releases import r2 as release
from tests.releases.folder import row_of, save

from rph import UsageError
from rph.data import published
from rph.data.alike import normal_form
from rph.data.validity import check
from rph.registry import installed

MATH_1B, GLM_46 = "Qwen/Qwen2.5-Math-1.5B-Instruct", "zai-org/GLM-4.6"
FIRST, SECOND, LAST = (f"data/{MODELS[m]}/4000_judge.csv" for m in (0, 1, 9))


def load_rows(tables, folder, **options):
    save({path: release.write(rows) for path, rows in tables.items()}, folder)
    return load(path=str(folder), **options)


def load_with(folder, path, **changed):
    """The made-up release but for the named fields of prompts_id 4 in one file."""
    tables = release.tables()
    tables[path][3] |= changed
    return load_rows(tables, folder)


# --- content ----------------------------------------------------------------------------------------


def test_it_is_registered_with_a_price_and_a_file_of_every_model():
    spec = installed().load("benchmark", "r2").spec
    assert set(spec.options) == {"budget", "path", "threshold"}
    assert len(MODELS) == release.MODELS
    assert [file.path for file in spec.card.files] == [f"data/{m}/4000_judge.csv" for m in MODELS]
    assert spec.card.splits == spec.card.paper == {"train": 18_580, "val": 3_097, "test": 9_291}
    assert sum(spec.card.splits.values()) == 30_968


def test_labels_and_costs_are_those_of_the_query_and_the_model(tmp_path):
    dataset = load_rows(release.tables(), tmp_path)
    check(dataset)
    assert dataset.models == MODELS
    assert tuple(len(split) for _, split in dataset.splits()) == release.COUNTS
    split, row = row_of(dataset, "r2-8")  # i = 7: scores from the place 7 % 4 on
    assert split.labels[row].tolist() == [1, 0, 0, 1, 1, 0, 0, 1, 1, 0]
    assert split.tasks[row] == ""
    # "Question 7:\nwhat is 7 + 7?\n\nUse at most 4000 tokens." has 52 characters: 13 tokens; 70 + m come out.
    assert split.costs[row, 0] == pytest.approx((13 * 0.01 + 70 * 0.02) / 1e6)
    assert split.costs[row, 4] == pytest.approx((13 * 0.08 + 74 * 0.33) / 1e6)
    assert split.costs[row, 5] == pytest.approx((13 * 0.10 + 75 * 1.10) / 1e6)
    assert split.costs[row, 9] == pytest.approx((13 * 0.44 + 79 * 1.76) / 1e6)


@pytest.mark.parametrize(("characters", "tokens"), [(1, 1), (4, 1), (5, 2), (401, 101)])
def test_a_started_group_of_four_characters_is_an_input_token(tmp_path, characters, tokens):
    dataset = load_with(tmp_path, FIRST, templated_prompt="é" * characters, actual_token_count="0")
    split, row = row_of(dataset, "r2-4")
    assert split.costs[row, 0] == pytest.approx(tokens * 0.01 / 1e6)


@pytest.mark.parametrize(("empty", "of_label"), [("", True), ("nan", True), ("NaN", True)])
def test_an_empty_score_is_no_label_and_keeps_its_cost(tmp_path, empty, of_label):
    split, row = row_of(load_with(tmp_path, SECOND, correctness_score=empty), "r2-4")
    assert np.isnan(split.labels[row]).tolist() == [m == 1 for m in range(10)]
    assert not np.isnan(split.costs[row]).any()


@pytest.mark.parametrize("column", ["actual_token_count", "templated_prompt"])
def test_a_missing_count_is_a_missing_cost_and_keeps_its_label(tmp_path, column):
    split, row = row_of(load_with(tmp_path, SECOND, **{column: ""}), "r2-4")
    assert np.isnan(split.costs[row]).tolist() == [m == 1 for m in range(10)]
    assert not np.isnan(split.labels[row]).any()


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.4, [0, 1, 1, 1]), (0.5, [0, 0, 1, 1]), (1.0, [0, 0, 0, 1])]
)
def test_a_score_is_correct_from_the_threshold_on(tmp_path, threshold, expected):
    dataset = load_rows(release.tables(), tmp_path, threshold=threshold)
    split, row = row_of(dataset, "r2-1")
    assert split.labels[row, :4].tolist() == expected
    assert dataset.name.startswith(
        "r2-subset-20-" if threshold == 0.5 else f"r2-threshold{threshold}-subset-20-"
    )


# --- the join ---------------------------------------------------------------------------------------


def test_rows_are_joined_by_prompts_id_whatever_their_order(tmp_path):
    (tmp_path / "other").mkdir()
    tables, turned = release.tables(), release.tables()
    for rows in (rows for each in (tables, turned) for rows in each.values()):
        rows[5]["original_prompt"] = rows[3]["original_prompt"]  # equal texts stand in the order of their ids
    turned[FIRST].reverse()
    turned[LAST].reverse()
    one, other = load_rows(tables, tmp_path), load_rows(turned, tmp_path / "other")
    assert one.fingerprint == other.fingerprint


def test_a_query_is_the_text_of_the_first_file_with_line_ends_of_one_kind(tmp_path):
    tables = release.tables()
    tables[FIRST][0]["original_prompt"] = "One:\r\ntwo\rthree\nfour"
    tables[FIRST][1]["original_prompt"] = "What is 1+1?"
    tables[SECOND][1]["original_prompt"] = "What is\n1 + 1?"
    for path, rows in tables.items():
        if path != FIRST:
            rows[0]["original_prompt"] = "One:twothreefour"  # as the authors' script leaves it
            rows[1]["original_prompt"] = "What\x08 is 1+\t1?"
    dataset = load_rows(tables, tmp_path)
    split, row = row_of(dataset, "r2-1")
    assert split.queries[row] == "One:\ntwo\nthree\nfour"
    split, row = row_of(dataset, "r2-2")
    assert split.queries[row] == "What is 1+1?"


@pytest.mark.parametrize("path", [SECOND, LAST])
def test_a_text_that_differs_in_what_is_visible_is_a_loud_failure(tmp_path, path):
    with pytest.raises(UsageError, match=f"{path} has another text for prompts_id 4") as error:
        load_with(tmp_path, path, original_prompt="Question 3:\nwhat is 3 + 4?")
    assert "what is 3 + 4?', not 'Question 3:" in error.value.why


@pytest.mark.parametrize("word", ["None", "NA", "nan", "null", "True", "12"])
def test_a_query_that_looks_like_a_value_is_text(tmp_path, word):
    tables = release.tables()
    for rows in tables.values():
        rows[3]["original_prompt"] = word
    split, row = row_of(load_rows(tables, tmp_path), "r2-4")
    assert split.queries[row] == word


@pytest.mark.parametrize("path", [FIRST, LAST])
def test_a_row_that_one_file_lacks_is_missing_and_makes_a_subset(tmp_path, monkeypatch, path):
    monkeypatch.setattr(r2, "COUNTS", dict(zip(COUNTS, release.COUNTS, strict=True)))
    tables = release.tables()
    del tables[path][3]
    dataset = load_rows(tables, tmp_path)
    lacks = [f"data/{model}/4000_judge.csv" == path for model in MODELS]
    split, row = row_of(dataset, "r2-4")
    assert split.queries[row] == release.text(3)
    assert np.isnan(split.labels[row]).tolist() == lacks
    assert np.isnan(split.costs[row]).tolist() == lacks
    assert sum(np.isnan(split.labels).sum() for _, split in dataset.splits()) == 1
    assert f"not all rows are in the files of {MODELS[lacks.index(True)]}" in dataset.subset
    assert dataset.name.startswith("r2-subset-20-")


# --- splits and names -------------------------------------------------------------------------------


def test_rows_stand_in_the_order_of_the_hash_of_their_query(tmp_path):
    dataset = load_rows(release.tables(), tmp_path)
    queries = [query for _, split in dataset.splits() for query in split.queries]
    assert queries == sorted(
        (release.text(i) for i in range(release.N)),
        key=lambda text: hashlib.sha256(normal_form(text).encode()).hexdigest(),
    )


def test_a_release_of_full_size_has_the_plain_name(tmp_path, monkeypatch):
    monkeypatch.setattr(r2, "COUNTS", dict(zip(COUNTS, release.COUNTS, strict=True)))
    dataset = load_rows(release.tables(), tmp_path)
    assert (dataset.name, dataset.subset) == ("r2", "")


def test_the_full_release_gets_the_counts_of_the_paper():
    parts = published.split_rows([f"query {i}" for i in range(30_968)])
    assert tuple(len(part) for part in parts) == tuple(COUNTS.values())


def test_a_budget_has_its_own_files_and_name(tmp_path):
    tables = {path.replace("4000", "10"): rows for path, rows in release.tables().items()}
    assert load_rows(tables, tmp_path, budget=10).name.startswith("r2-budget10-subset-20-")
    with pytest.raises(UsageError, match=re.escape(f"has no {FIRST} and 9 others")):
        load(path=str(tmp_path))


@pytest.mark.parametrize("budget", [0, 60, 16_000])
def test_a_budget_that_was_not_run_is_refused(budget):
    with pytest.raises(UsageError, match=f"budget={budget}") as error:
        load(budget=budget)
    assert error.value.fix.endswith("10, 20, 30, 40, 50, 80, 100, 150, 200, 300, 500, 800, 1200, 2000, 4000")


def test_a_budget_that_some_models_lack_names_them():
    assert 8000 not in BUDGETS
    with pytest.raises(UsageError) as error:
        load(budget=8000)
    assert error.value.why == f"{MATH_1B}, zai-org/GLM-4.5-Air, {GLM_46} have none"


@pytest.mark.parametrize("threshold", [0.0, 1.5, float("nan")])
def test_a_threshold_that_decides_nothing_is_refused(threshold):
    with pytest.raises(UsageError, match="threshold="):
        load(threshold=threshold)


def test_another_threshold_is_another_conversion(tmp_path):
    first, again = load_rows(release.tables(), tmp_path), load(path=str(tmp_path), threshold=0.4)
    assert first.train.labels.sum() < again.train.labels.sum()


def test_the_files_are_converted_once(tmp_path, monkeypatch):
    first = load_rows(release.tables(), tmp_path)
    monkeypatch.setattr(published, "csv_pieces", lambda *_: pytest.fail("converted again"))
    again = load(path=str(tmp_path))
    assert (again.name, again.subset, again.fingerprint) == (first.name, first.subset, first.fingerprint)


# --- unexpected files -------------------------------------------------------------------------------


@pytest.mark.parametrize("column", r2.COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    header = [name for name in release.HEADER if name != column]
    rows = [{name: row[name] for name in header} for row in release.tables()[LAST]]
    save(release.files() | {LAST: release.write(rows, header)}, tmp_path)
    with pytest.raises(UsageError, match=f"{LAST} does not have the 5 columns") as error:
        load(path=str(tmp_path))
    assert f"missing: {column}" in error.value.why


def test_a_renamed_column_is_recognised(tmp_path):
    content = release.files()[LAST].replace(b"correctness_score\n", b"correctness\n", 1)
    save(release.files() | {LAST: content}, tmp_path)
    with pytest.raises(UsageError, match="is 'correctness' meant to be 'correctness_score'"):
        load(path=str(tmp_path))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"correctness_score": "1.5"}, r"1 score\(s\) outside \[0, 1\]"),
        ({"correctness_score": "-0.1"}, r"1 score\(s\) outside \[0, 1\]"),
        ({"correctness_score": "inf"}, r"1 score\(s\) outside \[0, 1\]"),
        ({"correctness_score": "good"}, r"'correctness_score' is not numeric[^$]*'good'"),
        ({"correctness_score": "True"}, r"'correctness_score' is not numeric[^$]*'True'"),
        ({"actual_token_count": "many"}, r"'actual_token_count' is not numeric[^$]*'many'"),
        ({"actual_token_count": "-1"}, r"negative or infinite count\(s\) of output tokens[^$]*of query 4"),
        ({"actual_token_count": "inf"}, r"negative or infinite count\(s\) of output tokens"),
        ({"prompts_id": ""}, "prompts_id is not a whole number in every row"),
        ({"prompts_id": "3.5"}, "prompts_id is not a whole number in every row"),
        ({"prompts_id": "three"}, r"'prompts_id' is not numeric[^$]*'three'"),
        ({"prompts_id": "5"}, "prompts_id 5 is there twice"),
        ({"original_prompt": ""}, "another text for prompts_id 4"),
    ],
)
def test_impossible_values_are_refused(tmp_path, changed, expected):
    with pytest.raises(UsageError, match=expected):
        load_with(tmp_path, LAST, **changed)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_a_query_without_text_is_refused(tmp_path, empty):
    tables = release.tables()
    for rows in tables.values():
        rows[3]["original_prompt"] = empty
    with pytest.raises(UsageError, match="'r2-4' has no text"):
        load_rows(tables, tmp_path)


def test_scores_that_are_all_booleans_are_refused(tmp_path):
    tables = release.tables()
    for row in tables[LAST]:
        row["correctness_score"] = "True"
    with pytest.raises(UsageError, match="'correctness_score' is not numeric"):
        load_rows(tables, tmp_path)


def test_a_model_without_any_label_is_named(tmp_path):
    tables = release.tables()
    for row in tables[LAST]:
        row["correctness_score"] = ""
    with pytest.raises(UsageError, match=f"model '{GLM_46}' has no label in the train split"):
        load_rows(tables, tmp_path)


def test_a_model_without_a_price_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(r2, "PRICES", {model: PRICES[model] for model in MODELS[:9]})
    with pytest.raises(UsageError, match=f"no price is known for model '{GLM_46}'"):
        load_rows(release.tables(), tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "No columns"),
        (release.files()[LAST].replace(b"Question 3", b"Question \xff"), "utf-8"),
    ],
)
def test_what_is_not_csv_in_utf8_is_said(tmp_path, content, expected):
    save(release.files() | {LAST: content}, tmp_path)
    with pytest.raises(UsageError, match=f"{LAST} cannot be read as CSV in UTF-8") as error:
        load(path=str(tmp_path))
    assert expected in error.value.why


def test_a_row_with_more_fields_than_columns_is_refused(tmp_path):
    content = release.files()[LAST].replace(b"made-up/3,", b"made-up/3,one,more,")
    save(release.files() | {LAST: content}, tmp_path)
    with pytest.raises(UsageError, match=LAST):
        load(path=str(tmp_path))


def test_a_file_that_is_cut_anywhere_but_between_rows_is_refused(tmp_path):
    rows = release.tables()[LAST][:2]
    ends = [len(release.write(rows[:n])) for n in range(3)]
    path = tmp_path / "cut.csv"
    for size in range(ends[0], ends[2] + 1):
        path.write_bytes(release.write(rows)[:size])
        if size in ends:
            assert sum(len(piece) for piece in published.csv_pieces(path, r2.COLUMNS)) == ends.index(size)
        else:
            with pytest.raises(UsageError):
                list(published.csv_pieces(path, r2.COLUMNS))


def test_a_folder_without_the_files_is_said(tmp_path):
    with pytest.raises(UsageError, match=re.escape(f"has no {FIRST} and 9 others")):
        load(path=str(tmp_path))
