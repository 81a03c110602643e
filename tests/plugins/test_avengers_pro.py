"""avengers-pro: what Avengers-Pro promises, and what every router owes."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from rph_plugins.routers import avengers_pro
from tests import routers, worlds
from tests.worlds import grouped, labelled, planted, unrelated

from rph import Queries, Trial, UsageError
from rph.registry import installed
from rph.results.metrics import route
from rph.training import clusters

Config = avengers_pro.Config
NAN = np.nan

TRAIN, VAL, TEST = grouped(), grouped(200, seed=1), grouped(300, seed=2)
RULES = ["scores", "ranks"]


def fit(train=TRAIN, val=VAL, seed=0, **config):
    router = avengers_pro.AvengersProRouter()
    variant = replace(Config(12, 3), **config)
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def similarities(queries, router):
    """-|x - c|^2 and x.c of every query and cluster, both [B, C]."""
    x, c = queries.unit.astype("f8"), router.centres.astype("f8")
    return -np.square(x[:, None] - c[None]).sum(axis=2), x @ c.T


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_papers_setting_first():
    assert avengers_pro.GRID[0] == Config() == Config(60, 4, "scores", 1.0, 5.0)
    wanted = {Config(k, p) for k, p in product((30, 60, 100, 200), (1, 2, 4))}
    wanted |= {Config(k, 4, "ranks") for k in (60, 100, 200)}
    assert len(avengers_pro.GRID) == 15 and set(avengers_pro.GRID) == wanted


def test_the_card_says_stochastic_not_calibrated_and_has_the_papers_key_as_alias():
    card = avengers_pro.register_router().card
    assert (card.name, card.aliases) == ("avengers-pro", ("avengers_pro",))
    assert (card.family, card.paper, card.year) == ("clusters", "arXiv:2508.12631", 2025)
    assert not card.deterministic and not card.calibrated


# --- the table ----------------------------------------------------------------------------------------


ACCURACY = np.array([[0.2, 0.6, 0.4], [0.5, 0.5, 0.5]], "f4")
COST = np.array([[1.0, 5.0, 2.0], [3.0, 1.0, 2.0]], "f4")
OVERALL = np.array([0.3, 0.6, 0.5], "f4")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [[0, 1, 0.5], [1, 1, 1]]),
        ({"alpha": 0.0}, [[1, 0, 0.75], [0, 1, 0.5]]),
        ({"alpha": 0.6}, [[0.4, 0.6, 0.6], [0.6, 1, 0.8]]),
        ({"scoring": "ranks"}, [[1 / 3, 1, 1 / 2], [1 / 3, 1, 1 / 2]]),
        ({"scoring": "ranks", "alpha": 0.0}, [[1, 1 / 3, 1 / 2], [1 / 3, 1, 1 / 2]]),
    ],
)
def test_the_table_is_the_hand_computed_one(config, expected):
    cost = COST if "alpha" in config else None
    found = avengers_pro.cluster_scores(ACCURACY, cost, OVERALL, Config(**config))
    assert found == pytest.approx(np.array(expected), abs=1e-6)


def test_models_equal_in_the_cluster_and_overall_share_the_upper_place():
    found = avengers_pro.cluster_scores(
        np.array([[0.5, 0.5, 0.1]], "f4"), None, np.array([0.4, 0.4, 0.9], "f4"), Config(scoring="ranks")
    )
    assert found == pytest.approx(np.array([[1, 1, 1 / 3]]))


@pytest.mark.parametrize("shrinkage", [0.0, 5.0, 50.0])
def test_accuracies_are_drawn_to_the_overall_one_by_the_variants_labels(shrinkage):
    router = fit(shrinkage=shrinkage)
    distance = np.square(TRAIN.unit[:, None] - router.centres[None]).sum(axis=2)
    cluster, overall = distance.argmin(axis=1), TRAIN.Y.mean(axis=0)
    for c, row in enumerate(router.table):
        members = TRAIN.Y[cluster == c]
        drawn = (members.sum(axis=0) + shrinkage * overall) / (len(members) + shrinkage)
        assert row == pytest.approx((drawn - drawn.min()) / (drawn.max() - drawn.min()), abs=1e-5)


def test_each_cluster_has_a_model_at_one_and_a_model_at_zero():
    table = fit().table
    assert len(table) == 12
    assert (table.max(axis=1) == 1).all() and (table.min(axis=1) == 0).all()


@pytest.mark.parametrize("scoring", RULES)
def test_an_increasing_affine_change_of_a_clusters_accuracies_leaves_the_table_unchanged(scoring):
    rng = np.random.default_rng(0)
    accuracy, overall = rng.random((20, 5)).astype("f4"), rng.random(5).astype("f4")
    slope, level = rng.uniform(0.1, 0.5, (20, 1)).astype("f4"), rng.uniform(0, 0.5, (20, 1)).astype("f4")
    variant = Config(scoring=scoring)
    before = avengers_pro.cluster_scores(accuracy, None, overall, variant)
    after = avengers_pro.cluster_scores(slope * accuracy + level, None, overall, variant)
    assert after == pytest.approx(before, abs=2e-6)


# --- the method ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", RULES)
@pytest.mark.parametrize("shrinkage", [5.0, 0.0])
def test_one_cluster_per_query_and_no_costs_route_like_kmeans_on_the_same_clustering(scoring, shrinkage):
    module = installed().load("router", "kmeans").module
    kmeans = module.KMeansRouter()
    variant = module.Config(12, shrinkage)
    kmeans.fit(TRAIN, VAL, variant=variant, seed=3, device="cpu")
    ours = fit(seed=3, top=1, scoring=scoring, shrinkage=shrinkage)
    assert np.array_equal(ours.centres, kmeans.centres.numpy())
    theirs, prior = kmeans.scores(TEST), TRAIN.Y.mean(axis=0)
    assert np.array_equal(route(ours.scores(TEST), prior), route(theirs, prior))
    assert not np.allclose(ours.scores(TEST), theirs)
    assert len(set(theirs.argmax(axis=1))) > 1


def test_a_score_is_the_plain_mean_over_the_p_nearest_clusters():
    router = fit(top=3)
    closeness, _ = similarities(TEST, router)
    near = np.argsort(-closeness, axis=1)[:, :3]
    assert router.scores(TEST) == pytest.approx(router.table[near].mean(axis=1), abs=1e-6)


def test_clusters_are_nearest_by_distance_where_the_product_with_the_centre_says_otherwise():
    state = {"centres": np.array([[0.6, 0.6], [2.0, 0.0]], "f4"), "table": np.eye(2, dtype="f4")}
    router = avengers_pro.AvengersProRouter.from_state(state, variant=Config(2, 1), device="cpu")
    query = Queries(X=np.array([[0.6, 0.8]], "f4"), texts=[""])  # products 0.84 < 1.2, distances 0.2 < 1.6
    assert router.scores(query).tolist() == [[1, 0]]
    ranks = avengers_pro.AvengersProRouter.from_state(state, variant=Config(2, 1, "ranks"), device="cpu")
    assert ranks.scores(query).tolist() == [[0, 1]]  # as the released code, centres not scaled to length 1


def test_ranks_are_weighed_by_a_softmax_of_minus_nine_distances():
    router = fit(top=3, scoring="ranks")
    _, cosine = similarities(TEST, router)
    near = np.argsort(-cosine, axis=1)[:, :3]
    weight = np.exp(-9 * (1 - np.take_along_axis(cosine, near, axis=1)))
    weight /= weight.sum(axis=1, keepdims=True)
    expected = (weight[:, :, None] * router.table[near]).sum(axis=1)
    assert router.scores(TEST) == pytest.approx(expected, abs=1e-5)
    assert np.ptp(weight, axis=1).max() > 0.1  # it is not the plain mean


def test_adding_up_all_clusters_routes_every_query_to_the_same_model():
    found = scores(top=12)
    assert (found == found[0]).all()
    assert np.array_equal(scores(top=100), found)  # p is clipped to k


def test_alpha_zero_picks_the_cheapest_model_of_the_cluster():
    router = fit()  # only for its clusters
    closeness, _ = similarities(TRAIN, router)
    cluster = closeness.argmax(axis=1)
    rng = np.random.default_rng(0)
    price = rng.uniform(1, 5, (12, 4))
    C = (price[cluster] * rng.uniform(0.9, 1.1, TRAIN.Y.shape)).astype("f4")
    C[rng.random(C.shape) < 0.2] = NAN  # an unknown cost is not 0
    means = np.array([np.nanmean(C[cluster == c], axis=0) for c in range(12)])
    found = scores(train=labelled(TRAIN.X, TRAIN.Y, C), alpha=0.0, top=1)
    there = similarities(TEST, router)[0].argmax(axis=1)
    assert np.array_equal(found.argmax(axis=1), means.argmin(axis=1)[there])
    assert len(set(found.argmax(axis=1))) > 1


def test_alpha_below_one_without_costs_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="there are none"):
        fit(alpha=0.5)


def test_flat_clusters_give_every_model_the_same_finite_score():
    found = scores(train=labelled(TRAIN.X, np.ones_like(TRAIN.Y)))
    assert (found == 1).all()


@pytest.mark.parametrize(("rows", "clusters"), [(7, 1), (60, 3), (599, 29)])
def test_there_is_at_most_one_cluster_per_twenty_queries(rows, clusters):
    router = fit(train=labelled(TRAIN.X[:rows], TRAIN.Y[:rows]), clusters=200)
    assert len(router.centres) == clusters
    assert np.isfinite(router.scores(TEST)).all()


def test_two_planted_specialists_each_get_their_own_queries():
    for seed, scoring, missing, guessing in [
        (0, "scores", 0.0, 1),
        (1, "ranks", 0.4, 1),
        (1, "scores", 0.4, 20),
    ]:
        train, _ = planted(2000, seed, 2 + guessing, missing, noise=0.1)
        test, specialist = planted(1000, seed + 10, 2 + guessing, noise=0.1)
        found = scores(test, train=train, clusters=30, top=4, scoring=scoring, seed=seed)
        assert (found.argmax(axis=1) == specialist).mean() >= 0.98


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_bit_for_bit():
    trials = [Trial(variant=v, seed=seed) for seed in (42, 7) for v in avengers_pro.GRID[::2]]
    for _, found, alone in routers.fitted_both_ways(avengers_pro.register_router(), TRAIN, VAL, trials, TEST):
        assert np.array_equal(found, alone)


def test_variants_of_equal_seed_and_number_of_clusters_share_one_clustering(monkeypatch):
    calls, once = [], clusters.kmeans
    monkeypatch.setattr(clusters, "kmeans", lambda *a, **k: calls.append(a[1]) or once(*a, **k))
    configs = [Config(20), Config(20, 1), Config(20, 4, "ranks"), Config(30), Config(60)]  # the cap is 30
    trials = [Trial(variant=c, seed=s) for s in (1, 2) for c in configs]
    avengers_pro.register_router().fit_many(TRAIN, VAL, trials, "cpu")
    assert calls == [20, 30] * 2


# --- what every router owes ---------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", RULES)
def test_permuting_the_models_permutes_the_scores(scoring):
    order = [2, 0, 3, 1]
    train = worlds.reordered(TRAIN, order)
    assert np.array_equal(scores(train=train, scoring=scoring), scores(scoring=scoring)[:, order])


@pytest.mark.parametrize("scoring", RULES)
def test_scores_do_not_depend_on_batch_or_order(scoring):
    router = fit(scoring=scoring)
    routers.check_batch_and_order(router, TEST, 40)
    assert router.scores(Queries(X=TEST.X[:0], texts=[])).shape == (0, 4)


def test_test_labels_val_labels_and_costs_are_never_read():
    assert np.array_equal(scores(worlds.poisoned(worlds.without_labels(TEST))), scores())
    costs = worlds.poisoned(TRAIN)
    blind = worlds.without_labels(VAL)
    assert np.array_equal(scores(train=costs, val=blind), scores())


def test_a_model_that_is_always_right_ranks_first():
    for scoring in RULES:
        found = scores(train=worlds.always_right(TRAIN), scoring=scoring)
        assert found[:, 2] == pytest.approx(1) and (found.argmax(axis=1) == 2).all()


def test_labels_that_have_nothing_to_do_with_queries_give_about_the_best_single_model():
    train, test = unrelated(2000, seed=3), unrelated(2000, seed=4)
    routers.check_near_best_single(scores(test, train=train), test)


def test_it_beats_the_best_single_model_where_groups_differ():
    for scoring in RULES:
        routers.check_beats_best_single(scores(top=2, scoring=scoring), TRAIN, TEST)


def test_a_model_never_run_stands_where_the_mean_of_the_pool_does():
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    router = fit(train=labelled(TRAIN.X, Y), shrinkage=0.0)
    cluster = similarities(TRAIN, router)[0].argmax(axis=1)
    rows = Y[cluster == 0][:, [0, 2, 3]].mean(axis=0)
    a = np.array([rows[0], Y[:, [0, 2, 3]].mean(), rows[1], rows[2]])
    assert router.table[0] == pytest.approx((a - a.min()) / (a.max() - a.min()), abs=1e-5)


def test_with_most_labels_missing_only_the_observed_ones_count():
    sparse = grouped(missing=0.6)
    router = fit(train=sparse, shrinkage=0.0, top=1)
    found = router.scores(sparse)
    cluster = similarities(sparse, router)[0].argmax(axis=1)
    for c in np.unique(cluster):
        a = np.nanmean(sparse.Y[cluster == c], axis=0)
        expected = (a - a.min()) / (a.max() - a.min())
        assert found[cluster == c][0] == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(scores(sparse, train=worlds.with_other_nans(sparse), shrinkage=0.0, top=1), found)


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


def test_constant_embeddings_give_one_cluster_and_constant_scores():
    same = labelled(np.ones((100, 8), "f4"), TRAIN.Y[:100])
    found = scores(TEST, train=same)
    assert (found == found[0]).all() and found[0].argmax() == TRAIN.Y[:100].mean(axis=0).argmax()


@pytest.mark.parametrize("scoring", RULES)
def test_a_router_from_its_state_gives_the_same_scores(scoring):
    router = fit(scoring=scoring)
    state = routers.check_state(router, router.variant, TEST)
    assert all(value.dtype.kind == "f" for value in state.values())


MUTATIONS = [
    (
        "low = exact.min(axis=1, keepdims=True)",
        "low = exact.min(keepdims=True)",
        "accuracies are stretched over all clusters at once, not within each",
    ),
    ("(1 - stretched(cost))", "stretched(cost)", "dear models gain instead of cheap ones"),
    (
        "(overall[None, :] > overall[:, None])",
        "(overall[None, :] < overall[:, None])",
        "ties go to the worse",
    ),
    ("shrinkage=variant.shrinkage)", "shrinkage=0.0)", "no cluster is drawn to the overall accuracy"),
]
