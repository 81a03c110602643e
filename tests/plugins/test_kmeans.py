"""kmeans: what UniRoute's k-means form promises, and what every router owes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rph import Labelled, Queries, Trial, UsageError
from rph.clusters import cluster_means, kmeans, nearest
from rph.registry import installed

NAN = np.nan


@pytest.fixture(scope="module")
def spec():
    return installed().load("router", "kmeans").spec


def labelled(X, Y, C=None):
    return Labelled(X=X, Y=Y, C=C, texts=[""] * len(X), models=tuple(f"m{i}" for i in range(Y.shape[1])))


def world(n=600, d=8, K=4, groups=6, missing=0.0, seed=0):
    """Queries of a few groups; in each group the models have accuracies of their own."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, n)
    X = (3 * np.random.default_rng(99).normal(size=(groups, d))[group] + rng.normal(size=(n, d))).astype("f4")
    P = np.random.default_rng(98).random((groups, K))[group]
    Y = (rng.random((n, K)) < P).astype("f4")
    Y[rng.random(Y.shape) < missing] = NAN
    return labelled(X, Y)


TRAIN, VAL, TEST = world(), world(200, seed=1), world(300, seed=2)


def fit(spec, train=TRAIN, val=VAL, seed=0, **config):
    variant = replace(spec.grid[0], **{"clusters": 12, **config})
    router = spec.router()
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


def scores(spec, queries=TEST, **how):
    return fit(spec, **how).scores(queries)


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_default_first(spec):
    Config = type(spec.grid[0])
    assert spec.grid[0] == Config()
    wanted = {(c, 5.0) for c in (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 400, 600)}
    wanted |= {(c, 0.0) for c in (50, 100, 200)}
    assert len(spec.grid) == 15 and {(v.clusters, v.shrinkage) for v in spec.grid} == wanted


def test_the_card_says_stochastic_and_calibrated(spec):
    assert (spec.card.family, spec.card.paper, spec.card.year) == ("clusters", "arXiv:2502.08773", 2025)
    assert not spec.card.deterministic and spec.card.calibrated


# --- the method ---------------------------------------------------------------------------------------


def test_one_cluster_routes_everything_to_the_best_single_model(spec):
    found = scores(spec, clusters=1)
    assert found == pytest.approx(np.tile(TRAIN.Y.mean(axis=0), (len(TEST), 1)), abs=1e-6)
    assert set(found.argmax(axis=1)) == {TRAIN.Y.mean(axis=0).argmax()}


def test_a_cluster_per_query_without_shrinkage_is_the_nearest_neighbour(spec):
    # The router caps the number of clusters, so the state of the uncapped one is made here.
    X = torch.tensor(TRAIN.unit[:150])
    found = kmeans(X, 150, generator=torch.Generator().manual_seed(0))
    means = cluster_means(TRAIN.Y[:150], found.assignment, 150, shrinkage=0)
    state = {"centres": found.centres.numpy(), "means": means}
    router = spec.router.from_state(state, variant=spec.grid[0], device="cpu")
    neighbour = (TEST.unit @ X.numpy().T).argmax(axis=1)
    assert np.array_equal(router.scores(TEST), TRAIN.Y[neighbour])


def test_exchanging_labels_within_a_cluster_leaves_scores_unchanged(spec):
    router = fit(spec)
    cluster = nearest(torch.tensor(TRAIN.unit), router.centres).numpy()
    rng = np.random.default_rng(0)
    Y = TRAIN.Y.copy()
    for c in np.unique(cluster):
        rows = np.flatnonzero(cluster == c)
        Y[rows] = Y[rng.permutation(rows)]
    assert not np.array_equal(Y, TRAIN.Y)
    assert np.array_equal(scores(spec, train=labelled(TRAIN.X, Y)), router.scores(TEST))


def test_scores_are_constant_inside_a_cluster(spec):
    router = fit(spec)
    found, cluster = router.scores(TEST), nearest(torch.tensor(TEST.unit), router.centres).numpy()
    assert len(np.unique(cluster)) > 3
    for c in np.unique(cluster):
        assert (found[cluster == c] == found[cluster == c][0]).all()


def test_scores_on_train_average_to_the_observed_means_without_shrinkage(spec):
    found = scores(spec, TRAIN, shrinkage=0.0)
    assert found.mean(axis=0) == pytest.approx(TRAIN.Y.mean(axis=0), abs=1e-5)


def test_a_score_is_the_shrunk_mean_label_of_the_cluster(spec):
    router = fit(spec, shrinkage=5.0)
    cluster = nearest(torch.tensor(TRAIN.unit), router.centres).numpy()
    rows = TRAIN.Y[cluster == cluster[0]]
    expected = (rows.sum(axis=0) + 5 * TRAIN.Y.mean(axis=0)) / (len(rows) + 5)
    assert router.scores(TRAIN)[0] == pytest.approx(expected, abs=1e-6)


def test_the_length_of_an_embedding_does_not_matter(spec):
    longer = np.random.default_rng(0).uniform(0.5, 5, (len(TEST), 1)).astype("f4")
    router = fit(spec)
    assert np.array_equal(router.scores(Queries(X=TEST.X * longer, texts=TEST.texts)), router.scores(TEST))


@pytest.mark.parametrize(("rows", "clusters"), [(7, 1), (60, 3), (599, 29)])
def test_there_is_at_most_one_cluster_per_twenty_queries(spec, rows, clusters):
    few = labelled(TRAIN.X[:rows], TRAIN.Y[:rows])
    assert len(fit(spec, train=few, clusters=600).centres) == clusters


def test_it_beats_the_best_single_model_where_groups_differ(spec):
    found, best = scores(spec), TRAIN.Y.mean(axis=0).argmax()
    assert TEST.Y[np.arange(len(TEST)), found.argmax(axis=1)].mean() > TEST.Y[:, best].mean() + 0.05


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_bit_for_bit(spec):
    trials = [Trial(variant=v, seed=seed) for seed in (42, 7) for v in spec.grid]
    together = spec.fit_many(TRAIN, VAL, trials, "cpu").scores(TEST)
    assert len(together) == len(trials)
    for trial, found in zip(trials, together, strict=True):
        router = spec.router()
        router.fit(TRAIN, VAL, variant=trial.variant, seed=trial.seed, device="cpu")
        assert np.array_equal(found, router.scores(TEST))


def test_trials_of_equal_seed_and_number_of_clusters_share_one_clustering(spec, monkeypatch):
    module, calls = installed().load("router", "kmeans").module, []
    once = module.kmeans
    monkeypatch.setattr(module, "kmeans", lambda *a, **k: calls.append(a[1]) or once(*a, **k))
    Config = type(spec.grid[0])
    configs = [Config(20), Config(20, 0.0), Config(400), Config(600), Config(30)]  # the cap is 30
    spec.fit_many(TRAIN, VAL, [Trial(variant=c, seed=s) for s in (1, 2) for c in configs], "cpu")
    assert calls == [20, 30] * 2


# --- what every router owes ---------------------------------------------------------------------------


def test_permuting_the_models_permutes_the_scores(spec):
    order = [2, 0, 3, 1]
    permuted = labelled(TRAIN.X, np.ascontiguousarray(TRAIN.Y[:, order]))
    assert np.array_equal(scores(spec, train=permuted), scores(spec)[:, order])


def test_scores_do_not_depend_on_batch_or_order(spec):
    router, order = fit(spec), np.random.default_rng(0).permutation(len(TEST))
    whole = router.scores(TEST)
    one_by_one = [router.scores(Queries(X=TEST.X[i : i + 1], texts=[""])) for i in range(40)]
    assert np.array_equal(np.concatenate(one_by_one), whole[:40])
    shuffled = router.scores(Queries(X=TEST.X[order], texts=[""] * len(TEST)))
    assert np.array_equal(shuffled, whole[order])


def test_test_labels_val_labels_and_costs_are_never_read(spec):
    poison = np.full_like(TEST.Y, NAN)
    assert np.array_equal(scores(spec, labelled(TEST.X, poison, poison)), scores(spec))
    costs = labelled(TRAIN.X, TRAIN.Y, np.full_like(TRAIN.Y, NAN))
    blind = labelled(VAL.X, np.full_like(VAL.Y, NAN))
    assert np.array_equal(scores(spec, train=costs, val=blind), scores(spec))


def test_a_model_that_is_always_right_scores_one(spec):
    Y = TRAIN.Y.copy()
    Y[:, 2] = 1
    found = scores(spec, train=labelled(TRAIN.X, Y))
    assert found[:, 2] == pytest.approx(1) and (found.argmax(axis=1) == 2).all()


def test_labels_that_have_nothing_to_do_with_queries_give_about_the_best_single_model(spec):
    rng, p = np.random.default_rng(3), [0.4, 0.5, 0.6, 0.7]

    def independent(n):
        return labelled(rng.normal(size=(n, 8)).astype("f4"), (rng.random((n, 4)) < p).astype("f4"))

    train, test = independent(2000), independent(2000)
    chosen = test.Y[np.arange(2000), scores(spec, test, train=train).argmax(axis=1)]
    standard_error = np.sqrt(0.7 * 0.3 / 2000)
    assert chosen.mean() > test.Y[:, 3].mean() - 2 * standard_error


def test_a_model_never_run_gets_the_mean_of_the_pool(spec):
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    found = scores(spec, train=labelled(TRAIN.X, Y))
    assert found[:, 1] == pytest.approx(Y[:, [0, 2, 3]].mean(), abs=1e-6)
    assert np.array_equal(found[:, [0, 2, 3]], scores(spec)[:, [0, 2, 3]])


def test_with_most_labels_missing_only_the_observed_ones_count(spec):
    sparse = world(missing=0.6)
    router = fit(spec, train=sparse, shrinkage=0.0)
    found = router.scores(sparse)
    cluster = nearest(torch.tensor(sparse.unit), router.centres).numpy()
    for c in np.unique(cluster):
        assert found[cluster == c][0] == pytest.approx(np.nanmean(sparse.Y[cluster == c], axis=0), abs=1e-6)
    other_nan = sparse.Y.copy()
    other_nan.view(np.uint32)[np.isnan(sparse.Y)] = 0xFFC12345  # a NaN all the same
    assert np.array_equal(scores(spec, sparse, train=labelled(sparse.X, other_nan), shrinkage=0.0), found)


def test_no_label_at_all_is_an_error_that_says_so(spec):
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(spec, train=labelled(TRAIN.X, np.full_like(TRAIN.Y, NAN)))


def test_a_router_from_its_state_gives_the_same_scores(spec):
    router = fit(spec)
    again = spec.router.from_state(router.state(), variant=spec.grid[0], device="cpu")
    assert all(isinstance(value, np.ndarray) for value in router.state().values())
    assert np.array_equal(again.scores(TEST), router.scores(TEST))


MUTATIONS = [
    (
        "cluster_means(known.Y, found",
        "cluster_means((known.Y == 1).astype(known.Y.dtype), found",
        "a missing label counts as wrong",
    ),
    (
        "shrinkage=variant.shrinkage)",
        "shrinkage=-variant.shrinkage)",
        "clusters are pushed away from the mean",
    ),
    (
        "to_device(queries.unit,",
        "to_device(queries.X,",
        "queries are assigned by another normalisation than the fit's",
    ),
]
