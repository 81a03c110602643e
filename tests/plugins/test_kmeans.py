"""kmeans: what UniRoute's k-means form promises, and what every router owes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import routers, worlds
from tests.worlds import grouped, labelled, unrelated

from rph import Queries, Trial, UsageError
from rph.registry import installed
from rph.training import clusters
from rph.training.clusters import cluster_means, kmeans, nearest_centre

NAN = np.nan


@pytest.fixture(scope="module")
def spec():
    return installed().load("router", "kmeans").spec


TRAIN, VAL, TEST = grouped(), grouped(200, seed=1), grouped(300, seed=2)


def fit(spec, train=TRAIN, val=VAL, seed=0, **config):
    variant = replace(spec.grid[0], **{"clusters": 12, **config})
    router = spec.router()
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


def scores(spec, queries=TEST, **how):
    return fit(spec, **how).scores(queries)


# --- the card and the grid ----------------------------------------------------------------------------


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
    cluster = nearest_centre(torch.tensor(TRAIN.unit), router.centres).numpy()
    rng = np.random.default_rng(0)
    Y = TRAIN.Y.copy()
    for c in np.unique(cluster):
        rows = np.flatnonzero(cluster == c)
        Y[rows] = Y[rng.permutation(rows)]
    assert not np.array_equal(Y, TRAIN.Y)
    assert np.array_equal(scores(spec, train=labelled(TRAIN.X, Y)), router.scores(TEST))


def test_scores_are_constant_inside_a_cluster(spec):
    router = fit(spec)
    found, cluster = router.scores(TEST), nearest_centre(torch.tensor(TEST.unit), router.centres).numpy()
    assert len(np.unique(cluster)) > 3
    for c in np.unique(cluster):
        assert (found[cluster == c] == found[cluster == c][0]).all()


def test_scores_on_train_average_to_the_observed_means_without_shrinkage(spec):
    found = scores(spec, TRAIN, shrinkage=0.0)
    assert found.mean(axis=0) == pytest.approx(TRAIN.Y.mean(axis=0), abs=1e-5)


def test_a_score_is_the_shrunk_mean_label_of_the_cluster(spec):
    router = fit(spec, shrinkage=5.0)
    cluster = nearest_centre(torch.tensor(TRAIN.unit), router.centres).numpy()
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
    routers.check_beats_best_single(scores(spec), TRAIN, TEST)


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_bit_for_bit(spec):
    trials = [Trial(variant=v, seed=seed) for seed in (42, 7) for v in spec.grid]
    for _, found, alone in routers.fitted_both_ways(spec, TRAIN, VAL, trials, TEST):
        assert np.array_equal(found, alone)


def test_trials_of_equal_seed_and_number_of_clusters_share_one_clustering(spec, monkeypatch):
    calls, once = [], clusters.kmeans
    monkeypatch.setattr(clusters, "kmeans", lambda *a, **k: calls.append(a[1]) or once(*a, **k))
    Config = type(spec.grid[0])
    configs = [Config(20), Config(20, 0.0), Config(400), Config(600), Config(30)]  # the cap is 30
    spec.fit_many(TRAIN, VAL, [Trial(variant=c, seed=s) for s in (1, 2) for c in configs], "cpu")
    assert calls == [20, 30] * 2


def test_every_seed_starts_its_clusters_anew(spec):
    for count in (5, 12):
        first = scores(spec, clusters=count)
        assert np.array_equal(scores(spec, clusters=count), first)
        assert not np.array_equal(scores(spec, clusters=count, seed=42), first)


# --- what every router owes ---------------------------------------------------------------------------


def test_permuting_the_models_permutes_the_scores(spec):
    order = [2, 0, 3, 1]
    train = worlds.reordered(TRAIN, order)
    assert np.array_equal(scores(spec, train=train), scores(spec)[:, order])


def test_scores_do_not_depend_on_batch_or_order(spec):
    routers.check_batch_and_order(fit(spec), TEST, 40)


def test_test_labels_val_labels_and_costs_are_never_read(spec):
    assert np.array_equal(scores(spec, worlds.poisoned(worlds.without_labels(TEST))), scores(spec))
    costs = worlds.poisoned(TRAIN)
    blind = worlds.without_labels(VAL)
    assert np.array_equal(scores(spec, train=costs, val=blind), scores(spec))


def test_a_model_that_is_always_right_scores_one(spec):
    found = scores(spec, train=worlds.always_right(TRAIN))
    assert found[:, 2] == pytest.approx(1) and (found.argmax(axis=1) == 2).all()


def test_labels_that_have_nothing_to_do_with_queries_give_about_the_best_single_model(spec):
    train, test = unrelated(2000, seed=3), unrelated(2000, seed=4)
    routers.check_near_best_single(scores(spec, test, train=train), test)


def test_a_model_never_run_gets_the_mean_of_the_pool(spec):
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    found = scores(spec, train=labelled(TRAIN.X, Y))
    assert found[:, 1] == pytest.approx(Y[:, [0, 2, 3]].mean(), abs=1e-6)
    assert np.array_equal(found[:, [0, 2, 3]], scores(spec)[:, [0, 2, 3]])


def test_with_most_labels_missing_only_the_observed_ones_count(spec):
    sparse = grouped(missing=0.6)
    router = fit(spec, train=sparse, shrinkage=0.0)
    found = router.scores(sparse)
    cluster = nearest_centre(torch.tensor(sparse.unit), router.centres).numpy()
    for c in np.unique(cluster):
        assert found[cluster == c][0] == pytest.approx(np.nanmean(sparse.Y[cluster == c], axis=0), abs=1e-6)
    assert np.array_equal(scores(spec, sparse, train=worlds.with_other_nans(sparse), shrinkage=0.0), found)


def test_no_label_at_all_is_an_error_that_says_so(spec):
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(spec, train=worlds.without_labels(TRAIN))


def test_a_router_from_its_state_gives_the_same_scores(spec):
    routers.check_state(fit(spec), spec.grid[0], TEST)


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
