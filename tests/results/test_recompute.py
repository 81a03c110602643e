"""A result computed again from its own queries: equal to what made it, whatever the labels; and by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import entries

from rph.protocol import PRESETS
from rph.results import cell, recompute, variants

LABELS = [
    [1, 0, 0],
    [0, 1, 0],
    [1, 1, 0],
    [0, 0, 0],
]  # of a, b, c: a and b are right on half, and a stands first: the best single model


def test_by_hand():
    entry = entries.entry(LABELS, [[0, 1, 1, 2], [0, 0, 0, 0]])
    claims = entry.result.model_copy(
        update={"test_accuracy_mean": 0.9, "oracle": 0.9, "selection_share": {"a": 1.0, "b": 0.0, "c": 0.0}}
    )
    known = recompute.recomputed(dataclasses.replace(entry, result=claims))
    assert [one.test_accuracy for one in known.per_seed] == [0.75, 0.5]
    assert known.test_accuracy_mean == 0.625
    assert known.test_accuracy_std == pytest.approx(0.125 * 2**0.5)
    assert (known.reference.oracle, known.reference.best_single) == (0.75, 0.5)
    assert known.gap_closed == pytest.approx(0.5)
    assert known.selection_share == {"a": 0.625, "b": 0.25, "c": 0.125}
    assert known.per_seed[0].selection_entropy == pytest.approx(1.5)
    # Hard: query 0 (only a is right) and query 1 (only b). Easy: query 2. Query 3 is neither.
    assert [one.hard_accuracy for one in known.per_seed] == [1.0, 0.5]
    assert [one.easy_accuracy for one in known.per_seed] == [1.0, 1.0]
    assert (known.reference.hard_share, known.reference.easy_share) == (0.5, 0.25)


@given(data=st.data())
def test_an_honest_result_is_its_own_recomputation(data):
    """With missing labels, ties and models that are never chosen."""
    N, K, S = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3)))
    values = st.sampled_from([0.0, 1.0, 0.5, np.nan])
    labels = np.array(data.draw(st.lists(values, min_size=N * K, max_size=N * K))).reshape(N, K)
    labels[0, 0] = 1.0  # something must be observed
    routes = np.array(data.draw(st.lists(st.integers(0, K - 1), min_size=S * N, max_size=S * N)))
    entry = entries.entry(labels, routes.reshape(S, N), val_accuracy=0.5)
    again = recompute.recomputed(entry).model_dump()
    assert list(recompute.differences(entry.result.model_dump(), again)) == []


NESTS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=10,
)


@given(nest=NESTS)
def test_a_nest_does_not_differ_from_itself(nest):
    assert list(recompute.differences(nest, nest)) == []


@pytest.mark.parametrize(
    ("claimed", "known", "found"),
    [
        (0.5, 0.5 + 1e-12, []),
        (0.5, 0.5 + 1e-6, [("", 0.5, 0.5 + 1e-6)]),
        (None, 0.0, [("", None, 0.0)]),
        ({"a": 1}, {"b": 1}, [("", {"a": 1}, {"b": 1})]),
        ({"a": [1, 2]}, {"a": [1]}, [("a", [1, 2], [1])]),
        ({"a": ({"b": 1.0}, {"b": 2.0})}, {"a": ({"b": 1.0}, {"b": 3.0})}, [("a.1.b", 2.0, 3.0)]),
    ],
)
def test_differences(claimed, known, found):
    assert list(recompute.differences(claimed, known)) == found


def said(name, *, deterministic=False, reads="embedding", original=None, why=""):
    return variants.Variant(
        variant_name=name, original=original, why=why, calibrated=True, deterministic=deterministic, reads=reads, no_gain="",
    )  # fmt: skip


def tried(accuracies, *own, deterministic=False, name="default"):
    """A result of these val accuracies by (variant, seed); test is .1 higher."""
    block = {"variants": variants.Variants(variants=own).model_dump(mode="json")} if own else {}
    return entries.entry(LABELS, [[0, 0, 0, 0]]).result.model_copy(
        update={
            "variant_name": name,
            "deterministic": deterministic,
            "blocks": block,
            "configurations": tuple(
                cell.Configuration(
                    variant_name=variant, seed=seed, val_accuracy=value, test_accuracy=value + 0.1
                )
                for (variant, seed), value in accuracies.items()
            ),
        }
    )


def test_the_best_original_form_stands_beside_the_chosen_one():
    """a was trained with both seeds; b looked better with one, and lost in the mean or was no finalist."""
    accuracies = {("a", 1): 0.6, ("b", 1): 0.7, ("ours", 1): 0.9, ("a", 2): 0.7, ("ours", 2): 0.9}
    kinds = [said(name, original=name != "ours", why=f"{name}'s") for name in ("a", "b", "ours")]
    found = variants.best_original(tried(accuracies, *kinds, name="ours"))
    assert (found.variant_name, found.why, found.seeds) == ("a", "a's", (1, 2))
    assert (found.val_accuracy, found.test_accuracy) == (pytest.approx(0.65), pytest.approx(0.75))
    assert variants.best_original(tried(accuracies, *kinds, name="b")) is None  # it is original itself
    assert (
        variants.best_original(tried(accuracies, said("a"), said("ours"), name="ours")) is None
    )  # nobody says
    words = [said("a", reads="text"), said("ours")]
    assert variants.best_of_text(tried(accuracies, *words, name="ours")).variant_name == "a"


def test_the_choice_is_made_again_from_val_accuracies():
    preset = dataclasses.replace(PRESETS["paper"], finalists=2, seeds=(1, 2))
    accuracies = {("x", 1): 0.5, ("y", 1): 0.9, ("z", 1): 0.8, ("y", 2): 0.5, ("z", 2): 0.8}
    selection, asked = recompute.choice(tried(accuracies), preset)
    assert (selection.variant, selection.val_accuracy) == ("z", pytest.approx(0.8))
    assert asked == set(accuracies)
    once, text = said("y", deterministic=True), said("z", reads="text")
    selection, asked = recompute.choice(tried(accuracies, once, said("z"), said("x")), preset)
    assert selection.variant == "y" and ("y", 2) not in asked
    selection, asked = recompute.choice(tried(accuracies, text, said("y"), said("x")), preset)
    assert selection.variant == "y" and ("z", 2) not in asked
    del accuracies["z", 2]  # it failed: z is out
    selection, asked = recompute.choice(tried(accuracies), preset)
    assert selection.variant == "y" and ("z", 2) in asked
    selection, asked = recompute.choice(tried(accuracies, deterministic=True), preset)
    assert selection.variant == "y" and asked == {("x", 1), ("y", 1), ("z", 1)}
    assert recompute.choice(tried({}), preset) == (None, set())
