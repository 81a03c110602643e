"""Nine-by-300k in the project's own form, made up in tests/releases. The form itself: test_nine30k.py."""

import re

import numpy as np
import pytest
from rph_plugins.benchmarks import nine300k
from rph_plugins.benchmarks.nine300k import CARD, load
from tests.releases import nine30k as small
from tests.releases import nine300k as release
from tests.releases.folder import save
from tests.releases.nine30k import NAMES, as_jsonl, as_parquet

from rph import UsageError
from rph.data import hub, published
from rph.data.validity import check
from rph.holes import DENSE
from rph.registry import installed

NAN = float("nan")


def put(folder, files, *left_out):
    kept = {name: content for name, content in files.items() if name.split(".")[0] not in left_out}
    return str(save(kept, folder))


@pytest.fixture
def whole(tmp_path):
    return put(tmp_path / "whole", release.files())


@pytest.fixture
def own(tmp_path):
    """A copy with train alone."""
    return put(tmp_path / "own", release.files(), "val", "test")


@pytest.fixture
def base(tmp_path):
    """The folder of Nine-by-30k."""
    return put(tmp_path / "base", small.files())


# --- content ----------------------------------------------------------------------------------------


def test_it_is_registered_with_the_pool_and_the_counts_of_the_paper():
    spec = installed().load("benchmark", "nine300k").spec
    assert set(spec.options) == {"path", "base", "repo", "revision"}
    assert spec.card.models == NAMES
    assert sum(spec.card.splits.values()) == 310_371
    assert published.paper_note(CARD) == ""
    assert any("No public release" in note for note in spec.card.notes)


def test_most_labels_and_costs_of_train_are_missing_and_none_of_val_and_test(whole):
    data = load(path=whole)
    check(data)
    assert data.models == NAMES
    assert (len(data.train), len(data.val), len(data.test)) == release.COUNTS
    assert data.holes.planned and data.blocks == frozenset() and data.mask("test") == DENSE
    np.testing.assert_array_equal(data.mask("train").weight == 0, np.isnan(data.train.labels))
    assert data.train.ids == [f"more-{i}" for i in range(20, 28)]
    # Query 21 was put to models 1, 4 and 7, and (21 + m) % 3 is 1 for each; query 22 to 2, 5, 8: 24 % 3 is 0.
    np.testing.assert_array_equal(data.train.labels[1], [NAN, 1, NAN, NAN, 1, NAN, NAN, 1, NAN])
    np.testing.assert_array_equal(data.train.labels[2], [NAN, NAN, 0] * 3)
    np.testing.assert_allclose(data.train.costs[1, [1, 4, 7]], [22e-6, 25e-6, 28e-6], rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(data.train.costs), np.isnan(data.train.labels))
    assert not any(np.isnan(split.labels).any() for split in (data.val, data.test))


def test_a_train_query_that_no_model_was_observed_on_is_left_out_and_counted(tmp_path, base):
    rows = release.train()
    rows[3] |= {f"correct/{name}": None for name in NAMES}
    with pytest.warns(UserWarning, match="1 of 8 rows left out"):
        data = load(path=put(tmp_path / "own", {"train.jsonl": as_jsonl(rows)}), base=base)
    assert data.train.ids == [f"more-{i}" for i in (20, 21, 22, 24, 25, 26, 27)]


def test_other_counts_than_the_papers_are_a_subset(whole, monkeypatch):
    data = load(path=whole)
    assert re.fullmatch(r"nine300k-subset-13-[0-9a-f]{8}", data.name)
    assert "the full release has 302,371/3,000/5,000" in data.subset


def test_the_papers_counts_have_the_plain_name(whole, monkeypatch):
    monkeypatch.setattr(nine300k, "COUNTS", {"train": 8, "val": 2, "test": 3})
    data = load(path=whole)
    assert (data.name, data.subset) == ("nine300k", "")


# --- val and test -----------------------------------------------------------------------------------


def test_val_and_test_are_its_own_or_those_of_base_or_both(whole, own, base):
    fingerprint = load(path=whole).fingerprint
    assert load(path=own, base=base).fingerprint == fingerprint
    assert load(path=whole, base=base).fingerprint == fingerprint


def test_its_own_train_is_used_not_that_of_base(own, base):
    data = load(path=own, base=base)
    assert data.train.ids[0] == "more-20"
    assert data.val.ids == ["2026-01-07", "2026-01-08"]


def test_a_split_that_only_one_of_the_folders_has_is_taken_from_there(tmp_path, whole, base):
    own = put(tmp_path / "part", release.files(), "test")
    assert load(path=own, base=base).fingerprint == load(path=whole).fingerprint


def test_equal_rows_in_another_form_are_the_same(tmp_path, whole, base):
    made = small.rows() | {"train": release.train()}
    other = put(tmp_path / "other", {f"{name}.jsonl": as_jsonl(rows) for name, rows in made.items()})
    assert load(path=other, base=base).fingerprint == load(path=whole).fingerprint


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("query_id", "another"),
        ("query", "another"),
        ("source", "another"),
        (f"correct/{NAMES[4]}", None),
        (f"cost/{NAMES[4]}", 0.5),
    ],
)
def test_a_val_row_that_differs_from_base_is_an_error_that_names_both_files(tmp_path, base, column, value):
    rows = small.rows()["val"]
    rows[1][column] = value
    own = put(tmp_path / "own", release.files() | {"val.parquet": as_parquet(rows)})
    with pytest.raises(UsageError, match="its val split is not that of Nine-by-30k") as raised:
        load(path=own, base=base)
    assert f"{own}/val.parquet and {base}/val.parquet" in str(raised.value)


def test_missing_labels_in_both_are_equal(tmp_path):
    rows = small.rows()["val"]
    rows[1][f"correct/{NAMES[4]}"] = None
    val = {"val.parquet": as_parquet(rows)}
    own, base = put(tmp_path / "own", release.files() | val), put(tmp_path / "base", small.files() | val)
    assert np.isnan(load(path=own, base=base).val.labels).sum() == 1


def test_another_order_of_the_test_rows_is_an_error(tmp_path, base):
    files = release.files() | {"test.parquet": as_parquet(small.rows()["test"][::-1])}
    with pytest.raises(UsageError, match="its test split is not that of Nine-by-30k"):
        load(path=put(tmp_path / "own", files), base=base)


def test_another_base_is_another_benchmark(tmp_path, own, base):
    first = load(path=own, base=base)
    rows = small.rows()["test"]
    rows[0][f"cost/{NAMES[0]}"] = 0.5
    (tmp_path / "base/test.parquet").write_bytes(as_parquet(rows))
    again = load(path=own, base=base)
    assert again.test.costs[0, 0] == 0.5
    assert again.name != first.name


def test_a_train_query_that_is_in_val_is_an_error(tmp_path, base):
    rows = release.train()
    rows[0]["query_id"] = "2026-01-07"
    with pytest.raises(UsageError, match="id '2026-01-07' is also in split 'train'"):
        load(path=put(tmp_path / "own", {"train.jsonl": as_jsonl(rows)}), base=base)


# --- where it comes from ----------------------------------------------------------------------------


def test_without_a_place_it_says_that_no_release_is_known(base):
    for options in ({}, {"base": base}):
        with pytest.raises(UsageError, match="no public release") as raised:
            load(**options)
        assert "nine300k:path=FOLDER" in str(raised.value)


def test_a_copy_of_train_alone_needs_base(own):
    with pytest.raises(UsageError, match=r"has no val\.parquet and no val\.jsonl") as raised:
        load(path=own)
    assert "or as base the folder of Nine-by-30k" in str(raised.value)


def test_train_is_needed_also_with_base(tmp_path, base):
    with pytest.raises(UsageError, match=r"own has no train\.parquet and no train\.jsonl"):
        load(path=put(tmp_path / "own", {}), base=base)


def test_base_must_have_both_splits(tmp_path, own):
    with pytest.raises(UsageError, match=r"base has no test\.parquet and no test\.jsonl"):
        load(path=own, base=put(tmp_path / "base", small.files(), "test"))


def test_with_base_only_train_is_asked_of_the_hub(own, base, tmp_path, monkeypatch):
    asked = []

    def fetch(file, *, of):
        asked.append((file.repo, file.path, file.revision, of))
        return tmp_path / "own" / file.path

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.setattr(
        hub, "find", lambda file: file.path.endswith("jsonl") or None
    )  # it is on this machine
    monkeypatch.setattr(hub, "sha256", lambda file: "0" * 64)
    data = load(repo="someone/nine", revision="v2", base=base)
    assert set(asked) == {("someone/nine", "train.jsonl", "v2", "nine300k")}
    assert data.fingerprint == load(path=own, base=base).fingerprint
