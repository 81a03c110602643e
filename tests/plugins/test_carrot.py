"""carrot: neighbours against scikit-learn, the choice of k, both networks, estimated costs, what every router owes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rph_plugins.routers import carrot
from rph_plugins.routers.carrot import CARD, GRID, CarrotRouter, Config, fit_many
from tests import routers, worlds
from tests.worlds import as_queries, labelled

from rph import Trial, UsageError
from rph.arrays import model_means
from rph.results.utility import CostScale
from rph.training import costheads, headrouter, localmeans
from rph.training.heads import Validation

NAN = np.nan


def world(n, K=4, d=8, seed=0, missing=0.0):
    """Queries on which each model's chance of being correct, and its cost, depend on the embedding."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    X = rng.normal(size=(n, d)).astype("f4")
    Y = (rng.random((n, K)) < 1 / (1 + np.exp(-1.5 * X @ fixed.normal(size=(d, K))))).astype("f4")
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    C = np.exp(
        0.7 * unit @ fixed.normal(size=(d, K)) + np.linspace(-9, -5, K) + 0.1 * rng.normal(size=(n, K))
    )
    Y[rng.random(Y.shape) < missing] = NAN
    C[rng.random(C.shape) < missing] = NAN
    return labelled(X, Y, C.astype("f4"))


TRAIN, VAL, TEST = world(600), world(150, seed=1), world(300, seed=2)
SMALL = world(120)
KNN = [Config(k=16), Config(), Config(k=64, weights="cosine")]
HEADS = [Config("head"), Config("head", hidden=(16,), dropout=0.3)]
each_form = pytest.mark.parametrize("variant", [*KNN, *HEADS], ids=str)
each_head = pytest.mark.parametrize("variant", HEADS, ids=str)


def fit(variant, train=TRAIN, val=VAL, seed=0):
    router = CarrotRouter()
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


def scores(variant, queries=TEST, **how):
    return fit(variant, **how).scores(queries)


def without_costs(split):
    return labelled(split.X, split.Y)


def sklearn_means(train, T, queries, k):
    """K separate regressors of scikit-learn, each fitted on the rows where its model is observed."""
    from sklearn.neighbors import KNeighborsRegressor

    columns = []
    for m in range(T.shape[1]):
        rows = ~np.isnan(T[:, m])
        one = KNeighborsRegressor(min(k, rows.sum()), metric="cosine", algorithm="brute")
        columns.append(one.fit(train.X[rows], T[rows, m].astype("f8")).predict(queries.X))
    return np.stack(columns, axis=1)


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_default_first():
    assert GRID[0] == Config() and len(GRID) == len(set(GRID)) == 15
    knn = [v for v in GRID if v.estimator == "knn"]
    ks = [4, 8, 16, 32, 64, 128, 256, 512]
    assert {(v.k, v.weights) for v in knn} == {("cv", "uniform"), (64, "cosine")} | {
        (k, "uniform") for k in ks
    }
    heads = {(v.hidden, v.dropout) for v in GRID if v.estimator == "head"}
    assert heads == {((), 0), ((256,), 0), ((512,), 0), ((256,), 0.3), ((256, 256), 0)}


def test_the_card_says_calibrated_and_stochastic_because_of_the_heads():
    assert (CARD.name, CARD.paper, CARD.year) == ("carrot", "arXiv:2502.03261", 2025)
    assert CARD.calibrated and not CARD.deterministic and "train-neighbours" in CARD.needs


# --- neighbours ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.6])
def test_all_training_queries_as_neighbours_give_the_models_means(missing):
    train = world(300, missing=missing)
    found = scores(Config(k=300), train=train)
    assert found == pytest.approx(np.tile(np.nanmean(train.Y, axis=0), (len(TEST), 1)), abs=1e-6)


def test_one_neighbour_on_the_training_queries_gives_their_labels_back():
    assert np.array_equal(scores(Config(k=1), TRAIN), TRAIN.Y)


@pytest.mark.parametrize("missing", [0.0, 0.02, 0.7])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_neighbours_are_the_nearest_on_which_a_model_was_observed_as_in_scikit_learn(k, missing):
    train = world(300, missing=missing).observed
    router = fit(Config(k=k), train=train)
    assert router.scores(TEST) == pytest.approx(sklearn_means(train, train.Y, TEST, k), abs=1e-6)
    assert router.costs(TEST) == pytest.approx(sklearn_means(train, train.C, TEST, k), rel=1e-5)


def test_a_rarely_observed_model_is_searched_in_its_own_rows():
    train = world(400)
    train.Y[20:, 1] = NAN  # 20 labels, which the nearest 60 of 400 seldom hold
    train.Y[::7, 2] = NAN
    for k in (3, 50):
        found = scores(Config(k=k), train=train)
        assert found == pytest.approx(sklearn_means(train, train.Y, TEST, k), abs=1e-6)


def test_closer_neighbours_weigh_more_by_their_cosine():
    train = labelled([[1, 0], [0.6, 0.8], [-1, 0]], [[1, 0], [0, 1], [0, 0]])
    found = scores(Config(k=2, weights="cosine"), as_queries([[3, 0]]), train=train)
    assert found == pytest.approx(np.array([[1 / 1.6, 0.6 / 1.6]]), rel=1e-6)
    behind = scores(
        Config(k=3, weights="cosine"), as_queries([[0, -1]]), train=labelled([[0, 1]] * 3, np.eye(3))
    )
    assert behind == pytest.approx(1 / 3)  # none is close: all weigh alike


@each_form
def test_the_length_of_an_embedding_does_not_matter(variant):
    longer = np.random.default_rng(0).uniform(0.5, 5, (len(TEST), 1))
    router = fit(variant)
    found = router.scores(as_queries(TEST.X * longer))
    assert found == pytest.approx(router.scores(TEST), abs=1e-5)


# --- the choice of k ----------------------------------------------------------------------------------


def best_by_hand(T, X, candidates):
    """Leave-one-out means and R^2, one k and one model at a time."""
    cosines = X @ X.T
    np.fill_diagonal(cosines, -np.inf)
    near, quality = np.argsort(-cosines, axis=1, kind="stable"), []
    for k in candidates:
        found = []
        for m in range(T.shape[1]):
            rows = np.flatnonzero(~np.isnan(T[:, m]))
            means = []
            for i in rows:
                seen = [T[j, m] for j in near[i] if not np.isnan(T[j, m]) and j != i]
                means.append(np.mean(seen[:k], dtype=float))
            y = T[rows, m].astype(float)
            found.append(1 - np.square(y - means).sum() / np.square(y - y.mean()).sum())
        quality.append(np.mean(found))
    return np.array(quality)


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_k_is_that_of_the_best_leave_one_out_r_squared(missing):
    train = world(80, missing=missing, seed=4).observed
    candidates = [k for k in carrot.CANDIDATES if k < len(train)]
    by_hand = best_by_hand(train.Y, train.unit, candidates)
    rows = np.arange(len(train))
    rules = [(k, "uniform") for k in candidates]
    found = localmeans.local_means(train.unit, train.unit, train.Y, rules, "cpu", own=rows)
    assert localmeans.r_squared(found, train.Y) == pytest.approx(by_hand, abs=1e-5)
    router = fit(Config(), train=train)
    assert router.k == candidates[by_hand.argmax()]
    assert router.k_of_costs == candidates[best_by_hand(train.C, train.unit, candidates).argmax()]
    assert np.array_equal(router.scores(TEST), scores(Config(k=router.k), train=train))
    assert np.array_equal(router.costs(TEST), fit(Config(k=router.k_of_costs), train=train).costs(TEST))


def test_a_query_is_not_its_own_neighbour_when_k_is_chosen():
    rng = np.random.default_rng(0)
    noise = labelled(
        rng.normal(size=(300, 8)), rng.random((300, 3)) < 0.5
    )  # k = 1 with itself would be perfect
    assert fit(Config(), train=noise).k >= 128


def test_the_order_of_the_training_queries_does_not_matter():
    order = np.argsort(TRAIN.X[:, 0])  # as a file sorted by data set is
    by_task = labelled(TRAIN.X[order], TRAIN.Y[order], TRAIN.C[order])
    one, other = fit(Config()), fit(Config(), train=by_task)
    assert (one.k, one.k_of_costs) == (other.k, other.k_of_costs)


def test_a_model_whose_labels_never_vary_has_no_say_in_k():
    Y = np.column_stack([TRAIN.Y, np.ones(len(TRAIN)), np.full(len(TRAIN), NAN)])
    assert fit(Config(), train=labelled(TRAIN.X, Y)).k == fit(Config()).k
    constant = fit(Config(), train=labelled(TRAIN.X[:50], np.ones((50, 2))))
    assert constant.k == 32 and (constant.scores(TEST) == 1).all()


def test_of_many_queries_an_even_selection_is_scored(monkeypatch):
    asked, once = [], localmeans.local_means

    def spy(queries, X, T, rules, device, own=None):
        asked.append(own)
        return once(queries, X, T, rules, device, own)

    monkeypatch.setattr(localmeans, "local_means", spy)
    monkeypatch.setattr(localmeans, "SCORED", 5)
    fit(Config())
    assert [rows.tolist() for rows in asked] == [[0, 149, 299, 449, 599]]


# --- the heads ----------------------------------------------------------------------------------------


def bce(p, Y):
    p = np.clip(p.astype(np.float64), 1e-9, 1 - 1e-9)
    return np.nanmean(-(Y * np.log(p) + (1 - Y) * np.log(1 - p)))


@each_head
def test_a_head_predicts_better_than_the_models_means(variant):
    found = scores(variant)
    assert bce(found, TEST.Y) < bce(np.tile(TRAIN.Y.mean(axis=0), (len(TEST), 1)), TEST.Y) - 0.03
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize("costs", [True, False])
def test_label_heads_are_kept_as_likelihoods_and_cost_heads_by_their_error(costs, monkeypatch):
    trained, once = [], headrouter.fit_heads
    monkeypatch.setattr(headrouter, "fit_heads", lambda heads: trained.extend(heads) or once(heads))
    fit(HEADS[0], train=SMALL if costs else without_costs(SMALL))
    assert [head.likelihood for head in trained] == [True, False][: 1 + costs]
    assert [type(head.val) for head in trained] == [Validation, costheads.CostCheck][: 1 + costs]


def test_costs_are_checked_by_their_squared_error():
    Y = torch.tensor([[1, 0], [NAN, 1.0]])
    check = costheads.CostCheck(X=torch.zeros(2, 1), Y=Y, means=torch.zeros(2))
    assert check.accuracy(torch.tensor([[2.0, 0.0], [7.0, 3.0]])).item() == pytest.approx(-5 / 3)


# --- costs --------------------------------------------------------------------------------------------


@each_form
def test_costs_are_dollars_nearer_to_the_calls_than_each_models_mean(variant):
    found = fit(variant).costs(TEST)
    assert found.shape == TEST.C.shape and found.dtype == np.float32 and (found > 0).all()
    mean = TRAIN.C.mean(axis=0)
    error, of_mean = (found - TEST.C) / mean, (mean - TEST.C) / mean
    assert np.square(error).mean() < 0.9 * np.square(of_mean).mean()
    assert found.mean(axis=0) == pytest.approx(TEST.C.mean(axis=0), rel=0.2)


@each_head
def test_the_estimates_of_a_head_have_the_mean_of_the_train_costs(variant):
    sparse = world(400, missing=0.3)
    found = fit(variant, train=sparse).costs(sparse.observed)
    costs = sparse.observed.C
    assert np.where(np.isnan(costs), 0, found).sum(axis=0) == pytest.approx(
        np.nansum(costs, axis=0), rel=1e-4
    )


@each_form
def test_a_dearer_mu_never_chooses_dearer_models_by_the_estimates(variant):
    router = fit(variant)
    P, estimates = router.scores(TEST).astype(float), CostScale.fit(TRAIN.C).scaled(router.costs(TEST))
    paid = []
    for mu in np.linspace(0, 1, 21):
        chosen = ((1 - mu) * P - mu * estimates).argmax(axis=1)
        paid.append(estimates[np.arange(len(TEST)), chosen].mean())
    assert (np.diff(paid) <= 1e-12).all() and paid[0] > paid[-1] + 0.01
    assert (chosen == estimates.argmin(axis=1)).all()


@each_form
def test_without_costs_there_is_no_estimate_and_the_scores_are_the_same(variant):
    router = fit(variant, train=without_costs(TRAIN), val=without_costs(VAL))
    assert router.costs(TEST) is None
    assert np.array_equal(router.scores(TEST), scores(variant))
    again = CarrotRouter.from_state(router.state(), variant=variant, device="cpu")
    assert again.costs(TEST) is None


@each_form
def test_a_model_that_never_had_a_cost_has_none_and_a_free_one_is_free(variant):
    def changed(split):
        C = split.C.copy()
        C[:, 1], C[:, 2] = NAN, 0
        return labelled(split.X, split.Y, C)

    found = fit(variant, train=changed(TRAIN), val=changed(VAL)).costs(TEST)
    assert np.isnan(found[:, 1]).all() and (found[:, 2] == 0).all() and np.isfinite(found[:, [0, 3]]).all()


@each_form
def test_a_model_of_one_price_costs_that(variant):
    C = TRAIN.C.copy()
    C[:, 2] = 0.003
    found = fit(variant, train=labelled(TRAIN.X, TRAIN.Y, C)).costs(TEST)
    assert found[:, 2] == pytest.approx(0.003, rel=1e-3)


def test_a_head_learns_costs_also_where_val_has_none():
    found = fit(HEADS[0], val=without_costs(VAL)).costs(TEST)
    assert np.isfinite(found).all() and found.mean() == pytest.approx(TRAIN.C.mean(), rel=0.2)


def test_the_standardised_logarithm_by_hand():
    costs = np.array([[1.0, 5.0, 0.0], [np.e**2, 5.0, NAN], [NAN, 5.0, 0.0]], np.float32)
    found = costheads.LogScale(costs)(costs)
    assert found[:, 0] == pytest.approx([-1, 1, NAN], rel=1e-5, nan_ok=True)
    assert found[:, 1] == pytest.approx(0, abs=1e-5) and found[[0, 2], 2] == pytest.approx(0, abs=1e-5)
    cheap = costheads.LogScale(np.array([[0.0], [2.0]], np.float32))
    assert cheap(np.array([[0.0]], np.float32)) == cheap(
        np.array([[1e-3]], np.float32)
    )  # a thousandth of the mean


# --- fitting many at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_fitting_many_neighbours_equals_fitting_one_by_one_bit_for_bit(missing):
    train = world(300, missing=missing)
    trials = [Trial(variant=v, seed=s) for v in GRID if v.estimator == "knn" for s in (42, 7)]
    group = fit_many(train, VAL, trials, "cpu")
    for trial, found, costs in zip(trials, group.scores(TEST), group.costs(TEST), strict=True):
        alone = fit(trial.variant, train=train, seed=trial.seed)
        assert np.array_equal(found, alone.scores(TEST)), trial
        assert np.array_equal(costs, alone.costs(TEST)), trial


def test_fitting_heads_and_neighbours_together_equals_fitting_one_by_one():
    trials = [
        Trial(variant=v, seed=s)
        for s in (42, 7)
        for v in (HEADS[1], KNN[0], replace(HEADS[1], dropout=0.0), KNN[1], HEADS[0])
    ]
    group = fit_many(SMALL, VAL, trials, "cpu")
    for trial, found, costs in zip(trials, group.scores(TEST), group.costs(TEST), strict=True):
        alone = fit(trial.variant, SMALL, seed=trial.seed)
        assert found == pytest.approx(alone.scores(TEST), abs=1e-4), trial
        assert costs == pytest.approx(alone.costs(TEST), rel=1e-3), trial
    free = fit_many(without_costs(SMALL), VAL, trials, "cpu")
    assert free.costs(TEST) == [None] * len(trials)


def test_the_grid_is_served_by_one_search_of_its_largest_k(monkeypatch):
    searched, once = [], localmeans.nearest

    def counting(queries, X, k, device):
        searched.append(k)
        return once(queries, X, k, device)

    monkeypatch.setattr(localmeans, "nearest", counting)
    variants = [v for v in GRID if v.estimator == "knn" and v.k != "cv"]
    fit_many(TRAIN, VAL, [Trial(variant=v, seed=42) for v in variants], "cpu").scores(TEST)
    assert searched == [512]
    searched.clear()
    fit_many(TRAIN, VAL, [Trial(variant=Config(), seed=s) for s in (1, 2)], "cpu")
    assert searched == [513]  # one search chooses both k


def test_parts_that_bound_memory_do_not_change_the_scores(monkeypatch):
    train = world(300, missing=0.4)
    whole = [scores(variant, train=train) for variant in KNN]
    monkeypatch.setattr(localmeans, "GATHERED", 1000)
    for before, variant in zip(whole, KNN, strict=True):
        assert np.array_equal(scores(variant, train=train), before)


# --- what every router owes ---------------------------------------------------------------------------


@each_form
def test_it_beats_the_best_single_model_where_queries_tell(variant):
    routers.check_beats_best_single(scores(variant), TRAIN, TEST)


@each_form
def test_a_router_from_its_state_gives_the_same_scores_and_costs(variant):
    router = fit(variant, SMALL)
    assert all(isinstance(value, np.ndarray) for value in router.state().values())
    again = CarrotRouter.from_state(router.state(), variant=variant, device="cpu")
    assert np.array_equal(again.scores(TEST), router.scores(TEST))
    assert np.array_equal(again.costs(TEST), router.costs(TEST))


@each_form
def test_a_seed_fixes_the_scores_and_changes_those_of_the_networks_only(variant):
    first = scores(variant, train=SMALL, seed=1)
    torch.manual_seed(5)
    assert np.array_equal(first, scores(variant, train=SMALL, seed=1))
    assert np.array_equal(first, scores(variant, train=SMALL, seed=2)) == (variant.estimator == "knn")


@each_form
def test_scores_do_not_depend_on_batch_or_order(variant):
    router, order = fit(variant, world(120, missing=0.3)), np.random.default_rng(0).permutation(len(TEST))
    whole, costs = router.scores(TEST), router.costs(TEST)
    one_by_one = [router.scores(as_queries(TEST.X[i : i + 1])) for i in range(40)]
    assert np.concatenate(one_by_one) == pytest.approx(whole[:40], abs=1e-6)
    shuffled = as_queries(TEST.X[order])
    assert router.scores(shuffled) == pytest.approx(whole[order], abs=1e-6)
    assert router.costs(shuffled) == pytest.approx(costs[order], rel=1e-5)


@each_form
def test_permuting_the_models_permutes_the_scores(variant):
    order = [2, 0, 3, 1]
    train, val = (labelled(s.X, s.Y[:, order], s.C[:, order]) for s in (SMALL, VAL))
    permuted = scores(variant, train=train, val=val)
    if variant.estimator == "knn":
        assert np.array_equal(permuted, scores(variant, train=SMALL)[:, order])
    else:  # the last weights start at 0, so that no model has chance of its own
        assert permuted == pytest.approx(scores(variant, train=SMALL)[:, order], abs=1e-3)


@each_form
def test_what_stands_in_a_missing_label_changes_nothing(variant):
    sparse = world(120, missing=0.5)
    other = labelled(sparse.X, sparse.Y.copy(), sparse.C.copy())
    for array in (other.Y, other.C):
        array.view(np.uint32)[np.isnan(array)] = 0xFFC12345  # a NaN all the same
    one, two = fit(variant, train=sparse), fit(variant, train=other)
    assert np.array_equal(one.scores(TEST), two.scores(TEST))
    assert np.array_equal(one.costs(TEST), two.costs(TEST))


@each_form
def test_a_model_never_run_gets_the_mean_of_the_pool(variant):
    Y = SMALL.Y.copy()
    Y[:, 1] = NAN
    found = scores(variant, train=labelled(SMALL.X, Y))
    assert found[:, 1] == pytest.approx(model_means(Y)[1], abs=1e-5)


def test_neighbours_never_read_val():
    blind = worlds.without_labels(VAL)
    assert np.array_equal(scores(KNN[1], val=blind), scores(KNN[1]))


@each_form
def test_constant_embeddings_and_constant_labels_work(variant):
    Y = TRAIN.Y[:100].copy()
    Y[:, 0], Y[:, 1] = 1, 0
    train = labelled(np.ones((100, 8)), Y)
    found = scores(variant, as_queries(np.ones((20, 8))), train=train)
    assert np.ptp(found, axis=0).max() < 1e-6 and (found[:, 0] > 0.98).all() and (found[:, 1] < 0.02).all()


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(Config(), train=worlds.without_labels(TRAIN))


MUTATIONS = [
    (
        "found[r.k_of_costs, r.variant.weights]",
        "-found[r.k_of_costs, r.variant.weights]",
        "costs are negated",
    ),
    ("return CarrotGroup([self]).costs(queries)[0]", "return None", "the costs of a router are not used"),
    ('best if k == "cv" else (k, k)', '(16, 16) if k == "cv" else (k, k)', "k is not chosen by R^2"),
    ("likelihood=True", "likelihood=False", "heads are not kept as likelihoods"),
]
