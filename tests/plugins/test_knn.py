"""kNN: its arithmetic by hand and by a naive loop, its properties, and its shared search."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rph_plugins.routers import knn
from rph_plugins.routers.knn import GRID, Config, KnnRouter, fit_many
from tests.worlds import as_queries, labelled, some_queries, world

from rph import Labelled, Trial, UsageError
from rph.arrays import model_means, observed_means

UNIFORM = [variant for variant in GRID if variant.weights == "uniform"]


def score(train, queries, variant):
    router = KnnRouter()
    router.fit(train, train, variant=variant, seed=42, device="cpu")
    return router.scores(queries)


def naive(train, queries, variant):
    """The method as sections and sums, one query and one model at a time, in float64."""
    unit = train.X / np.linalg.norm(train.X, axis=1, keepdims=True)
    fallback = model_means(train.Y)
    usable = np.flatnonzero(~np.isnan(train.Y).all(axis=1))
    out = np.empty((len(queries), train.Y.shape[1]))
    for i, x in enumerate(queries.X):
        cosines = unit[usable] @ (x / np.linalg.norm(x))
        near = np.argsort(-cosines, kind="stable")[: variant.k]
        weights = np.exp(cosines[near] / 0.05) if variant.weights == "softmax" else np.ones(len(near))
        for m in range(train.Y.shape[1]):
            labels = train.Y[usable[near], m]
            seen = ~np.isnan(labels)
            out[i, m] = np.average(labels[seen], weights=weights[seen]) if seen.any() else fallback[m]
    return out


# --- by hand ----------------------------------------------------------------------------------------

# Three training queries at 0, 30 and 90 degrees from (1, 0); two models.
HAND_X = [[1, 0], [np.sqrt(3) / 2, 0.5], [0, 1]]


def test_a_hand_computed_table_of_two_models():
    train = labelled(HAND_X, [[1, 0], [0, 0], [1, 1]])
    east = as_queries([[2, 0]])  # its length does not matter
    assert score(train, east, Config(1)).tolist() == [[1, 0]]
    assert score(train, east, Config(2)).tolist() == [[0.5, 0]]
    np.testing.assert_allclose(score(train, east, Config(3)), [[2 / 3, 1 / 3]], rtol=1e-6)


def test_softmax_weights_by_hand():
    train = labelled(HAND_X, [[1, 0], [0, 0], [1, 1]])
    w = np.exp(np.array([1, np.sqrt(3) / 2, 0]) / 0.05)
    np.testing.assert_allclose(
        score(train, as_queries([[1, 0]]), Config(3, "softmax")),
        [[(w[0] + w[2]) / w.sum(), w[2] / w.sum()]],
        rtol=1e-5,
    )


def test_a_missing_label_is_left_out_of_the_mean_and_is_not_zero():
    train = labelled(HAND_X, [[1, np.nan], [np.nan, 1], [0, 1]])
    assert score(train, as_queries([[1, 0]]), Config(2)).tolist() == [[1, 1]]


def test_where_no_neighbour_observed_a_model_its_train_level_stands_in():
    train = labelled([*HAND_X, [-1, 0]], [[1, np.nan], [0, np.nan], [1, 1], [1, 0]])
    # The first has .75 on all. The second was .5 behind it on the two queries that both saw: .25, which counts
    # 2 / (2 + 20 / 2) = 1/6 beside the other's 1, and is drawn to their mean by as much.
    middle = (0.75 + 0.25 / 6) / (1 + 1 / 6)
    expected = middle + (0.25 - middle) / 6
    assert score(train, as_queries([[1, 0]]), Config(2)) == pytest.approx(np.array([[0.5, expected]]))


def test_a_model_never_observed_gets_the_mean_of_the_pool():
    train = labelled(HAND_X, [[1, 0, np.nan], [0, 1, np.nan], [1, 1, np.nan]])
    scores = score(train, as_queries([[1, 0], [0, 1]]), Config(1))
    np.testing.assert_allclose(scores[:, 2], 2 / 3, rtol=1e-6)


# --- against others ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [Config(1), Config(7), Config(131), Config(60, "softmax"), Config(512)])
@pytest.mark.parametrize("missing", [0.0, 0.6])
def test_scores_are_those_of_a_naive_loop(variant, missing):
    train, queries = world(missing=missing), some_queries()
    np.testing.assert_allclose(score(train, queries, variant), naive(train, queries, variant), atol=2e-6)


def test_scores_are_those_of_scikit_learn():
    from sklearn.neighbors import KNeighborsRegressor

    train, queries = world(500, d=24), some_queries(d=24)
    model = KNeighborsRegressor(n_neighbors=40, metric="cosine", algorithm="brute").fit(train.X, train.Y)
    np.testing.assert_allclose(score(train, queries, Config(40)), model.predict(queries.X), atol=1e-6)


@settings(max_examples=25)
@given(
    n=st.integers(1, 60),
    K=st.sampled_from([1, 2, 3, 112]),
    k=st.integers(1, 80),
    missing=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 1000),
)
def test_any_small_table_scores_as_the_naive_loop_and_within_zero_and_one(n, K, k, missing, seed):
    train, queries = world(n, K, seed=seed, missing=missing), some_queries(4, seed=seed + 1)
    assume(not np.isnan(train.Y).all())  # an error, tested below
    for weights in ("uniform", "softmax"):
        scores = score(train, queries, Config(k, weights))
        np.testing.assert_allclose(scores, naive(train, queries, Config(k, weights)), atol=5e-6)
        assert scores.min() >= 0 and scores.max() <= 1


# --- properties of the method -----------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.6])
def test_all_training_queries_as_neighbours_route_every_query_to_the_model_of_the_best_mean(missing):
    train = world(missing=missing)
    scores = score(train, some_queries(), Config(len(train)))
    means = observed_means(train.observed.Y)
    np.testing.assert_allclose(scores, np.tile(means, (50, 1)), atol=1e-6)
    assert (scores.argmax(axis=1) == means.argmax()).all()


def test_one_neighbour_on_the_training_queries_gives_their_labels_back():
    train = world()
    np.testing.assert_array_equal(score(train, as_queries(train.X), Config(1)), train.Y)


def test_one_neighbour_other_than_the_query_itself_does_not_give_its_labels_back():
    train = world()
    others = [labelled(np.delete(train.X, i, 0), np.delete(train.Y, i, 0)) for i in range(40)]
    left_out = np.concatenate(
        [score(o, as_queries(train.X[i : i + 1]), Config(1)) for i, o in enumerate(others)]
    )
    assert not np.array_equal(left_out, train.Y[:40])


@pytest.mark.parametrize("variant", [Config(1), Config(3), Config(5, "softmax"), Config(100)])
def test_a_training_query_left_out_is_scored_as_if_it_had_never_been_there(variant):
    X = np.random.default_rng(3).standard_normal((30, 4)).astype(np.float32)
    X[5:20:5] = X[4]  # equal queries: the search may find others in a query's own place
    train = labelled(X, np.random.default_rng(4).integers(0, 2, (30, 3)))
    router = KnnRouter()
    router.fit(train, train, variant=variant, seed=42, device="cpu")
    left_out = router.left_out_scores()
    for i in range(30):
        others = np.arange(30) != i
        rest = labelled(X[others], train.Y[others])
        np.testing.assert_allclose(left_out[i], score(rest, as_queries(X[i : i + 1]), variant)[0], atol=1e-6)


@pytest.mark.parametrize("k", [2, 5])
def test_of_many_equal_queries_each_leaves_out_itself_only(k):
    train = labelled(np.ones((600, 2)), np.arange(600)[:, None] % 2)
    router = KnnRouter()
    router.fit(train, train, variant=Config(k), seed=42, device="cpu")
    expected = [np.mean([j % 2 for j in range(k + 1) if j != i][:k]) for i in range(600)]
    np.testing.assert_allclose(router.left_out_scores()[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize("k", [1, 10, 100])
def test_doubling_every_training_query_and_k_changes_nothing(k):
    train, queries = world(), some_queries()
    doubled = labelled(np.repeat(train.X, 2, axis=0), np.repeat(train.Y, 2, axis=0))
    np.testing.assert_array_equal(score(doubled, queries, Config(2 * k)), score(train, queries, Config(k)))


@pytest.mark.parametrize("variant", GRID, ids=str)
def test_removing_labels_of_one_model_leaves_the_others_bit_for_bit(variant):
    train, queries = world(900), some_queries()
    Y = train.Y.copy()
    Y[::3, 1] = np.nan
    before, after = score(train, queries, variant), score(labelled(train.X, Y), queries, variant)
    others = [0, 2, 3]
    np.testing.assert_array_equal(after[:, others], before[:, others])
    assert not np.array_equal(after[:, 1], before[:, 1])


# --- properties of every router ---------------------------------------------------------------------


@pytest.mark.parametrize("variant", [Config(20), Config(100, "softmax")], ids=str)
def test_permuting_the_models_permutes_the_scores(variant):
    train, queries = world(missing=0.2, K=6), some_queries()
    order = np.array([3, 5, 0, 1, 4, 2])
    permuted = score(labelled(train.X, train.Y[:, order]), queries, variant)
    np.testing.assert_array_equal(permuted, score(train, queries, variant)[:, order])


@pytest.mark.parametrize("variant", [Config(20), Config(100, "softmax")], ids=str)
def test_scores_do_not_depend_on_the_batch_or_its_order(variant):
    train, queries = world(missing=0.2), some_queries(300)
    whole = score(train, queries, variant)
    order = np.random.default_rng(0).permutation(300)
    np.testing.assert_array_equal(score(train, as_queries(queries.X[order]), variant), whole[order])
    for i in (0, 17, 299):
        np.testing.assert_array_equal(score(train, as_queries(queries.X[i : i + 1]), variant)[0], whole[i])


def test_only_train_labels_are_read():
    train, queries = world(), some_queries()
    poison = np.full((50, 4), np.nan, np.float32)
    poisoned_val = labelled(queries.X, poison, C=poison)
    router = KnnRouter()
    router.fit(
        Labelled(
            X=train.X, texts=train.texts, Y=train.Y, C=np.full_like(train.Y, np.nan), models=train.models
        ),
        poisoned_val,
        variant=Config(20),
        seed=1,
        device="cpu",
    )
    np.testing.assert_array_equal(router.scores(queries), score(train, queries, Config(20)))


def test_one_model_and_a_model_that_is_always_right():
    queries = some_queries()
    alone = world(K=1)
    assert score(alone, queries, Config(10)).shape == (50, 1)
    train = world()
    train.Y[:, 2] = 1
    for variant in GRID:
        scores = score(train, queries, variant)
        assert (scores[:, 2] == 1).all() and (scores.max(axis=1) == 1).all()


def test_labels_that_do_not_depend_on_the_query_cost_no_more_than_chance_against_the_best_single_model():
    rng = np.random.default_rng(3)
    p = np.array([0.3, 0.5, 0.6])
    train = labelled(rng.standard_normal((3000, 8)), rng.random((3000, 3)) < p)
    queries, Y = some_queries(2000), rng.random((2000, 3)) < p
    routed = Y[np.arange(2000), score(train, queries, Config(512)).argmax(axis=1)]
    best = Y[:, 2]
    difference = routed.astype(float) - best
    assert difference.mean() >= -2 * difference.std() / np.sqrt(2000) - 1e-9


@pytest.mark.parametrize("variant", [Config(20), Config(100, "softmax")], ids=str)
def test_a_router_comes_back_from_its_state_with_the_same_scores(variant):
    train, queries = world(missing=0.3), some_queries()
    router = KnnRouter()
    router.fit(train, train, variant=variant, seed=42, device="cpu")
    again = KnnRouter.from_state(router.state(), variant=variant, device="cpu")
    assert all(isinstance(array, np.ndarray) for array in router.state().values())
    np.testing.assert_array_equal(again.scores(queries), router.scores(queries))


# --- fitting many at once ---------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.6])
@pytest.mark.parametrize("n", [150, 700])
def test_fitting_the_grid_at_once_equals_fitting_one_by_one(missing, n):
    train, queries = world(n, missing=missing), some_queries(300)
    train = labelled(np.concatenate([train.X, train.X[:60]]), np.concatenate([train.Y, 1 - train.Y[:60]]))
    group = fit_many(train, train, [Trial(variant=v, seed=42) for v in GRID], "cpu").scores(queries)
    for variant, together in zip(GRID, group, strict=True):
        alone = score(train, queries, variant)
        if variant.weights == "uniform":
            np.testing.assert_array_equal(together, alone, err_msg=str(variant))
        np.testing.assert_allclose(together, alone, atol=1e-7, err_msg=str(variant))


def test_graded_labels_agree_within_the_stated_tolerance():
    train, queries = world(400), some_queries()
    train = labelled(train.X, np.random.default_rng(5).random(train.Y.shape))
    group = fit_many(train, train, [Trial(variant=v, seed=42) for v in GRID], "cpu").scores(queries)
    for variant, together in zip(GRID, group, strict=True):
        np.testing.assert_allclose(together, score(train, queries, variant), atol=1e-7)


def test_the_grid_is_served_by_one_search_of_its_largest_k(monkeypatch):
    searched = []

    def counting(queries, train, k, device):
        searched.append(k)
        return original(queries, train, k, device)

    original = knn.nearest
    monkeypatch.setattr(knn, "nearest", counting)
    train = world()
    fit_many(train, train, [Trial(variant=v, seed=42) for v in GRID], "cpu").scores(some_queries())
    assert searched == [1000]


def test_memory_bounded_parts_of_a_block_do_not_change_the_scores(monkeypatch):
    train, queries = world(missing=0.4), some_queries(300)
    whole = [score(train, queries, variant) for variant in (Config(20), Config(100, "softmax"))]
    monkeypatch.setattr(knn, "GATHERED", 1000)
    for before, variant in zip(whole, (Config(20), Config(100, "softmax")), strict=True):
        np.testing.assert_array_equal(score(train, queries, variant), before)


def test_a_pool_of_112_models_with_most_labels_missing_scores_as_the_naive_loop():
    train, queries = world(400, K=112, missing=0.6), some_queries(20)
    group = fit_many(train, train, [Trial(variant=v, seed=42) for v in GRID], "cpu").scores(queries)
    for variant, together in zip(GRID, group, strict=True):
        np.testing.assert_allclose(together, naive(train, queries, variant), atol=2e-6)


def test_labels_under_the_mask_are_never_read():
    """What an array held before a label was struck out must not come through: all NaN payloads are one."""
    train, queries = world(missing=0.6), some_queries()
    payload = train.Y.copy()
    missing = np.isnan(payload)
    rng = np.random.default_rng(0)
    payload.view(np.uint32)[missing] = 0x7FC00000 | rng.integers(1, 1 << 20, missing.sum(), dtype=np.uint32)
    np.testing.assert_array_equal(
        score(labelled(train.X, payload), queries, Config(20)), score(train, queries, Config(20))
    )


# --- real labels ------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_on_real_labels_neighbours_by_hashed_words_beat_the_best_single_model(real_data):
    import pandas as pd

    frames = {
        name: pd.read_parquet(real_data / "routerdc7" / f"{name}.parquet") for name in ("train", "test")
    }
    train, test = frames["train"].iloc[::3], frames["test"].iloc[::3]
    columns = [column for column in train if column.startswith("correct/")]
    memory = labelled(hashed_words(train["query"]), train[columns].to_numpy("float32"))
    queries, Y = as_queries(hashed_words(test["query"])), test[columns].to_numpy("float32")
    group = fit_many(memory, memory, [Trial(variant=v, seed=42) for v in GRID], "cpu").scores(queries)
    best_single = Y[:, model_means(memory.Y).argmax()].mean()
    routed = Y[np.arange(len(Y)), group[0].argmax(axis=1)].mean()
    assert routed > best_single
    np.testing.assert_array_equal(group[1], score(memory, queries, GRID[1]))


def hashed_words(texts, d=64):
    """Random projections of word counts: [N, d], no model needed."""
    import zlib

    directions = np.random.default_rng(0).standard_normal((4096, d)).astype(np.float32)
    rows = [[zlib.crc32(word.encode()) % 4096 for word in text.lower().split()[:200]] for text in texts]
    return np.stack([directions[np.unique(words)].sum(axis=0) if words else directions[0] for words in rows])


def test_no_label_at_all_is_an_error_that_says_so():
    train = labelled(np.ones((3, 2)), np.full((3, 2), np.nan))
    with pytest.raises(UsageError, match="no training query has a label"):
        score(train, some_queries(d=2), Config())


MUTATIONS = [
    (
        "gaps = np.flatnonzero(~seen.all(axis=0))",
        "gaps = np.flatnonzero(np.zeros(Y.shape[1]))",
        "a missing label counts as wrong",
    ),
    ("(cosines - cosines[:, :1])", "(cosines[:, :1] - cosines)", "far neighbours weigh more than near ones"),
    ("(place < k[:, None])", "(place <= k[:, None])", "one neighbour too many"),
]
