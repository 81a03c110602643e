"""Three kinds of hole, told apart: which models may be chosen where, what a choice counts, and what it earns at the least."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rph import Holes, RoutingDataset, Split
from rph.arrays import level, observed_means
from rph.holes import (
    DENSE,
    PLANNED,
    REASONS,
    SUPPORT,
    Mask,
    best_policy,
    bounds,
    found_blocks,
    lower,
    policy,
    pool_of,
    preference,
    weight_of,
)

NAN = np.nan
MODELS = ("a", "b", "c")
GRADES = st.sampled_from([0.0, 1.0, 0.5, 1 / 3, 0.1]).map(np.float32)
FAILED = REASONS.index("failed")


# --- blocks and pools -------------------------------------------------------------------------------


@pytest.mark.parametrize(("queries", "found"), [(SUPPORT - 1, set()), (SUPPORT, {("t", "b")})])
def test_a_model_without_a_label_in_a_task_is_a_block_where_the_task_has_enough_queries(queries, found):
    Y = np.tile(np.float32([1, NAN, 0]), (queries, 1))
    assert found_blocks(["t"] * queries, MODELS, Y) == found


def test_one_label_makes_no_block_and_a_task_without_labels_has_none():
    tasks = ["one"] * 30 + ["none"] * 30 + [""] * 30
    Y = np.full((90, 3), NAN, np.float32)
    Y[:30, 0], Y[7, 1] = 1, 0  # c has none; b has one
    Y[60:, 0] = 1  # without a task there is nothing to tell by
    assert found_blocks(tasks, MODELS, Y) == {("one", "c")}
    order = np.random.default_rng(0).permutation(90)
    assert found_blocks([tasks[i] for i in order], MODELS, Y[order]) == {("one", "c")}


def test_a_pool_leaves_out_the_blocks_of_its_task():
    pool = pool_of(["t", "u", "", "t"], MODELS, {("t", "b"), ("u", "a"), ("u", "c"), ("v", "a")})
    assert pool.tolist() == [
        [True, False, True],
        [False, True, False],
        [True, True, True],
        [True, False, True],
    ]
    assert pool_of(["t", "u"], MODELS, {("v", "a")}) is None  # of a task that is not here
    assert pool_of(["t"], MODELS, ()) is None
    assert pool_of([], MODELS, {("t", "a")}) is None


# --- what a choice counts ---------------------------------------------------------------------------

TASKS = ["t", "t", "t", "t", "u", "u"]
ASKED = np.array([[1, NAN], [0, NAN], [NAN, NAN], [1, 0], [NAN, 1], [0, 1]], np.float32)


def weights(Y=ASKED, reasons=None, tasks=TASKS, **holes):
    return weight_of(tasks, ("a", "b"), Y, reasons, Holes(planned=True, **holes))


def test_a_planned_choice_counts_1_over_the_share_asked_here():
    third, half = np.float32(4 / 3), 2
    assert weights().tolist() == [[third, 0], [third, 0], [0, 0], [third, 4], [0, 1], [half, 1]]
    assert weights().dtype == np.float32


def test_the_share_of_the_plan_comes_first():
    found = weights(plan={("t", "a"): 0.5, ("u", "b"): 0.25, ("v", "a"): 0.1, ("t", "x"): 0.1})
    assert found.tolist() == [[2, 0], [2, 0], [0, 0], [2, 4], [0, 4], [2, 4]]


def test_where_nothing_was_asked_labels_are_missing_as_any_other():
    """There is no fair sample of them: they count 1 and are bounded, whatever the plan says."""
    Y = ASKED.copy()
    Y[3, 1] = NAN
    assert weights(Y)[:4, 1].tolist() == [1, 1, 1, 1]
    assert weights(Y, plan={("t", "b"): 0.5})[:4, 1].tolist() == [1, 1, 1, 1]
    assert weights(Y, plan={("t", "b"): 0.0})[:4, 1].tolist() == [1, 1, 1, 1]


def test_a_reason_of_its_own_takes_a_cell_out_of_the_plan_and_into_one():
    reasons = np.zeros(ASKED.shape, np.uint8)
    reasons[0, 1] = FAILED
    # b was asked on two of four queries of t: one failed, which counts like the other
    assert weights(reasons=reasons)[:4, 1].tolist() == [2, 0, 0, 2]
    # without a plan of the table, only what says so was planned; the others count 1
    reasons[2, 0] = PLANNED
    found = weight_of(TASKS, ("a", "b"), ASKED, reasons, Holes())
    third = np.float32(4 / 3)
    assert found.tolist() == [[third, 1], [third, 1], [0, 1], [third, 1], [1, 1], [1, 1]]


def test_a_block_is_no_planned_cell():
    Y = np.array([[1, NAN], [0, NAN]], np.float32)
    said = Holes(planned=True, blocks=frozenset({("t", "b")}), plan={("t", "a"): 0.5})
    assert weight_of(["t", "t"], ("a", "b"), Y, None, said) is None  # all that could be asked was


def test_without_planned_cells_there_is_no_weight():
    assert weight_of(TASKS, ("a", "b"), ASKED, None, Holes()) is None
    assert weights(np.ones((6, 2), np.float32)) is None
    reasons = np.full(ASKED.shape, FAILED, np.uint8)
    assert weights(reasons=reasons) is None


@given(st.integers(0, 2**32 - 1))
def test_weighted_choices_of_one_model_are_fair_to_every_task(seed):
    """Of a constant route the weighted mean is that of the tasks' means, by their size: the asked stand for all."""
    rng = np.random.default_rng(seed)
    tasks = rng.choice(["t", "u", "v"], 40).tolist()
    Y = rng.random((40, 2)).astype(np.float32)
    Y[rng.random(Y.shape) < 0.5] = NAN
    at = {task: np.array([one == task for one in tasks]) for task in set(tasks)}
    assume(all((~np.isnan(Y[rows, 0])).any() for rows in at.values()))
    found = weights(Y, tasks=tasks)
    assume(found is not None)
    expected = sum(rows.mean() * np.nanmean(Y[rows, 0]) for rows in at.values())
    assert lower(Y[:, 0].astype(float), found[:, 0].astype(float)) == pytest.approx(expected)
    assert found[:, 0].sum() == pytest.approx(40, rel=1e-6)


# --- what it earns ----------------------------------------------------------------------------------


def test_the_lower_bound_by_hand():
    labels = np.array([[1, NAN, 0.5, 1], [NAN, NAN, 0, 0]])
    assert lower(labels).tolist() == [2.5 / 4, 0]
    weight = np.array([[2, 1, 1, 0], [1, 1, 0, 0]])
    assert lower(labels, weight).tolist() == [2.5 / 4, 0]
    assert lower(torch.tensor(labels), torch.tensor(weight)).tolist() == [2.5 / 4, 0]
    assert torch.isnan(lower(torch.tensor([NAN, 1.0]), torch.zeros(2)))


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 2000)), elements=GRADES))
def test_on_dense_labels_the_lower_bound_is_the_mean_bit_for_bit(labels):
    """Whole and graded labels in float32: heads, selection on val and what there was before holes go alike."""
    tensor = torch.tensor(labels)
    assert torch.equal(lower(tensor), tensor.nanmean(dim=-1))
    np.testing.assert_array_equal(lower(labels), np.nanmean(labels, axis=-1))
    exact = labels.astype(np.float64)
    np.testing.assert_array_equal(lower(exact), np.nanmean(exact, axis=-1))


CHOSEN = arrays(np.float32, st.integers(1, 8), elements=st.one_of(GRADES, st.just(np.float32(NAN))))


@given(CHOSEN, st.data())
def test_arrays_and_tensors_have_one_lower_bound(labels, data):
    weight = data.draw(arrays(np.float32, len(labels), elements=st.sampled_from([0.0, 1.0, 1.5, 4.0])))
    assume(weight.any())
    for counted in (None, weight):
        tensors = [None if one is None else torch.tensor(one) for one in (labels, counted)]
        assert lower(*tensors).item() == pytest.approx(float(lower(labels, counted)), abs=1e-6)


@given(CHOSEN, st.data())
def test_the_bounds_hold_the_mean_of_any_filling_and_are_reached(labels, data):
    weight = data.draw(arrays(np.float32, len(labels), elements=st.sampled_from([0.0, 1.0, 1.5, 4.0])))
    assume(weight.any())
    missing = np.flatnonzero(np.isnan(labels))
    for counted in (None, weight):
        found = bounds(labels, counted)
        means = []
        for filling in itertools.product((0, 1), repeat=len(missing)):
            whole = labels.astype(np.float64)
            whole[missing] = filling
            means.append(np.average(whole, weights=counted))
        assert (found.low, found.high) == pytest.approx((min(means), max(means)))


def test_where_nothing_counts_there_are_no_bounds():
    assert bounds(np.array([1.0, NAN]), np.zeros(2)) is None
    assert bounds(np.zeros(0)) is None


# --- choosing without looking at the query ----------------------------------------------------------


def test_preference_is_by_level_then_by_place_and_the_unknown_is_last():
    assert preference(np.array([NAN, 0.2, 0.5, 0.2, NAN])).tolist() == [2, 1, 3, 0, 4]


POOL = np.array([[True, True, True], [False, True, True], [True, False, False]])


def test_a_policy_takes_the_next_in_level_where_its_model_is_not():
    found = np.array([0.5, 0.4, 0.9])
    assert policy(0, found, POOL, 3).tolist() == [0, 2, 0]
    assert policy(1, found, POOL, 3).tolist() == [1, 1, 0]
    assert policy(0, found, None, 2).tolist() == [0, 0]


def test_best_policy_by_hand():
    Y = np.array([[0, 1, NAN], [NAN, 0, 1], [0.5, NAN, NAN]], np.float32)
    found = np.array([0.2, 0.3, 0.9])
    # Where they are in the pool, else 2, and on query 2, where only 0 is: .5. a: 0, 1, .5; b: 1, 0, .5; c: 0, 1, .5.
    assert best_policy(Y, found, Mask(POOL)) == 2  # all alike: by level
    assert (
        best_policy(Y, np.array([0.2, 0.95, 0.9]), Mask(POOL)) == 1
    )  # a takes b on query 1 and has 0, as b: 1.5
    # Query 0 counts double: b has (2 + 0 + .5) / 4, the others (0 + 1 + .5) / 4.
    weight = np.array([[2, 2, 2], [1, 1, 1], [1, 1, 1]], np.float32)
    assert best_policy(Y, found, Mask(POOL, weight)) == 1
    # Without a pool a missing label earns nothing: .5, 1, 1 of 3; of equals the higher level.
    assert best_policy(Y, found) == 2
    assert best_policy(Y, found[::-1]) == 1
    # A model in no pool is not the best, whatever the policies are that begin with it.
    assert best_policy(Y, np.array([0.2, 0.3, 0.9]), Mask(POOL & [True, True, False])) == 1
    nothing = np.zeros((3, 3), np.float32)
    assert best_policy(Y, found, Mask(None, nothing)) == 2


@given(arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 6)), elements=GRADES))
def test_on_a_dense_table_the_best_policy_is_the_first_best_mean(Y):
    assert best_policy(Y, level(Y)) == observed_means(Y).argmax()


@given(st.integers(0, 2**32 - 1))
def test_the_best_policy_has_the_best_lower_bound(seed):
    rng = np.random.default_rng(seed)
    Y = rng.choice([0, 1, 0.5, NAN], (12, 4)).astype(np.float32)
    pool = rng.random(Y.shape) < 0.6
    pool[:, 0] = True
    mask = Mask(pool, rng.choice([0, 1, 3], Y.shape).astype(np.float32))
    levels = rng.random(4)
    rows = np.arange(12)
    earned = []
    for model in range(4):
        route = policy(model, levels, pool, 12)
        found = bounds(Y[rows, route], mask.weight[rows, route])
        earned.append(-1 if found is None else found.low)
    assume(max(earned) > 0)
    assert earned[best_policy(Y, levels, mask)] == pytest.approx(max(earned))


def test_neither_one_label_nor_wrong_answers_that_are_missing_make_a_best_model():
    rng = np.random.default_rng(0)
    Y = (rng.random((400, 4)) < [0.5, 0.7, 0.6, 0.55]).astype(np.float32)
    Y[:, 0][(Y[:, 0] == 0) & (rng.random(400) < 0.5)] = (
        NAN  # half of its wrong answers: its mean is .66 or so
    )
    Y[1:, 3], Y[0, 3] = NAN, 1
    assert observed_means(Y).argmax() == 3
    assert best_policy(Y, level(Y)) == 1


# --- of a benchmark ---------------------------------------------------------------------------------


def split(prefix, tasks, labels, **how):
    n = len(tasks)
    return Split(ids=[f"{prefix}{i}" for i in range(n)], queries=["q"] * n, tasks=tasks, labels=labels, **how)


def blocky(**how):
    """c was not run on task u of train; in val it has labels there, in test none anywhere."""
    train = np.ones((60, 3), np.float32)
    train[30:, 2] = NAN
    val, test = np.ones((4, 3), np.float32), np.ones((4, 3), np.float32)
    test[:, 2] = NAN
    parts = {
        "train": split("r", ["t"] * 30 + ["u"] * 30, train),
        "val": split("v", ["t", "u"] * 2, val),
        "test": split("e", ["t", "u"] * 2, test),
    }
    return RoutingDataset(**({"name": "d", "models": MODELS} | parts | how))


def test_blocks_are_seen_on_train_alone_and_bind_all_splits():
    dataset = blocky()
    assert dataset.blocks == {("u", "c")}
    for name in ("val", "test"):
        assert dataset.mask(name).pool.tolist() == [[True] * 3, [True, True, False]] * 2
        assert dataset.mask(name).weight is None
    assert dataset.mask("train").pool.sum() == 60 * 3 - 30


def test_parts_of_a_table_inherit_its_blocks():
    dataset = blocky()
    few = dataclasses.replace(
        dataset.train,
        **{name: getattr(dataset.train, name)[25:35] for name in ("ids", "queries", "tasks", "labels")},
    )
    part = dataset.part(train=few)
    assert part.blocks == dataset.blocks  # of five queries none could be seen
    assert part.part(train=few).blocks == dataset.blocks and part.test is dataset.test
    new = split("n", ["new"] * 30, np.tile(np.float32([1, NAN, 1]), (30, 1)))
    assert dataset.part(train=new).blocks == {("u", "c")}  # nor are others found in a part


def test_a_planned_table_has_declared_blocks_only():
    assert blocky(holes=Holes(planned=True)).blocks == frozenset()
    declared = blocky(holes=Holes(blocks=frozenset({("t", "a")})))
    assert declared.blocks == {("t", "a"), ("u", "c")}
    planned = blocky(holes=Holes(planned=True, blocks=frozenset({("t", "a")})))
    assert planned.blocks == {("t", "a")}
    assert planned.mask("test").pool.tolist() == [[False, True, True], [True] * 3] * 2


def test_a_dense_table_has_no_mask():
    full = np.ones((60, 3), np.float32)
    dense = blocky(train=split("r", ["t"] * 60, full), test=split("e", ["t"] * 2, full[:2]))
    assert not dense.has_holes and {dense.mask(name) for name in ("train", "val", "test")} == {DENSE}
    assert dense.best_single == 0


def test_what_is_said_of_holes_is_content_where_there_are_holes():
    plain = blocky().fingerprint
    reasons = np.zeros((4, 3), np.uint8)
    same = blocky(test=dataclasses.replace(blocky().test, reasons=reasons))
    assert same.fingerprint == plain  # nothing is said
    reasons[0, 2] = FAILED
    others = [
        blocky(test=dataclasses.replace(blocky().test, reasons=reasons)),
        blocky(test=dataclasses.replace(blocky().test, languages=["de"] * 4)),
        blocky(holes=Holes(planned=True)),
        blocky(holes=Holes(blocks=frozenset({("t", "a")}))),
        blocky(holes=Holes(planned=True, plan={("t", "a"): 0.5})),
    ]
    assert len({plain, *(one.fingerprint for one in others)}) == 6
    full = np.ones((60, 3), np.float32)
    dense = {"train": split("r", ["t"] * 60, full), "test": split("e", ["t"] * 2, full[:2])}
    assert blocky(**dense).fingerprint == blocky(**dense, holes=Holes(planned=True)).fingerprint
    # but for blocks: who may be chosen is their content, also where labels are there
    assert (
        blocky(**dense).fingerprint
        != blocky(**dense, holes=Holes(blocks=frozenset({("t", "a")}))).fingerprint
    )
