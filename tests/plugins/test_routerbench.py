"""RouterBench in the publisher's own layout, made up here; and the real rows where they are present."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rph_plugins.benchmarks import routerbench
from rph_plugins.benchmarks.routerbench import COLUMNS, MODELS, ROWS, load
from tests.releases.routerbench import made_up

from rph import RphError, UsageError
from rph.data import unpickle
from rph.data.published import decode_prompt
from rph.data.validity import check
from rph.registry import installed


def save(frame, folder, shots=0):
    path = folder / f"routerbench_{shots}shot.pkl"
    frame.to_pickle(path)
    return path


def load_frame(frame, tmp_path, **options):
    return load(path=str(save(frame, tmp_path, options.get("shots", 0))), **options)


def row_of(dataset, query):
    """(split, row) of the one query with this text."""
    return next((s, list(s.queries).index(query)) for _, s in dataset.splits() if query in s.queries)


def text(i):
    return f"Question {i}?\nIt's short."


def every(dataset, what):
    return [item for _, split in dataset.splits() for item in getattr(split, what)]


# --- content ----------------------------------------------------------------------------------------


def test_it_is_registered_and_documents_its_options():
    spec = installed().load("benchmark", "routerbench").spec
    assert set(spec.options) == {"shots", "path", "threshold"}
    assert sum(spec.card.splits.values()) == ROWS[0]
    assert {file.path for file in spec.card.files} == {"routerbench_0shot.pkl", "routerbench_5shot.pkl"}


def test_the_made_up_frame_has_the_published_columns():
    assert sorted(made_up().columns) == sorted(COLUMNS)
    assert len(COLUMNS) == 37


def test_labels_costs_and_tasks_are_those_of_the_row_and_the_model(tmp_path):
    dataset = load_frame(made_up(), tmp_path)
    assert dataset.models == MODELS
    for i in range(40):
        split, row = row_of(dataset, text(i))
        assert split.ids[row] == f"mmlu.val.{i}"
        assert split.tasks[row] == ("mmlu" if i % 2 else "mbpp")
        assert split.labels[row].tolist() == [float((i + m) % 3 > 0) for m in range(11)]
        # Paired by position, column 0 would cost what gpt-3.5 costs.
        np.testing.assert_allclose(split.costs[row], np.arange(1, 12) / 1000, rtol=1e-6)
    check(dataset)


def test_missing_scores_and_costs_stay_missing(tmp_path):
    frame = made_up()
    frame.loc[3, "claude-v1"] = np.nan
    frame.loc[4, "claude-v2|total_cost"] = np.nan
    dataset = load_frame(frame, tmp_path)
    split, row = row_of(dataset, text(3))
    assert np.isnan(split.labels[row]).tolist() == [model == "claude-v1" for model in MODELS]
    split, row = row_of(dataset, text(4))
    assert np.isnan(split.costs[row]).tolist() == [model == "claude-v2" for model in MODELS]


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.25, [1, 1, 1]), (0.5, [0, 1, 1]), (0.75, [0, 0, 1]), (1.0, [0, 0, 0])]
)
def test_a_fractional_score_is_correct_from_the_threshold_on(tmp_path, threshold, expected):
    frame = made_up()
    frame.loc[[0, 1, 2], "claude-v1"] = [0.25, 0.5, 0.75]
    dataset = load_frame(frame, tmp_path, threshold=threshold)
    column = MODELS.index("claude-v1")
    found = [split.labels[row, column] for split, row in (row_of(dataset, text(i)) for i in range(3))]
    assert found == expected


def test_another_threshold_is_in_the_name(tmp_path):
    assert "threshold" not in load_frame(made_up(), tmp_path).name
    assert load_frame(made_up(), tmp_path, threshold=0.75).name.startswith(
        "routerbench-threshold0.75-subset-40-"
    )


@pytest.mark.parametrize(
    ("raw", "decoded"),
    [
        ("['one']", "one"),
        ("['one', \"two's\"]", "one\n\ntwo's"),
        (r"['line\nbreak \\n']", "line\nbreak \\n"),
        ("plain text", "plain text"),
        ("[unquoted]", "[unquoted]"),
        ("[1, 2]", "[1, 2]"),
        ("['one'", "['one'"),
        ("[]", "[]"),
        ("['a'] and more", "['a'] and more"),
        (r"['half \ud83d']", r"['half \ud83d']"),
    ],
)
def test_a_prompt_is_the_turns_of_a_list_or_else_the_raw_text(raw, decoded):
    assert decode_prompt(raw) == decoded


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_list_of_turns_comes_back(turns):
    assert decode_prompt(str(turns)) == "\n\n".join(turns)


def test_repeated_sample_ids_are_made_unique_in_the_order_of_the_file(tmp_path):
    frame = made_up()
    frame.loc[[0, 1, 2, 3], "sample_id"] = ["a", "a", "a#2", "a"]
    dataset = load_frame(frame, tmp_path)
    ids = [split.ids[row] for split, row in (row_of(dataset, text(i)) for i in range(4))]
    assert ids == ["a", "a#3", "a#2", "a#4"]
    assert len(set(every(dataset, "ids"))) == 40


# --- the split --------------------------------------------------------------------------------------


def test_the_split_does_not_depend_on_the_order_of_the_file(tmp_path):
    (tmp_path / "other").mkdir()
    frame = made_up()
    one, other = load_frame(frame, tmp_path), load_frame(frame.iloc[::-1], tmp_path / "other")
    assert [s.queries for _, s in one.splits()] == [s.queries for _, s in other.splits()]


# --- files ------------------------------------------------------------------------------------------


def test_a_file_with_other_rows_is_named_as_a_subset(tmp_path):
    dataset = load_frame(made_up(), tmp_path, shots=5)
    assert re.fullmatch(r"routerbench-5shot-subset-40-[0-9a-f]{8}", dataset.name)
    assert "40 rows; the full 5-shot release has 36,511" in dataset.subset


def test_other_rows_of_the_same_number_have_another_name(tmp_path):
    one = load_frame(made_up(), tmp_path)
    frame = made_up()
    frame.loc[0, "claude-v1"] = 1 - frame.loc[0, "claude-v1"]
    assert load_frame(frame, tmp_path).name != one.name


def test_a_full_size_file_with_another_hash_is_said_every_time(tmp_path, monkeypatch):
    monkeypatch.setitem(ROWS, 0, 40)
    for _ in range(2):
        with pytest.warns(UserWarning, match="not the published routerbench_0shot.pkl") as said:
            dataset = load_frame(made_up(), tmp_path)
        assert routerbench.FILES[0].sha256 in str(said[0].message)
        assert (dataset.name, dataset.subset) == ("routerbench", "")


def test_a_file_is_converted_once(tmp_path, monkeypatch):
    path = save(made_up(), tmp_path)
    first = load(path=str(path))
    monkeypatch.setattr(unpickle, "read_frame", lambda path: pytest.fail("converted again"))
    again = load(path=str(path))
    assert (again.name, again.subset, again.fingerprint) == (first.name, first.subset, first.fingerprint)


def test_a_folder_stands_for_the_file_of_the_asked_shots(tmp_path):
    save(made_up(), tmp_path, 0)
    save(made_up(50), tmp_path, 5)
    assert "subset-40-" in load(path=str(tmp_path)).name
    assert "5shot-subset-50-" in load(path=str(tmp_path), shots=5).name


def test_the_wrong_shots_are_an_error_that_names_the_right_call(tmp_path):
    path = save(made_up(), tmp_path, 5)
    with pytest.raises(UsageError, match=re.escape(f"--bench routerbench:shots=5,path={path}")):
        load(path=str(path))
    with pytest.raises(UsageError, match=re.escape(f"--bench routerbench:shots=5,path={tmp_path}")):
        load(path=str(tmp_path))


def test_a_missing_path_and_an_empty_folder_are_said(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load(path=str(tmp_path / "nothing.pkl"))
    with pytest.raises(UsageError, match=r"has no routerbench_0shot\.pkl"):
        load(path=str(tmp_path))


@pytest.mark.parametrize(
    "options", [{"shots": 3}, {"threshold": 0.0}, {"threshold": 1.5}, {"threshold": float("nan")}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(UsageError):
        load(**options)


def test_without_a_file_and_offline_the_next_step_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("RPH_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **named: None)
    with pytest.raises(RphError, match=r"routerbench_0shot\.pkl of withmartian/routerbench") as error:
        load()
    assert "--bench routerbench:path=" in error.value.fix


# --- unexpected files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: f.drop(columns="claude-v1"), "missing: claude-v1"),
        (lambda f: f.assign(**{"Unnamed: 0": 1}), "found besides: Unnamed: 0"),
        (lambda f: f.rename(columns={"claude-v1": "claude_v1"}), "is 'claude_v1' meant to be 'claude-v1'"),
        (lambda f: pd.concat([f, f[["claude-v1"]]], axis=1), "twice: claude-v1"),
        (lambda f: f.drop(columns="claude-v1|total_cost"), r"missing: claude-v1\|total_cost"),
    ],
)
def test_other_columns_than_the_published_are_a_loud_failure(tmp_path, change, expected):
    frame = change(made_up())
    frame.columns = frame.columns.astype(object)
    with pytest.raises(UsageError, match=expected):
        load_frame(frame, tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("claude-v1", 1.5, r"1 score\(s\) outside \[0, 1\]"),
        ("claude-v1|total_cost", -0.1, r"negative or infinite cost"),
        ("prompt", None, "'prompt' has 1 missing value"),
    ],
)
def test_impossible_values_are_refused(tmp_path, column, value, expected):
    frame = made_up()
    frame.loc[7, column] = value
    with pytest.raises(UsageError, match=expected):
        load_frame(frame, tmp_path)


def test_scores_that_are_text_are_refused(tmp_path):
    frame = made_up()
    frame["claude-v1"] = pd.Series(["good"] * len(frame), dtype=object)
    with pytest.raises(UsageError, match="not numeric"):
        load_frame(frame, tmp_path)


# --- the real rows ----------------------------------------------------------------------------------


@pytest.mark.real_data
def test_the_real_rows(real_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load(shots=5, path=str(real_data / "routerbench"))
    assert dataset.name == "routerbench-5shot-subset-3178-efcc91f8"
    assert [len(split) for _, split in dataset.splits()] == [1906, 318, 954]
    labels = np.vstack([split.labels for _, split in dataset.splits()])
    costs = np.vstack([split.costs for _, split in dataset.splits()])
    assert np.isnan(labels).sum() == 154
    assert np.nanmean(labels, axis=0).max() == pytest.approx(0.880, abs=5e-4)
    assert np.nanmax(labels, axis=1).mean() == pytest.approx(0.975, abs=5e-4)
    # All models are billed for the same tokens, so mean costs stand to each other as list prices on short answers.
    mean = dict(zip(MODELS, np.nanmean(costs, axis=0), strict=True))
    assert mean["gpt-4-1106-preview"] == max(mean.values())
    assert mean["mistralai/mistral-7b-chat"] == min(mean.values())
    assert mean["mistralai/mixtral-8x7b-chat"] / mean["mistralai/mistral-7b-chat"] == pytest.approx(
        3, abs=0.1
    )
    assert not any(query.startswith("['") for query in every(dataset, "queries"))


@pytest.mark.real_data
def test_the_real_labels_and_costs_are_those_that_pandas_reads(real_data):
    frame = pd.read_pickle(real_data / "routerbench" / "routerbench_5shot.pkl")
    frame = frame[~frame["sample_id"].duplicated(keep=False)].set_index("sample_id")
    dataset = load(shots=5, path=str(real_data / "routerbench"))
    for _, split in dataset.splits():
        for i, name in enumerate(split.ids):
            if name in frame.index:
                row = frame.loc[name]
                np.testing.assert_array_equal(split.labels[i], row[list(MODELS)].to_numpy(np.float32))
                costs = row[[f"{model}|total_cost" for model in MODELS]].to_numpy(np.float32)
                np.testing.assert_array_equal(split.costs[i], costs)
