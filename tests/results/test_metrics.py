"""Every metric against numbers worked out by hand, and what must hold for any table."""

import itertools
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rph.arrays import observed_means
from rph.holes import Mask
from rph.results import metrics, probabilities, utility
from rph.results.metrics import Mean
from rph.results.utility import CostScale

NAN = np.nan

# Four queries, three models; model 1 is missing on query 2, query 3 was never observed.
Y = np.array([[1, 0, 0], [0, 1, 0], [1, NAN, 0], [NAN, NAN, NAN]], np.float32)
PRIOR = np.array([0.6, 0.7, 0.1])


def close(expected, tolerance=1e-12):
    return pytest.approx(expected, abs=tolerance, rel=tolerance)


# --- routes -----------------------------------------------------------------------------------------


def test_observed_means_skip_missing_labels_and_are_nan_where_nothing_was_observed():
    means = observed_means(np.array([[1, NAN, NAN], [0, 1, NAN], [0.5, NAN, NAN]], np.float32))
    assert means.dtype == np.float64
    assert means[:2].tolist() == [0.5, 1.0]
    assert np.isnan(means[2])


def test_a_route_is_the_argmax():
    route = metrics.route(np.array([[0.1, 0.2, 0.9], [0.3, 0.2, 0.1]], np.float32), PRIOR)
    assert route.tolist() == [2, 0]
    assert route.dtype == np.int64


def test_a_tie_goes_to_the_higher_prior_then_to_the_lower_index():
    flat = np.zeros((1, 4))
    assert metrics.route(flat, np.array([0.1, 0.5, 0.5, 0.3])).tolist() == [1]
    assert metrics.route(flat, np.array([0.5, 0.5, 0.5, 0.5])).tolist() == [0]


def test_a_never_observed_model_loses_every_tie_but_no_contest():
    prior = np.array([NAN, 0.0, NAN])
    assert metrics.route(np.zeros((1, 3)), prior).tolist() == [1]
    assert metrics.route(np.array([[0.1, 0.0, 0.0]]), prior).tolist() == [0]
    assert metrics.route(np.zeros((1, 2)), np.array([NAN, NAN])).tolist() == [0]


def test_a_prior_never_outweighs_the_smallest_difference_of_scores():
    just_more = np.nextafter(np.float32(0.5), np.float32(1))
    assert metrics.route(np.array([[just_more, 0.5]], np.float32), np.array([0.0, 1.0])).tolist() == [0]


def test_a_nan_score_is_refused():
    with pytest.raises(ValueError, match="a score is NaN"):
        metrics.route(np.array([[NAN, 1.0]]), np.array([0.5, 0.5]))


# --- accuracy and its frame -------------------------------------------------------------------------


def test_accuracy_leaves_out_queries_whose_chosen_label_is_missing():
    assert metrics.accuracy(np.array([0, 0, 1, 2]), Y) == Mean(0.5, 0.5, 2)
    assert metrics.accuracy(np.array([0, 1, 0, 0]), Y) == Mean(1.0, 0.75, 3)


def test_nothing_observed_is_none_and_not_zero():
    assert metrics.accuracy(np.array([0]), np.array([[NAN, 1.0]])) == Mean(None, 0.0, 0)
    assert metrics.accuracy(np.zeros(0, np.int64), np.zeros((0, 2))) == Mean(None, 0.0, 0)
    for metric in (metrics.random, metrics.oracle, lambda Y: metrics.best_single_hindsight(Y, PRIOR)):
        assert metric(np.full((2, 3), NAN)) == Mean(None, 0.0, 0)


def test_constant_is_the_mean_of_one_column():
    assert metrics.constant(0, Y) == Mean(close(2 / 3), 0.75, 3)
    assert metrics.constant(1, Y) == Mean(0.5, 0.5, 2)


def test_best_single_in_hindsight_goes_by_the_labels_that_are_there():
    # sums of labels over four queries, missing ones 0: 2, 1, 0
    assert metrics.best_single_hindsight(Y, PRIOR) == metrics.constant(0, Y)
    # one right of one is 1 of 3 at the least, two of three are more; the value is over what was observed
    labels = np.array([[1, NAN], [1, NAN], [0, 1]])
    assert metrics.best_single_hindsight(labels, np.array([0.2, 0.9])) == Mean(close(2 / 3), 1.0, 3)
    # equal at the least: by level
    assert metrics.best_single_hindsight(labels[1:], np.array([0.2, 0.9])) == Mean(1.0, 0.5, 1)


def test_random_averages_the_observed_labels_of_each_query_first():
    assert metrics.random(Y) == Mean(close((1 / 3 + 1 / 3 + 1 / 2) / 3), 0.75, 3)


def test_random_counts_a_model_that_was_asked_less_often_no_less():
    # a was asked everything, and is right; b was asked every other query, and is wrong
    labels = np.array([[1, 0], [1, NAN]] * 4, np.float32)
    weight = np.array([[1, 2], [1, 0]] * 4, np.float32)
    assert metrics.random(labels, Mask(weight=weight)) == Mean(0.5, 1.0, 8)
    # pools of one and of two models count alike: the mean of 1 and of (1 + 0) / 2
    pool = np.array([[True, False]] * 4 + [[True, True]] * 4)
    weight[:4] = 1
    assert metrics.random(labels, Mask(pool, weight)).value == close(0.75)


def test_oracle_takes_the_best_observed_label():
    assert metrics.oracle(np.array([[0, 1], [NAN, 0.25], [0, NAN], [NAN, NAN]])) == Mean(
        close(1.25 / 3), 0.75, 3
    )


def test_bayes_routes_by_the_true_probability():
    p = np.array([[0.9, 0.5], [0.6, 0.8]], np.float32)
    labels = np.array([[1, 0], [1, 0]], np.float32)
    assert metrics.bayes(p, labels, np.array([0.5, 0.5])) == Mean(0.5, 1.0, 2)
    assert metrics.bayes_expected(p) == close(0.85, 1e-7)


def test_the_gap_closed_is_a_share_of_the_way_from_best_single_to_oracle():
    assert metrics.gap_closed(0.65, 0.6, 0.8) == close(0.25)
    assert metrics.gap_closed(0.5, 0.6, 0.8) == close(-0.5)


@pytest.mark.parametrize(
    "values", [(0.7, 0.7, 0.7), (None, 0.6, 0.8), (0.7, None, 0.8), (0.7, 0.6, None), (0.7, 0.8, 0.6)]
)
def test_without_a_gap_none_is_closed(values):
    assert metrics.gap_closed(*values) is None


# --- cost and utility -------------------------------------------------------------------------------

TRAIN_COSTS = np.array([[1, 2, 5], [NAN, 4, 5], [1, NAN, 5]], np.float32)  # means 1, 3, 5 dollars
SCALE = CostScale.fit(TRAIN_COSTS)


def test_the_cost_scale_is_min_max_over_the_train_means():
    assert SCALE.mean.tolist() == [1, 3, 5]
    assert (SCALE.low, SCALE.high) == (1, 5)
    assert SCALE.scaled(SCALE.mean).tolist() == [0, 0.5, 1]


def test_one_call_may_be_dearer_than_the_dearest_mean_and_an_unknown_cost_stays_unknown():
    scaled = SCALE.scaled(np.array([7.0, 0.0, NAN]))
    assert scaled[:2].tolist() == [1.5, -0.25]
    assert np.isnan(scaled[2])


def test_a_model_without_a_price_is_in_no_pool_where_money_counts():
    scale = CostScale.fit(np.array([[1, NAN, 3], [2, NAN, 4]]))
    assert (scale.low, scale.high, scale.priced.tolist()) == (1.5, 3.5, [True, False, True])
    assert scale.pool(None).tolist() == [[True, False, True]]
    pool = np.array([[True, True, False], [False, True, True]])
    assert scale.pool(pool).tolist() == [[True, False, False], [False, False, True]]
    assert SCALE.pool(None) is None and SCALE.pool(pool) is pool
    # the model without a price has the best score, and is not taken, at 0 neither: U(0) is over the same pool
    scores = np.array([[0.1, 0.9, 0.4], [0.2, 0.9, 0.1]])
    assert utility.utility_route(scores, scale, 0.0, PRIOR).tolist() == [2, 0]
    assert utility.utility_route(scores, scale, 1.0, PRIOR).tolist() == [0, 0]
    assert utility.utility_route(scores, scale, 0.0, PRIOR, pool=pool).tolist() == [0, 2]
    selector = np.array([[9.0, 0.0, 1.0], [NAN, 0.0, 9.0]])  # whoever is free, is not taken without a price
    assert utility.utility_route(scores, scale, 1.0, PRIOR, selector_costs=selector).tolist() == [2, 0]
    assert utility.utility_route(scores, None, 0.0, PRIOR).tolist() == [1, 1]
    assert CostScale.fit(np.full((2, 2), NAN)) is None


def test_equal_prices_cost_nothing_even_where_rounding_tells_them_apart():
    costs = np.full((1000, 2), 0.1)
    costs[:7, 0] = NAN  # another number of equal terms, another rounding of their mean
    scale = CostScale.fit(costs)
    assert scale.low != scale.high
    assert scale.scaled(scale.mean).tolist() == [0, 0]
    assert np.isnan(scale.scaled(np.array([NAN]))).all()
    free = CostScale.fit(np.zeros((2, 2)))
    assert free.scaled(np.array([0.0, 3.0])).tolist() == [0, 0]


SCORES = np.array([[0.5, 0.6, 0.9], [0.2, 0.9, 0.1]], np.float32)
LABELS = np.array([[1, 1, 0], [0, 1, NAN]], np.float32)
COSTS = np.array([[2, 3, 9], [1, 5, 5]], np.float32)


def test_utility_chooses_by_mean_cost_and_earns_by_realised_cost():
    # lambda 0.5, query 0: .25 - 0, .3 - .25, .45 - .5 -> model 0, which earns .5 - .5 * (2 - 1) / 4
    # query 1: .1 - 0, .45 - .25, .05 - .5 -> model 1, which earns .5 - .5 * (5 - 1) / 4
    result = utility.utility(SCORES, LABELS, COSTS, SCALE, 0.5, PRIOR)
    assert result == Mean(close((0.375 + 0.0) / 2), 1.0, 2)


def test_at_lambda_one_the_cheapest_model_is_chosen():
    result = utility.utility(SCORES, LABELS, COSTS, SCALE, 1.0, PRIOR)
    assert result == Mean(close(-(0.25 + 0) / 2), 1.0, 2)


def test_selector_costs_replace_the_means_in_choosing_only():
    # Model 2 looks free on query 0 (and is chosen: .45), model 0 on query 1 costs NaN: its mean stands in.
    selector = np.array([[5, 5, 1], [NAN, 9, 9]], np.float32)
    result = utility.utility(SCORES, LABELS, COSTS, SCALE, 0.5, PRIOR, selector_costs=selector)
    assert result == Mean(close(((0 - 0.5 * 2) + (0 - 0.5 * 0)) / 2), 1.0, 2)


def test_the_unknown_cost_of_a_chosen_call_is_its_models_train_mean():
    costs = COSTS.copy()
    costs[0, 0] = NAN
    # as in the test above, but that the call of query 0 costs its mean, 1 dollar: scaled 0, so it earns .5
    assert utility.utility(SCORES, LABELS, costs, SCALE, 0.5, PRIOR) == Mean(close((0.5 + 0.0) / 2), 1.0, 2)
    assert utility.utility(SCORES, LABELS, costs, SCALE, 0.0, PRIOR).n == 2


def test_a_query_with_a_missing_label_at_the_chosen_model_is_left_out_at_any_lambda():
    labels = np.full((2, 3), NAN)
    for lam in (0.0, 0.5, 1.0):
        assert utility.utility(SCORES, labels, COSTS, SCALE, lam, PRIOR) == Mean(None, 0.0, 0)


def test_without_prices_there_is_accuracy_but_no_utility():
    assert utility.utility(SCORES, LABELS, None, None, 0.0, PRIOR) == Mean(0.5, 1.0, 2)
    assert utility.utility(SCORES, LABELS, None, None, 0.2, PRIOR) == Mean(None, 0.0, 0)
    assert utility.utility(SCORES, LABELS, COSTS, None, 0.2, PRIOR) == Mean(None, 0.0, 0)


@pytest.mark.parametrize("lam", [-0.1, 1.1, NAN])
def test_a_lambda_outside_the_unit_interval_is_refused(lam):
    with pytest.raises(ValueError, match="lambda"):
        utility.utility(SCORES, LABELS, COSTS, SCALE, lam, PRIOR)


def test_the_cost_of_a_route_is_in_dollars_per_query():
    means = np.array([4.0, NAN, 6.0])
    assert metrics.cost(np.array([0, 2]), COSTS, means) == Mean(3.5, 1.0, 2)
    unknown = np.array([[NAN, 1, 1], [2, NAN, 3]])  # the train mean where there is one, else left out
    assert metrics.cost(np.array([0, 2]), unknown, means) == Mean(3.5, 1.0, 2)
    assert metrics.cost(np.array([0, 1]), unknown, means) == Mean(4.0, 0.5, 1)


# --- probabilities ----------------------------------------------------------------------------------


def test_bce_is_the_mean_over_observed_cells():
    P = np.array([[0.5, 0.25], [0.25, 0.9]])
    labels = np.array([[1, 1], [0, NAN]])
    assert probabilities.bce(P, labels) == close((math.log(2) + math.log(4) - math.log(0.75)) / 3)


def test_a_certain_mistake_costs_the_clip_and_not_infinity():
    assert probabilities.bce(np.array([[0.0, 1.0]]), np.array([[1, 0]])) == close(-math.log(1e-7), 1e-8)


def test_a_fractional_label_counts_both_ways():
    assert probabilities.bce(np.array([[0.25]]), np.array([[0.5]])) == close(
        -0.5 * (math.log(0.25) + math.log(0.75))
    )


def test_the_base_rate_is_the_train_mean_and_for_an_unseen_model_the_mean_of_the_others():
    labels = np.array([[1, 1, 0]])
    expected = -(math.log(0.2) + math.log(0.6) + math.log(1 - 0.4)) / 3
    assert probabilities.base_rate_bce(np.array([0.2, 0.6, NAN]), labels) == close(expected)
    assert probabilities.base_rate_bce(np.array([NAN, NAN, NAN]), labels) == close(math.log(2))


def test_ece_weighs_each_bin_by_its_cells():
    # two bins: {.1, .3} with labels 0, 1 and {.9} with label 1; .5 is unobserved
    P = np.array([[0.1, 0.3], [0.9, 0.5]])
    labels = np.array([[0, 1], [1, NAN]])
    assert probabilities.ece(P, labels, bins=2) == close(2 / 3 * abs(0.5 - 0.2) + 1 / 3 * abs(1 - 0.9))


def test_errors_of_opposite_sign_in_one_bin_cancel_and_in_two_do_not():
    P, labels = np.array([[0.25, 0.75]]), np.array([[0.5, 0.5]])
    assert probabilities.ece(P, labels, bins=1) == close(0)
    assert probabilities.ece(P, labels, bins=2) == close(0.25)


def test_a_bin_is_closed_below_and_the_last_one_above():
    assert probabilities.ece(np.array([[0.5, 1.0]]), np.array([[1, 0.5]]), bins=2) == close(0)
    assert probabilities.ece(np.array([[1.0, 0.0]]), np.array([[1, 0]])) == close(0)


@pytest.mark.parametrize("metric", [probabilities.bce, probabilities.ece])
@pytest.mark.parametrize("value", [1.01, -0.01, NAN, np.inf])
def test_what_is_no_probability_is_refused(metric, value):
    with pytest.raises(ValueError, match="1 values are not probabilities"):
        metric(np.array([[0.5, value]]), np.array([[1, 0]]))


@pytest.mark.parametrize("metric", [probabilities.bce, probabilities.ece])
def test_the_rounding_of_float32_is_no_reason_to_refuse(metric):
    above = np.nextafter(np.float32(1), np.float32(2))
    assert metric(np.array([[above]], np.float32), np.array([[1]])) == close(0, 2e-7)


@pytest.mark.parametrize("metric", [probabilities.bce, probabilities.ece])
def test_no_observed_cell_has_no_loss(metric):
    assert metric(np.array([[0.5]]), np.array([[NAN]])) is None


# --- hard and easy ----------------------------------------------------------------------------------


def row(correct, K, missing=()):
    """One query: 1 for the models in `correct`, NaN for those in `missing`, else 0."""
    labels = np.zeros(K)
    labels[list(correct)] = 1
    labels[list(missing)] = NAN
    return labels


def kind(labels, top_model=0, pool=None):
    hard, easy = metrics.hard_easy(labels[None], labels[[top_model]], None if pool is None else pool[None])
    assert hard.dtype == easy.dtype == bool
    return {(True, False): "hard", (False, True): "easy", (False, False): "neither"}[hard[0], easy[0]]


def test_a_query_that_one_model_solves_is_hard_even_for_the_top_model():
    assert kind(row([0], 3)) == "hard"
    assert kind(row([2], 3)) == "hard"


def test_a_query_that_nobody_solves_is_neither():
    assert kind(row([], 3)) == "neither"
    assert kind(row([], 3, missing=[0, 1, 2])) == "neither"


def test_a_query_that_few_solve_is_hard_where_the_top_model_fails():
    assert kind(row([1, 2], 3)) == "hard"
    assert kind(row([0, 2], 3)) == "easy"
    assert kind(row([0, 2], 3), top_model=1) == "hard"


@pytest.mark.parametrize(("K", "cap"), [(11, 8), (16, 8), (17, 9), (112, 56)])
def test_few_means_at_most_eight_or_half_the_pool_rounded_up(K, cap):
    assert kind(row(range(1, cap + 1), K)) == "hard"
    assert kind(row(range(1, cap + 2), K)) == "easy"


def test_a_missing_label_of_the_top_model_is_not_a_wrong_answer():
    assert kind(row([1, 2], 4, missing=[0])) == "neither"  # the top model decides, and is unknown
    assert kind(row([1], 4, missing=[0])) == "neither"  # one is correct, or two and the top model with it
    assert kind(row([0], 4, missing=[2])) == "neither"
    assert kind(row([1], 4, missing=[2])) == "hard"  # one or two, and the top model is wrong
    assert (
        kind(row(range(1, 10), 11, missing=[0])) == "easy"
    )  # more than eight: the top model decides nothing


def test_models_out_of_the_pool_do_not_count():
    pool = np.arange(20) < 4  # few means at most 8 of 20, or of 4
    assert (
        kind(row([1, 2], 20, missing=range(4, 20)), pool=pool) == "hard"
    )  # without the pool 2 to 18 may be right
    assert kind(row([1, 2], 20, missing=range(4, 20))) == "neither"
    assert kind(row([0, 1], 20, missing=range(4, 20)), pool=pool) == "easy"
    assert kind(row([1], 20, missing=range(4, 20)), pool=pool) == "hard"
    assert kind(row([5], 20), pool=pool) == "neither"  # nobody in the pool solves it
    # the pool decides what few is: 9 right are more than 8, the half of 16, and no more than 10, the half of 20
    nine = row(range(1, 10), 20)
    assert (kind(nine), kind(nine, pool=np.arange(20) < 16)) == ("hard", "easy")


def test_a_label_of_one_half_counts_as_correct():
    assert kind(np.array([0.5, 0.49, 0.9])) == "easy"
    assert kind(np.array([0.49, 0.5, 0.9])) == "hard"


# --- selections -------------------------------------------------------------------------------------


def test_counts_cover_the_models_that_are_never_chosen():
    counts = metrics.selection_counts(np.array([2, 0, 2]), 4)
    assert counts.tolist() == [1, 0, 2, 0]
    assert counts.dtype == np.int64


def test_entropy_is_in_bits():
    assert metrics.selection_entropy(np.array([5, 0, 0])) == 0
    assert metrics.selection_entropy(np.array([1, 1, 1, 1])) == 2
    assert metrics.selection_entropy(np.array([1, 3])) == close(0.25 * 2 + 0.75 * math.log2(4 / 3))
    assert metrics.selection_entropy(np.array([0, 0])) == 0


# --- the shared map ---------------------------------------------------------------------------------


def calibrated_logits(rows=20_000):
    rng = np.random.default_rng(0)
    logits = rng.normal(0.3, 1.5, size=(rows, 3))
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    labels[rng.random(labels.shape) < 0.2] = NAN
    return logits, labels


def test_well_calibrated_logits_map_to_themselves():
    logits, labels = calibrated_logits()
    a, b = probabilities.fit_sigmoid(logits, labels)
    assert a == pytest.approx(1, abs=0.03)
    assert b == pytest.approx(0, abs=0.03)


def test_the_map_undoes_any_shift_and_stretch_of_the_scores():
    logits, labels = calibrated_logits(2000)
    plain = probabilities.fit_sigmoid(logits, labels)
    a, b = probabilities.fit_sigmoid(1000 + 20 * logits, labels)
    assert (20 * a, b + 1000 * a) == (close(plain[0], 1e-6), close(plain[1], 1e-6))


def test_the_map_is_the_maximum_of_the_likelihood():
    logits, labels = calibrated_logits(300)
    a, b = probabilities.fit_sigmoid(logits, labels)
    best = probabilities.bce(probabilities.apply_sigmoid(logits, a, b), labels)
    for other in ((a + 0.01, b), (a - 0.01, b), (a, b + 0.01), (a, b - 0.01)):
        assert probabilities.bce(probabilities.apply_sigmoid(logits, *other), labels) > best


def test_two_score_levels_map_to_their_two_mean_labels():
    scores = np.array([[0.0, 0.0, 0.0, 0.0, 7.0, 7.0, 7.0, 7.0]])
    labels = np.array([[0, 0, 0, 1, 0, 1, 1, 1]])
    P = probabilities.apply_sigmoid(scores, *probabilities.fit_sigmoid(scores, labels))
    assert P[0, [0, -1]].tolist() == [close(0.25, 1e-5), close(0.75, 1e-5)]


def test_separable_labels_give_a_finite_map_that_is_nearly_sure():
    scores, labels = np.array([[-1.0, -2.0], [1.0, 2.0]]), np.array([[0, 0], [1, 1]])
    a, b = probabilities.fit_sigmoid(scores, labels)
    assert 0 < a < 100
    assert abs(b) < 1e-6
    assert probabilities.bce(probabilities.apply_sigmoid(scores, a, b), labels) < 1e-4


def test_scores_that_contradict_the_labels_map_to_the_mean_label():
    a, b = probabilities.fit_sigmoid(np.array([[3.0, 2.0, 1.0, 0.0]]), np.array([[0, 0, 0, 1]]))
    assert a == 0
    assert probabilities.apply_sigmoid(np.array([[9.0]]), a, b)[0, 0] == close(0.25)


@pytest.mark.parametrize("level", [0.0, 0.1, 1500.0])
def test_equal_scores_map_to_the_mean_label(level):
    a, b = probabilities.fit_sigmoid(np.full((1, 3), level), np.array([[1, 1, 0]]))
    assert (a, b) == (0, close(math.log(2)))


@pytest.mark.parametrize("label", [0, 1])
def test_labels_all_equal_give_a_finite_map(label):
    P = probabilities.apply_sigmoid(SCORES, *probabilities.fit_sigmoid(SCORES, np.full(SCORES.shape, label)))
    assert np.abs(P - label).max() < 1e-3


def test_a_map_cannot_be_fitted_to_nothing():
    with pytest.raises(ValueError, match="no label was observed"):
        probabilities.fit_sigmoid(np.ones((2, 2)), np.full((2, 2), NAN))


def test_the_map_neither_overflows_nor_loses_small_probabilities():
    with np.errstate(all="raise", under="ignore"):
        P = probabilities.apply_sigmoid(np.array([-1e4, -100.0, 0.0, 1e4]), 1.0, 0.0)
    assert P[[0, 2, 3]].tolist() == [0, 0.5, 1]
    assert P[1] == close(math.exp(-100))


def test_row_minmax_scales_each_query_and_puts_a_flat_one_in_the_middle():
    scaled = probabilities.row_minmax(np.array([[1500, 1600, 1700], [-3, -3, -3]], np.float32))
    assert scaled.tolist() == [[0, 0.5, 1], [0.5, 0.5, 0.5]]


# --- what holds for any table -----------------------------------------------------------------------


@st.composite
def tables(draw, missing=True, exact=True):
    """Labels [N, K], scores [N, K] on a coarse grid (so that ties are common) and a prior [K]."""
    N, K = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    labels = st.sampled_from([0.0, 1.0, 0.5, *([NAN] if missing else [])])
    grid = st.integers(-4, 4).map(lambda level: level / 4)
    scores = grid if exact else st.floats(-5, 5)
    rates = st.one_of(st.sampled_from([NAN, 0.5]), st.floats(0, 1))
    return (
        draw(arrays(np.float64, (N, K), elements=labels)),
        draw(arrays(np.float64, (N, K), elements=scores)),
        draw(arrays(np.float64, K, elements=rates)),
    )


@given(tables(), st.randoms())
def test_permuting_the_models_permutes_the_routes(table, chance):
    _, scores, _ = table
    K = scores.shape[1]
    prior = np.array(chance.sample([m / 10 for m in range(K)], K))  # no two equal: else the index decides
    order = np.array(chance.sample(range(K), K))
    assert (order[metrics.route(scores[:, order], prior[order])] == metrics.route(scores, prior)).all()


@given(tables(), st.data())
def test_a_constant_per_query_changes_no_route(table, data):
    _, scores, prior = table
    shift = data.draw(arrays(np.float64, (len(scores), 1), elements=st.integers(-100, 100)))
    assert (metrics.route(scores + shift, prior) == metrics.route(scores, prior)).all()


@given(tables(missing=False))
def test_with_dense_labels_accuracy_is_between_zero_and_the_oracle(table):
    labels, scores, prior = table
    value, coverage, n = metrics.accuracy(metrics.route(scores, prior), labels)
    assert 0 <= value <= metrics.oracle(labels).value + 1e-12
    assert (coverage, n) == (1, len(labels))


@given(tables())
def test_with_missing_labels_accuracy_is_at_most_the_oracle_of_the_same_queries(table):
    labels, scores, prior = table
    route = metrics.route(scores, prior)
    counted = ~np.isnan(labels[np.arange(len(labels)), route])
    assume(counted.any())
    assert 0 <= metrics.accuracy(route, labels).value <= metrics.oracle(labels[counted]).value + 1e-12


def test_with_missing_labels_accuracy_may_exceed_the_oracle_of_other_queries():
    labels = np.array([[1, NAN], [NAN, 0]])
    assert metrics.accuracy(np.array([0, 0]), labels).value > metrics.oracle(labels).value


@given(tables())
def test_random_is_at_most_the_oracle_on_the_same_queries(table):
    labels, _, _ = table
    random, oracle = metrics.random(labels), metrics.oracle(labels)
    assert (random.coverage, random.n) == (oracle.coverage, oracle.n)
    assume(oracle.n)
    assert random.value <= oracle.value + 1e-12


@given(tables())
def test_no_constant_route_has_a_better_lower_bound_than_the_best_single_in_hindsight(table):
    labels, _, level = table
    best = metrics.best_single_hindsight(labels, level)
    lower = np.nan_to_num(labels).mean(axis=0)
    tied = [metrics.constant(m, labels) for m in np.flatnonzero(lower > lower.max() - 1e-12)]
    assert best in tied


@given(tables())
def test_missing_labels_of_models_not_chosen_change_no_accuracy(table):
    labels, scores, prior = table
    route = metrics.route(scores, prior)
    only_chosen = np.full_like(labels, NAN)
    rows = np.arange(len(labels))
    only_chosen[rows, route] = labels[rows, route]
    assert metrics.accuracy(route, only_chosen) == metrics.accuracy(route, labels)


@given(tables())
def test_coverage_is_the_share_of_queries_counted(table):
    labels, scores, prior = table
    route = metrics.route(scores, prior)
    value, coverage, n = metrics.accuracy(route, labels)
    assert n == sum(not np.isnan(labels[i, m]) for i, m in enumerate(route))
    assert coverage == n / len(labels)
    assert (value is None) == (n == 0)


@given(tables())
def test_utility_at_lambda_zero_is_the_accuracy(table):
    labels, scores, prior = table
    costs = np.ones_like(labels) * np.arange(1, labels.shape[1] + 1)
    expected = metrics.accuracy(metrics.route(scores, prior), labels)
    assert utility.utility(scores, labels, costs, CostScale.fit(costs), 0.0, prior) == expected
    assert utility.utility(scores, labels, costs * NAN, None, 0.0, prior) == expected


@given(tables(missing=False))
def test_a_dearer_lambda_never_buys_a_dearer_route(table):
    labels, scores, prior = table
    costs = np.ones_like(labels) * np.arange(1, labels.shape[1] + 1)
    scale = CostScale.fit(costs)
    bills = []
    for lam in utility.LAMBDAS:
        chosen = metrics.route((1 - lam) * scores - lam * scale.scaled(scale.mean), prior)
        bills.append(metrics.cost(chosen, costs, scale.mean).value)
    assert all(later <= earlier for earlier, later in pairwise(bills))


@given(tables(exact=False))
def test_the_shared_map_is_finite_rising_and_keeps_every_route(table):
    labels, scores, prior = table
    assume(not np.isnan(labels).all())
    scores = scores.round(3)  # closer scores may round to one probability
    a, b = probabilities.fit_sigmoid(scores, labels)
    assert math.isfinite(a) and math.isfinite(b) and a >= 0
    if 0 < a * np.abs(scores).max() + abs(b) < 20:
        mapped = probabilities.apply_sigmoid(scores, a, b)
        assert (metrics.route(mapped, prior) == metrics.route(scores, prior)).all() or a < 1e-9


@given(tables())
def test_the_shared_map_is_never_worse_than_the_mean_label(table):
    labels, scores, _ = table
    assume(not np.isnan(labels).all())
    P = probabilities.apply_sigmoid(scores, *probabilities.fit_sigmoid(scores, labels))
    constant = np.full_like(scores, np.nanmean(labels))
    assert probabilities.bce(P, labels) <= probabilities.bce(constant, labels) + 1e-4


@given(tables())
def test_row_minmax_keeps_every_route(table):
    _, scores, prior = table
    scaled = probabilities.row_minmax(scores)
    assert scaled.min() >= 0 and scaled.max() <= 1
    assert (metrics.route(scaled, prior) == metrics.route(scores, prior)).all()


@given(tables(missing=False), st.integers(0, 5))
def test_a_solvable_query_with_dense_labels_is_either_hard_or_easy(table, top):
    labels, _, _ = table
    hard, easy = metrics.hard_easy(labels, labels[:, top % labels.shape[1]])
    assert ((hard | easy) == (labels >= 0.5).any(axis=1)).all()
    assert not (hard & easy).any()


@given(tables(), st.integers(0, 5))
def test_a_query_is_hard_or_easy_where_every_completion_of_its_labels_is(table, top):
    labels, _, _ = table
    top %= labels.shape[1]
    hard, easy = metrics.hard_easy(labels, labels[:, top])
    for i, query in enumerate(labels):
        missing = np.flatnonzero(np.isnan(query))
        completions = np.tile(query, (2 ** len(missing), 1))
        completions[:, missing] = list(itertools.product((0, 1), repeat=len(missing)))
        all_hard, all_easy = (kind.all() for kind in metrics.hard_easy(completions, completions[:, top]))
        assert (hard[i], easy[i]) == (all_hard, all_easy)


@given(tables())
def test_counts_add_up_and_entropy_is_at_most_that_of_an_even_spread(table):
    _, scores, prior = table
    N, K = scores.shape
    counts = metrics.selection_counts(metrics.route(scores, prior), K)
    assert (counts.sum(), len(counts)) == (N, K)
    assert 0 <= metrics.selection_entropy(counts) <= math.log2(K) + 1e-12


# --- two routers ------------------------------------------------------------------------------------


def test_disagreement_is_the_share_of_queries_with_different_routes():
    assert metrics.disagreement(np.array([0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 0])) == close(0.4)


def test_score_correlation_by_hand():
    one = np.array([[0.2, 0.4], [0.9, 0.5]], np.float32)  # less the query's mean: -.1 .1 .2 -.2
    two = np.array([[5.0, 1.0], [3.0, 2.0]], np.float32)  # 2 -2 .5 -.5
    # ranks of the cells: 2 3 4 1 and 4 1 3 2; rho = 1 - 6 * (4 + 4 + 1 + 1) / (4 * 15)
    assert metrics.score_correlation([one, two]) == close(np.array([[1, 0], [0, 1]]))


def test_score_correlation_reads_neither_the_level_nor_the_scale_of_a_router():
    rng = np.random.default_rng(0)
    scores = rng.random((200, 5)).astype(np.float32)
    level = rng.normal(size=(200, 1)).astype(np.float32)
    found = metrics.score_correlation([scores, 400 * scores + 1000, scores + level, -scores])
    assert found[0] == pytest.approx([1, 1, 1, -1], abs=1e-3)


def test_equal_scores_stay_equal_and_a_router_without_order_has_no_correlation():
    flat = np.full((50, 3), 1000.1, np.float32) + np.arange(50, dtype=np.float32)[:, None]
    other = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    found = metrics.score_correlation([flat, other])
    assert np.isnan(found[0]).all() and np.isnan(found[:, 0]).all() and found[1, 1] == close(1)


# --- two models ------------------------------------------------------------------------------------


def test_gap_recovered_by_hand():
    # Strong is model 1. Leads .6, .2, -.1, -.4; what strong gains there: 1, 0, 1, -1 of a gap of 1 query in all.
    scores = np.array([[0.2, 0.8], [0.4, 0.6], [0.5, 0.4], [0.8, 0.4]], np.float32)
    labels = np.array([[0, 1], [1, 1], [0, 1], [1, 0]], np.float32)
    recovered = utility.gap_recovered(scores, labels, np.array([0.5, 0.7]))
    # PGR at shares 0, 1/4, ..., 1 is 0, 1, 1, 2, 1: a router may do better than its strong model.
    assert recovered.apgr == close((0.5 + 1 + 1.5 + 1.5) / 4)
    assert recovered.cpt50 == close(0.125) and recovered.cpt80 == close(0.2)


def test_gap_recovered_takes_equal_leads_in_random_order():
    labels = np.array([[0, 1], [1, 1], [0, 0], [0, 1]], np.float32)
    flat = utility.gap_recovered(np.zeros((4, 2), np.float32), labels, np.array([0.2, 0.9]))
    assert flat == close((0.5, 0.5, 0.8))  # a random router: the diagonal


def test_gap_recovered_leaves_missing_labels_out_and_needs_two_models_and_a_gap():
    labels = np.array([[0, 1], [1, NAN], [NAN, 0], [0, 0]], np.float32)
    scores = np.array([[0, 1], [1, 0], [0, 1], [1, 0]], np.float32)
    prior = np.array([0.1, 0.9])
    assert utility.gap_recovered(scores, labels, prior) == utility.gap_recovered(
        scores[[0, 3]], labels[[0, 3]], prior
    )
    assert utility.gap_recovered(scores, labels, prior[::-1]) is None  # the "strong" model is worse here
    assert utility.gap_recovered(np.zeros((4, 3)), np.zeros((4, 3)), np.ones(3)) is None


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_gap_recovered_is_the_mean_over_random_tie_orders(seed, N):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (N, 2)).astype(np.float32)
    scores = rng.integers(0, 3, (N, 2)).astype(np.float32)
    recovered = utility.gap_recovered(scores, labels, np.array([0.1, 0.9]))
    gain = (labels[:, 1] - labels[:, 0]).astype(np.float64)
    assume(gain.sum() > 0)
    lead = scores[:, 1] - scores[:, 0]
    expected = np.array([gain[lead == value].mean() for value in lead])  # of a random query of the same lead
    curve = np.concatenate([[0], expected[np.argsort(-lead, kind="stable")].cumsum()]) / gain.sum()
    assert recovered.apgr == pytest.approx(np.trapezoid(curve, dx=1 / N), abs=1e-9)


# --- which models are right ------------------------------------------------------------------------


def test_correct_mass_by_hand():
    labels = np.array([[1, 1, 0], [0, 1, NAN], [0, 0, 0], [NAN, NAN, 1]], np.float32)
    assert metrics.correct_mass(labels) == close(np.array([0.5, 1.5, 1.0]) / 3)
    assert np.isnan(metrics.correct_mass(np.zeros((2, 3)))).all()


def test_the_utility_route_at_lambda_1_is_the_cheapest_model_and_needs_prices():
    scale = CostScale.fit(np.array([[3.0, 1.0, 2.0]]))
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]], np.float32)
    assert utility.utility_route(scores, scale, 1.0, PRIOR).tolist() == [1, 1]
    assert utility.utility_route(scores, None, 0.0, PRIOR).tolist() == [0, 2]
    with pytest.raises(ValueError, match="no prices"):
        utility.utility_route(scores, None, 0.5, PRIOR)


# --- quality for money ------------------------------------------------------------------------------


def test_the_frontier_keeps_what_no_point_beats():
    cost = np.array([2.0, 1.0, 3.0, 2.0, 4.0, 1.0, NAN, 0.5])
    quality = np.array([0.6, 0.5, 0.6, 0.7, 0.9, 0.5, 1.0, NAN])
    # cheapest first; (3, .6) is beaten by (2, .7), the second (1, .5) is the first one again
    assert utility.frontier(cost, quality).tolist() == [1, 3, 4]
    assert utility.frontier(np.array([NAN]), np.array([1.0])).tolist() == []


def test_the_hull_by_hand():
    # From nothing at (0, 0); (2, .45) is below the line from (1, .4) to (3, .8); (4, .7) is dearer and worse.
    cost, quality = utility.cost_hull(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.4, 0.45, 0.8, 0.7]))
    assert (cost.tolist(), quality.tolist()) == ([0, 1, 3], [0, 0.4, 0.8])
    # (1, .1) is worse than flipping a coin between no answer and (2, .6).
    cost, quality = utility.cost_hull(np.array([1.0, 2.0]), np.array([0.1, 0.6]))
    assert (cost.tolist(), quality.tolist()) == ([0, 2], [0, 0.6])
    # A free model takes the place of no answer.
    cost, quality = utility.cost_hull(np.array([0.0, 2.0]), np.array([0.5, 0.6]))
    assert (cost.tolist(), quality.tolist()) == ([0, 2], [0.5, 0.6])


def test_aiq_by_hand():
    cost, quality = np.array([1.0, 3.0]), np.array([0.4, 0.8])
    assert utility.aiq(cost, quality, 1, 3) == close(0.6)  # one line
    assert utility.aiq(cost, quality, 1, 5) == close((2 * 0.6 + 2 * 0.8) / 4)  # and flat after it
    assert utility.aiq(cost, quality, 0, 1) == close(0.2)  # from (0, 0)
    assert utility.aiq(cost, quality, 2, 4) == close((0.7 + 0.8) / 2)
    assert utility.aiq(np.array([1.0, 2.0, 3.0]), np.array([0.4, 0.5, 0.8]), 1, 3) == close(0.6)
    assert utility.aiq(np.array([1.0, NAN, 3.0]), np.array([0.4, 0.9, 0.8]), 1, 3) == close(0.6)
    assert utility.aiq(cost, np.zeros(2), 1, 3) == 0
    assert utility.aiq(cost, quality, 2, 2) is None
    assert utility.aiq(np.array([NAN]), np.array([0.5]), 1, 3) is None


# On a grid, so that some points lie on one line.
points = st.lists(
    st.tuples(st.integers(0, 40).map(lambda i: i / 4), st.integers(0, 20).map(lambda i: i / 20)),
    min_size=1,
    max_size=12,
)


@given(points)
def test_the_hull_is_the_least_concave_rising_curve_over_the_points(points):
    cost, quality = np.array(points).T
    at, curve = utility.cost_hull(cost, quality)
    assert at[0] == 0 and (np.diff(at) > 0).all() and (np.diff(curve) > 0).all()
    slopes = np.diff(curve) / np.diff(at)
    assert all(later <= before * (1 + 1e-9) for before, later in pairwise(slopes))
    assert (np.interp(cost, at, curve) >= quality - 1e-9).all()
    corners = set(zip(at.tolist(), curve.tolist(), strict=True))
    assert corners <= {*map(tuple, np.array(points).tolist()), (0.0, 0.0)}


@given(points, st.integers(0, 1000))
def test_aiq_does_not_depend_on_order_and_a_point_more_never_lowers_it(points, seed):
    cost, quality = np.array(points).T
    value = utility.aiq(cost, quality, 1, 9)
    order = np.random.default_rng(seed).permutation(len(points))
    assert utility.aiq(cost[order], quality[order], 1, 9) == close(value)
    assert 0 <= value <= 1
    more = utility.aiq(np.append(cost, 5.0), np.append(quality, 0.5), 1, 9)
    assert more >= value - 1e-9


# --- collapse, and a gap in two parts -----------------------------------------------------------------


def test_the_share_of_the_top_model_by_hand():
    assert metrics.top_share(np.array([99, 1, 0])) == metrics.COLLAPSED
    assert metrics.top_share(np.array([5, 5])) == 0.5
    assert metrics.top_share(np.array([0, 7])) == 1.0


def test_the_gap_to_the_oracle_in_two_parts():
    gap = metrics.oracle_gap(0.6, bayes=0.7, oracle=0.9)
    assert (gap.irreducible, gap.learnable) == (close(0.2), close(0.1))
    assert metrics.oracle_gap(0.72, bayes=0.7, oracle=0.9).learnable == close(-0.02)  # luck
    assert metrics.oracle_gap(None, bayes=0.7, oracle=0.9) is None
    assert metrics.oracle_gap(0.6, bayes=None, oracle=0.9) is None
    assert metrics.oracle_gap(0.6, bayes=0.7, oracle=None) is None
