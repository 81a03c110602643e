"""What is reported of a cell, against a table worked out by hand."""

import math

import numpy as np
import pytest

from rph import RoutingDataset, Split
from rph.results import cell
from rph.results.outcomes import Scored

NAN = np.nan


def part(prefix, labels, costs=None):
    n = len(labels)
    return Split(
        ids=[f"{prefix}{i}" for i in range(n)],
        queries=["q"] * n,
        tasks=[""] * n,
        labels=np.array(labels, np.float32),
        costs=None if costs is None else np.array(costs, np.float32),
    )


# Train: a is right on 3 of 4, b on 1 of 4; a costs 3, b costs 1 dollar: scaled 1 and 0.
TRAIN = part("r", [[1, 0], [1, 0], [1, 1], [0, 0]], [[3, 1]] * 4)
VAL = part("v", [[1, 0], [0, 1]], [[3, 1]] * 2)
TEST = part("t", [[1, 0], [0, 1], [1, 1], [0, 0], [1, NAN]], [[3, 1], [3, 1], [5, 1], [3, 1], [3, NAN]])
DATA = RoutingDataset(name="d", models=("a", "b"), train=TRAIN, val=VAL, test=TEST)
SCORES = Scored(
    val=np.array([[0.9, 0.1], [0.2, 0.8]], np.float32),
    test=np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.3, 0.6], [0.1, 0.9]], np.float32),
    seconds=1.0,
)  # routes: a, b, a (a tie: the better train mean), b, b (not observed)


def test_the_reference_rows_by_hand():
    reference = cell.reference(DATA)
    assert reference.best_single_model == "a"
    assert reference.best_single == pytest.approx(3 / 5)
    assert reference.best_single_hindsight == pytest.approx(3 / 5)
    assert reference.oracle == pytest.approx(4 / 5)
    assert reference.random == pytest.approx((0.5 + 0.5 + 1 + 0 + 1) / 5)
    assert reference.bayes is None
    # n_correct: 1, 1, 2, 0, 1 or 2; with two correct and a right it is easy; one correct model is hard
    assert (reference.hard_share, reference.easy_share) == (2 / 5, 1 / 5)


def test_the_measurements_of_one_seed_by_hand():
    measured = cell.measure(DATA, SCORES, calibrated=True)
    assert measured.test_accuracy == pytest.approx(3 / 4)  # right, right, right, wrong; the fifth is left out
    assert measured.coverage == pytest.approx(4 / 5)
    assert measured.selections == (2, 3)
    assert measured.hard_accuracy == 1.0 and measured.easy_accuracy == 1.0
    assert measured.cost == pytest.approx((3 + 1 + 5 + 1 + 1) / 5)  # the last is unknown: b's train mean
    p = [0.9, 0.1, 0.2, 0.8, 0.5, 0.5, 0.3, 0.6, 0.1]
    y = [1, 0, 0, 1, 1, 1, 0, 0, 1]
    bce = -np.mean([math.log(q) if label else math.log(1 - q) for q, label in zip(p, y, strict=True)])
    assert measured.bce == pytest.approx(bce, abs=1e-6)
    # lambda 0.5: 0.5 s - 0.5 c, c = 1 for a and 0 for b: .45-.5 < .05, so b everywhere; 5th b unobserved
    assert measured.utility["0.5"] == pytest.approx(0.5 * (0 + 1 + 1 + 0) / 4)
    assert measured.utility["0"] == measured.test_accuracy
    assert measured.utility_native is None


def test_a_router_without_probabilities_is_measured_through_one_sigmoid_and_keeps_its_routes():
    raw = Scored(val=1000 + 40 * SCORES.val, test=1000 + 40 * SCORES.test, seconds=1.0)
    measured = cell.measure(DATA, raw, calibrated=False)
    native = cell.measure(DATA, SCORES, calibrated=True)
    assert measured.test_accuracy == native.test_accuracy
    assert measured.selections == native.selections
    assert 0 < measured.bce < 10
    assert measured.utility_native is not None


def test_without_costs_there_is_no_utility_and_a_model_without_a_price_is_in_no_pool_where_money_counts():
    free = RoutingDataset(
        name="d",
        models=("a", "b"),
        train=part("r", TRAIN.labels),
        val=part("v", VAL.labels),
        test=part("t", TEST.labels),
    )
    assert cell.measure(free, SCORES, calibrated=True).utility is None
    unknown = part("r", TRAIN.labels, [[3, NAN]] * 4)
    partly = RoutingDataset(name="d", models=("a", "b"), train=unknown, val=VAL, test=TEST)
    priced = cell.measure(partly, SCORES, calibrated=True)
    # b has no price: everything goes to a, right on 3 of 5, whose own mean is cheapest and dearest: cost decides nothing
    assert priced.utility == pytest.approx({f"{lam:g}": (1 - lam) * 3 / 5 for lam in (0, 0.2, 0.5, 0.7, 0.9)})
    assert priced.cost == pytest.approx((3 + 3 + 5 + 3 + 3) / 5)
    assert [(point.accuracy, point.cost) for point in priced.curve] == [pytest.approx((0.6, 3.4))] * 21
    assert priced.test_accuracy == pytest.approx(3 / 4)  # which reads no price
    nothing = part("r", TRAIN.labels, [[NAN, NAN]] * 4)
    unpriced = RoutingDataset(name="d", models=("a", "b"), train=nothing, val=VAL, test=TEST)
    measured = cell.measure(unpriced, SCORES, calibrated=True)
    assert (measured.utility, measured.curve, measured.cost) == (None, None, None)


def test_the_summary_averages_over_seeds_and_knows_what_it_does_not_know():
    reference = cell.reference(DATA)
    other = Scored(val=SCORES.val, test=SCORES.test[:, ::-1].copy(), seconds=1.0)  # routes b, a, a, a, a
    both = [cell.measure(DATA, scored, calibrated=True) for scored in (SCORES, other)]
    assert both[1].test_accuracy == pytest.approx(2 / 5)
    summary = cell.summary(both, reference, DATA.models)
    assert summary["test_accuracy_mean"] == pytest.approx((3 / 4 + 2 / 5) / 2)
    assert summary["gap_closed"] == pytest.approx((0.575 - 0.6) / (0.8 - 0.6))
    assert summary["learnable_gap_closed"] is None
    assert summary["coverage"] == pytest.approx(0.9)
    assert summary["selection_share"] == pytest.approx({"a": (2 / 5 + 4 / 5) / 2, "b": (3 / 5 + 1 / 5) / 2})
    assert cell.accuracy_std(both, deterministic=False) == pytest.approx(np.std([0.75, 0.4], ddof=1))
    assert cell.accuracy_std(both[:1], deterministic=False) is None
    assert cell.accuracy_std(both[:1], deterministic=True) == 0


def test_a_flat_map_leaves_the_accuracy_and_no_choice_by_price():
    """Scores against the labels of val: no rising map to P(correct) is better than a constant."""
    against = Scored(val=1 - SCORES.val, test=SCORES.test, seconds=1.0)
    measured = cell.measure(DATA, against, calibrated=False)
    assert measured.test_accuracy == pytest.approx(3 / 4)  # routes are those of the raw scores
    assert measured.utility == {"0": pytest.approx(3 / 4), "0.2": None, "0.5": None, "0.7": None, "0.9": None}
    first, *rest = measured.curve
    assert first.accuracy == pytest.approx(3 / 4) and first.cost == pytest.approx((3 + 1 + 5 + 1 + 1) / 5)
    assert {(point.accuracy, point.cost) for point in rest} == {(None, None)}
    assert None not in measured.utility_native.values()
    assert measured.bce == pytest.approx(np.log(2))  # val has as many right as wrong


def test_five_equal_accuracies_have_that_mean_to_the_last_bit():
    accuracy = 7 / 4114  # statistics.fmean gives more
    measured = cell.measure(DATA, SCORES, calibrated=True).model_copy(update={"test_accuracy": accuracy})
    summary = cell.summary([measured] * 5, cell.reference(DATA), DATA.models)
    assert summary["test_accuracy_mean"] == accuracy


def test_an_unknown_mean_has_no_deviation():
    unknown = cell.measure(DATA, SCORES, calibrated=True).model_copy(update={"test_accuracy": None})
    assert cell.accuracy_std([unknown], deterministic=True) is None


def test_the_curve_and_the_facts_of_each_model_by_hand():
    measured = cell.measure(DATA, SCORES, calibrated=True)
    first, last = measured.curve[0], measured.curve[-1]
    assert (first.lam, last.lam) == (0, 1)
    assert first.accuracy == pytest.approx(3 / 4) and first.cost == pytest.approx((3 + 1 + 5 + 1 + 1) / 5)
    assert (
        last.accuracy == pytest.approx(2 / 4) and last.cost == 1
    )  # always b, on the four it was observed on
    assert measured.hard_selections == (1, 1)  # hard: queries 0 and 1
    # Strong is a, better on train; on the four queries with both labels it gains nothing over b.
    assert (measured.apgr, measured.cpt50) == (None, None)
    reference = cell.reference(DATA)
    assert reference.model_accuracy == pytest.approx((3 / 5, 2 / 4))
    assert reference.model_cost == pytest.approx((17 / 5, 1))
    assert reference.correct_mass == pytest.approx((2.5 / 4, 1.5 / 4))
    assert reference.hard_correct_mass == pytest.approx((1 / 2, 1 / 2))
