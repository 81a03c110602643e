"""Nine-by-30k in the project's own form, made up in tests/releases; and that form itself, whose reader is rph.data.nine."""

import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from rph_plugins.benchmarks import nine30k
from rph_plugins.benchmarks.nine30k import CARD, load
from tests.hub_server import PATIENT, FakeHub
from tests.moments import PATIENCE
from tests.releases import nine30k as release
from tests.releases.folder import save
from tests.releases.nine30k import NAMES, as_jsonl, as_parquet

from rph import UsageError
from rph.data import nine, published
from rph.data.validity import check
from rph.registry import installed

NAN = float("nan")
FORMS = {"jsonl": as_jsonl, "parquet": as_parquet}


def put(folder, form=None, **splits):
    """The made-up release in a folder, all in one form if so asked; `train=[...]` are other rows, or other bytes."""
    if form is None and not splits:
        files = release.files()
    else:
        write = FORMS[form or "jsonl"]
        made = release.rows() | splits
        files = {
            f"{name}.{form or 'jsonl'}": rows if isinstance(rows, bytes) else write(rows)
            for name, rows in made.items()
        }
    return str(save(files, folder))


def train(row=None, **values):
    """The train rows with other values in one row, or in all."""
    rows = release.rows()["train"]
    for i, each in enumerate(rows):
        if row in (None, i):
            each |= values
    return rows


def refused(tmp_path, match, form="jsonl", **splits):
    with pytest.raises(UsageError, match=match) as raised:
        load(path=put(tmp_path / "bad", form, **splits))
    return str(raised.value)


both_forms = pytest.mark.parametrize("form", FORMS)


# --- content ----------------------------------------------------------------------------------------


def test_it_is_registered_with_the_pool_and_the_counts_of_the_paper():
    spec = installed().load("benchmark", "nine30k").spec
    assert set(spec.options) == {"path", "repo", "revision"}
    assert spec.card.models == NAMES
    assert sum(spec.card.splits.values()) == 31_027
    assert published.paper_note(CARD) == ""
    assert any("No public release" in note for note in spec.card.notes)


def test_rows_are_read_as_they_stand(tmp_path):
    data = load(path=put(tmp_path / "data"))
    check(data)
    assert data.models == NAMES
    assert data.train.ids == [f"2026-01-{i:02d}" for i in range(1, 7)]
    assert (data.val.ids, data.test.ids) == (
        ["2026-01-07", "2026-01-08"],
        ["2026-01-09", "2026-01-10", "2026-01-11"],
    )
    assert data.train.queries[1:3] == ["Ist Wasser\nnass? (1)", "2026-01-01 (2)"]
    assert data.train.tasks == ["MMLU", "GSM8K"] * 3
    assert data.val.labels.tolist() == [[0, 1, 1] * 3, [1, 1, 0] * 3]  # queries 6 and 7
    np.testing.assert_allclose(data.val.costs[1], np.arange(7, 16) * 1e-6, rtol=1e-6)
    assert (len(data.train), len(data.val), len(data.test)) == release.COUNTS


def test_null_is_missing_and_an_unpaid_call_costs_nothing(tmp_path):
    data = load(path=put(tmp_path / "data"))
    expected = np.array([[1, 1, 0] * 3, [1, 0, 1] * 3, [0, 1, 1] * 3], np.float32)[[2, 0, 1, 2, 0, 1]]
    expected[1, 3] = NAN
    np.testing.assert_array_equal(data.train.labels, expected)
    assert np.argwhere(np.isnan(data.train.costs)).tolist() == [[2, 4]]
    assert data.train.costs[0, 0] == 0


def test_both_forms_give_the_same(tmp_path):
    fingerprints = {load(path=put(tmp_path / form, form)).fingerprint for form in FORMS}
    assert fingerprints == {load(path=put(tmp_path / "mixed")).fingerprint}


def test_a_key_that_a_line_lacks_is_null(tmp_path):
    data = load(path=put(tmp_path / "data"))
    rows = release.rows()["train"]
    for row in rows:
        for key in [key for key, value in row.items() if value is None]:
            del row[key]
    assert load(path=put(tmp_path / "sparse", train=rows)).fingerprint == data.fingerprint


@both_forms
def test_a_text_is_never_taken_for_anything_else(tmp_path, form):
    data = load(path=put(tmp_path / form, form, train=train(query="2026-01-01", source="2026-01-01")))
    assert set(data.train.queries) == set(data.train.tasks) == {"2026-01-01"}


@both_forms
def test_a_row_that_no_model_was_observed_on_is_left_out_and_counted(tmp_path, form):
    rows = train()
    for i in (1, 4):
        rows[i] |= {f"correct/{name}": None for name in NAMES}
    with pytest.warns(UserWarning, match=r"2 of 6 rows left out"):
        data = load(path=put(tmp_path / "data", form, train=rows))
    assert data.train.ids == [f"2026-01-{i:02d}" for i in (1, 3, 4, 6)]
    assert data.train.queries[1] == "2026-01-01 (2)"
    assert data.train.labels.tolist()[3] == [1, 0, 1] * 3
    np.testing.assert_allclose(data.train.costs[3], np.arange(5, 14) * 1e-6, rtol=1e-6)


def test_nothing_is_said_where_nothing_is_left_out(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path=put(tmp_path / "data"))


# --- the name ---------------------------------------------------------------------------------------


def test_other_counts_than_the_papers_are_a_subset(tmp_path):
    data = load(path=put(tmp_path / "data"))
    assert re.fullmatch(r"nine30k-subset-11-[0-9a-f]{8}", data.name)
    assert "6/2/3 queries in train/val/test; the full release has 23,027/3,000/5,000" in data.subset


def test_the_papers_counts_have_the_plain_name(tmp_path, monkeypatch):
    monkeypatch.setattr(nine30k, "COUNTS", {"train": 6, "val": 2, "test": 3})
    data = load(path=put(tmp_path / "data"))
    assert (data.name, data.subset) == ("nine30k", "")


def test_files_are_converted_once(tmp_path, monkeypatch):
    first = load(path=put(tmp_path / "data"))
    monkeypatch.setattr(nine30k, "_convert", lambda sources: pytest.fail("converted again"))
    assert load(path=str(tmp_path / "data")).fingerprint == first.fingerprint


# --- bad input --------------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize("column", ["query_id", "query", "source", f"correct/{NAMES[3]}", f"cost/{NAMES[8]}"])
def test_a_missing_or_renamed_column_is_named(tmp_path, form, column):
    rows = [{key: value for key, value in row.items() if key != column} for row in release.rows()["train"]]
    said = refused(
        tmp_path, "does not have the 21 columns" if column not in nine.TEXTS else column, form, train=rows
    )
    assert column in said
    renamed = [row | {f"{column}s": 0} for row in rows]
    assert f"{column}s" in refused(tmp_path, "does not have the 21 columns", form, train=renamed)


@both_forms
def test_an_unknown_column_is_an_error(tmp_path, form):
    rows = train(**{"correct/gpt-4": 1})
    assert "found besides: correct/gpt-4" in refused(tmp_path, r"train\.\w+ does not have", form, train=rows)


@both_forms
@pytest.mark.parametrize(("label", "said"), [(0.5, "0.5"), (2, "2"), (-1, "-1")])
def test_a_label_other_than_0_and_1_is_an_error_that_names_the_cell(tmp_path, form, label, said):
    rows = train(4, **{f"correct/{NAMES[2]}": label})
    message = refused(tmp_path, r"1 label\(s\) other than 0 and 1", form, train=rows)
    assert f"the first is {said}, of id '2026-01-05' and model 'llama-3.3-70b-instruct'" in message


@both_forms
@pytest.mark.parametrize("label", [True, "1", [1]])
def test_a_label_of_another_type_is_an_error_that_names_the_column(tmp_path, form, label):
    refused(
        tmp_path, f"column 'correct/{NAMES[2]}' is not", form, train=train(**{f"correct/{NAMES[2]}": label})
    )


@pytest.mark.parametrize("label", [True, "1", "2026-01-01"])
def test_one_label_of_another_type_among_numbers_is_an_error(tmp_path, label):
    said = refused(tmp_path, "cannot be read as JSON lines", train=train(4, **{f"correct/{NAMES[2]}": label}))
    assert f"Column(/correct/{NAMES[2]}) changed from number to" in said


@both_forms
@pytest.mark.parametrize("cost", [-1e-6, "free"])
def test_a_cost_is_a_number_from_0_on(tmp_path, form, cost):
    refused(tmp_path, "negative or infinite|not numeric", form, train=train(**{f"cost/{NAMES[0]}": cost}))


@both_forms
@pytest.mark.parametrize("column", ["query_id", "query", "source"])
def test_a_text_that_is_missing_or_a_number_is_an_error(tmp_path, form, column):
    refused(tmp_path, f"column '{column}' has 1 null", form, train=train(4, **{column: None}))
    refused(
        tmp_path, f"'{column}' is not text|/{column}. changed from string", form, train=train(**{column: 7})
    )


@both_forms
@pytest.mark.parametrize("query", ["", " \n"])
def test_a_query_without_text_is_an_error_that_names_it(tmp_path, form, query):
    refused(tmp_path, "query with id '2026-01-05' has no text", form, train=train(4, query=query))


@both_forms
def test_an_id_stands_once_in_all_splits(tmp_path, form):
    refused(tmp_path, "the first '2026-01-01'", form, train=train(4, query_id="2026-01-01"))
    refused(tmp_path, "id '2026-01-07' is also in split 'train'", form, train=train(4, query_id="2026-01-07"))


@both_forms
def test_a_model_without_a_label_in_train_is_an_error_that_names_it(tmp_path, form):
    rows = train(**{"correct/grok-4.1-fast": None})
    refused(tmp_path, "model 'grok-4.1-fast' has no label in the train split", form, train=rows)


@both_forms
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_file_that_is_cut_off_is_an_error(tmp_path, form, share):
    whole = FORMS[form](release.rows()["train"])
    refused(tmp_path, rf"train\.{form} cannot be read", form, train=whole[: int(share * len(whole))])


@both_forms
def test_text_in_another_encoding_is_an_error(tmp_path, form):
    whole = FORMS[form](train(query="Naïve")).replace("ï".encode(), b"\xef\xef")
    refused(tmp_path, r"UTF-8", form, train=whole)


@pytest.mark.parametrize(
    "line", ["[1, 2]", "plain", '{"query_id": "a", "query_id": "b"}', '{"query": "\\ud83d"}']
)
def test_a_line_that_is_not_an_object_with_text_is_an_error(tmp_path, line):
    refused(tmp_path, "cannot be read as JSON lines", train=line.encode() + b"\n")


def test_a_parquet_label_that_is_not_finite_is_an_error(tmp_path):
    rows = train(0, **{f"correct/{NAMES[0]}": float("inf")})
    refused(tmp_path, "other than 0 and 1", "parquet", train=rows)


def test_a_long_query_is_read(tmp_path):
    data = load(path=put(tmp_path / "data", train=train(4, query="word " * 1_000_000)))
    assert len(data.train.queries[4]) == 5_000_000


# --- where it comes from ----------------------------------------------------------------------------


def test_without_a_place_it_says_that_no_release_is_known_and_what_to_give():
    with pytest.raises(UsageError, match="no public release") as raised:
        load()
    assert "nine30k:path=FOLDER" in str(raised.value)
    assert "nine30k:repo=OWNER/NAME" in str(raised.value)


def test_two_places_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="path and repo are both given"):
        load(path=put(tmp_path / "data"), repo="someone/nine")


def test_a_folder_that_lacks_a_split_or_is_none_is_an_error(tmp_path):
    folder = put(tmp_path / "data")
    (tmp_path / "data/val.parquet").unlink()
    with pytest.raises(UsageError, match=r"has no val\.parquet and no val\.jsonl"):
        load(path=folder)
    with pytest.raises(UsageError, match="it is not a folder"):
        load(path=str(tmp_path / "nowhere"))


def test_a_split_in_both_forms_is_an_error(tmp_path):
    put(tmp_path / "data", "jsonl")
    with pytest.raises(UsageError, match=r"both train\.parquet and train\.jsonl"):
        load(path=put(tmp_path / "data", "parquet"))


@pytest.mark.parametrize("repo", ["a/b/c", "someone/no name", "someone/--x", ""])
def test_what_cannot_be_a_data_set_on_the_hub_is_an_error(repo):
    with pytest.raises(UsageError, match="cannot be a data set"):
        load(repo=repo, revision="a" * 40)


def from_hub(tmp_path, endpoint, **options):
    """What a process prints that loads the benchmark from this hub."""
    script = """
from rph import RphError
from rph_plugins.benchmarks.nine30k import load
try:
    print(load(**{options!r}).fingerprint)
except RphError as error:
    print(error)
"""
    ours = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "RPH_HOME": str(tmp_path / "from-hub"),
        "HF_HUB_DISABLE_XET": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", script.format(options=options)],
        env={key: value for key, value in os.environ.items() if key not in ("RPH_OFFLINE", "HF_HUB_OFFLINE")}
        | PATIENT
        | ours,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_repository_gives_the_same_and_is_asked_once(tmp_path):
    data = load(path=put(tmp_path / "data"))
    with FakeHub(repos={"someone/nine": release.files()}) as served:
        assert from_hub(tmp_path, served.endpoint, repo="someone/nine") == data.fingerprint
        assert any("someone/nine/resolve/main/train.jsonl" in request for request in served.requests)
        served.requests.clear()
        assert from_hub(tmp_path, served.endpoint, repo="someone/nine") == data.fingerprint
        assert served.requests == []
        said = from_hub(tmp_path, served.endpoint, repo="someone/else", revision="v2")
    assert said.startswith("nine30k: the train split of someone/else cannot be had")
    assert "no train.parquet of someone/else (revision v2)" in said
    assert "no train.jsonl of someone/else (revision v2)" in said
    assert "Traceback" not in said
