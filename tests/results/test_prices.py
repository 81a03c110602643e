"""Prices of some models only: cost, utility, curve, floor and oracle are over those, by hand."""

import dataclasses

import numpy as np
import pytest

from rph import RoutingDataset, Split
from rph.holes import Holes
from rph.results import blocks, cell, missing
from rph.results.outcomes import Scored
from rph.results.utility import CostScale

NAN = np.nan


def part(prefix, labels, costs, tasks):
    return Split(
        ids=[f"{prefix}{i}" for i in range(len(labels))],
        queries=["q"] * len(labels),
        tasks=tasks,
        labels=np.array(labels, np.float32),
        costs=np.array(costs, np.float32),
    )


# On train a, b and c are right on 1/2, 3/4 and all; a call of a costs 1, of b 3 dollars: scaled 0 and 1. c has no price.
TRAIN = part("r", [[1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 1, 1]], [[1, 3, NAN]] * 4, ["t"] * 4)
LABELS = [[1, 0, 1], [0, 1, 1], [0, 0, 1], [1, 1, 0]]
COSTS = [[1, 3, NAN], [1, 5, NAN], [1, 3, NAN], [1, NAN, NAN]]
TEST = part("t", LABELS, COSTS, ["t"] * 4)
DATA = RoutingDataset(
    name="d", models=("a", "b", "c"), train=TRAIN, val=part("v", LABELS, COSTS, ["t"] * 4), test=TEST
)
SCORES = [[0.8, 0.2, 0.9], [0.1, 0.9, 0.95], [0.3, 0.4, 0.9], [0.2, 0.7, 0.1]]
# Task x: neither a nor b was run on it, but for labels that are there by mistake; nothing can be paid.
DARK = dataclasses.replace(
    DATA,
    test=part("t", [*LABELS, [1, 1, 1]], [*COSTS, [1, 1, NAN]], ["t"] * 4 + ["x"]),
    holes=Holes(blocks=frozenset({("x", "a"), ("x", "b")})),
)


def measured(dataset):
    scores = np.array(SCORES + [[0.9, 0.1, 0.5]] * (len(dataset.test) - 4), np.float32)
    return cell.measure(dataset, Scored(val=scores[:4], test=scores, seconds=1.0), calibrated=True)


@pytest.mark.parametrize("dataset", [DATA, DARK], ids=["all", "dark"])
def test_cost_and_utility_are_over_the_models_with_a_price(dataset):
    found = measured(dataset)
    assert found.test_accuracy == 1 and found.coverage == 1  # c, c, c, b: accuracy is over all models
    assert found.selections == (0, 1, len(dataset.test) - 1)
    # At 0 the best scores of a and b: a, b, b, b. The unknown cost of the last call is b's train mean.
    assert found.utility["0"] == 3 / 4 and found.cost == (1 + 5 + 3 + 3) / 4
    # At .2: a, b, a, b, which earn .8, .8 - .2 * 2, 0 and .8 - .2 * 1.
    assert found.utility["0.2"] == pytest.approx((0.8 + 0.4 + 0 + 0.6) / 4)
    # At .5: always a, which is right on two.
    assert found.utility["0.5"] == pytest.approx(0.5 * 2 / 4)
    points = {point.lam: (point.accuracy, point.cost) for point in found.curve}
    assert points[0] == (3 / 4, 3) and points[0.2] == (3 / 4, (1 + 5 + 1 + 3) / 4) and points[1] == (2 / 4, 1)


@pytest.mark.parametrize("dataset", [DATA, DARK], ids=["all", "dark"])
def test_the_block_has_floor_and_oracle_of_the_models_with_a_price(dataset):
    assert cell.reference(dataset).best_single_model == "c"  # of all models; of the others b is best on train
    assert blocks.make(dataset, {})["prices"].model_dump() == {
        "unpriced": ("c",),
        "queries": 4,
        "best_single_model": "b",
        "best_single": 2 / 4,
        "oracle": 3 / 4,
    }


def test_where_all_or_no_prices_are_known_there_is_no_block():
    for costs in (None, np.ones((4, 3), np.float32), np.full((4, 3), NAN, np.float32)):
        train = dataclasses.replace(TRAIN, costs=costs)
        assert missing.make_prices(dataclasses.replace(DATA, train=train), {}) is None


def test_a_query_without_a_priced_model_in_its_pool_cannot_be_paid():
    scale = CostScale.fit(TRAIN.costs)
    assert scale.priced.tolist() == [True, True, False]
    assert scale.payable(None) is None
    assert scale.payable(np.array([[True, False, True]])) is None
    assert scale.payable(np.array([[True, False, True], [False, False, True]])).tolist() == [True, False]
    assert CostScale.fit(np.ones((1, 3))).payable(np.array([[False, True, True]])) is None
