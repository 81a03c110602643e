"""optllm: boosters with masked labels, bootstrap resamples, and what every router owes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xgboost
from rph_plugins.routers import optllm
from rph_plugins.routers.optllm import CARD, GRID, Config, OptLlmRouter, resample_weights
from tests import routers, worlds
from tests.worlds import labelled, some_queries, world

from rph import Trial, UsageError
from rph.arrays import model_means, observed_means

NAN = np.nan
TEST = some_queries()
FORMS = [{}, {"resamples": 3, "alpha": -0.5}, {"trees": "joint"}]


def split(K=4, missing=0.0, seed=0):
    """Train 400 and val 200 of one world."""
    whole = world(600, K=K, missing=missing, seed=seed)
    return labelled(whole.X[:400], whole.Y[:400]), labelled(whole.X[400:], whole.Y[400:])


TRAIN, VAL = split()


def small(**config):
    return Config(**{"depth": 3, "eta": 0.1, "rounds": 30, "columns": 0.7, **config})


def fit(train=TRAIN, val=VAL, seed=42, **config):
    router = OptLlmRouter()
    router.fit(train, val, variant=small(**config), seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def logloss(p, Y):
    p = np.broadcast_to(np.asarray(p, np.float64).clip(1e-9, 1 - 1e-9), Y.shape)
    return -np.nanmean(Y * np.log(p) + (1 - Y) * np.log(1 - p), axis=0)


# --- the card and the grid ----------------------------------------------------------------------------


def test_grid_is_the_specified_one():
    settings = [(2, 0.1, 300), (3, 0.1, 200), (3, 0.05, 400), (4, 0.05, 400), (4, 0.03, 600), (6, 0.05, 300)]
    wanted = {Config(*setting, columns) for setting in settings for columns in (0.3, 0.7)}
    wanted |= {Config(3, 0.1, 200, 0.3, resamples=5, alpha=alpha) for alpha in (0.0, -0.5)}
    wanted |= {Config(6, 0.1, 200, 0.3, trees="joint")}
    assert len(GRID) == len(set(GRID)) == 15 and set(GRID) == wanted
    assert GRID[0] == Config()


def test_card_says_stochastic_and_calibrated_and_knows_the_papers_key():
    assert (CARD.name, CARD.aliases, CARD.paper) == ("optllm", ("optllm_xgb",), "arXiv:2405.15130")
    assert CARD.calibrated and not CARD.deterministic and "missing-labels" in CARD.supports


# --- the method ---------------------------------------------------------------------------------------


def plain(X, y, cuts, config=None, seed=0, **params):
    """A booster as anyone would train it, on the rows given only."""
    matrix = xgboost.QuantileDMatrix(X, label=y, ref=cuts, max_bin=optllm.BINS, nthread=1)
    config = config or small()
    return xgboost.train(
        {
            "objective": "binary:logistic",
            "base_score": float(np.float64(y).mean()),
            "max_depth": config.depth,
            "eta": config.eta,
            "colsample_bytree": config.columns,
            "min_child_weight": 10,
            "lambda": 1,
            "max_bin": optllm.BINS,
            "nthread": 1,
            "seed": seed,
            **params,
        },
        matrix,
        config.rounds,
    )


def blind(val=VAL):
    return worlds.without_labels(val)


def test_one_resample_is_a_plain_booster():
    found = scores(val=blind(), columns=1.0)
    cuts = xgboost.QuantileDMatrix(TRAIN.X, max_bin=optllm.BINS, nthread=1)
    seed = int(torch.randint(2**30, (), generator=optllm.chance(42, "boosting")))
    for m in range(4):
        booster = plain(TRAIN.X, TRAIN.Y[:, m], cuts, small(columns=1.0), seed, subsample=optllm.SUBSAMPLE)
        assert found[:, m] == pytest.approx(booster.predict(xgboost.DMatrix(TEST.X)), abs=1e-6)


def test_masked_labels_are_dropped_rows(monkeypatch):
    monkeypatch.setattr(optllm, "SUBSAMPLE", 1.0)
    monkeypatch.setattr(
        optllm, "level", observed_means
    )  # where a booster starts, which others' labels decide too
    sparse, _ = split(missing=0.5)
    router = fit(sparse, blind(), columns=1.0)
    known = sparse.observed
    cuts = xgboost.QuantileDMatrix(known.X, max_bin=optllm.BINS, nthread=1)
    for m, booster in enumerate(router.boosters.loaded):
        rows = ~np.isnan(known.Y[:, m])
        dropped = plain(known.X[rows], known.Y[rows, m], cuts, small(columns=1.0))
        matrix = xgboost.DMatrix(TEST.X)
        assert np.array_equal(booster.predict(matrix), dropped.predict(matrix))


def test_boosting_stops_at_the_best_val_logloss():
    router = fit(rounds=400, eta=0.3, depth=6)
    Y = VAL.Y
    for m, booster in enumerate(router.boosters.loaded):
        rounds = booster.num_boosted_rounds()
        assert rounds < 100
        matrix = xgboost.DMatrix(VAL.X)
        by_round = [
            logloss(booster.predict(matrix, iteration_range=(0, i + 1)), Y[:, m]) for i in range(rounds)
        ]
        assert int(np.argmin(by_round)) == rounds - 1


def test_only_observed_val_labels_stop_the_boosting():
    holes = VAL.Y.copy()
    holes[::2] = NAN
    half = labelled(VAL.X[1::2], VAL.Y[1::2])
    for form in FORMS:
        found = scores(val=labelled(VAL.X, holes), rounds=100, **form)
        assert np.array_equal(found, scores(val=half, rounds=100, **form))


@pytest.mark.parametrize("trees", ["per-model", "joint"])
def test_without_a_val_label_all_rounds_are_kept(trees):
    router = fit(val=blind(), rounds=33, trees=trees)
    assert {booster.num_boosted_rounds() for booster in router.boosters.loaded} == {33}


@pytest.mark.parametrize("form", FORMS)
def test_val_logloss_is_below_that_of_the_means(form):
    found = scores(VAL, rounds=100, **form)
    assert (logloss(found, VAL.Y) < logloss(TRAIN.Y.mean(axis=0), VAL.Y)).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_model_whose_labels_are_all_the_same_gets_that_label(form, constant):
    Y = TRAIN.Y.copy()
    Y[:, 1] = constant
    found = scores(train=labelled(TRAIN.X, Y), **form)
    assert (found[:, 1] == constant).all() and found[:, [0, 2, 3]].std(axis=0).min() > 0
    Y[::3, 1] = NAN  # what would it have had there? its level is a little further from certainty
    found = scores(train=labelled(TRAIN.X, Y), **form)
    assert (found[:, 1] == model_means(Y)[1]).all() and found[0, 1] == pytest.approx(constant, abs=0.05)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("few", [[1], [1, 1, 1, 0]])
def test_few_labels_say_little_of_a_model(form, few):
    """Neither where they are all the same, so that nothing is boosted, nor where a booster cannot split them."""
    Y, val = TRAIN.Y.copy(), VAL.Y.copy()
    Y[len(few) :, 2], Y[: len(few), 2], val[:, 2] = NAN, few, NAN
    Y[:, 3] = np.random.default_rng(0).random(len(Y)) < 0.9
    found = scores(train=labelled(TRAIN.X, Y), val=labelled(VAL.X, val), **form)
    assert found[:, 2] == pytest.approx(model_means(Y)[2], abs=1e-5)
    assert found[:, 2].max() < found[:, 3].mean()


@pytest.mark.parametrize("form", FORMS)
def test_a_model_never_observed_scores_the_pools_mean(form):
    Y = TRAIN.Y.copy()
    Y[:, 2] = NAN
    found = scores(train=labelled(TRAIN.X, Y), **form)
    assert found[:, 2] == pytest.approx(Y[:, [0, 1, 3]].mean(axis=0).mean(), abs=1e-6)


@pytest.mark.parametrize("form", FORMS[:2])
def test_another_model_in_the_pool_changes_no_score_of_the_others(form):
    three = [labelled(part.X, part.Y[:, :3]) for part in (TRAIN, VAL)]
    assert np.array_equal(scores(train=three[0], val=three[1], **form), scores(**form)[:, :3])


def test_joint_trees_predict_every_model_and_ignore_masked_cells():
    sparse, val = split(missing=0.4)
    router = fit(sparse, val, trees="joint")
    assert len(router.boosters.loaded) == 1 and router.boosters.groups.tolist() == [[0, 1, 2, 3]]
    train = optllm.Part.of(None, sparse.Y)
    own = optllm._masked_logloss(train, optllm.Part.of(None, val.Y), np.arange(4), train.seen)
    logits = np.random.default_rng(0).normal(size=sparse.Y.shape).astype("f4")
    gradient, curvature = own["obj"](logits, None)
    p = 1 / (1 + np.exp(-logits))
    seen = ~np.isnan(sparse.Y)
    assert gradient[seen] == pytest.approx((p - sparse.Y)[seen], abs=1e-6)
    assert curvature[seen] == pytest.approx((p * (1 - p))[seen], abs=1e-6)
    assert not gradient[~seen].any() and not curvature[~seen].any()
    z = np.random.default_rng(1).normal(size=val.Y.shape).astype("f4")
    seen = ~np.isnan(val.Y)
    wanted = -np.log(1 / (1 + np.exp(-np.where(val.Y == 1, z, -z))))[seen].mean()
    assert own["custom_metric"](z, None)[1] == pytest.approx(wanted, abs=1e-6)


# --- resamples ----------------------------------------------------------------------------------------


def test_resamples_are_weighted_by_their_accuracy_on_what_they_left_out():
    Y = np.array([[1, 0], [0, 0], [1, 0], [1, 0]], np.float32)
    one = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], np.float32)
    other = np.array([[1, 0], [1, 0], [0, 0], [0, 0]], np.float32)
    p = [np.array([[a, 0.1]] * 4, np.float32) for a in (0.9, 0.2)]  # right on 2 of 3 and on 1 of 2
    found = resample_weights(p, Y, [one, other])
    assert found == pytest.approx(np.array([[4 / 7, 0.5], [3 / 7, 0.5]]))


def test_weights_are_of_train_labels_that_a_resample_left_out():
    found = fit(resamples=3).boosters
    draws = list(optllm._resamples(len(TRAIN), 3, 42))
    left_out = [np.ones_like(TRAIN.Y) * (counts == 0)[:, None] for counts in draws]
    wanted = resample_weights(list(found.probabilities(TRAIN.X)), TRAIN.Y, left_out)
    assert found.weights == pytest.approx(wanted) and wanted.std(axis=0).max() > 0
    assert wanted.sum(axis=0) == pytest.approx(np.ones(4))


def test_a_score_is_the_weighted_mean_and_alpha_standard_deviations():
    router = fit(resamples=3, alpha=-0.5)
    p = np.stack(list(router.boosters.probabilities(TEST.X)))
    wanted = np.average(p, axis=0, weights=np.broadcast_to(router.boosters.weights[:, None], p.shape))
    assert router.scores(TEST) == pytest.approx((wanted - 0.5 * p.std(axis=0)).clip(0, 1), abs=1e-6)
    assert p.std(axis=0).min() > 0
    assert (scores(resamples=3, alpha=50.0) == 1).mean() > 0.5  # clipped


def test_resamples_draw_queries_with_replacement_and_one_is_the_train_split():
    (whole,) = optllm._resamples(200, 1, 0)
    drawn = list(optllm._resamples(200, 3, 0))
    assert (whole == 1).all()
    assert all(counts.sum() == 200 and 0.3 < (counts == 0).mean() < 0.45 for counts in drawn)
    assert not np.array_equal(drawn[0], drawn[1])


# --- planted worlds -----------------------------------------------------------------------------------


def specialists(n, seed, missing=0.0):
    """Two clusters; two models each right in one of them, with 0.95 and 0.05, and one with 0.5 everywhere."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, n)
    X = np.eye(1, 32) * (2 * group - 1)[:, None] + 0.3 * rng.normal(size=(n, 32))
    Y = (rng.random((n, 3)) < np.array([[0.95, 0.05, 0.5], [0.05, 0.95, 0.5]])[group]).astype("f4")
    Y[rng.random(Y.shape) < missing] = NAN
    return labelled(X, Y), group


@pytest.mark.parametrize(("missing", "form"), [(0.0, FORMS[0]), (0.4, FORMS[0]), (0.4, FORMS[2])])
def test_queries_go_to_their_specialist(missing, form):
    train, _ = specialists(2000, 1, missing)
    val, _ = specialists(500, 2, missing)
    test, group = specialists(1000, 3)
    routed = scores(test, train=train, val=val, **form).argmax(axis=1)
    assert (routed == group).mean() >= 0.98


def test_labels_that_do_not_depend_on_queries_give_the_means():
    rng, p = np.random.default_rng(0), [0.3, 0.4, 0.5, 0.7]
    parts = [labelled(rng.normal(size=(n, 8)), rng.random((n, 4)) < p) for n in (1500, 500, 1500)]
    found = scores(parts[2], train=parts[0], val=parts[1], rounds=100)
    assert found.mean(axis=0) == pytest.approx(parts[0].Y.mean(axis=0), abs=0.02)
    assert (found.argmax(axis=1) == 3).mean() > 0.98


# --- missing labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_stands_behind_a_missing_label_changes_nothing(form):
    train, val = split(missing=0.4)
    garbage = []
    for part in (train, val):
        Y = part.Y.copy()
        Y.view(np.uint32)[np.isnan(part.Y)] = 0xFFC12345  # a NaN all the same
        garbage.append(labelled(part.X, Y))
    assert np.array_equal(
        scores(train=garbage[0], val=garbage[1], **form), scores(train=train, val=val, **form)
    )


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(worlds.without_labels(TRAIN))


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_bit_for_bit():
    train, val = split(missing=0.1)
    variants = [
        replace(variant, rounds=12, resamples=min(variant.resamples, 2)) for variant in reversed(GRID)
    ]
    trials = [Trial(variant=v, seed=s) for s, vs in ((1, variants), (2, variants[:4])) for v in vs]
    for _, found, alone in routers.fitted_both_ways(optllm.register_router(), train, val, trials, TEST):
        assert np.array_equal(alone, found)


def test_variants_that_differ_in_alpha_share_their_boosters(monkeypatch):
    boosted, once = [], optllm.boost
    monkeypatch.setattr(optllm, "boost", lambda *a: boosted.append(a[4]) or once(*a))
    trials = [Trial(variant=small(resamples=2, alpha=alpha), seed=0) for alpha in (0.0, -0.5)]
    group = optllm.fit_many(TRAIN, VAL, trials, "cpu")
    assert len(boosted) == 2 * 4
    assert (group.scores(TEST)[1] <= group.scores(TEST)[0]).all()


# --- what every router owes ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_permuting_the_models_permutes_the_scores(form):
    order = [2, 0, 3, 1]
    parts = [labelled(part.X, part.Y[:, order]) for part in (TRAIN, VAL)]
    found, wanted = scores(train=parts[0], val=parts[1], **form), scores(**form)[:, order]
    # Joint trees sum over the models: in another order, with another rounding.
    assert found == pytest.approx(wanted, abs=1e-4) if form == FORMS[2] else np.array_equal(found, wanted)


@pytest.mark.parametrize("form", FORMS)
def test_scores_do_not_depend_on_batch_or_order(form):
    routers.check_batch_and_order(fit(**form), TEST, len(TEST))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_training_queries_give_about_the_means(n, form):
    few = labelled(TRAIN.X[:n], TRAIN.Y[:n])
    found = scores(train=few, val=labelled(VAL.X[:1], VAL.Y[:1]), **{**form, "alpha": 0.0})
    assert np.isfinite(found).all()
    if not form:
        assert found == pytest.approx(np.tile(few.Y.mean(axis=0), (50, 1)), abs=0.25)


def test_constant_embeddings_give_the_means():
    same = labelled(np.ones_like(TRAIN.X), TRAIN.Y)
    found = scores(train=same)
    assert found == pytest.approx(np.tile(TRAIN.Y.mean(axis=0), (50, 1)), abs=0.03)


@pytest.mark.parametrize("form", FORMS)
def test_a_router_from_its_state_gives_the_same_scores(form):
    router = fit(**form)
    state = routers.check_state(router, small(**form), TEST)
    assert state["boosters"].dtype == np.uint8


def test_one_thread_is_used_to_fit_and_to_predict(monkeypatch):
    threads = []
    for name in ("QuantileDMatrix", "DMatrix", "train"):
        once = getattr(xgboost, name)
        monkeypatch.setattr(
            xgboost,
            name,
            lambda *a, once=once, **k: threads.append(k.get("nthread") or a[0]["nthread"]) or once(*a, **k),
        )
    router = fit()
    router.scores(TEST)
    again = OptLlmRouter.from_state(router.state(), variant=small(), device="cpu")
    kept = [booster.save_config() for booster in (*router.boosters.loaded, *again.boosters.loaded)]
    assert threads == [1] * (2 + 4 + 1) and all('"nthread":"1"' in config for config in kept)


def test_costs_are_never_read():
    priced = worlds.poisoned(TRAIN)
    assert np.array_equal(scores(train=priced), scores())


def test_the_depth_changes_the_scores():
    routers.check_fields_matter(lambda variant: scores(**vars(variant)), small(), depth=1)


MUTATIONS = [
    ("return W * (p - Y), W * p * (1 - p)", "return p - Y, p * (1 - p)", "masked cells count in joint trees"),
    (
        "train.seen * counts[:, None]",
        "np.ones_like(train.seen) * counts[:, None]",
        "missing labels count as 0",
    ),
    ("mean + np.float32(self.alpha)", "mean - np.float32(self.alpha)", "the uncertainty's sign"),
    ('"max_depth": variant.depth,', '"max_depth": 3,', "the depth is ignored"),
]
