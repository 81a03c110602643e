"""The records plugins and harness exchange: fingerprints, unit rows, shared numeric helpers."""

import dataclasses

import numpy as np
import pytest

from rph import Labelled, Queries, RoutingDataset, Split
from rph.api import variant_name
from rph.arrays import unit_rows

NAN = np.nan


def split(prefix, costs=True):
    return Split(
        ids=[f"{prefix}1", f"{prefix}2"],
        queries=["one", "two"],
        tasks=["", "t"],
        labels=np.array([[1, NAN], [0, 1]], np.float32),
        costs=np.array([[0.5, NAN], [0.25, 1]], np.float32) if costs else None,
    )


def dataset(**changes):
    whole = {"name": "d", "models": ("a", "b"), "train": split("r"), "val": split("v"), "test": split("t")}
    return RoutingDataset(**(whole | changes))


def changed(field, value):
    return dataset(test=dataclasses.replace(split("t"), **{field: value}))


def test_equal_content_has_equal_fingerprints_whatever_its_name():
    assert dataset().fingerprint == dataset(name="other").fingerprint


@pytest.mark.parametrize(
    "other",
    [
        dataset(models=("a", "c")),
        dataset(train=split("x")),
        dataset(train=split("v"), val=split("r")),
        changed("queries", ["onet", "wo"]),  # the same letters, other borders
        changed("tasks", ["t", ""]),
        changed("labels", np.array([[1, 0], [0, 1]], np.float32)),  # a missing label is not 0
        changed("costs", np.array([[0.5, 0], [0.25, 1]], np.float32)),
        changed("costs", None),
        changed("p_correct", np.array([[0.5, 0.5], [0.25, 1]], np.float32)),
    ],
)
def test_any_change_of_content_changes_the_fingerprint(other):
    assert other.fingerprint != dataset().fingerprint


def test_the_bit_pattern_of_nan_does_not_matter():
    labels = split("t").labels.copy()
    labels.view(np.uint32)[0, 1] ^= 1
    assert np.isnan(labels[0, 1])
    assert changed("labels", labels).fingerprint == dataset().fingerprint


def test_unit_rows_have_norm_one_zero_rows_stay_and_nothing_is_copied_needlessly():
    X = np.array([[3, 4], [0, 0], [0, -2]], np.float32)
    U = unit_rows(X)
    np.testing.assert_allclose(U, [[0.6, 0.8], [0, 0], [0, -1]])
    assert unit_rows(U) is U
    assert X[0, 0] == 3
    queries = Queries(X=X, texts=["", "", ""])
    assert queries.unit is queries.unit and len(queries) == 3


def test_observed_keeps_costs_and_texts_in_step():
    X = np.eye(3, dtype=np.float32)
    Y = np.array([[NAN, NAN], [1, NAN], [0, 1]], np.float32)
    C = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    known = Labelled(X=X, texts=["a", "b", "c"], Y=Y, C=C, models=("m", "n")).observed
    assert known.texts == ["b", "c"]
    np.testing.assert_array_equal(known.C, C[1:])
    np.testing.assert_array_equal(known.X, X[1:])


def test_variant_names_are_short_and_complete():
    @dataclasses.dataclass(frozen=True)
    class Config:
        hidden: tuple = (512, 256)
        rate: float = 1e-3
        on: bool = False

    assert variant_name(Config()) == "hidden=512-256,rate=0.001,on=False"
    assert variant_name(Config(hidden=())) == "hidden=none,rate=0.001,on=False"
