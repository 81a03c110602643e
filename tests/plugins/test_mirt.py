"""mirt: what multidimensional item response theory promises, and what every router owes."""

import numpy as np
import pytest
import torch
from rph_plugins.routers import mirt
from rph_plugins.routers.mirt import CARD, GRID, Config, MirtRouter, register_router
from tests import routers, worlds
from tests.worlds import as_queries, labelled, planted, world

from rph import Trial, UsageError
from rph.training.heads import Draw, chance

NAN = np.nan

WORLD = world(550)
TRAIN, VAL, TEST = (worlds.part(WORLD, *rows) for rows in ((0, 300), (300, 400), (400, 550)))
SMALL = {"abilities": 4, "learning_rate": 5e-3}
FORMS = [{}, {"standardise": False}, {"bias": True}, {"warm_up": 0.3}, {"weight_decay": 1e-4}]
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form) or "default")


def fit(train=TRAIN, val=VAL, seed=0, **config):
    router = MirtRouter()
    router.fit(train, val, variant=Config(**{**SMALL, **config}), seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def with_labels(Y, of=TRAIN):
    return labelled(of.X, Y)


def logit(p):
    return np.log(p) - np.log1p(-p)


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_default_first():
    wanted = {Config(s, n, lr) for s in (False, True) for n in (8, 25, 64) for lr in (1e-3, 5e-3)}
    wanted |= {Config(bias=True), Config(warm_up=0.3), Config(weight_decay=1e-4)}
    assert GRID[0] == Config() == Config(standardise=True, abilities=25, learning_rate=1e-3)
    assert len(GRID) == 15 and set(GRID) == wanted


def test_the_card_says_stochastic_and_calibrated_and_the_routers_name_is_that_of_the_paper():
    assert (CARD.name, CARD.family, CARD.paper, CARD.year) == (
        "mirt",
        "latent-factor",
        "arXiv:2506.01048",
        2025,
    )
    assert not CARD.deterministic and CARD.calibrated
    assert register_router().router is MirtRouter


# --- the method ---------------------------------------------------------------------------------------


def test_a_score_is_the_probability_of_two_parameter_item_response_theory_by_hand():
    state = {
        "parameter/weight_a": np.array([[1.0, 0.0], [0.0, 2.0]], "f4"),
        "parameter/weight_b": np.array([[0.5], [1.0]], "f4"),
        "parameter/theta": np.array([[1.0, -1.0, 0.0], [0.5, 0.0, 3.0]], "f4"),  # [n, K]
    }
    router = MirtRouter.from_state(state, variant=Config(standardise=False), device="cpu")
    e = np.array([0.6, 0.8])
    a = np.log1p(np.exp([0.6, 1.6]))  # softplus of (1 * .6, 2 * .8)
    b = 0.5 * 0.6 + 1.0 * 0.8
    z = [a[0] * 1 + a[1] * 0.5 - b, -a[0] - b, 3 * a[1] - b]
    assert router.scores(as_queries([3 * e]))[0] == pytest.approx(1 / (1 + np.exp(-np.array(z))), abs=1e-6)


def test_difficulty_changes_probabilities_and_no_route():
    router = fit()
    flat = routers.changed(router, weight_b=np.zeros((8, 1), "f4"))
    before, after = router.scores(TEST), flat.scores(TEST)
    assert np.array_equal(before.argmax(axis=1), after.argmax(axis=1))
    assert len(set(before.argmax(axis=1))) > 1 and np.abs(before - after).max() > 0.05


@each_form
def test_a_model_more_able_along_every_axis_scores_higher_on_every_query(form):
    router = fit(**form)
    theta = router.state()["parameter/theta"].copy()
    theta[:, 2] = theta[:, 0] + [0.1, 0.0, 0.3, 0.2]
    found = routers.changed(router, theta=theta).scores(TEST)
    assert (found[:, 2] > found[:, 0]).all()


def test_with_one_ability_every_query_goes_to_the_same_model():
    assert len(set(scores(abilities=1).argmax(axis=1))) == 1


@pytest.mark.parametrize(
    ("seed", "standardise", "missing"), [(0, True, 0.0), (1, False, 0.0), (0, False, 0.4)]
)
def test_planted_specialists_get_their_queries(enough_steps, seed, standardise, missing):
    train, _ = planted(4000, seed, missing=missing)
    val, _ = planted(500, seed + 10, missing=missing)
    test, specialist = planted(2000, seed + 20)
    router = MirtRouter()
    router.fit(train, val, variant=Config(standardise=standardise), seed=seed, device="cpu")
    assert (router.scores(test).argmax(axis=1) == specialist).mean() >= 0.98


def test_planted_specialists_get_their_queries_among_110_models_that_guess():
    train, _ = planted(600, 0, K=112)
    val, _ = planted(200, 10, K=112)
    test, specialist = planted(500, 20, K=112)
    router = MirtRouter()
    router.fit(train, val, variant=Config(learning_rate=5e-3), seed=0, device="cpu")
    assert (router.scores(test).argmax(axis=1) == specialist).mean() >= 0.98


def test_the_loss_reads_observed_labels_only(monkeypatch):
    heads, sparse = routers.heads_of(monkeypatch, mirt), world(missing=0.5).observed
    fit(train=sparse)
    routers.check_loss_is_cross_entropy(heads[0], sparse.Y)


def test_probabilities_are_better_than_the_base_rate(enough_steps):
    p = np.clip(scores(TRAIN), 1e-6, 1 - 1e-6)
    base = np.broadcast_to(TRAIN.Y.mean(axis=0), TRAIN.Y.shape)

    def bce(q):
        return -np.mean(TRAIN.Y * np.log(q) + (1 - TRAIN.Y) * np.log(1 - q))

    assert bce(p) < bce(base) - 0.05


def test_a_minibatch_is_512_cells(monkeypatch):
    heads = routers.heads_of(monkeypatch, mirt)
    routers.check_minibatch_is_512_cells(fit, heads)
    training = heads[-1].training
    assert (training.optimiser, training.cosine, training.epochs) == ("adam", False, 30)


def test_there_are_at_most_30_epochs(enough_steps, monkeypatch):
    heads = routers.heads_of(monkeypatch, mirt)
    fit()
    assert (heads[0].training.epochs, heads[0].training.steps) == (30, 2000)


def test_biases_are_there_in_one_variant_only():
    assert set(fit().parameters) == {"weight_a", "weight_b", "theta"}
    router = fit(bias=True)
    assert {name: value.shape for name, value in router.parameters.items() if name.startswith("bias")} == {
        "bias_a": (1, 4),
        "bias_b": (1, 1),
    }
    moved = routers.changed(router, bias_b=router.parameters["bias_b"].numpy() - 1)
    assert logit(moved.scores(TEST)) == pytest.approx(logit(router.scores(TEST)) + 1, abs=1e-3)
    slope = router.parameters["bias_a"].numpy() - 50  # a = 0: only difficulty is left
    less = routers.changed(router, bias_a=slope)
    assert np.ptp(less.scores(TEST), axis=1).max() < 1e-6


def test_standardised_inputs_are_scaled_by_train_alone():
    train = labelled(TRAIN.X * 100 + 7, TRAIN.Y)
    train.X[:, 3] = 5  # a constant input
    router = fit(train=train)
    inputs = router.inputs(train).numpy()
    assert inputs.mean(axis=0) == pytest.approx(0, abs=1e-3)
    assert inputs.std(axis=0) == pytest.approx([1, 1, 1, 0, 1, 1, 1, 1], abs=1e-3)
    assert router.inputs(as_queries(train.X + 100)).mean(dim=0)[0] > 0.5  # not centred by itself


# --- warm-up ------------------------------------------------------------------------------------------


def test_warm_up_moves_a_query_to_the_mean_of_its_five_nearest():
    rng = np.random.default_rng(0)
    memory, queries = rng.standard_normal((40, 3)).astype("f4"), as_queries(rng.standard_normal((7, 3)))
    found = mirt.warmed_up(queries, torch.tensor(memory), 0.3, "cpu").X
    cosines = queries.X @ (memory / np.linalg.norm(memory, axis=1, keepdims=True)).T
    near = np.argsort(-cosines, axis=1)[:, :5]
    assert found == pytest.approx(0.7 * queries.X + 0.3 * memory[near].mean(axis=1), abs=1e-6)


def test_warm_up_concerns_prediction_only():
    plain, warm = fit(), fit(warm_up=0.3)
    assert all(torch.equal(value, warm.parameters[name]) for name, value in plain.parameters.items())
    assert not np.allclose(plain.scores(TEST), warm.scores(TEST), atol=1e-3)
    moved = mirt.warmed_up(TEST, torch.tensor(TRAIN.X), 0.3, "cpu")
    assert warm.scores(TEST) == pytest.approx(plain.scores(moved), abs=1e-6)


def test_warm_up_works_with_fewer_than_five_training_queries():
    few = labelled(TRAIN.X[:3], TRAIN.Y[:3])
    assert np.isfinite(scores(train=few, warm_up=0.3)).all()


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_within_1e_4():
    configs = [*FORMS, {"abilities": 3}, {"learning_rate": 1e-3}]
    trials = [Trial(variant=Config(**{**SMALL, **c}), seed=seed) for seed in (0, 3) for c in configs]
    for _, found, alone in routers.fitted_both_ways(register_router(), TRAIN, VAL, trials, TEST):
        assert found == pytest.approx(alone, abs=1e-4)


# --- what every router owes ---------------------------------------------------------------------------


@each_form
def test_a_router_from_its_state_gives_the_same_scores(form):
    router = fit(**form)
    routers.check_state(router, router.variant, TEST)


@each_form
def test_scores_do_not_depend_on_batch_or_order(form):
    routers.check_batch_and_order(fit(**form), TEST, 30, abs=1e-6)


def test_permuting_the_models_permutes_the_scores_where_their_starts_are_permuted(monkeypatch):
    order, start = [2, 0, 3, 1], mirt.initial

    def permuted(inputs, means, *others):
        parameters = start(inputs, means[np.argsort(order)], *others)
        parameters["theta"] = parameters["theta"][:, order].contiguous()
        return parameters

    wanted = scores()[:, order]
    monkeypatch.setattr(mirt, "initial", permuted)
    train, val = (worlds.reordered(s, order) for s in (TRAIN, VAL))
    assert scores(train=train, val=val) == pytest.approx(wanted, abs=1e-4)


def test_what_stands_in_a_missing_label_changes_nothing():
    sparse = world(missing=0.5)
    assert np.array_equal(scores(train=worlds.with_other_nans(sparse)), scores(train=sparse))


@each_form
def test_a_model_never_run_has_the_mean_abilities_of_the_pool(form):
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    found = logit(scores(train=with_labels(Y), **form).astype("f8"))
    assert found[:, 1] == pytest.approx(found[:, [0, 2, 3]].mean(axis=1), abs=1e-3)


def test_a_model_never_run_in_any_split_does_not_hinder_validation():
    train, val = world(K=2), world(100, K=2, seed=1)
    for split in (train, val):
        split.Y[:, 1] = NAN
    found = scores(train=train, val=val)
    assert found[:, 1] == pytest.approx(found[:, 0], abs=1e-6)


def test_constant_labels_and_embeddings_work():
    Y = TRAIN.Y.copy()
    Y[:, 0], Y[:, 3] = 0, 1
    found = scores(train=labelled(np.ones_like(TRAIN.X), Y))
    assert np.isfinite(found).all() and (found == found[0]).sum() > 0


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


def test_costs_and_test_labels_are_never_read():
    assert np.array_equal(scores(worlds.poisoned(worlds.without_labels(TEST))), scores())
    train, val = (worlds.poisoned(s) for s in (TRAIN, VAL))
    assert np.array_equal(scores(train=train, val=val), scores())


def test_a_stack_of_heads_computes_what_each_computes_alone():
    seen, means = torch.tensor([True, False, True]), np.array([0.5, 0.6, 0.7], "f4")
    heads = [mirt.initial(8, means, seen, Config(bias=True), chance(s, "test"), "cpu") for s in range(3)]
    X = torch.tensor(TEST.X)
    together = mirt.forward({name: torch.stack([h[name] for h in heads]) for name in heads[0]}, X, Draw())
    for found, head in zip(together, heads, strict=True):
        assert torch.allclose(found, mirt.forward(head, X, Draw()), atol=1e-5)


def test_a_head_starts_at_the_mean_labels():
    means = np.array([0.1, 0.5, 0.9], "f4")
    start = mirt.initial(8, means, torch.ones(3, dtype=torch.bool), Config(), chance(0, "test"), "cpu")
    start["weight_b"].zero_()
    p = torch.sigmoid(mirt.forward(start, torch.zeros(1, 8), Draw()))
    assert p[0].numpy() == pytest.approx(means, abs=0.12)  # the noise has deviation .35 in the logit
    assert start["theta"].std(dim=0).mean().item() == pytest.approx(0.1, abs=0.03)


def test_the_learning_rate_changes_the_scores():
    routers.check_fields_matter(lambda variant: scores(**vars(variant)), Config(**SMALL), learning_rate=1e-3)


MUTATIONS = [
    (
        'abilities(parameters["theta"])) - b',
        'abilities(parameters["theta"])) + b',
        "harder queries score higher",
    ),
    ("torch.nn.functional.softplus(a)", "torch.nn.functional.silu(a)", "discrimination may be negative"),
    (
        "targets=(labels, seen),",
        "targets=(labels, torch.ones_like(seen)),",
        "a missing label counts as wrong",
    ),
    ("learning_rate=variant.learning_rate,", "", "the learning rate is ignored"),
]
