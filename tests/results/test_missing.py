"""The block of missing labels: its bounds hold whatever the labels would have been, and it is computed again from files."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests import entries

from rph import Holes, RoutingDataset, Split
from rph.errors import UsageError
from rph.holes import REASONS
from rph.results import blocks, files, missing, recompute
from rph.results.missing import Range

NAN = np.nan


def ends(found):
    return found.low, found.high


def close(low, high):
    return pytest.approx((low, high), abs=1e-7)


def block_of(entry):
    return missing.Holes.model_validate(entry.result.blocks["holes"])


# a is the best on train; c was not run on task u.
HAND = entries.entry(
    [[1, 0, NAN], [NAN, 1, 0], [0, 1, NAN], [1, NAN, NAN]],
    [[1, 0, 1, 0], [0, 0, 0, 0]],
    tasks=["t", "t", "u", "u"],
    train=[[1, 1, 1], [1, 1, 0], [1, 0, 0]],
    holes=Holes(blocks=frozenset({("u", "c")})),
    val_accuracy=0.5,
)


def test_by_hand():
    found = block_of(HAND)
    assert found.tasks_known and found.cells == {"observed": 7, "block": 2, "unknown": 3}
    assert found.small_pools == 0 and found.model_coverage == (0.75, 0.75, 0.25)
    # The first seed chose labels 0, missing, 1, 1; the second is a everywhere, as best single: 1, missing, 0, 1.
    for one in (*found.per_seed, found.accuracy, found.best_single):
        assert ends(one) == close(2 / 4, 3 / 4)
    # Query by query: -1, the same choice, 1, the same choice.
    assert found.gain == Range(low=0, high=0)
    # The best labels are all 1. Best single may be right on query 1, or have all of the gap there.
    assert found.oracle == Range(low=1, high=1)
    assert found.gap_closed == Range(low=0, high=0)
    # The control takes b, which was right, on query 1, where a is missing.
    assert ends(found.control) == close(3 / 4, 3 / 4) and ends(found.control_gain) == close(0, 1 / 4)
    result = HAND.result
    assert result.test_accuracy_mean == pytest.approx(2 / 3)
    assert result.bounds == pytest.approx((2 / 4, 3 / 4))
    assert result.gap_closed == pytest.approx(0)


def test_what_lies_open_too_wide_is_no_share_of_the_gap():
    # a, best on train, has 0 and a missing label; b has 1 and 1: the gap is 1 query at the least, and 2 at the most.
    labels = [[0, 1], [NAN, 1], [1, 1], [1, 1]]
    entry = entries.entry(labels, [1, 1, 1, 1], train=[[1, 0]], val_accuracy=0.5)
    found = block_of(entry)
    assert found.gain == Range(low=1 / 4, high=2 / 4)
    assert found.gap_closed == Range(low=0.5, high=2)
    assert entry.result.gap_closed is None and not missing.sure(found)
    # where the router avoids what is missing, and the oracle too, it is known
    wide = entries.entry(labels[:1] + labels[2:] + [[0, NAN]], [1, 1, 1, 0], train=[[1, 0]], val_accuracy=0.5)
    assert block_of(wide).gap_closed == Range(low=0.5, high=1) and wide.result.gap_closed is None
    narrow = entries.entry([[0, 1], [1, NAN]], [1, 0], train=[[1, 0]], val_accuracy=0.5)
    assert block_of(narrow).gap_closed == Range(low=1, high=1) and narrow.result.gap_closed == 1


def test_a_router_gains_nothing_where_a_model_was_not_run():
    """Sending the unsure queries to a model out of the pool was 1.0 of what is left; now the next score decides."""
    labels = [[1, 0, NAN], [0, 1, NAN], [0, 1, NAN], [1, 1, NAN]]
    scores = [[[0.6, 0.1, 0.2], [0.6, 0.1, 0.9], [0.3, 0.5, 0.9], [0.6, 0.1, 0.9]]]
    entry = entries.entry(
        labels,
        [0, 0, 1, 0],  # what remains of these scores in the pool
        scores=scores,
        tasks=["u"] * 4,
        holes=Holes(blocks=frozenset({("u", "c")})),
        train=[[1, 0, 1]],
    )
    result = entry.result
    assert (result.test_accuracy_mean, result.coverage, result.bounds) == (0.75, 1, (0.75, 0.75))
    assert (result.oracle, result.best_single, result.random) == (1, 0.5, 0.625)
    assert result.gap_closed == 0.5 and result.selection_share == {"a": 0.75, "b": 0.25, "c": 0}


def dataset_with(**test):
    n = len(test["labels"])

    def split(prefix, **how):
        return Split(
            ids=[f"{prefix}{i}" for i in range(n)], queries=["q"] * n, **({"tasks": ["t"] * n} | how)
        )

    labels = np.array(test.pop("labels"), np.float32)
    holes = test.pop("holes", Holes())
    train = split("r", labels=np.nan_to_num(labels))
    return RoutingDataset(
        name="d",
        models=tuple("abcdef"[: labels.shape[1]]),
        train=train,
        val=dataclasses.replace(train, ids=[f"v{i}" for i in range(n)]),
        test=split("t", labels=labels, **test),
        holes=holes,
    )


def test_each_hole_is_told_by_its_kind():
    reasons = np.array(
        [[REASONS.index(reason) for reason in ("", "failed", "empty", "cut", "unscored", "")]] * 2, np.uint8
    )
    labels = [[1, NAN, NAN, NAN, NAN, NAN], [NAN] * 5 + [1]]
    reasons[0, 0], reasons[1, 0] = 0, REASONS.index("planned")
    arrays = missing.draw(dataset_with(labels=labels, reasons=reasons), np.zeros((1, 2), np.int64))
    assert arrays["cells"].tolist() == [[0, 4, 5, 6, 7, 2], [3, 4, 5, 6, 7, 0]]
    assert missing._counts(arrays["cells"]) == {
        "observed": 2, "unknown": 1, "planned": 1, "failed": 2, "empty": 2, "cut": 2, "unscored": 2,
    }  # fmt: skip
    assert arrays["weight"].tolist() == [[2, 0]]  # of a one of two was asked


def test_on_a_planned_table_what_no_plan_explains_is_a_hole_as_any_other():
    labels = [[1, NAN], [NAN, NAN], [0, NAN]]
    dataset = dataset_with(labels=labels, holes=Holes(planned=True))
    arrays = missing.draw(dataset, np.zeros((1, 3), np.int64))
    assert arrays["cells"].tolist() == [[0, 2], [3, 2], [0, 2]]  # of b nothing was asked: no fair sample
    assert arrays["weight"].tolist() == [[1.5, 0, 1.5]]


def test_a_table_whose_test_labels_are_all_there_has_no_block():
    assert missing.draw(dataset_with(labels=[[1, 0]]), np.zeros((1, 1), np.int64)) is None
    blocked = dataset_with(labels=[[1, 0]], holes=Holes(blocks=frozenset({("t", "b")})))
    assert missing.draw(blocked, np.zeros((1, 1), np.int64))["cells"].tolist() == [[0, 1]]


def test_queries_with_nothing_to_route_are_counted():
    entry = entries.entry(
        [[1, 0], [1, NAN]],
        [0, 0],
        tasks=["t", "u"],
        train=[[1, 0]],
        holes=Holes(blocks=frozenset({("u", "b")})),
    )
    assert block_of(entry).small_pools == 1


# --- the truth, whatever it is ------------------------------------------------------------------------


@st.composite
def cells(draw):
    """A finished cell on a small table: holes of every kind, two tasks with pools of their own, routes that stay in them."""
    N, K, S = draw(st.integers(1, 4)), draw(st.integers(2, 3)), draw(st.integers(1, 2))
    values = st.sampled_from([0.0, 1.0, 0.5, NAN, NAN])
    labels = np.array(draw(st.lists(values, min_size=N * K, max_size=N * K)))
    labels[np.flatnonzero(np.isnan(labels))[6:]] = 1  # so few that all fillings can be tried
    labels = labels.reshape(N, K)
    tasks = draw(st.lists(st.sampled_from(["t", "u"]), min_size=N, max_size=N))
    out = draw(st.sets(st.sampled_from([("t", "a"), ("u", "b"), *([("u", "c")] if K == 3 else [])])))
    inside = np.array([[(task, model) not in out for model in "abc"[:K]] for task in tasks])
    wanted = np.array(draw(st.lists(st.integers(0, K - 1), min_size=S * N, max_size=S * N))).reshape(S, N)
    routes = np.where(inside[np.arange(N), wanted], wanted, inside.argmax(axis=1))
    train = [draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=K, max_size=K)) for _ in range(3)]
    holes = Holes(planned=draw(st.booleans()), blocks=frozenset(out))
    return (
        entries.entry(labels, routes, tasks=tasks, train=train, holes=holes, val_accuracy=0.5),
        labels,
        inside,
    )


def contains(found, value):
    return found.low - 1e-9 <= value <= found.high + 1e-9


@given(cells())
def test_the_bounds_hold_the_truth_for_every_filling_of_the_missing_labels(case):
    entry, labels, inside = case
    assume("holes" in entry.result.blocks)
    found, arrays = block_of(entry), entry.queries.arrays()
    rows, holes = np.arange(len(labels)), np.argwhere(np.isnan(labels) & inside)
    floor_route, control_route = arrays["holes/floor_route"], arrays["holes/control_route"]
    control_weight = missing.control_weight({name: arrays[f"holes/{name}"] for name in missing.ARRAYS})
    for filling in itertools.product((0.0, 1.0), repeat=len(holes)):
        truth = labels.copy()
        truth[tuple(holes.T)] = filling

        def mean(route, weight, truth=truth):
            return np.average(truth[rows, route], weights=weight) if weight.any() else None

        seeds = [mean(*one) for one in zip(arrays["routes"], arrays["holes/weight"], strict=True)]
        floor, control = mean(floor_route, arrays["holes/floor_weight"]), mean(control_route, control_weight)
        oracle = np.where(inside, truth, -1).max(axis=1).mean()
        assert contains(found.oracle, oracle)
        for bounds, value in zip(
            (*found.per_seed, found.best_single, found.control), (*seeds, floor, control), strict=True
        ):
            assert bounds is value is None or contains(bounds, value)
        if None in seeds or floor is None:
            assert found.gain is None and found.gap_closed is None
            continue
        gain = np.mean(seeds) - floor
        assert contains(found.accuracy, np.mean(seeds)) and contains(found.gain, gain)
        assert (
            found.control_gain is None if control is None else contains(found.control_gain, control - floor)
        )
        # On a planned table the weighted accuracies and the oracle are of other queries.
        if found.gap_closed is not None and "planned" not in found.cells:
            assert contains(found.gap_closed, gain / (oracle - floor))
    if not len(holes) and found.gain is not None:
        assert found.gain.low == pytest.approx(found.gain.high)


@given(cells())
def test_bounds_are_reached_where_no_weights_differ(case):
    """They are no wider than the missing labels make them."""
    entry, labels, inside = case
    assume("holes" in entry.result.blocks and "planned" not in entry.result.blocks["holes"]["cells"])
    found, arrays, rows = block_of(entry), entry.queries.arrays(), np.arange(len(labels))
    assume(len(found.per_seed) == 1)  # two seeds share labels that their bounds take one by one
    holes, gains = np.argwhere(np.isnan(labels) & inside), []
    for filling in itertools.product((0.0, 1.0), repeat=len(holes)):
        truth = labels.copy()
        truth[tuple(holes.T)] = filling
        gains.append((truth[rows, arrays["routes"][0]] - truth[rows, arrays["holes/floor_route"]]).mean())
    assert ends(found.gain) == close(min(gains), max(gains))


@given(cells())
def test_the_same_route_as_best_single_gains_exactly_nothing(case):
    entry, _, _ = case
    assume("holes" in entry.result.blocks)
    arrays = entry.queries.arrays()
    floor = {"routes": "holes/floor_route", "labels": "floor", "holes/weight": "holes/floor_weight"}
    same = arrays | {name: arrays[of][None] for name, of in floor.items()}
    gain = missing.record(same, tasks_known=True).gain
    assert gain == (Range(low=0, high=0) if arrays["holes/floor_weight"].any() else None)


def test_one_missing_label_that_counts_more_for_one_of_two():
    """Both chose the model whose label is missing, and each counts it by what else it was asked for."""
    one = missing.Line(np.array([NAN, 1.0]), np.array([0, 0]), np.array([1.0, 3.0]))
    other = missing.Line(np.array([NAN, 1.0]), np.array([0, 1]), np.array([1.0, 1.0]))
    # if it is y: (y + 3) / 4 - (y + 1) / 2 = 1 / 4 - y / 4
    assert missing.difference(one, other) == Range(low=0, high=0.25)
    assert missing.difference(other, one) == Range(low=-0.25, high=0)


# --- files --------------------------------------------------------------------------------------------


@given(cells())
def test_a_result_with_holes_is_its_own_recomputation_through_files(tmp_path_factory, case):
    entry, _, _ = case
    path = files.write(tmp_path_factory.mktemp("holes"), entry.result, entry.queries)
    again = files.read(path)
    assert again.result == entry.result
    for name, array in entry.queries.arrays().items():
        np.testing.assert_array_equal(again.queries.arrays()[name], array)
    known = recompute.recomputed(again)
    assert list(recompute.differences(entry.result.model_dump(), known.model_dump())) == []
    assert known.blocks == entry.result.blocks


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("cells", 8, "a kind of hole that there is not"),
        ("floor_route", 3, "floor_route leads to no model: there are 3"),
        ("control_route", 65535, "control_route leads to no model"),
        ("weight", -1, "weight holds what is no weight"),
        ("floor_weight", NAN, "floor_weight holds what is no weight"),
    ],
)
def test_values_that_no_cell_can_have_are_refused(tmp_path, name, value, why):
    path = files.write(tmp_path, HAND.result, HAND.queries)
    arrays = {key: array.copy() for key, array in HAND.queries.arrays().items()}
    arrays[f"holes/{name}"].flat[0] = value
    np.savez(files.queries_path(path), **arrays)
    with pytest.raises(UsageError, match=why):
        files.read(path)


@pytest.mark.parametrize(
    ("claim", "where"),
    [
        ({"gain": {"low": 0.1, "high": 0.2}}, "blocks.holes.gain.low"),
        ({"cells": {"observed": 12}}, "blocks.holes.cells"),
        ({"oracle": None}, "blocks.holes.oracle"),
        ({"control_gain": {"low": 0.0, "high": 0.0}}, "blocks.holes.control_gain.high"),
    ],
)
def test_a_false_claim_of_a_block_is_found(claim, where):
    content = {"holes": HAND.result.blocks["holes"] | claim}
    wrong = dataclasses.replace(HAND, result=HAND.result.model_copy(update={"blocks": content}))
    found = recompute.differences(wrong.result.model_dump(), recompute.recomputed(wrong).model_dump())
    assert where in [path for path, _, _ in found]


def test_a_false_share_of_the_gap_is_found_where_it_is_not_known():
    entry = entries.entry([[0, 1], [NAN, 1]], [1, 1], train=[[1, 0]], val_accuracy=0.5)
    assert entry.result.gap_closed is None
    wrong = dataclasses.replace(entry, result=entry.result.model_copy(update={"gap_closed": 1.0}))
    (found,) = recompute.differences(wrong.result.model_dump(), recompute.recomputed(wrong).model_dump())
    assert found == ("gap_closed", 1.0, None)


# --- prices -------------------------------------------------------------------------------------------


def test_a_pool_with_some_prices_names_the_others_and_leaves_them_out():
    labels = [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    entry = entries.entry(
        labels, [1, 1, 2], costs=[3, NAN, 1], train=[[1, 1, 0], [0, 1, 0]], val_accuracy=0.5
    )
    assert entry.result.reference.best_single_model == "b"
    # without b, which nobody knows a price of: a is best on train, right on 1 of 3; one of a and c on 2
    assert entry.result.blocks == {
        "prices": {
            "unpriced": ["b"],
            "queries": 3,
            "best_single_model": "a",
            "best_single": pytest.approx(1 / 3),
            "oracle": pytest.approx(2 / 3),
        }
    }
    for costs in (None, [3, 2, 1], [NAN, NAN, NAN]):
        assert entries.entry(labels, [1, 1, 2], costs=costs, val_accuracy=0.5).result.blocks == {}
    said = list(blocks.unverified(entry.result.blocks))
    assert said == ["the block prices: what it says is not computed again"]


@given(cells())
def test_whoever_knows_which_labels_are_missing_takes_the_best_of_the_others(case):
    entry, labels, inside = case
    assume("holes" in entry.result.blocks)
    route = entry.queries.arrays()["holes/control_route"]
    rows = np.arange(len(labels))
    assert inside[rows, route].all()
    seen = (~np.isnan(labels) & inside).any(axis=1)
    assert (~np.isnan(labels[rows, route]) == seen).all()
