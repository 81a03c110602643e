"""SPROUT in the publisher's own layout, made up in tests/releases/sprout.py."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rph_plugins.benchmarks import sprout
from rph_plugins.benchmarks.sprout import COLUMNS, COUNTS, MODELS, PRICES, load
from tests.releases import sprout as release
from tests.releases.folder import row_of, save

from rph import UsageError
from rph.data import parquet
from rph.data.validity import check
from rph.registry import installed

TRAIN, VAL, TEST = (
    f"data/{name}.parquet"
    for name in ("train-00001-of-00003", "validation-00000-of-00001", "test-00000-of-00001")
)
GPT, MIXTRAL = "openai-gpt-4o", "wxai-mixtral-8x7b-instruct-v01"


def load_rows(tables, folder, **options):
    save({path: release.write(rows) for path, rows in tables.items()}, folder)
    return load(path=str(folder), **options)


def load_with(folder, path, model, **changed):
    """The made-up release but for the named fields of one model in a file's second row."""
    tables = release.tables()
    tables[path][1][model] |= changed
    return load_rows(tables, folder)


def load_table(folder, path, change):
    """The made-up release with one file's pyarrow table changed."""
    save(release.files(), folder)
    pq.write_table(change(pq.read_table(folder / path)), folder / path)
    return load(path=str(folder))


# --- content ----------------------------------------------------------------------------------------


def test_it_is_registered_with_a_price_of_every_model():
    spec = installed().load("benchmark", "sprout").spec
    assert set(spec.options) == {"path", "threshold"}
    assert len(MODELS) == release.MODELS
    assert sum(spec.card.splits.values()) == 44_241
    assert [file.path for file in spec.card.files] == list(release.FILES)


def test_the_release_has_the_published_columns():
    assert set(release.SCHEMA.names) == set(COLUMNS)
    assert len(COLUMNS) == 6 + 13


def test_the_splits_are_the_publishers_in_the_order_of_the_files(tmp_path):
    dataset = load_rows(release.tables(), tmp_path)
    check(dataset)
    assert dataset.models == MODELS
    found = {name: list(split.ids) for name, split in dataset.splits()}
    assert found == {
        "train": [f"key-{i}" for i in range(9)],
        "val": [f"key-{i}" for i in range(9, 13)],
        "test": [f"key-{i}" for i in range(13, 18)],
    }
    assert tuple(map(len, found.values())) == release.COUNTS


@pytest.mark.parametrize("i", [0, 6, 8, 11, 17])
def test_labels_costs_and_tasks_are_those_of_the_query_and_the_model(tmp_path, i):
    split, row = row_of(load_rows(release.tables(), tmp_path), f"key-{i}")
    assert split.queries[row] == f"Question {i}:\nwhat is {i} + {i}?"
    assert split.tasks[row] == ("openhermes/teknium" if i % 2 else "lighteval/MATH/all")
    assert split.labels[row].tolist() == [float((i + m) % 4 >= 2) for m in range(13)]
    assert split.costs[row, 0] == pytest.approx(((100 + i) * 3 + 10 * i * 15) / 1e6)
    assert split.costs[row, 1] == pytest.approx(((100 + i) * 0.8 + (10 * i + 1) * 3.2) / 1e6)
    assert split.costs[row, 11] == pytest.approx((110 + 11 * i + 1) * 3.5 / 1e6)
    assert split.costs[row, 12] == pytest.approx((110 + 11 * i + 2) * 0.6 / 1e6)


@pytest.mark.parametrize("path", [TRAIN, TEST])
def test_the_order_of_the_columns_is_of_no_consequence(tmp_path, path):
    plain = load_rows(release.tables(), tmp_path)
    turned = load_table(tmp_path, path, lambda rows: rows.select(rows.column_names[::-1]))
    assert turned.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.4, [0, 1, 1, 1]), (0.5, [0, 0, 1, 1]), (0.51, [0, 0, 0, 1]), (1.0, [0, 0, 0, 1])],
)
def test_a_score_is_correct_from_the_threshold_on(tmp_path, threshold, expected):
    dataset = load_rows(release.tables(), tmp_path, threshold=threshold)
    split, row = row_of(dataset, "key-0")
    assert split.labels[row, :4].tolist() == expected
    assert dataset.name.startswith(
        "sprout-subset-18-" if threshold == 0.5 else f"sprout-threshold{threshold}-subset-18-"
    )


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_a_threshold_that_is_no_binary_fraction_includes_its_score(tmp_path, kind):
    fields = [(f.name, kind if f.name == "score" else f.type) for f in release.STRUCT]
    schema = pa.schema([*list(release.SCHEMA)[:6], *((model, pa.struct(fields)) for model in MODELS)])
    tables = release.tables()
    tables[TEST][1][GPT]["score"] = 0.7
    save({path: release.write(rows, schema) for path, rows in tables.items()}, tmp_path)
    split, row = row_of(load(path=str(tmp_path), threshold=0.7), "key-14")
    assert split.labels[row, MODELS.index(GPT)] == 1


# --- what is missing --------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_null_score_is_no_label_and_keeps_its_cost(tmp_path, score):
    split, row = row_of(load_with(tmp_path, VAL, GPT, score=score), "key-10")
    assert np.isnan(split.labels[row]).tolist() == [model == GPT for model in MODELS]
    assert not np.isnan(split.costs[row]).any()


@pytest.mark.parametrize("count", ["num_input_tokens", "num_output_tokens"])
def test_a_null_count_is_a_missing_cost_and_keeps_its_label(tmp_path, count):
    split, row = row_of(load_with(tmp_path, VAL, GPT, **{count: None}), "key-10")
    assert np.isnan(split.costs[row]).tolist() == [model == GPT for model in MODELS]
    assert not np.isnan(split.labels[row]).any()


def test_a_null_struct_is_neither_label_nor_cost(tmp_path):
    tables = release.tables()
    tables[VAL][1][GPT] = None
    dataset = load_rows(tables, tmp_path)
    split, row = row_of(dataset, "key-10")
    for cells in (split.labels, split.costs):
        assert np.isnan(cells[row]).tolist() == [model == GPT for model in MODELS]
        assert np.isnan(cells).sum() == 1


def test_a_model_with_only_nulls_in_one_file_is_missing_there(tmp_path):
    def change(rows):
        nulls = pa.nulls(len(rows), pa.struct([(name, pa.null()) for name in sprout.NUMBERS]))
        return rows.set_column(rows.column_names.index(GPT), GPT, nulls)

    dataset = load_table(tmp_path, VAL, change)
    assert np.isnan(dataset.val.labels).sum() == np.isnan(dataset.val.costs).sum() == 4
    assert not np.isnan(dataset.test.labels).any()


# --- ids and names ----------------------------------------------------------------------------------


def test_repeated_keys_are_made_unique_over_all_splits(tmp_path):
    tables = release.tables()
    for path in (TRAIN, VAL, TEST):
        tables[path][1]["key"] = "key-0"
    dataset = load_rows(tables, tmp_path)
    ids = [name for _, split in dataset.splits() for name in split.ids]
    assert [name for name in ids if name.startswith("key-0")] == ["key-0", "key-0#2", "key-0#3", "key-0#4"]
    assert dataset.test.ids[1] == "key-0#4"


def test_a_key_may_be_a_number(tmp_path):
    def change(rows):
        return rows.set_column(0, "key", pa.array([70 + i for i in range(len(rows))]))

    assert load_table(tmp_path, VAL, change).val.ids == ["70", "71", "72", "73"]


def test_a_release_of_full_size_has_the_plain_name(tmp_path, monkeypatch):
    dataset = load_rows(release.tables(), tmp_path)
    assert dataset.name.startswith("sprout-subset-18-")
    assert "9/4/5 queries in train/val/test; the full release has 30,968/6,636/6,637" in dataset.subset
    monkeypatch.setattr(sprout, "COUNTS", dict(zip(COUNTS, release.COUNTS, strict=True)))
    tables = release.tables()
    tables[TEST][0]["prompt"] = "Another one?"  # other content: converted anew
    dataset = load_rows(tables, tmp_path)
    assert (dataset.name, dataset.subset) == ("sprout", "")


def test_the_responses_are_not_read(tmp_path):
    path = save(release.files(), tmp_path) / VAL
    file = parquet.Columns(path)
    rows = file.read(sprout._columns(path, file.schema))
    assert set(rows.column_names) == {"key", "dataset", "prompt", *MODELS}
    for model in MODELS:
        assert {field.name for field in rows.schema.field(model).type} == set(sprout.NUMBERS)


def test_another_threshold_is_another_conversion(tmp_path):
    first, again = load_rows(release.tables(), tmp_path), load(path=str(tmp_path), threshold=0.4)
    assert first.train.labels.sum() < again.train.labels.sum()


def test_the_files_are_converted_once(tmp_path, monkeypatch):
    first = load_rows(release.tables(), tmp_path)
    monkeypatch.setattr(sprout, "_read", lambda *_: pytest.fail("converted again"))
    again = load(path=str(tmp_path))
    assert (again.name, again.subset, again.fingerprint) == (first.name, first.subset, first.fingerprint)


@pytest.mark.parametrize("threshold", [0.0, 1.5, float("nan")])
def test_a_threshold_that_decides_nothing_is_refused(threshold):
    with pytest.raises(UsageError, match="threshold="):
        load(threshold=threshold)


# --- unexpected files -------------------------------------------------------------------------------


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    with pytest.raises(UsageError, match=f"{VAL} does not have the 19 columns") as error:
        load_table(tmp_path, VAL, lambda rows: rows.drop_columns([column]))
    assert error.value.why == f"missing: {column}"


def test_a_further_column_is_named(tmp_path):
    with pytest.raises(UsageError, match="found besides: openai-o3-mini"):
        load_table(tmp_path, VAL, lambda rows: rows.append_column("openai-o3-mini", rows[GPT]))


def test_a_renamed_column_is_recognised(tmp_path):
    with pytest.raises(UsageError, match="is 'openai-gpt4o' meant to be 'openai-gpt-4o'"):
        load_table(tmp_path, VAL, lambda rows: rows.rename_columns({GPT: "openai-gpt4o"}))


@pytest.mark.parametrize("name", sprout.NUMBERS)
def test_a_missing_field_is_named(tmp_path, name):
    def change(rows):
        fields = [
            {key: value for key, value in cell.items() if key != name} for cell in rows[GPT].to_pylist()
        ]
        return rows.set_column(rows.column_names.index(GPT), GPT, pa.array(fields))

    with pytest.raises(UsageError, match=f"{VAL}: column '{GPT}' does not have the fields") as error:
        load_table(tmp_path, VAL, change)
    assert f"missing: {name}" in error.value.why


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["1", "0", "1", "0"]), r"column '{name}/{model}' is not numeric\n  why: it is string"),
        (
            pa.array([True, False, True, None]),
            r"field '{name}' of column '{model}' is not numeric\n  why: it is bool",
        ),
    ],
)
@pytest.mark.parametrize("name", sprout.NUMBERS)
def test_a_field_of_another_type_is_refused(tmp_path, name, values, expected):
    def change(rows):
        cells = rows[MIXTRAL].combine_chunks()
        arrays = [values if field.name == name else cells.field(field.name) for field in cells.type]
        struct = pa.StructArray.from_arrays(arrays, [field.name for field in cells.type])
        return rows.set_column(rows.column_names.index(MIXTRAL), MIXTRAL, struct)

    with pytest.raises(UsageError, match=expected.format(name=name, model=MIXTRAL)):
        load_table(tmp_path, VAL, change)


def test_a_model_column_that_is_no_struct_is_refused(tmp_path):
    with pytest.raises(UsageError, match=f"column '{GPT}' does not have the fields"):
        load_table(
            tmp_path,
            VAL,
            lambda rows: rows.set_column(rows.column_names.index(GPT), GPT, pa.array([0.5] * 4)),
        )


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("prompt", pa.array([1, 2, 3, 4]), "column 'prompt' is not text"),
        ("prompt", pa.array(["a", None, "c", "d"]), r"column 'prompt' has 1 null value\(s\)"),
        ("prompt", pa.array(["a", " \n", "c", "d"]), "'key-10' has no text"),
        ("prompt", pa.array([b"a", b"\xff", b"c", b"d"]).view(pa.string()), "'prompt' is not text in UTF-8"),
        ("key", pa.array(["a", None, "c", "d"]), r"column 'key' has 1 null value\(s\)"),
        ("key", pa.array([1.0, 2.0, 3.0, 4.0]), "column 'key' is not text"),
        ("dataset", pa.array([1, 2, 3, 4]), "column 'dataset' is not text"),
    ],
)
def test_texts_that_are_none_are_refused(tmp_path, column, values, expected):
    with pytest.raises(UsageError, match=expected):
        load_table(
            tmp_path, VAL, lambda rows: rows.set_column(rows.column_names.index(column), column, values)
        )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"score": 1.5}, r"1 score\(s\) outside \[0, 1\][^$]*1.5, of id 'key-10' and model 'openai-gpt-4o'"),
        ({"score": -0.1}, r"1 score\(s\) outside \[0, 1\]"),
        ({"num_input_tokens": -1}, r"1 negative or infinite count\(s\) of input tokens"),
        ({"num_output_tokens": -1}, r"1 negative or infinite count\(s\) of output tokens"),
    ],
)
def test_impossible_values_are_refused(tmp_path, changed, expected):
    with pytest.raises(UsageError, match=expected):
        load_with(tmp_path, VAL, GPT, **changed)


def test_a_model_without_any_label_is_named(tmp_path):
    tables = release.tables()
    for row in (row for rows in tables.values() for row in rows):
        row[GPT]["score"] = None
    with pytest.raises(UsageError, match=f"model '{GPT}' has no label in the train split"):
        load_rows(tables, tmp_path)


def test_a_model_without_a_price_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sprout, "PRICES", {model: PRICES[model] for model in MODELS if model != GPT})
    with pytest.raises(UsageError, match=f"no price is known for model '{GPT}'"):
        load_rows(release.tables(), tmp_path)


@pytest.mark.parametrize("size", [0, 4, 1000, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path, size):
    files = release.files()
    save(files | {VAL: files[VAL][:size]}, tmp_path)
    with pytest.raises(UsageError, match=f"{VAL} cannot be read as Parquet"):
        load(path=str(tmp_path))


def test_a_folder_without_one_of_the_files_is_said(tmp_path):
    files = release.files()
    del files[VAL]
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path} has no {VAL}")):
        load(path=str(save(files, tmp_path)))
