"""routing-table/1: what is written comes back, and every bad input has its own message."""

import dataclasses
import multiprocessing
import time
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rph_plugins.benchmarks.synthetic import load
from tests.moments import PATIENCE

from rph import RoutingDataset, RphError, Split, UsageError, disk
from rph.data.routing_table import cached, is_table, read, write
from rph.data.validity import check
from rph.holes import REASONS, Holes

MODELS = ("org/a", "b")
HEAD = {
    "format": "routing-table/1",
    "name": "mine",
    "models": list(MODELS),
    "costs": "usd",
    "splits": {"train": "train.parquet", "val": "val.parquet", "test": "test.parquet"},
    "citation": "arXiv:0",
    "source": "made up",
}


def columns(split="train"):
    return {
        "id": [f"{split}-{i}" for i in range(3)],
        "query": [f"What is {i}?" for i in range(3)],
        "task": ["x", "x", "y"],
        "correct/org/a": [1.0, 0.0, None],
        "correct/b": [0.5, None, 1.0],
        "cost/org/a": [0.001, None, 0.003],
        "cost/b": [0.1, 0.2, 0.3],
    }


@pytest.fixture
def folder(tmp_path):
    """A good benchmark folder, for tests to spoil."""
    for split in ("train", "val", "test"):
        put(tmp_path, split)
    head(tmp_path)
    return tmp_path


def head(folder, drop=(), **changes):
    content = {key: value for key, value in (HEAD | changes).items() if key not in drop}
    (folder / "bench.yaml").write_text(yaml.safe_dump(content))


def put(folder, split, drop=(), **changes):
    content = {key: value for key, value in (columns(split) | changes).items() if key not in drop}
    pq.write_table(pa.table(content), folder / f"{split}.parquet")


def refused(folder, *expected):
    """Reading fails as a usage error that has a why or a fix, and says everything expected."""
    with pytest.raises(UsageError) as error:
        read(folder)
    for part in expected:
        assert part in str(error.value)
    assert error.value.why or error.value.fix


def dataset(n=4, costs=True, p=False, **changes):
    def split(name):
        return Split(
            ids=[f"{name}-{i}" for i in range(n)],
            queries=[f"Frage {i} über 字?" for i in range(n)],
            tasks=["t"] * n,
            labels=np.array([[1, np.nan]] * n, np.float32)
            if name != "train"
            else np.eye(n, 2, dtype=np.float32),
            costs=np.full((n, 2), 0.1, np.float32) if costs else None,
            p_correct=np.full((n, 2), 0.25, np.float32) if p else None,
        )

    made = RoutingDataset(name="mine", models=MODELS, **{s: split(s) for s in ("train", "val", "test")})
    return dataclasses.replace(made, **changes)


# --- what is good -----------------------------------------------------------------------------------


def test_a_folder_is_read_as_written_there(folder):
    assert is_table(folder)
    found = read(folder)
    assert (found.name, found.models, found.subset) == ("mine", MODELS, "")
    assert found.val.ids == ["val-0", "val-1", "val-2"]
    assert found.val.queries == ["What is 0?", "What is 1?", "What is 2?"]
    assert found.val.tasks == ["x", "x", "y"]
    np.testing.assert_array_equal(
        found.val.labels, np.array([[1, 0.5], [0, np.nan], [np.nan, 1]], np.float32)
    )
    np.testing.assert_array_equal(
        found.val.costs, np.array([[0.001, 0.1], [np.nan, 0.2], [0.003, 0.3]], np.float32)
    )
    for _, split in found.splits():
        assert split.labels.dtype == split.costs.dtype == np.float32
        assert split.labels.flags.c_contiguous and split.costs.flags.c_contiguous


def test_the_task_column_is_optional(folder):
    put(folder, "val", drop=["task"])
    assert read(folder).val.tasks == ["", "", ""]


def test_whole_and_boolean_labels_and_whole_ids_are_understood(folder):
    put(folder, "val", **{"id": [7, 8, 9], "correct/b": [True, None, False], "correct/org/a": [1, 0, None]})
    found = read(folder).val
    assert found.ids == ["7", "8", "9"]
    np.testing.assert_array_equal(found.labels, np.array([[1, 1], [0, np.nan], [np.nan, 0]], np.float32))


def test_a_model_without_labels_outside_train_is_missing_not_wrong(folder):
    put(folder, "test", **{"correct/b": [None, None, None]})
    assert np.isnan(read(folder).test.labels[:, 1]).all()


def test_a_folder_without_costs_has_none(folder):
    head(folder, costs=None)
    for split in ("train", "val", "test"):
        put(folder, split, drop=["cost/org/a", "cost/b"])
    assert not read(folder).has_costs


def test_a_path_that_looks_like_a_partition_adds_no_column(tmp_path):
    write(dataset(), tmp_path / "year=2024", citation="", source="")
    assert read(tmp_path / "year=2024").fingerprint == dataset().fingerprint


@pytest.mark.parametrize("costs", [True, False])
@pytest.mark.parametrize("p", [True, False])
def test_what_is_written_is_read_back_equal(tmp_path, costs, p):
    made = dataset(costs=costs, p=p, subset="4 made-up rows")
    write(made, tmp_path / "b", citation="arXiv:1", source="here", description="d", labels="l")
    found = read(tmp_path / "b")
    assert found.fingerprint == made.fingerprint
    assert (found.name, found.subset) == ("mine", "4 made-up rows")
    said = yaml.safe_load((tmp_path / "b" / "bench.yaml").read_text())
    assert (said["citation"], said["source"], said["labels"]) == ("arXiv:1", "here", "l")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    arrays(np.float32, (3, 2), elements=st.floats(0, 1, width=32) | st.just(float("nan"))),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3),
)
def test_any_labels_and_texts_come_back_bit_for_bit(tmp_path_factory, labels, texts):
    made = dataset(n=3)
    made = dataclasses.replace(made, test=dataclasses.replace(made.test, labels=labels, queries=texts))
    folder = tmp_path_factory.mktemp("t") / "b"
    write(made, folder, citation="", source="")
    assert read(folder).fingerprint == made.fingerprint


def test_a_benchmark_is_never_written_over(tmp_path):
    write(dataset(), tmp_path / "b", citation="", source="")
    with pytest.raises(UsageError, match="exists already"):
        write(dataset(), tmp_path / "b", citation="", source="")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        pq, "write_table", lambda *args, **named: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(RphError, match="no room"):
        write(dataset(), tmp_path / "new" / "b", citation="", source="")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.real_data
def test_the_real_benchmark_is_read(real_data):
    found = read(real_data / "routerdc7")
    assert [len(split) for _, split in found.splits()] == [14_395, 2_056, 4_114]
    assert found.test.labels.mean(axis=0).max() == pytest.approx(0.582, abs=5e-4)
    assert found.test.labels.max(axis=1).mean() == pytest.approx(0.826, abs=5e-4)


@pytest.mark.real_data
def test_a_note_that_is_like_no_key_of_ours_stays_one(real_data):
    assert read(real_data / "routerdc-draws").holes == Holes()  # its bench.yaml has `draws: 10`


def test_150_000_rows_are_quick(tmp_path):
    n = 150_000
    big = Split(
        ids=[f"q{i}" for i in range(n)],
        queries=["What is the answer to this question?"] * n,
        tasks=["t"] * n,
        labels=np.ones((n, 11), np.float32),
        costs=np.full((n, 11), 0.1, np.float32),
    )
    write(
        dataclasses.replace(dataset(), models=tuple("abcdefghijk"), train=big, val=_few("v"), test=_few("t")),
        tmp_path / "b",
        citation="",
        source="",
    )
    start = time.process_time()
    read(tmp_path / "b")
    assert time.process_time() - start < 5  # about 0.6 s


def _few(name):
    return Split(
        ids=[name],
        queries=["q"],
        tasks=[""],
        labels=np.ones((1, 11), np.float32),
        costs=np.ones((1, 11), np.float32),
    )


# --- missing labels -----------------------------------------------------------------------------------


def with_holes(**changes):
    """A table that says all that can be said: reasons, languages, a plan and a block."""

    def split(name):
        labels = np.array([[1, 0], [np.nan, 1], [0, np.nan], [1, np.nan]], np.float32)
        return Split(
            ids=[f"{name}-{i}" for i in range(4)],
            queries=[f"What is {name} {i}?" for i in range(4)],
            tasks=["x", "x", "x", "y 2"],
            labels=labels,
            reasons=np.array([[0, 0], [2, 0], [0, 1], [0, 0]], np.uint8) if name != "val" else None,
            languages=["en", "", "de", "en"],
        )

    said = Holes(
        planned=True,
        blocks=frozenset({("y 2", "b")}),
        plan={("x", "b"): np.float64(2 / 3), ("x", "org/a"): 1.0},
    )
    made = RoutingDataset(
        name="mine", models=MODELS, **{s: split(s) for s in ("train", "val", "test")}, holes=said
    )
    return dataclasses.replace(made, **changes)


def test_what_a_table_says_of_its_holes_comes_back(tmp_path):
    made = with_holes()
    write(made, tmp_path / "b", citation="", source="")
    found = read(tmp_path / "b")
    assert found.fingerprint == made.fingerprint and found.holes == made.holes
    np.testing.assert_array_equal(found.train.reasons, made.train.reasons)
    assert found.train.reasons.dtype == np.uint8
    assert found.val.reasons is None and found.val.languages == ["en", "", "de", "en"]
    said = yaml.safe_load((tmp_path / "b" / "bench.yaml").read_text())
    assert (said["holes"], said["blocks"]) == ("planned", {"y 2": ["b"]})
    assert said["plan"] == {"x": {"b": 2 / 3, "org/a": 1.0}}
    assert "hole/b" not in pq.read_schema(tmp_path / "b" / "val.parquet").names
    converted = cached("mine-1", with_holes)
    assert cached("mine-1", with_holes).fingerprint == converted.fingerprint == made.fingerprint


@pytest.mark.parametrize("kind", ["block", "planned", "failures"])
def test_worlds_with_holes_come_back(tmp_path, kind):
    made = load(n=300, k=4, holes=kind)
    write(made, tmp_path / "b", citation="", source="")
    assert read(tmp_path / "b").fingerprint == made.fingerprint


def test_a_table_without_holes_says_nothing_of_them(tmp_path):
    write(dataset(), tmp_path / "b", citation="", source="")
    assert not {"holes", "plan", "blocks"} & set(yaml.safe_load((tmp_path / "b" / "bench.yaml").read_text()))
    assert not any(
        name.startswith("hole/") for name in pq.read_schema(tmp_path / "b" / "train.parquet").names
    )


def test_columns_of_reasons_may_be_of_some_models_and_have_empty_cells(folder):
    put(folder, "val", **{"hole/b": pa.array(["", "failed", None]).dictionary_encode()})
    put(folder, "test", **{"hole/org/a": [None, None, None], "language": ["en", None, ""]})
    found = read(folder)
    assert found.train.reasons is None
    np.testing.assert_array_equal(found.val.reasons, [[0, 0], [0, REASONS.index("failed")], [0, 0]])
    np.testing.assert_array_equal(found.test.reasons, np.zeros((3, 2)))
    assert (found.train.languages, found.test.languages) == ((), ["en", "", ""])


@pytest.mark.parametrize(
    ("column", "cells", "expected"),
    [
        ("hole/b", ["", "fail", "fail"], ["unknown reason: 'fail'", "id 'val-1'", "did you mean 'failed'?"]),
        ("hole/b", [None, "timeout", None], ["planned, failed, empty, cut, unscored"]),
        ("hole/b", [2, 2, 2], ["column 'hole/b' is not text"]),
        (
            "hole/b",
            ["cut", "cut", None],
            ["1 label(s) with a reason", "0.5 and 'cut'", "'val-0'", "model 'b'"],
        ),
        ("hole/c", ["", "", ""], ["1 unknown column(s): 'hole/c'"]),
        ("language", [1, 2, 3], ["column 'language' is not text"]),
    ],
)
def test_columns_on_holes_that_are_wrong(folder, column, cells, expected):
    put(folder, "val", **{column: cells})
    refused(folder, *expected)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"holes": "block"}, ["`holes` is 'block'", "write `holes: planned`"]),
        ({"hole": "planned"}, ["unknown key: 'hole'", "did you mean 'holes'?"]),
        ({"blocks": ["b"]}, ["`blocks` does not give a list of models per task"]),
        ({"blocks": {"x": "b"}}, ["`blocks` does not give a list of models per task"]),
        ({"blocks": {"x": [3]}}, ["`blocks` does not give a list of models per task", "in quotes"]),
        ({"blocks": {3: ["b"]}}, ["`blocks` does not give a list of models per task", "in quotes"]),
        ({"blocks": {"z": ["b"]}}, ["the blocks name task 'z'", "there are x, y"]),
        ({"blocks": {"x": ["c"]}}, ["the blocks name model 'c'", "there are b, org/a"]),
        ({"blocks": {"y": ["b", "org/a"]}}, ["blocks leave task 'y' no model"]),
        ({"blocks": {"y": ["b"]}}, ["split 'train': 1 label(s) in a block", "id 'train-2'"]),
        ({"plan": {"x": {"b": 0.5}}}, ["a plan", "say `holes: planned`"]),
        ({"holes": "planned", "plan": [1]}, ["`plan` does not give a share per task and model"]),
        ({"holes": "planned", "plan": {"x": {"b": "half"}}}, ["`plan` does not give a share"]),
        ({"holes": "planned", "plan": {"x": {"b": True}}}, ["`plan` does not give a share"]),
        ({"holes": "planned", "plan": {"xx": {"b": 1}}}, ["the plan names task 'xx'"]),
        ({"holes": "planned", "plan": {"x": {"org/b": 1}}}, ["the plan names model 'org/b'", "'org/a'?"]),
        ({"holes": "planned", "plan": {"x": {"b": 0}}}, ["a share 0 of task 'x'", "belongs in `blocks`"]),
        ({"holes": "planned", "plan": {"x": {"b": 1.5}}}, ["a share 1.5 of task 'x'", "at most 1"]),
        ({"holes": "planned", "plan": {"x": {"b": float("nan")}}}, ["a share nan of task 'x'"]),
    ],
)
def test_keys_on_holes_that_are_wrong(folder, keys, expected):
    head(folder, **keys)
    refused(folder, *expected)


def test_a_part_of_a_table_may_lack_tasks_and_have_labels_in_blocks_that_train_shows():
    part = dataset().part()
    check(dataclasses.replace(part, holes=Holes(blocks=frozenset({("gone", "b"), ("t", "b")}), settled=True)))


# --- bench.yaml -------------------------------------------------------------------------------------


def test_a_folder_without_bench_yaml_is_no_benchmark(tmp_path):
    assert not is_table(tmp_path)
    refused(tmp_path, "is not a benchmark folder", "it has no bench.yaml")


@pytest.mark.parametrize("content", [b"a: [1", b"\t- x: :", b"name: \xff\xfe"])
def test_bench_yaml_that_is_not_yaml(folder, content):
    (folder / "bench.yaml").write_bytes(content)
    refused(folder, "is not YAML")


@pytest.mark.parametrize("content", ["- a\n- b\n", "", "just text"])
def test_bench_yaml_that_is_no_mapping(folder, content):
    (folder / "bench.yaml").write_text(content)
    refused(folder, "is not a mapping")


def test_another_or_no_format(folder):
    head(folder, format="routing-table/2")
    refused(folder, "is not in the form routing-table/1", "'routing-table/2'")
    head(folder, drop=["format"])
    refused(folder, "it has no `format`")


def test_an_unknown_key_gets_a_suggestion(folder):
    head(folder, citaton="x")
    refused(folder, "unknown key: 'citaton'", "did you mean 'citation'?")


@pytest.mark.parametrize("key", ["name", "models", "costs", "splits"])
def test_a_missing_key_is_named(folder, key):
    head(folder, drop=[key])
    refused(folder, f"lacks {key}")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": 3}, "`name` is not text"),
        ({"name": "a/b"}, "benchmark name 'a/b' cannot be used"),
        ({"models": "a"}, "`models` is not a list of names"),
        ({"models": ["a", 4]}, "`models` is not a list of names"),
        ({"costs": "eur"}, "`costs` is 'eur'"),
        ({"splits": ["a"]}, "`splits` does not give a file per split"),
        ({"splits": {"train": 1, "val": "b", "test": "c"}}, "`splits` does not give a file per split"),
        ({"splits": {"train": "a", "test": "c"}}, "`splits` lacks val"),
        ({"splits": {"train": "a", "vall": "b", "test": "c"}}, "did you mean 'val'?"),
        ({"subset": 5}, "`subset` is not text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(folder, change, expected):
    head(folder, **change)
    refused(folder, expected)


def test_no_models(folder):
    head(folder, models=[])
    for split in ("train", "val", "test"):
        pq.write_table(
            pa.table({"id": [split], "query": ["q"], "cost/x": [1.0]}), folder / f"{split}.parquet"
        )
    refused(folder)
    with pytest.raises(UsageError, match="`models` is empty"):
        check(dataset(models=()))


def test_a_repeated_model(folder):
    head(folder, models=["org/a", "b", "b"])
    refused(folder, "lists model 'b' twice")


# --- split files ------------------------------------------------------------------------------------


def test_a_split_file_that_is_missing(folder):
    (folder / "val.parquet").unlink()
    refused(folder, "val.parquet does not exist")


def test_a_split_file_that_is_not_parquet(folder):
    (folder / "val.parquet").write_text("id,query\n")
    refused(folder, "val.parquet cannot be read as Parquet")


@pytest.mark.parametrize(
    "name", ["../outside.parquet", "sub/../../outside.parquet", "link.parquet", "/outside"]
)
def test_a_split_file_outside_the_folder_is_refused(tmp_path, folder, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    put(tmp_path, "outside")
    (inner / "link.parquet").symlink_to(tmp_path / "outside.parquet")
    head(inner, splits={"train": "train.parquet", "val": name, "test": "test.parquet"})
    put(inner, "train")
    refused(inner, "the file of split 'val' leaves the folder")


def test_a_model_column_that_is_missing_gets_a_suggestion(folder):
    put(folder, "val", drop=["correct/b"])
    refused(folder, "no column 'correct/b'")
    put(folder, "val", drop=["correct/org/a"], **{"corect/org/a": [1.0, 1.0, 1.0]})
    refused(folder, "no column 'correct/org/a'", "it has 'corect/org/a'")


@pytest.mark.parametrize("column", ["id", "query"])
def test_a_missing_id_or_query_column(folder, column):
    put(folder, "val", drop=[column])
    refused(folder, f"no column {column!r}")


def test_a_column_of_a_model_that_is_not_in_the_pool_is_refused(folder):
    put(folder, "val", **{"correct/c": [1.0, 1.0, 1.0]})
    refused(folder, "1 unknown column(s)", "'correct/c'", "add the model to `models`")


def test_the_owners_own_columns_and_keys_are_left_out_with_a_word(folder):
    plain = read(folder)
    put(folder, "val", note=["", "", ""])
    with (folder / "bench.yaml").open("a") as file:
        file.write("\nmaintainer: me\ndraws: 10\nnotes: none\nrules: two\nlang: en\n")
    with pytest.warns(UserWarning, match="columns not used: note"):
        assert read(folder).fingerprint == plain.fingerprint


def test_a_column_twice(folder):
    names = [*columns(), "correct/b"]
    pq.write_table(pa.table([*columns("val").values(), [1.0, 1.0, 1.0]], names=names), folder / "val.parquet")
    refused(folder, "column 'correct/b' twice")


def test_costs_declared_without_cost_columns(folder):
    put(folder, "val", drop=["cost/org/a", "cost/b"])
    refused(folder, "has no cost columns", "`costs: usd`")


def test_cost_columns_without_declared_costs(folder):
    head(folder, costs=None)
    refused(folder, "unknown column(s): 'cost/org/a'", "`costs: null`", "write `costs: usd`")


# --- values -----------------------------------------------------------------------------------------


def test_labels_that_are_not_numeric(folder):
    put(folder, "val", **{"correct/b": ["yes", "no", "yes"]})
    refused(folder, "column 'correct/b' is not numeric", "'yes'", "val-0")


@pytest.mark.parametrize("bad", [1.5, -0.1, float("inf"), 1e300])
def test_labels_outside_the_unit_interval_are_counted_and_the_first_is_named(folder, bad):
    put(folder, "val", **{"correct/b": [0.5, bad, bad]})
    refused(folder, "split 'val': 2 label(s) outside [0, 1]", "id 'val-1' and model 'b'")


@pytest.mark.parametrize("bad", [-0.1, float("inf")])
def test_negative_or_infinite_costs(folder, bad):
    put(folder, "test", **{"cost/org/a": [0.1, 0.1, bad]})
    refused(folder, "split 'test': 1 negative or infinite cost(s)", "id 'test-2' and model 'org/a'")


def test_ids_that_are_missing(folder):
    put(folder, "val", id=["a", None, "c"])
    refused(folder, "column 'id' has 1 null value(s)", "row 1")
    put(folder, "val", id=["a", "", "c"])
    refused(folder, "1 row(s) have no id")


def test_ids_repeated_within_a_split(folder):
    put(folder, "val", id=["a", "b", "a"])
    refused(folder, "split 'val': 1 id(s) are repeated, the first 'a'")


def test_ids_shared_between_splits(folder):
    put(folder, "test", id=["test-0", "train-1", "test-2"])
    refused(folder, "split 'test': id 'train-1' is also in split 'train'")


def test_an_empty_split(folder):
    pq.write_table(pq.read_table(folder / "val.parquet").slice(0, 0), folder / "val.parquet")
    refused(folder, "split 'val' is empty")


def test_a_model_without_any_train_label(folder):
    put(folder, "train", **{"correct/b": [None, None, None]})
    refused(folder, "model 'b' has no label in the train split", "cannot be routed to")


def test_a_query_that_is_null(folder):
    put(folder, "val", query=["a", None, None])
    refused(folder, "column 'query' has 2 null value(s)", "row 1 (id 'val-1')")


def test_a_query_that_is_not_text(folder):
    put(folder, "val", query=[1.5, 2.5, 3.5])
    refused(folder, "column 'query' is not text")


# --- check ------------------------------------------------------------------------------------------


def spoilt(**changes):
    made = dataset()
    return dataclasses.replace(made, val=dataclasses.replace(made.val, **changes))


def test_a_good_dataset_passes():
    check(dataset())
    check(dataset(costs=False, p=True))


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (spoilt(labels=np.ones((4, 3), np.float32)), "labels are float32 (4, 3)"),
        (spoilt(labels=np.ones((4, 2))), "labels are float64"),
        (spoilt(labels=np.asfortranarray(np.ones((4, 2), np.float32))), "C-contiguous"),
        (spoilt(costs=None), "costs in some splits and none in others"),
        (spoilt(queries=["q"] * 3), "4 ids, 3 queries and 4 tasks"),
        (spoilt(queries=["q", None, "q", "q"]), "query of row 1 is not text"),
        (spoilt(queries=["q", "\ud83d", "q", "q"]), "query of row 1 (id 'val-1') is not valid Unicode"),
        (dataset(models=("a", "")), "has an empty name"),
        (dataset(name="../x"), "cannot be used"),
        (dataset(name=None), "benchmark name None cannot be used"),
        (dataset(models=(1, 2)), "`models` are not names"),
        (dataset(models="ab"), "`models` are not names"),
        (spoilt(labels=[[1.0, 0.0]] * 4), "labels are of type list"),
        (spoilt(labels=None), "labels are of type NoneType"),
        (spoilt(costs=[[1.0, 0.0]] * 4), "costs are of type list"),
        (spoilt(labels=np.full((4, 2), np.nan, np.float32)), "split 'val' has no label"),
        (spoilt(reasons=[[0, 1]] * 4), "reasons are list"),
        (spoilt(reasons=np.zeros((4, 2))), "reasons are float64 (4, 2)"),
        (spoilt(reasons=np.zeros((2, 4), np.uint8)), "reasons are uint8 (2, 4)"),
        (spoilt(reasons=np.full((4, 2), 6, np.uint8)), "6 is the code of no reason"),
        (spoilt(reasons=np.full((4, 2), 1, np.uint8)), "4 label(s) with a reason why they are missing"),
        (spoilt(languages=["en"] * 3), "4 ids and 3 languages"),
        (spoilt(languages=["en", "en", None, "en"]), "language of row 2 is not text"),
    ],
)
def test_a_dataset_that_cannot_be_run_is_refused(bad, expected):
    with pytest.raises(UsageError) as error:
        check(bad)
    assert expected in str(error.value)


def test_an_unknown_p_correct_is_refused():
    made = dataset(p=True)
    made.val.p_correct[2, 1] = np.nan
    with pytest.raises(UsageError, match="P\\(correct\\) outside"):
        check(made)


# --- converted benchmarks ---------------------------------------------------------------------------


class Build:
    """Builds the dataset, and counts how often."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return dataset(p=True, subset="made up")


def test_a_benchmark_is_converted_once():
    build = Build()
    first, again = cached("mine-1", build), cached("mine-1", build)
    assert build.times == 1
    assert first.fingerprint == again.fingerprint == build().fingerprint
    assert first.subset == again.subset == "made up"
    assert is_table(disk.home() / "benchmarks" / "mine-1")


def test_another_key_is_another_conversion():
    build = Build()
    cached("mine-1", build), cached("mine-2", build)
    assert build.times == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "head", "checksums"])
def test_damage_is_said_and_repaired(damage):
    build = Build()
    good = cached("mine", build).fingerprint
    folder = disk.home() / "benchmarks" / "mine"
    file = folder / {"head": "bench.yaml", "checksums": "checksums.json"}.get(damage, "val.parquet")
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-5])
    else:
        file.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    with pytest.warns(UserWarning, match="is damaged: converting again"):
        assert cached("mine", build).fingerprint == good
    assert build.times == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached("mine", build)
    assert build.times == 2


def test_a_failed_conversion_leaves_nothing_and_is_tried_again():
    def fail():
        raise RphError("no such file")

    with pytest.raises(RphError, match="no such file"):
        cached("mine", fail)
    assert cached("mine", Build()).name == "mine"


def test_a_conversion_that_makes_no_benchmark_is_not_kept():
    with pytest.raises(UsageError, match="empty"):
        cached("mine", lambda: dataset(models=()))
    assert not (disk.home() / "benchmarks" / "mine").exists()


def _convert(home, log, together):
    import os

    os.environ["RPH_HOME"] = str(home)

    def build():
        with open(log, "a") as file:
            file.write("built\n")
        time.sleep(0.1)  # only to make a second one likely, were it possible
        return dataset()

    together.wait(PATIENCE)
    cached("mine", build)


def test_two_processes_at_once_convert_once(tmp_path, rph_home):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    arguments = rph_home, log, context.Barrier(3)
    processes = [context.Process(target=_convert, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "built\n"
    assert cached("mine", dataset).fingerprint == dataset().fingerprint
