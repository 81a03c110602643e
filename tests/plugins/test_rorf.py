"""rorf: forests that scikit-learn grows, leaves and predictions that are ours, and what every router owes."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.ensemble
import torch
from rph_plugins.routers import rorf
from rph_plugins.routers.rorf import CARD, GRID, Config, RorfRouter, Trees, flatten, leaf_means
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from tests import routers, worlds
from tests.worlds import labelled, some_queries, world

from rph import Trial, UsageError
from rph.arrays import observed_means

NAN = np.nan
TRAIN, VAL, TEST = world(), world(100, seed=0), some_queries()
FORMS = ("shared", "independent", "pairwise")


def small(**config):
    return Config(**{"trees": 8, "leaf": 4, **config})


def fit(train=TRAIN, seed=42, **config):
    router = RorfRouter()
    router.fit(train, VAL, variant=small(**config), seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def planted(n, seed, informative=True):
    """Four groups; in each, another model is right with 0.9, the others with 0.3 to 0.45."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 4, n)
    X = 3 * np.eye(4, 10)[group] + rng.normal(size=(n, 10))
    P = np.where(np.eye(4) > 0, 0.9, [0.3, 0.35, 0.4, 0.45])
    p = P[group] if informative else np.tile(P.mean(axis=0), (n, 1))
    return labelled(X, rng.random((n, 4)) < p), p


# --- the card and the grid ----------------------------------------------------------------------------


def test_pairs_are_for_pools_that_can_afford_them():
    spec = rorf.register_router()
    assert len(spec.variants(13)) == 15
    assert [v.forest for v in spec.grid if v not in spec.variants(14)] == ["pairwise"]


def test_card_says_stochastic_and_calibrated():
    assert (CARD.name, CARD.year, CARD.family) == ("rorf", 2024, "trees")
    assert CARD.calibrated and not CARD.deterministic and "missing-labels" in CARD.supports


# --- trees as arrays ----------------------------------------------------------------------------------


def test_a_walk_takes_the_left_child_up_to_the_threshold_and_stays_in_leaves():
    # 0: x0 <= 0.5 ? 1 : 2;  2: x1 <= -1 ? 3 : 4
    child = np.array([[1, 2], [1, 1], [3, 4], [3, 3], [4, 4]]).ravel()
    trees = Trees(np.array([0, 2]), np.array([0, 0, 1, 0, 0]), np.array([0.5, 0, -1, 0, 0]), child)
    X = np.array([[0.5, 9], [0.6, -1], [0.6, 0]], np.float32)
    assert trees.reached(X, trees.roots, 20).tolist() == [[1, 4], [3, 3], [4, 4]]
    assert trees.reached(X, trees.roots, 1).tolist() == [[1, 4], [2, 3], [2, 4]]
    assert trees.reached(X, trees.roots, 0).tolist() == [[0, 2]] * 3


def test_queries_end_in_the_leaves_that_scikit_learn_finds():
    forest = RandomForestRegressor(7, max_depth=6, random_state=3).fit(TRAIN.X, TRAIN.Y)
    trees = flatten(forest.estimators_)
    found = trees.reached(TEST.X, trees.roots, 6) - trees.roots
    assert np.array_equal(found, forest.apply(TEST.X))


def test_a_leafs_mean_counts_observed_labels_and_the_prior():
    node = np.array([5, 2, 5, 5])
    Y = np.array([[1, 0], [1, NAN], [0, NAN], [1, NAN]], np.float32)
    nodes, means = leaf_means(node, Y, np.array([0.5, 0.25]), 1.0)
    assert nodes.tolist() == [2, 5]
    assert means == pytest.approx(np.array([[(1 + 0.5) / 2, 0.25], [(2 + 0.5) / 4, (0 + 0.25) / 2]]))
    _, bare = leaf_means(node, Y, np.array([0.5, 0.25]), 0.0)
    assert bare == pytest.approx(np.array([[1, 0.25], [2 / 3, 0]]))


def test_without_prior_and_bootstrap_leaf_means_reproduce_scikit_learns_probabilities():
    forest = RandomForestClassifier(9, bootstrap=False, max_depth=8, min_samples_leaf=3, random_state=0)
    forest.fit(TRAIN.X, TRAIN.Y)
    trees = flatten(forest.estimators_)
    found = np.zeros((len(TEST), 4))
    for root in trees.roots:
        node = trees.reached(TRAIN.X, root[None], 8)[:, 0]
        leaves, means = leaf_means(node, TRAIN.Y, np.zeros(4), 0.0)
        found += means[np.searchsorted(leaves, trees.reached(TEST.X, root[None], 8)[:, 0])] / 9
    wanted = np.stack([p[:, 1] for p in forest.predict_proba(TEST.X)], axis=1)
    assert found == pytest.approx(wanted, abs=1e-12)


# --- the method ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing_class", [False, True])
def test_the_original_two_model_rule_reads_only_whether_the_second_model_is_right(missing_class):
    Y = TRAIN.Y[:, :2].copy()
    if missing_class:
        Y[(Y == 0).all(axis=1), 0] = 1  # outcome 1, both wrong, never happens
    outcome = np.select([Y[:, 0] > Y[:, 1], (Y == 0).all(axis=1), (Y == 1).all(axis=1)], [0, 1, 2], 3)
    assert len(set(outcome)) == (3 if missing_class else 4)
    forest = RandomForestClassifier(8, bootstrap=False, max_depth=20, max_features=1.0, min_samples_leaf=4)
    forest.set_params(random_state=0).fit(TRAIN.X, outcome)
    p = dict.fromkeys(range(4), 0.0) | dict(zip(forest.classes_, forest.predict_proba(TEST.X).T, strict=True))
    trees = flatten(forest.estimators_)
    marginals = np.zeros((len(TEST), 2))
    for root in trees.roots:
        leaves, means = leaf_means(trees.reached(TRAIN.X, root[None], 20)[:, 0], Y, np.zeros(2), 0.0)
        marginals += means[np.searchsorted(leaves, trees.reached(TEST.X, root[None], 20)[:, 0])] / 8
    assert p[0] + p[1] == pytest.approx(1 - marginals[:, 1])
    assert p[0] + p[2] == pytest.approx(marginals[:, 0])


def test_a_pair_forest_has_the_trees_of_a_gini_classifier_of_the_four_outcomes():
    Y = TRAIN.Y[:, :2]
    outcome = np.select([Y[:, 0] > Y[:, 1], (Y == 0).all(axis=1), (Y == 1).all(axis=1)], [0, 1, 2], 3)
    rows, targets = rorf._targets(Y, "pairwise")
    assert np.array_equal(rows, np.arange(len(Y)))
    assert np.array_equal(targets, np.eye(4)[outcome])
    options = {"n_estimators": 6, "max_depth": 4, "max_features": "sqrt", "random_state": 1}
    classifier = flatten(RandomForestClassifier(**options).fit(TRAIN.X, outcome).estimators_)
    ours = flatten(RandomForestRegressor(**options).fit(TRAIN.X, targets).estimators_)
    assert np.array_equal(ours.feature, classifier.feature)
    assert ours.threshold == pytest.approx(classifier.threshold)


def test_a_pair_with_a_missing_label_is_left_out_of_the_pairs_forest():
    Y = np.array([[1, 0], [NAN, 1], [0, NAN], [0, 0]], np.float32)
    rows, targets = rorf._targets(Y, "pairwise")
    assert rows.tolist() == [0, 3] and targets.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


def test_a_pairwise_score_is_the_mean_of_the_models_pairs():
    train = world(K=3)
    router = fit(train, forest="pairwise")
    pairs = {}
    for a, b in ((0, 1), (0, 2), (1, 2)):
        alone = fit(labelled(train.X, train.Y[:, [a, b]]), forest="pairwise").scores(TEST)
        pairs[a, b], pairs[b, a] = alone[:, 0], alone[:, 1]
    wanted = [(pairs[m, (m + 1) % 3] + pairs[m, (m + 2) % 3]) / 2 for m in range(3)]
    assert router.scores(TEST) == pytest.approx(np.stack(wanted, axis=1), abs=1e-6)


def test_pairwise_refuses_pools_and_labels_it_cannot_serve():
    with pytest.raises(UsageError, match="91 forests for 14 models"):
        fit(world(K=14), forest="pairwise")
    with pytest.raises(UsageError, match="two models that were observed"):
        fit(world(K=1), forest="pairwise")


@pytest.mark.parametrize("forest", FORMS)
def test_without_a_split_scores_are_the_column_means(forest):
    found = scores(forest=forest, leaf=len(TRAIN) // 2 + 1)
    assert found == pytest.approx(np.tile(TRAIN.Y.mean(axis=0), (len(TEST), 1)), abs=1e-6)


@pytest.mark.parametrize("forest", FORMS)
def test_scores_are_convex_combinations_of_labels(forest):
    Y = world(missing=0.3).Y
    Y[:, 2] = np.where(np.isnan(Y[:, 2]), NAN, 1)
    found = scores(train=labelled(TRAIN.X, Y), forest=forest, leaf=1)
    assert (found[:, 2] == 1).all() and found.min() >= 0 and found.max() <= 1


def test_a_tree_of_depth_ten_is_the_top_of_the_deeper_one():
    shallow, deep = fit(depth=2), fit(depth=20)
    assert np.array_equal(shallow.trees.child, deep.trees.child)
    roots = deep.trees.roots
    ends = np.unique(shallow.trees.reached(TRAIN.X, roots, 2))
    assert len(ends) <= 8 * 4 and len(ends) == len(shallow.values)
    assert len(deep.values) > len(shallow.values)


@pytest.mark.parametrize(("depth", "grown"), [(5, 20), (20, 20), (40, 40)])
def test_trees_are_grown_to_depth_twenty_or_deeper_if_asked(depth, grown, monkeypatch):
    depths, once = [], sklearn.ensemble.RandomForestRegressor

    def spy(*a, **k):
        depths.append(k["max_depth"])
        return once(*a, **k)

    monkeypatch.setattr(sklearn.ensemble, "RandomForestRegressor", spy)
    assert fit(depth=depth).depth == depth
    assert depths == [grown]


def test_leaves_are_estimated_from_every_labelled_query_not_the_bootstrap_sample():
    router = fit(trees=1, leaf=1)
    leaf = router.slot[router.trees.reached(TRAIN.X, router.trees.roots, 20)[:, 0]]
    p = TRAIN.Y.mean(axis=0)
    for i in np.unique(leaf):
        rows = TRAIN.Y[leaf == i]
        assert router.values[i] == pytest.approx((rows.sum(axis=0) + p) / (len(rows) + 1), abs=1e-6)


def test_large_training_splits_are_sampled_for_growing_only(monkeypatch):
    monkeypatch.setattr(rorf, "SAMPLES", 40)
    router = fit(trees=3, leaf=10)
    assert len(router.values) <= 3 * 4  # 40 draws, 10 queries in a leaf
    assert not np.array_equal(router.scores(TEST), fit_unlimited(monkeypatch))
    alone = fit(trees=3, leaf=200)  # no split: the leaf still counts all queries
    assert alone.values == pytest.approx(np.tile(TRAIN.Y.mean(axis=0), (3, 1)), abs=1e-6)


def fit_unlimited(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(rorf, "SAMPLES", 20_000)
        return fit(trees=3, leaf=10).scores(TEST)


def test_principal_components_come_by_variance_and_no_more_than_there_are():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(500, 3)) * [1, 10, 3]) @ np.eye(3, 6) + 5
    inputs = rorf.principal_components(X.astype("f4"), 2)
    assert np.abs(inputs.directions.T) == pytest.approx(np.eye(6)[[1, 2]], abs=0.05)
    assert inputs.of(X.astype("f4")).mean(axis=0) == pytest.approx([0, 0], abs=1e-4)
    assert rorf.principal_components(X.astype("f4"), 64).directions.shape == (6, 3)
    assert rorf.principal_components(np.ones((5, 6), "f4"), 64).directions.shape == (6, 1)


def test_it_recovers_most_of_a_planted_signal():
    train, _ = planted(1500, 1)
    test, p = planted(1500, 2)
    routed = p[np.arange(1500), scores(test, train=train, trees=30, leaf=8).argmax(axis=1)].mean()
    best = p[:, train.Y.mean(axis=0).argmax()].mean()
    bayes = p.max(axis=1).mean()
    assert routed >= best + 0.8 * (bayes - best)


def test_labels_that_do_not_depend_on_queries_give_calibrated_means_and_no_gain():
    train, _ = planted(1500, 3, informative=False)
    test, p = planted(1500, 4, informative=False)
    found = scores(test, train=train, trees=30, leaf=32)
    assert found.mean(axis=0) == pytest.approx(train.Y.mean(axis=0), abs=0.01)
    chosen = p[np.arange(1500), found.argmax(axis=1)].mean()
    assert chosen <= p[0].max() + 1e-6 and found.std(axis=0).max() < 0.08


# --- missing labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("forest", FORMS)
def test_what_stands_behind_a_missing_label_changes_nothing(forest):
    sparse = world(missing=0.4)
    again = scores(train=worlds.with_other_nans(sparse), forest=forest)
    assert np.array_equal(again, scores(train=sparse, forest=forest))


def test_the_shared_forest_grows_on_the_models_level_where_a_label_is_missing():
    Y = np.array([[1, NAN], [1, 0], [NAN, 1], [0, 1]] * 5, np.float32)
    rows, targets = rorf._targets(Y, "shared")
    levels = rorf.model_means(Y)
    assert levels.min() > 0.4 and rows.tolist() == list(range(20))
    assert targets[:3] == pytest.approx(np.array([[1, levels[1]], [1, 0], [levels[0], 1]]))


@pytest.mark.parametrize("forest", FORMS)
def test_a_model_never_observed_scores_the_pools_mean(forest):
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    found = scores(train=labelled(TRAIN.X, Y), forest=forest)
    assert found[:, 1] == pytest.approx(Y[:, [0, 2, 3]].mean(axis=0).mean(), abs=1e-6)
    assert found[:, [0, 2, 3]].std(axis=0).min() > 0


def test_independent_forests_are_those_of_the_model_alone(monkeypatch):
    sparse = world(missing=0.4)
    # A leaf is drawn to the model's level, which the others' labels decide too: here to its mean, which they do not.
    monkeypatch.setattr(rorf, "model_means", lambda Y: observed_means(Y).astype(np.float32))
    found = scores(train=sparse, forest="independent")
    for m in range(4):
        rows = ~np.isnan(sparse.Y[:, m])
        alone = labelled(sparse.X[rows], sparse.Y[rows][:, [m]])
        assert np.array_equal(scores(train=alone, forest="independent")[:, 0], found[:, m])


@pytest.mark.parametrize("forest", FORMS)
def test_every_seed_grows_a_forest_of_its_own(forest):
    assert not np.array_equal(scores(forest=forest, seed=7), scores(forest=forest))


def test_a_split_tries_the_variants_share_of_the_features():
    sqrt, tenth, every = (scores(features=features) for features in ("sqrt", 0.1, 1.0))
    assert not np.array_equal(sqrt, every) and not np.array_equal(tenth, sqrt)  # of 8: 2, 1 and 8


def test_a_leaf_has_at_least_the_variants_queries():
    for tree in rorf._forest(TRAIN.X, TRAIN.Y.astype(np.float64), small(leaf=15), 0):
        leaves = tree.tree_.children_left < 0
        assert tree.tree_.n_node_samples[leaves].min() >= 15


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(worlds.without_labels(TRAIN))


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_bit_for_bit():
    train = world(200, d=70, missing=0.1)
    queries = some_queries(30, d=70)
    variants = [replace(variant, trees=4) for variant in GRID]
    trials = [Trial(variant=v, seed=s) for s, vs in ((1, variants), (2, variants[:1])) for v in vs]
    for _, found, alone in routers.fitted_both_ways(rorf.register_router(), train, VAL, trials, queries):
        assert np.array_equal(alone, found)


def test_variants_that_differ_in_depth_share_one_growth(monkeypatch):
    grown, once = [], rorf.grow
    monkeypatch.setattr(rorf, "grow", lambda *a: grown.append(a[1]) or once(*a))
    variants = [small(depth=depth, features=features) for depth in (10, 20, 5) for features in ("sqrt", 0.5)]
    rorf.fit_many(TRAIN, VAL, [Trial(variant=v, seed=0) for v in variants], "cpu")
    assert grown == [small(features="sqrt"), small(features=0.5)]


# --- what every router owes ---------------------------------------------------------------------------


@pytest.mark.parametrize("forest", FORMS)
def test_permuting_the_models_permutes_the_scores(forest):
    # Exact here: sums of 0/1 labels are exact in any order. The seed's draws do not depend on the models.
    order = [2, 0, 3, 1]
    found = scores(train=worlds.reordered(TRAIN, order), forest=forest)
    assert found == pytest.approx(scores(forest=forest)[:, order], abs=1e-6)


@pytest.mark.parametrize("config", [{}, {"forest": "independent"}, {"components": 3, "features": 1.0}])
def test_scores_do_not_depend_on_batch_or_order(config, monkeypatch):
    router = fit(**config)
    whole = router.scores(TEST)
    routers.check_batch_and_order(router, TEST, len(TEST))
    monkeypatch.setattr(rorf, "POSITIONS", 7 * 8)
    assert np.array_equal(router.scores(TEST), whole)


def test_constant_embeddings_give_the_means():
    same = labelled(np.ones_like(TRAIN.X), TRAIN.Y)
    for components in (0, 64):
        found = scores(train=same, components=components)
        assert found == pytest.approx(np.tile(TRAIN.Y.mean(axis=0), (50, 1)), abs=1e-6)


def test_the_number_of_threads_changes_nothing():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = scores()
        torch.set_num_threads(4)
        assert np.array_equal(scores(), one)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "config", [*({"forest": forest} for forest in FORMS), {"depth": 2}, {"components": 3}]
)
def test_a_router_from_its_state_gives_the_same_scores(config):
    routers.check_state(fit(**config), small(**config), TEST)


def test_val_and_costs_are_never_read():
    router = RorfRouter()
    blind = worlds.without_labels(VAL)
    priced = worlds.poisoned(TRAIN)
    router.fit(priced, blind, variant=small(), seed=42, device="cpu")
    assert np.array_equal(router.scores(TEST), scores())


MUTATIONS = [
    ("> self.threshold[node]", ">= self.threshold[node]", "a value on the threshold goes right"),
    ("counts + weight\n", "counts + 2 * weight\n", "the prior's labels are counted twice"),
    (
        "seen = ~np.isnan(Y)\n    order",
        "seen = np.ones(Y.shape, bool)\n    order",
        "missing labels are counted",
    ),
    ("np.where(seen, Y, model_means(Y))", "np.where(seen, Y, 0)", "missing labels are grown as wrong"),
    ("random_state=state", "random_state=0", "every seed grows the same trees"),
    ("max_features=variant.features", 'max_features="sqrt"', "the share of features is ignored"),
    (
        "min_samples_leaf=variant.leaf",
        "min_samples_split=max(2, variant.leaf)",
        "the least size is that of a split, not of a leaf",
    ),
]
