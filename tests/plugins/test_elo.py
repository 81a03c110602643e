"""Elo: its arithmetic by hand and by a naive replay, its properties, and its identity with kNN."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rph_plugins.routers import elo, knn
from rph_plugins.routers.elo import (
    GRID,
    MEAN,
    POINTS,
    UNSEEN,
    Config,
    EloRouter,
    Replay,
    bradley_terry,
    fit_many,
    global_ratings,
    local_ratings,
    wins,
)
from tests.worlds import as_queries, labelled, some_queries, world

from rph import Trial
from rph.arrays import model_means

ROUNDING = 2e-3  # Elo points: float32 sums in another order


def score(train, queries, variant):
    router = EloRouter()
    router.fit(train, train, variant=variant, seed=42, device="cpu")
    return router.scores(queries)


def naive(train, queries, variant):
    """The local part as loops over neighbours and pairs of models, in float64."""
    unit = train.X / np.linalg.norm(train.X, axis=1, keepdims=True)
    start = global_ratings(train.Y).astype(np.float64)
    usable = np.flatnonzero(~np.isnan(train.Y).all(axis=1))
    out = np.empty((len(queries), len(start)))
    for i, x in enumerate(queries.X):
        near = np.argsort(-(unit[usable] @ (x / np.linalg.norm(x))), kind="stable")[: variant.neighbours]
        R = start.copy()
        for q in usable[near][::-1]:
            seen = np.flatnonzero(~np.isnan(train.Y[q]))
            m = len(seen)
            if m < 2:
                continue
            comparisons = m - 1 if variant.pairs == "all-opponents" else 1
            kk = variant.step * comparisons / (m * (m - 1) / 2)
            moves = np.zeros(len(start))
            for a in seen:
                for b in seen:
                    if a != b:
                        expected = 1 / (1 + 10 ** ((R[b] - R[a]) / 400))
                        moves[a] += kk * ((1 + train.Y[q, a] - train.Y[q, b]) / 2 - expected)
            R += moves
        out[i] = variant.global_weight * start + (1 - variant.global_weight) * R
    return out


def replay(start, labels, step, pairs="all-opponents"):
    """Ratings [K] after replaying labels [k, K], nearest first."""
    labels = torch.tensor(labels, dtype=torch.float32)[:, None, :]
    replays = [Replay(len(labels), step, pairs)]
    return local_ratings(torch.tensor(start, dtype=torch.float32), labels, replays)[0, 0].numpy()


# --- by hand ----------------------------------------------------------------------------------------


def test_wins_count_ties_as_half_and_only_pairs_observed_together():
    Y = np.array([[1, 0, np.nan], [1, 1, 0], [np.nan, 0, 0]], np.float32)
    assert wins(Y).tolist() == [[0.5 * 2, 1.5, 1], [0.5, 0.5 * 3, 1.5], [0, 0.5, 0.5 * 2]]


def test_two_models_differ_by_the_log_odds_of_their_wins():
    Y = np.array([[1, 0]] * 7 + [[0, 1]] * 2 + [[1, 1]] * 4, np.float32)
    high, low = global_ratings(Y)
    assert high - low == pytest.approx(400 * np.log10((7 + 2 + 0.5) / (2 + 2 + 0.5)), abs=1e-3)
    assert high + low == pytest.approx(2000, abs=1e-3)


def test_the_global_ratings_solve_the_bradley_terry_equations():
    W = wins(world(K=6, missing=0.4).Y) + 0.5
    r = bradley_terry(W)
    p = 1 / (1 + np.exp(r[None, :] - r[:, None]))
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose((W * off).sum(axis=1), ((W + W.T) * p * off).sum(axis=1), rtol=1e-10)
    assert r.mean() == pytest.approx(0, abs=1e-12)


def test_one_update_between_equal_models_moves_half_a_step_each():
    # m = 2: one comparison, kk = Kf * 1 / 1, S - E = 1 - 1/2
    np.testing.assert_allclose(replay([0, 0], [[1, 0]], 32.0), [16, -16], atol=1e-4)


def test_the_expected_pair_step_by_hand_with_three_models():
    # m = 3, three pairs, M = 2: kk = 32 * 2 / 3; the winner beats two, each loser loses one and ties one
    np.testing.assert_allclose(
        replay([0] * 3, [[1, 0, 0]], 32.0), np.array([1, -0.5, -0.5]) * 64 / 3, rtol=1e-5
    )
    # M = 1: a half of that
    np.testing.assert_allclose(
        replay([0] * 3, [[1, 0, 0]], 32.0, "one"), np.array([1, -0.5, -0.5]) * 32 / 3, rtol=1e-5
    )


def test_neighbours_are_replayed_farthest_to_nearest_so_that_the_nearest_weighs_most():
    first, second = replay([0, 0], [[1, 0], [0, 1]], 32.0)  # the nearest says: the first model
    assert first > 0 > second


def test_a_score_mixes_global_and_local_by_the_global_weight():
    train = labelled([[1, 0], [0, 1]], [[1, 0], [0, 1]])  # equal models
    east = as_queries([[1, 0]])
    np.testing.assert_allclose(
        score(train, east, Config(1, 32.0, global_weight=0.0)), [[1016, 984]], atol=1e-3
    )
    np.testing.assert_allclose(
        score(train, east, Config(1, 32.0, global_weight=0.75)), [[1004, 996]], atol=1e-3
    )


# --- against a naive replay -------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.6])
@pytest.mark.parametrize(
    "variant", [GRID[0], GRID[1], GRID[-1], Config(400, 4.0, global_weight=0.0)], ids=str
)
def test_scores_are_those_of_a_naive_replay(variant, missing):
    train, queries = world(K=5, missing=missing), some_queries(12)
    np.testing.assert_allclose(score(train, queries, variant), naive(train, queries, variant), atol=0.02)


@settings(max_examples=20)
@given(
    n=st.integers(1, 40),
    K=st.integers(1, 5),
    missing=st.sampled_from([0.0, 0.3, 0.9]),
    pairs=st.sampled_from(["all-opponents", "one"]),
    seed=st.integers(0, 1000),
)
def test_any_small_table_scores_as_the_naive_replay_and_finite(n, K, missing, pairs, seed):
    train, queries = world(n, K, seed=seed, missing=missing), some_queries(3, seed=seed + 1)
    assume(not np.isnan(train.Y).all())
    variant = Config(20, 16.0, pairs, 0.25)
    scores = score(train, queries, variant)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, naive(train, queries, variant), atol=0.02)


# --- properties of the method -----------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_without_neighbours_the_score_is_the_global_rating_for_every_weight(p):
    train = world()
    scores = score(train, some_queries(), Config(0, 16.0, global_weight=p))
    np.testing.assert_array_equal(scores, np.tile(global_ratings(train.Y), (50, 1)))


def test_all_weight_on_the_global_part_routes_every_query_to_one_model():
    train = world()
    scores = score(train, some_queries(), Config(100, 16.0, global_weight=1.0))
    np.testing.assert_array_equal(scores, np.tile(global_ratings(train.Y), (50, 1)))


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), missing=st.sampled_from([0.0, 0.5]), K=st.integers(2, 8))
def test_every_update_conserves_the_sum_of_the_ratings(seed, missing, K):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (30, K)).astype(np.float32)
    labels[rng.random(labels.shape) < missing] = np.nan
    start = rng.normal(0, 150, K)
    for depth in (1, 30):
        assert replay(start, labels[:depth], 32.0).sum() == pytest.approx(start.sum(), abs=ROUNDING * K)


def test_adding_100_to_all_ratings_changes_nothing_but_the_level():
    rng = np.random.default_rng(0)
    labels, start = rng.integers(0, 2, (40, 5)), rng.normal(0, 100, 5)
    np.testing.assert_allclose(
        replay(start + 100, labels, 16.0), replay(start, labels, 16.0) + 100, atol=0.01
    )


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), K=st.sampled_from([2, 5, 112]))
def test_on_complete_labels_the_global_order_is_that_of_the_means(seed, K):
    rng = np.random.default_rng(seed)
    Y = (rng.random((200, K)) < rng.random(K)).astype(np.float32)
    ratings, sums = global_ratings(Y), Y.sum(axis=0)
    assert (np.diff(ratings[np.argsort(sums)]) >= -1e-3).all()  # equal sums: equal but for rounding
    higher = sums[:, None] > sums[None, :]
    assert (ratings[:, None] > ratings[None, :])[higher].all()


def test_the_order_of_the_training_queries_does_not_move_the_global_ratings():
    Y = world(2000, K=11).Y
    shuffled = Y[np.random.default_rng(0).permutation(len(Y))]
    np.testing.assert_array_equal(global_ratings(shuffled), global_ratings(Y))


@pytest.mark.parametrize("labels", [np.ones((1, 11)), np.zeros((1, 11))])
def test_a_tie_of_all_models_pulls_ratings_together_without_changing_their_order(labels):
    start = np.sort(np.random.default_rng(0).normal(0, 80, 11))
    for step in (4.0, 32.0):
        assert 2 * step * 0.00144 < 1  # kk * m = 2 Kf: the range in which the order is safe
        after = replay(start, labels, step)
        assert (np.diff(after) > 0).all()
        assert np.ptp(after) < np.ptp(start)


def test_all_pairs_at_the_full_step_would_overturn_the_order_of_112_tied_models():
    # Kf = 32 for each of the 111 opponents, as the naive replay has it: kk * m * .00144 = 5.2
    start = np.linspace(-20, 20, 112)
    assert (np.diff(replay(start, np.ones((1, 112)), 32.0 * 112 / 2)) < 0).all()


def test_with_a_vanishing_step_local_ratings_are_the_global_ones():
    train = world()
    scores = score(train, some_queries(), Config(100, 1e-6, global_weight=0.0))
    np.testing.assert_allclose(scores, np.tile(global_ratings(train.Y), (50, 1)), atol=1e-3)


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), K=st.integers(2, 8), N=st.integers(5, 60))
def test_local_bradley_terry_chooses_as_knn_where_that_choice_is_unique(seed, K, N):
    """Every pair plays as many games, so that a model's wins are affine in the sum of its labels.

    A virtual tie of 1e-6 per pair, equal for all, only keeps a model that never loses finite.
    """
    rng = np.random.default_rng(seed)
    neighbours = (rng.random((N, K)) < rng.uniform(0.3, 0.7, K)).astype(np.float32)
    means = neighbours.mean(axis=0)
    ratings = bradley_terry(wins(neighbours) + 1e-6)
    higher = means[:, None] > means[None, :]
    assert (ratings[:, None] > ratings[None, :])[higher].all()
    if (means == means.max()).sum() == 1:
        assert ratings.argmax() == means.argmax()


def test_small_steps_remember_as_many_neighbours_as_knn_averages():
    train, queries = world(1500, seed=3), some_queries(400)
    agreements = []
    for variant in (v for v in GRID if v.global_weight == 0 and v.step <= 2):
        near = knn.KnnRouter()
        near.fit(train, train, variant=knn.Config(variant.neighbours), seed=42, device="cpu")
        means = near.scores(queries)
        second, first = np.sort(means, axis=1)[:, -2:].T
        clear = first - second > 0.02
        assert clear.mean() > 0.5
        same = score(train, queries, variant).argmax(axis=1) == means.argmax(axis=1)
        agreements.append(same[clear].mean())
    assert max(agreements) > 0.95


def test_a_training_query_left_out_is_none_of_its_neighbours():
    train = world(40)
    group = fit_many(train, train, [Trial(variant=v, seed=42) for v in TWO], "cpu")
    left_out = np.stack(group.left_out_scores())
    for i in range(40):
        rest = replace(group, X=np.delete(group.X, i, axis=0), Y=np.delete(group.Y, i, axis=0))
        alone = np.stack(rest.scores(as_queries(train.X[i : i + 1])))
        np.testing.assert_allclose(left_out[:, i], alone[:, 0], atol=ROUNDING)


def test_a_model_never_observed_lies_4000_points_below_the_pool_and_is_never_moved():
    train = world(missing=0.3)
    train.Y[:, 2] = np.nan
    ratings = global_ratings(train.Y)
    assert ratings[[0, 1, 3]].mean() == pytest.approx(MEAN, abs=1e-3)
    assert ratings[2] == MEAN - UNSEEN
    scores = score(train, some_queries(), Config(100, 32.0, global_weight=0.0))
    assert (scores[:, 2] == MEAN - UNSEEN).all()


def test_a_model_not_observed_on_the_neighbours_keeps_its_global_rating():
    train = world()
    train.Y[1:, 0] = np.nan
    scores = score(train, as_queries(-train.X[:1]), Config(20, 32.0, global_weight=0.0))
    assert scores[0, 0] == pytest.approx(global_ratings(train.Y)[0], abs=1e-4)


def test_a_model_that_wins_or_loses_always_has_a_finite_rating_beyond_all_others():
    Y = world(5000, K=4).Y
    Y[:, 1], Y[:, 3] = 1, 0
    ratings = global_ratings(Y)
    assert ratings.argmax() == 1 and ratings.argmin() == 3
    assert ratings.min() > MEAN - UNSEEN and np.isfinite(ratings).all()


def test_a_chain_of_models_that_only_ever_meet_their_neighbour_and_lose_still_scores_finite():
    Y = np.full((300 * 11, 12), np.nan, np.float32)
    for i in range(11):
        Y[300 * i : 300 * (i + 1), i], Y[300 * i : 300 * (i + 1), i + 1] = 0, 1
    ratings = global_ratings(Y)
    assert (np.diff(ratings) > 0).all()
    X = np.random.default_rng(0).standard_normal((len(Y), 8))
    assert np.isfinite(score(labelled(X, Y), some_queries(), Config(100, 32.0))).all()


def test_ratings_far_apart_do_not_overflow():
    assert np.isfinite(replay([20000, 0, -20000], np.ones((5, 3)), 32.0)).all()


# --- properties of every router ---------------------------------------------------------------------

TWO = [Config(20, 32.0), Config(50, 8.0, "one", 0.0)]


@pytest.mark.parametrize("variant", TWO, ids=str)
def test_permuting_the_models_permutes_the_scores(variant):
    train, queries = world(missing=0.2, K=6), some_queries()
    order = np.array([3, 5, 0, 1, 4, 2])
    permuted = score(labelled(train.X, train.Y[:, order]), queries, variant)
    np.testing.assert_allclose(permuted, score(train, queries, variant)[:, order], atol=ROUNDING)


@pytest.mark.parametrize("K", [4, 112])
@pytest.mark.parametrize("variant", TWO, ids=str)
def test_scores_do_not_depend_on_the_batch_or_its_order(variant, K):
    train, queries = world(missing=0.2, K=K), some_queries(300)
    whole = score(train, queries, variant)
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_array_equal(score(train, as_queries(queries.X[order]), variant), whole[order])
    for i in (0, 17, 299):
        np.testing.assert_array_equal(score(train, as_queries(queries.X[i : i + 1]), variant)[0], whole[i])


def test_only_train_labels_are_read():
    train, queries = world(), some_queries()
    poison = np.full((50, 4), np.nan, np.float32)
    router = EloRouter()
    router.fit(
        labelled(train.X, train.Y, C=np.full_like(train.Y, np.nan)),
        labelled(queries.X, poison, C=poison),
        variant=GRID[0],
        seed=1,
        device="cpu",
    )
    np.testing.assert_array_equal(router.scores(queries), score(train, queries, GRID[0]))


def test_one_model_and_a_model_that_is_always_right():
    queries = some_queries()
    np.testing.assert_array_equal(score(world(K=1), queries, GRID[0]), np.full((50, 1), 1000))
    train = world()
    train.Y[:, 2] = 1
    for variant in GRID:
        assert (score(train, queries, variant).argmax(axis=1) == 2).all()


def test_labels_that_do_not_depend_on_the_query_cost_no_more_than_chance_against_the_best_single_model():
    rng = np.random.default_rng(3)
    p = np.array([0.3, 0.5, 0.75])
    train = labelled(rng.standard_normal((3000, 8)), rng.random((3000, 3)) < p)
    queries, Y = some_queries(2000), rng.random((2000, 3)) < p
    routed = Y[np.arange(2000), score(train, queries, GRID[0]).argmax(axis=1)]
    difference = routed.astype(float) - Y[:, 2]
    assert difference.mean() >= -2 * difference.std() / np.sqrt(2000) - 1e-9


@pytest.mark.parametrize("variant", TWO, ids=str)
def test_a_router_comes_back_from_its_state_with_the_same_scores(variant):
    train, queries = world(missing=0.3), some_queries()
    router = EloRouter()
    router.fit(train, train, variant=variant, seed=42, device="cpu")
    again = EloRouter.from_state(router.state(), variant=variant, device="cpu")
    assert all(isinstance(array, np.ndarray) for array in router.state().values())
    np.testing.assert_array_equal(again.scores(queries), router.scores(queries))


# --- fitting many at once ---------------------------------------------------------------------------


@pytest.mark.parametrize(("K", "n", "missing"), [(2, 90, 0.0), (5, 500, 0.6), (112, 450, 0.6)])
def test_fitting_the_grid_at_once_equals_fitting_one_by_one(K, n, missing):
    train, queries = world(n, K=K, missing=missing), some_queries(300 if K < 112 else 2)
    group = fit_many(train, train, [Trial(variant=v, seed=42) for v in GRID], "cpu").scores(queries)
    for variant, together in zip(GRID, group, strict=True):
        alone = score(train, queries, variant)
        np.testing.assert_allclose(together, alone, atol=1e-3, err_msg=str(variant))


def test_the_grid_is_served_by_one_search_of_its_largest_n(monkeypatch):
    searched = []

    def counting(queries, train, k, device):
        searched.append(k)
        return original(queries, train, k, device)

    original = elo.nearest
    monkeypatch.setattr(elo, "nearest", counting)
    train = world()
    fit_many(train, train, [Trial(variant=v, seed=42) for v in GRID], "cpu").scores(some_queries(3))
    assert searched == [1000]


def test_memory_bounded_parts_of_a_block_do_not_change_the_scores(monkeypatch):
    train, queries = world(missing=0.4), some_queries(60)
    before = score(train, queries, GRID[0])
    monkeypatch.setattr(elo, "PAIRS", {"cpu": 100})
    np.testing.assert_array_equal(score(train, queries, GRID[0]), before)


def test_labels_under_the_mask_are_never_read():
    """What an array held before a label was struck out must not come through: all NaN payloads are one."""
    train, queries = world(missing=0.6), some_queries()
    payload = train.Y.copy()
    missing = np.isnan(payload)
    rng = np.random.default_rng(0)
    payload.view(np.uint32)[missing] = 0x7FC00000 | rng.integers(1, 1 << 20, missing.sum(), dtype=np.uint32)
    np.testing.assert_array_equal(
        score(labelled(train.X, payload), queries, GRID[0]), score(train, queries, GRID[0])
    )


def test_elo_points_are_400_per_factor_ten_of_the_odds():
    assert pytest.approx(400) == POINTS * np.log(10)


# --- real labels ------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_on_real_labels_the_global_order_is_that_of_the_means_and_bradley_terry_chooses_as_knn(real_data):
    import pandas as pd

    train = pd.read_parquet(real_data / "routerdc7" / "train.parquet")
    Y = train[[column for column in train if column.startswith("correct/")]].to_numpy("float32")
    assert not np.isnan(Y).any()
    np.testing.assert_array_equal(np.argsort(global_ratings(Y)), np.argsort(model_means(Y)))
    rng = np.random.default_rng(0)
    unique = 0
    for _ in range(100):
        near = Y[rng.integers(0, len(Y), 50)]
        sums = near.sum(axis=0)
        if (sums == sums.max()).sum() == 1:
            unique += 1
            assert bradley_terry(wins(near) + 1e-6).argmax() == sums.argmax()
    assert unique > 50


MUTATIONS = [
    ("(m + m * y - y.sum(", "(m - m * y + y.sum(", "wins and losses change places"),
    ("seen = (~labels.isnan()).float()", "seen = torch.ones_like(labels)", "a model not observed loses"),
    (
        "for t in reversed(range(depth)):",
        "for t in range(depth):",
        "the farthest neighbour has the last word",
    ),
    (
        "nearest_others(self.X, self._depth",
        "nearest(self.X, self.X, self._depth",
        "a query that is left out is its own nearest neighbour",
    ),
]
