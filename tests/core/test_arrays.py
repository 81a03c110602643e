"""Levels of models: what ties, starts and fallbacks go by, where models were observed on different queries."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rph.arrays import level, model_means, observed_means

NAN = np.nan
GRADES = st.sampled_from([0.0, 1.0, 0.5, 1 / 3, 0.1])


@st.composite
def tables(draw, connected=False):
    """Labels [N, K] with holes; `connected`: the first model was observed on all queries, so that all compare."""
    shape = draw(st.integers(1, 15)), draw(st.integers(1, 6))
    Y = draw(arrays(np.float32, shape, elements=GRADES.map(np.float32)))
    missing = draw(arrays(np.bool_, shape))
    if connected:
        missing[:, 0] = False
    Y[missing] = NAN
    return Y


def by_least_squares(Y):
    """The levels from the whole system of query and model effects, as LAPACK solves it."""
    Y = Y[~np.isnan(Y).all(axis=1)].astype(np.float64)
    N, K = Y.shape
    cells = np.argwhere(~np.isnan(Y))
    design = np.zeros((len(cells), K + N))
    design[np.arange(len(cells)), cells[:, 1]] = 1
    design[np.arange(len(cells)), K + cells[:, 0]] = 1
    effects = np.linalg.lstsq(design, Y[tuple(cells.T)], rcond=None)[0]  # of minimal norm
    fitted = effects[:K] + effects[K:].mean()
    n = (~np.isnan(Y)).sum(axis=0)
    share = n / (n + 20 * (1 - n / N))
    drawn = share @ fitted / share.sum() * (1 - share) + fitted * share
    return np.where(n > 0, drawn, NAN)


def test_observed_means_skip_missing_labels():
    Y = np.array([[1, NAN, NAN], [0, 1, NAN], [NAN, 1, NAN]], np.float32)
    np.testing.assert_array_equal(observed_means(Y), [0.5, 1, NAN])


def test_the_level_by_hand():
    """Model 1 is better by 1 on the query that both saw; so the labels are a + b with b = 1, 0, 0 and levels 1/3, 4/3.

    Each saw two of three queries: they are drawn to 5/6 by 2 / (2 + 20/3) = 3/13.
    """
    Y = np.array([[1, NAN, NAN], [0, 1, NAN], [NAN, 1, NAN]], np.float32)
    expected = [5 / 6 - 3 / 26, 5 / 6 + 3 / 26]
    assert level(Y) == pytest.approx([*expected, NAN], nan_ok=True)
    # what is never observed has the mean of the others there
    assert model_means(Y) == pytest.approx([*expected, 5 / 6], abs=1e-7)
    assert model_means(np.full((2, 2), NAN, np.float32)).tolist() == [0.5, 0.5]


def test_levels_beyond_the_labels_are_cut_where_they_stand_for_probabilities():
    # On the query that all saw, the second is better by 1; the first knew all the others.
    Y = np.full((400, 2), NAN, np.float32)
    Y[:, 0] = 1
    Y[:200, 0], Y[:200, 1] = 0, 1
    assert level(Y)[1] > 1 and model_means(Y).tolist() == [0.5, 1]


@given(arrays(np.float32, (7, 3), elements=GRADES.map(np.float32)))
def test_on_a_dense_table_the_level_is_the_mean_bit_for_bit(Y):
    np.testing.assert_array_equal(level(Y), observed_means(Y))
    np.testing.assert_array_equal(model_means(Y), observed_means(Y).astype(np.float32))


@given(tables())
def test_queries_without_any_label_change_no_level(Y):
    padded = np.concatenate([Y, np.full((2, Y.shape[1]), NAN, np.float32)])
    np.testing.assert_array_equal(level(padded), level(Y))


@given(tables())
def test_a_complete_column_has_its_mean_bit_for_bit(Y):
    labelled = ~np.isnan(Y).all(axis=1)
    assume(labelled.any())
    complete = ~np.isnan(Y[labelled]).any(axis=0)
    np.testing.assert_array_equal(level(Y)[complete], observed_means(Y)[complete])


@given(tables())
def test_the_level_is_of_the_least_squares_solution_of_minimal_norm(Y):
    """Also where no query joins some models to others."""
    assume(not np.isnan(Y).all())
    np.testing.assert_allclose(level(Y), by_least_squares(Y), atol=1e-6)


def test_the_level_of_blocks_that_nothing_joins():
    Y = np.full((5, 4), NAN, np.float32)
    Y[:3, :2], Y[3:, 2] = [[1, 0], [1, 1], [1, 0]], [0, 1]  # the last was never observed
    np.testing.assert_allclose(level(Y), by_least_squares(Y), atol=1e-12)


@given(tables(connected=True), st.integers(0, 14), st.floats(-2, 2))
def test_an_easier_query_raises_all_levels_alike(Y, query, by):
    """Whoever saw it: with c more for each label of one query, each model has c / N more."""
    easier = Y.astype(np.float64)
    easier[query % len(Y)] += by
    np.testing.assert_allclose(level(easier), level(Y) + by / len(Y), atol=1e-6)


@given(tables(connected=True), st.randoms())
def test_neither_the_order_of_the_models_nor_of_the_queries_matters(Y, chance):
    models = chance.sample(range(Y.shape[1]), Y.shape[1])
    queries = chance.sample(range(len(Y)), len(Y))
    np.testing.assert_allclose(level(Y[queries][:, models]), level(Y)[models], atol=1e-9)


def test_a_model_seen_on_the_easy_queries_is_not_better_for_it():
    """Two models with the same chance on each query; the first was run on the easy half alone."""
    rng = np.random.default_rng(0)
    chance = np.repeat([0.9, 0.3], 500)[:, None]
    Y = (rng.random((1000, 3)) < chance + np.array([0, 0, 0.05])).astype(np.float32)
    Y[500:, 0] = NAN
    assert observed_means(Y).argmax() == 0 and level(Y).argmax() == 2
    assert level(Y)[0] == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize("K", [3, 4, 9, 40])
@pytest.mark.parametrize("labels", [1, 2])
def test_a_label_or_two_make_no_best_model(K, labels):
    """Not even right answers where all others fail, of which least squares make more than 1."""
    N = 200
    Y = (np.arange(N)[:, None] < np.linspace(0.4, 0.8, K) * N).astype(np.float32)  # .4 to .8
    lucky = np.full((N, 1), NAN, np.float32)
    lucky[-labels:] = 1
    found = level(np.concatenate([Y, lucky], axis=1))
    assert found[:K].tolist() == observed_means(Y).tolist()
    assert found[:K].mean() < found[K] < found[K - 1]
