"""EmbedLLM in the publisher's own layout, made up in tests/releases. (The router of this name has a file of its own.)"""

import re
from functools import partial

import numpy as np
import pytest
from rph_plugins.benchmarks import embedllm
from rph_plugins.benchmarks.embedllm import CARD, load
from tests.releases import embedllm as release
from tests.releases.folder import save

from rph import UsageError
from rph.data import published
from rph.data.validity import check
from rph.registry import installed

NAN = float("nan")


def put(folder, **contents):
    """The made-up release in a folder; `train=b"..."` stands for another train.csv."""
    return str(save(release.files() | {f"{name}.csv": content for name, content in contents.items()}, folder))


def with_rows(rows, header=release.HEADER):
    return release.as_csv(header, rows)


def changed(split, row, **values):
    """A split's file with other values in one row."""
    rows = [dict(zip(release.HEADER, each, strict=True)) for each in release.rows(split)]
    rows[row] |= values
    return with_rows([each.values() for each in rows])


def refused(tmp_path, match, **contents):
    with pytest.raises(UsageError, match=match) as raised:
        load(path=put(tmp_path / "bad", **contents))
    return str(raised.value)


# --- content ----------------------------------------------------------------------------------------


def test_it_is_registered_with_the_counts_of_the_release_and_of_the_paper():
    spec = installed().load("benchmark", "embedllm").spec
    assert set(spec.options) == {"path"}
    assert (spec.card.models, spec.card.costs) == ((), False)
    assert {file.path for file in spec.card.files} == set(release.files())
    assert "29,673/3,000/3,000" in published.paper_note(CARD)
    assert "119,964/14,897/15,210" in published.paper_note(CARD)
    rows = embedllm.ROWS.values()
    assert [n / embedllm.MODELS for n in rows] == [34_056, 3_424, 3_469]


def test_models_and_queries_stand_in_the_order_of_their_files(tmp_path):
    data = load(path=put(tmp_path / "data"))
    check(data)
    assert data.models == ("org__zeta-7b", "org__alpha", "other__beta-2b-it", "org__gamma")
    assert data.train.ids == ["20", "10", "11", "12", "13"]
    assert (data.val.ids, data.test.ids) == (["30", "31"], ["40", "41"])
    for _, split in data.splits():
        assert split.queries == [release.PROMPTS[int(prompt)] for prompt in split.ids]
        assert split.costs is None
    assert (len(data.train), len(data.val), len(data.test)) == release.COUNTS
    assert len(data.models) == release.MODELS


def test_labels_are_those_of_the_prompt_and_the_model_by_their_ids(tmp_path):
    data = load(path=put(tmp_path / "data"))
    # Columns: model_id 3, 0, 2, 1; a label is (prompt_id + model_id) % 2, prompt 10 aside.
    assert data.train.labels[[0, 3, 4]].tolist() == [[1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]
    assert data.val.labels.tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert data.test.labels.tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert data.train.labels.dtype == np.float32


def test_clashing_rows_are_decided_by_the_majority_and_a_tie_is_missing(tmp_path):
    data = load(path=put(tmp_path / "data"))
    # model 3: 1, 1; model 0: 0, 1, 1; model 2: 0, 1; model 1: 1, 0, 0, where the greatest would be 1.
    np.testing.assert_array_equal(data.train.labels[1], [1, 1, NAN, 0])


def test_a_pair_without_a_row_is_missing(tmp_path):
    data = load(path=put(tmp_path / "data"))
    np.testing.assert_array_equal(data.train.labels[2], [0, 1, NAN, 0])


def test_a_task_is_the_category_of_the_first_row(tmp_path):
    data = load(path=put(tmp_path / "data"))
    assert data.train.tasks == ["asdiv", "asdiv", "mmlu", "asdiv", "mmlu"]  # prompt 10 is in gsm8k too, later
    rows = release.rows("train")
    again = load(path=put(tmp_path / "data", train=with_rows(rows[::-1])))
    assert again.train.tasks == ["asdiv", "gsm8k", "mmlu", "asdiv", "mmlu"]
    np.testing.assert_array_equal(again.train.labels, data.train.labels)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_it_does_not_matter_where_a_piece_ends(tmp_path, monkeypatch, rows):
    whole = load(path=put(tmp_path / "data"))
    monkeypatch.setenv("RPH_HOME", str(tmp_path / "another"))
    monkeypatch.setattr(published, "csv_pieces", partial(published.csv_pieces, rows=rows))
    assert load(path=str(tmp_path / "data")).fingerprint == whole.fingerprint


def test_queries_are_those_of_question_order_and_columns_are_found_by_name(tmp_path):
    data = load(path=put(tmp_path / "data"))
    header = ("", "label", "category", "model_name", "model_id", "prompt", "prompt_id")
    rows = [(i, *each[:1:-1], "another text", each[0]) for i, each in enumerate(release.rows("train"))]
    assert load(path=put(tmp_path / "data", train=with_rows(rows, header))).fingerprint == data.fingerprint


def test_a_label_may_be_written_as_a_decimal_number(tmp_path):
    data = load(path=put(tmp_path / "data"))
    rows = [(*each[:-1], float(each[-1])) for each in release.rows("train")]
    assert load(path=put(tmp_path / "data", train=with_rows(rows))).fingerprint == data.fingerprint


# --- the name ---------------------------------------------------------------------------------------


@pytest.fixture
def small_release(monkeypatch):
    """The made-up release passes for the full one."""
    monkeypatch.setattr(embedllm, "MODELS", release.MODELS)
    monkeypatch.setattr(embedllm, "COUNTS", dict(zip(("train", "val", "test"), release.COUNTS, strict=True)))
    rows = {split: len(release.rows(split)) for split in release.SPLITS}
    monkeypatch.setattr(embedllm, "ROWS", rows)


def test_the_full_release_has_the_plain_name(tmp_path, small_release):
    data = load(path=put(tmp_path / "data"))
    assert (data.name, data.subset) == ("embedllm", "")


def test_a_smaller_pool_is_a_subset(tmp_path, small_release, monkeypatch):
    monkeypatch.setattr(embedllm, "MODELS", 112)
    data = load(path=put(tmp_path / "data"))
    assert re.fullmatch(r"embedllm-subset-9-[0-9a-f]{8}", data.name)
    assert "the pool has 4 models, not 112" in data.subset


def test_fewer_prompts_are_a_subset(tmp_path, small_release):
    rows = [row for row in release.rows("test") if row[0] == 41]
    data = load(path=put(tmp_path / "data", test=with_rows(rows)))
    assert data.name.startswith("embedllm-subset-8-")
    assert "5/2/1 queries in train/val/test; the full release has 5/2/2" in data.subset


def test_a_file_cut_off_between_two_rows_is_a_subset_though_no_prompt_is_lost(tmp_path, small_release):
    data = load(path=put(tmp_path / "data", test=with_rows(release.rows("test")[:-1])))
    assert data.name.startswith("embedllm-subset-9-")
    assert "the files have 25/8/7 rows, not 25/8/8" in data.subset
    np.testing.assert_array_equal(data.test.labels, [[1, 0, 0, 1], [NAN, 1, 1, 0]])


def test_files_are_converted_once(tmp_path, monkeypatch):
    first = load(path=put(tmp_path / "data"))
    monkeypatch.setattr(embedllm, "_convert", lambda sources: pytest.fail("converted again"))
    again = load(path=str(tmp_path / "data"))
    assert (again.name, again.subset, again.fingerprint) == (first.name, first.subset, first.fingerprint)


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["0.5", "2", "-1", "True", "yes", "", "nan", "inf"])
def test_a_label_other_than_0_and_1_is_an_error_that_names_the_row(tmp_path, label):
    said = refused(
        tmp_path, re.escape(f"label {label!r} in row 3 is not 0 or 1"), val=changed("val", 3, label=label)
    )
    assert "prompt_id 31 and model_id 1" in said


def test_a_row_is_named_by_its_place_in_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "csv_pieces", partial(published.csv_pieces, rows=2))
    refused(tmp_path, "label 'x' in row 5 is not", train=changed("train", 5, label="x"))


@pytest.mark.parametrize("column", ["prompt_id", "model_id", "category", "label"])
def test_a_missing_or_renamed_column_is_named(tmp_path, column):
    at = release.HEADER.index(column)
    rows = [(*each[:at], *each[at + 1 :]) for each in release.rows("train")]
    said = refused(
        tmp_path,
        r"train\.csv does not have",
        train=with_rows(rows, [c for c in release.HEADER if c != column]),
    )
    assert f"missing: {column}" in said
    header = [f"{column}s" if name == column else name for name in release.HEADER]
    said = refused(tmp_path, "does not have", train=with_rows(release.rows("train"), header))
    assert f"is '{column}s' meant to be '{column}'?" in said


@pytest.mark.parametrize("name", ["model_order", "question_order"])
def test_so_it_is_in_the_files_that_give_the_orders(tmp_path, name):
    refused(tmp_path, rf"{name}\.csv does not have the 2 columns", **{name: b"id,text\n1,one\n"})


@pytest.mark.parametrize(
    ("column", "value"), [("prompt_id", 7), ("prompt_id", "x"), ("model_id", 4), ("model_id", "")]
)
def test_an_id_that_the_order_lacks_is_an_error_that_names_it(tmp_path, column, value):
    said = refused(
        tmp_path,
        f"test.csv: {column} '{value}' in row 2 is unknown",
        test=changed("test", 2, **{column: value}),
    )
    assert {"prompt_id": "question_order.csv", "model_id": "model_order.csv"}[column] in said


def test_an_id_stands_once_in_its_order(tmp_path):
    rows = [*release.PROMPTS.items(), (11, "another")]
    twice = with_rows(rows, ("prompt_id", "prompt"))
    refused(tmp_path, r"question_order\.csv: prompt_id '11' is there twice", question_order=twice)


def test_a_models_name_stands_once(tmp_path):
    order = release.ORDER | {1: "org__alpha"}
    twice = with_rows(order.items(), ("model_id", "model_name"))
    refused(tmp_path, "lists model 'org__alpha' twice", model_order=twice)


def test_a_prompt_in_two_splits_is_an_error(tmp_path):
    said = refused(tmp_path, "id '12' is also in split 'train'", val=changed("val", 0, prompt_id=12))
    assert "must not be seen in another" in said


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_query_without_text_is_an_error_that_names_it(tmp_path, text):
    order = with_rows((release.PROMPTS | {31: text}).items(), ("prompt_id", "prompt"))
    refused(tmp_path, "query with id '31' has no text", question_order=order)


def test_a_model_without_a_label_in_train_is_an_error_that_names_it(tmp_path):
    rows = [row for row in release.rows("train") if row[2] != 2]
    refused(tmp_path, "model 'other__beta-2b-it' has no label in the train split", train=with_rows(rows))


@pytest.mark.parametrize("size", [0, 60, -1, -3])
def test_a_file_cut_off_within_a_row_is_an_error(tmp_path, size):
    # 60: after the header; -1: without its last line break; -3: without the last label
    refused(tmp_path, r"train\.csv|'train'", train=release.files()["train.csv"][:size])


def test_a_file_cut_off_within_quotes_is_an_error(tmp_path):
    content = release.files()["train.csv"]
    cut = content[: content.index(b'""dog')]
    assert "EOF inside string" in refused(tmp_path, r"train\.csv cannot be read as CSV", train=cut)


def test_a_file_of_a_header_alone_is_an_empty_split(tmp_path):
    refused(tmp_path, "split 'val' is empty", val=with_rows([]))


@pytest.mark.parametrize("name", ["train", "question_order"])
def test_text_in_another_encoding_is_an_error(tmp_path, name):
    content = release.files()[f"{name}.csv"].decode().replace("mmlu", "mathé").replace("water", "l'eau à")
    refused(
        tmp_path,
        rf"{name}\.csv cannot be read as CSV in UTF-8",
        **{name: content.encode("cp1252", "replace")},
    )


def test_a_folder_that_lacks_a_file_is_an_error_that_names_it(tmp_path):
    folder = put(tmp_path / "data")
    (tmp_path / "data/model_order.csv").unlink()
    with pytest.raises(UsageError, match=r"has no model_order\.csv"):
        load(path=folder)
