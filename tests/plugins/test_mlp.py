"""mlp: what a classifier head promises, and what every router owes."""

from dataclasses import replace

import numpy as np
import pytest
import rph_plugins.routers.mlp
import torch
from tests import routers, worlds
from tests.worlds import labelled, logistic, unrelated

from rph import Queries, Trial, UsageError
from rph.arrays import model_means
from rph.registry import installed
from rph.training.heads import Draw, Head, Training, Validation, bce_loss, chance, masked_bce, observed
from rph.training.stacks import fit_heads

NAN = np.nan


@pytest.fixture(scope="module")
def plugin():
    return installed().load("router", "mlp")


@pytest.fixture(scope="module")
def spec(plugin):
    return plugin.spec


TRAIN, VAL, TEST = logistic(1200), logistic(300, seed=1), logistic(300, seed=2)
SMALL = {"hidden": (16,)}


def fit(spec, train=TRAIN, val=VAL, seed=0, **config):
    router = spec.router()
    variant = replace(spec.grid[0], **{**SMALL, **config})
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


def scores(spec, queries=TEST, **how):
    return fit(spec, **how).scores(queries)


def bce(p, Y):
    p = np.clip(p.astype(np.float64), 1e-9, 1 - 1e-9)
    return np.nanmean(-(Y * np.log(p) + (1 - Y) * np.log(1 - p)))


def base_rate(Y):
    return bce(np.broadcast_to(np.nanmean(Y, axis=0), Y.shape), Y)


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_card_says_stochastic_and_calibrated_and_has_the_papers_name_as_alias(spec):
    assert (spec.card.family, spec.card.paper, spec.card.year) == ("classifier", "arXiv:2403.12031", 2024)
    assert not spec.card.deterministic and spec.card.calibrated
    assert installed().load("router", "mlp_cn").spec is not None and spec.card.aliases == ("mlp_cn",)


# --- the method ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [{}, {"hidden": ()}, {"hidden": (16, 8)}, {"hidden": (16, 8), "per_model": True}]
)
def test_an_untrained_head_has_the_base_rate_bce_and_training_goes_below_it(plugin, config):
    spec = plugin.spec
    variant = replace(spec.grid[0], **{**SMALL, **config})
    parameters = plugin.module.initial(8, model_means(TRAIN.Y), variant, chance(0, "initial"), "cpu")
    z = plugin.module.MlpRouter.forward(variant)(parameters, torch.tensor(TRAIN.unit), Draw())
    assert z.shape == TRAIN.Y.shape
    assert masked_bce(z, *observed(TRAIN.Y, "cpu")).item() == pytest.approx(base_rate(TRAIN.Y), abs=1e-5)
    assert bce(scores(spec, TRAIN, **config), TRAIN.Y) < base_rate(TRAIN.Y) - 0.015


@pytest.mark.parametrize("config", [{}, {"per_model": True}])
def test_the_gradient_of_the_logits_is_probability_minus_label_over_the_observed_count(plugin, config):
    sparse = logistic(40, missing=0.5)
    variant = replace(plugin.spec.grid[0], hidden=(), **config)  # linear: dL/dW = x^T dL/dz
    parameters = plugin.module.initial(8, model_means(sparse.Y), variant, chance(0, "initial"), "cpu")
    weight, X = parameters["weight0"].requires_grad_(), torch.tensor(sparse.unit)
    z = plugin.module.MlpRouter.forward(variant)(parameters, X, Draw())
    Y, M = observed(sparse.Y, "cpu")
    masked_bce(z, Y, M).backward()
    assert torch.allclose(weight.grad, X.T @ ((torch.sigmoid(z.detach()) - Y) * M / M.sum()), atol=1e-7)


@pytest.mark.parametrize("per_model", [False, True])
def test_a_fully_masked_model_gets_no_gradient_in_its_row_of_the_head(plugin, per_model):
    Y = TRAIN.Y.copy()
    Y[:, 2] = NAN
    variant = replace(plugin.spec.grid[0], hidden=(16,), per_model=per_model)
    parameters = plugin.module.initial(8, model_means(Y), variant, chance(0, "initial"), "cpu")
    head = [parameters[name].requires_grad_() for name in ("weight1", "bias1")]
    z = plugin.module.MlpRouter.forward(variant)(parameters, torch.tensor(TRAIN.unit), Draw())
    masked_bce(z, *observed(Y, "cpu")).backward()
    for value in head:  # [16 or 1, K], or [K, 16 or 1, 1]
        by_model = value.grad.reshape(4, -1) if per_model else value.grad.T
        assert (by_model[2] == 0).all() and (by_model[[0, 1, 3]] != 0).any(dim=1).all()


def test_a_wide_head_learns_64_random_rows_by_heart(plugin):
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.normal(size=(64, 16)).astype("f4"))
    Y = torch.nn.functional.one_hot(torch.tensor(rng.integers(0, 5, 64)), 5).float()  # one model is right
    means = Y.mean(dim=0)

    def learnt(hidden):
        variant = replace(plugin.spec.grid[0], hidden=hidden)
        start = plugin.module.initial(16, means.numpy(), variant, chance(0, "initial"), "cpu")
        val = Validation(X=X, Y=Y, means=means)
        head = Head(
            parameters=start,
            forward=plugin.module.forward,
            loss=bce_loss,
            X=X,
            targets=(Y, torch.ones_like(Y)),
            val=val,
            training=Training(epochs=150, patience=150),
            seed=0,
        )
        return val.accuracy(plugin.module.forward(fit_heads([head])[0], X, Draw())).item()

    assert learnt((512, 256)) > 0.99
    assert learnt(()) < 0.9


def test_scores_are_probabilities_once_through_the_sigmoid(spec):
    router = fit(spec)
    p = {name: value.numpy() for name, value in router.parameters.items()}
    hidden = np.maximum(TEST.unit @ p["weight0"] + p["bias0"], 0)
    z = hidden @ p["weight1"] + p["bias1"]
    assert router.scores(TEST) == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-5)


def test_separate_networks_are_separate(plugin):
    variant = replace(plugin.spec.grid[0], hidden=(16, 8), per_model=True)
    parameters = plugin.module.initial(8, model_means(TRAIN.Y), variant, chance(0, "initial"), "cpu")
    parameters["weight2"] = torch.randn(4, 8, 1, generator=chance(1, "test"))
    X = torch.tensor(TRAIN.unit[:20])
    together = plugin.module.forward_per_model(parameters, X, Draw())
    for m in range(4):  # one network's arithmetic, by hand
        hidden = (X @ parameters["weight0"].view(8, 4, 16)[:, m] + parameters["bias0"].view(4, 16)[m]).relu()
        hidden = (hidden @ parameters["weight1"][m] + parameters["bias1"][m]).relu()
        alone = hidden @ parameters["weight2"][m] + parameters["bias2"][m]
        assert torch.allclose(together[:, m], alone[:, 0], atol=1e-5)
    assert plugin.module.forward_per_model(parameters, X[:0], Draw()).shape == (0, together.shape[-1])


def test_standardised_inputs_are_scaled_by_train_alone(spec):
    train = labelled(TRAIN.X * 100 + 7, TRAIN.Y)
    train.X[:, 3] = 5  # a constant feature
    router = fit(spec, train=train, standardise=True)
    mean, deviation = router.buffers["input_mean"], router.buffers["input_deviation"]
    assert mean.numpy() == pytest.approx(train.X.mean(axis=0), rel=1e-4, abs=1e-3)
    assert deviation[3] == 1
    inputs = router.inputs(train).numpy()
    assert inputs.std(axis=0)[[0, 1, 2]] == pytest.approx(1, abs=1e-3)
    assert inputs[:, 3] == pytest.approx(0)
    shifted = Queries(X=TEST.X * 100 + 50, texts=TEST.texts)
    assert router.inputs(shifted)[:, :3].mean() == pytest.approx(0.43, abs=0.15)  # not centred by itself


def test_only_the_unstandardised_head_ignores_the_length_of_an_embedding(spec):
    longer = Queries(X=TEST.X * 3, texts=TEST.texts)
    plain, standardised = fit(spec), fit(spec, standardise=True)
    assert plain.scores(longer) == pytest.approx(plain.scores(TEST), abs=1e-5)
    assert not np.allclose(standardised.scores(longer), standardised.scores(TEST), atol=1e-3)


def test_batches_grow_with_the_training_data(plugin, monkeypatch):
    seen = []

    def spy(heads):
        seen.extend(head.training.batch for head in heads)
        return [head.parameters for head in heads]

    monkeypatch.setattr("rph.training.headrouter.fit_heads", spy)
    for n in (50_000, 50_001):
        fit(plugin.spec, train=logistic(n, d=2, K=2), val=logistic(20, d=2, K=2))
    assert seen == [256, 1024]


# --- what every router owes ---------------------------------------------------------------------------

FORMS = [
    {"hidden": ()},
    {"hidden": (16,)},
    {"hidden": (16, 8), "loss": "mse"},
    {"hidden": (16, 8), "per_model": True},
    {"hidden": (16,), "standardise": True},
]
each_form = pytest.mark.parametrize("config", FORMS, ids=lambda c: "-".join(map(str, c.values())))


@each_form
def test_it_beats_the_base_rate_and_the_best_single_model_where_queries_tell(spec, config):
    router = fit(spec, **config)
    assert bce(router.scores(TRAIN), TRAIN.Y) < base_rate(TRAIN.Y) - 0.015
    routers.check_beats_best_single(router.scores(TEST), TRAIN, TEST)


@each_form
def test_a_router_from_its_state_gives_the_same_scores(spec, config):
    router = fit(spec, **config)
    variant = replace(spec.grid[0], **config)
    routers.check_state(router, variant, TEST)


@each_form
def test_scores_do_not_depend_on_batch_or_order(spec, config):
    routers.check_batch_and_order(fit(spec, **config), TEST, 40, abs=1e-6)


@each_form
def test_a_model_never_run_gets_the_mean_of_the_pool(spec, config):
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    found = scores(spec, train=labelled(TRAIN.X, Y), **config)
    assert found[:, 1] == pytest.approx(Y[:, [0, 2, 3]].mean(), abs=1e-5)


def test_permuting_the_models_permutes_the_scores_of_a_linear_head(spec):
    order = [2, 0, 3, 1]
    train, val = (worlds.reordered(s, order) for s in (TRAIN, VAL))
    found = scores(spec, train=train, val=val, hidden=())
    assert found == pytest.approx(scores(spec, hidden=())[:, order], abs=1e-4)


def test_permuting_the_models_permutes_the_scores_of_a_shared_network(spec):
    order = [2, 0, 3, 1]
    train, val = (worlds.reordered(s, order) for s in (TRAIN, VAL))
    assert scores(spec, train=train, val=val) == pytest.approx(scores(spec)[:, order], abs=1e-3)


def test_test_labels_and_costs_are_never_read(spec):
    assert np.array_equal(scores(spec, worlds.poisoned(worlds.without_labels(TEST))), scores(spec))
    train, val = (worlds.poisoned(s) for s in (TRAIN, VAL))
    assert np.array_equal(scores(spec, train=train, val=val), scores(spec))


def test_a_model_that_is_always_right_is_ranked_first(spec):
    found = scores(spec, train=worlds.always_right(TRAIN), val=worlds.always_right(VAL))
    assert (found.argmax(axis=1) == 2).all() and (found[:, 2] > 0.99).all()


def test_labels_that_have_nothing_to_do_with_queries_give_about_the_best_single_model(spec):
    train, val, test = unrelated(2000, seed=3), unrelated(500, seed=4), unrelated(2000, seed=5)
    routers.check_near_best_single(scores(spec, test, train=train, val=val), test)


def test_with_most_labels_missing_it_still_learns_and_what_stands_there_changes_nothing(spec):
    sparse = logistic(4000, missing=0.6)
    found = scores(spec, sparse, train=sparse)
    assert bce(found, sparse.Y) < base_rate(sparse.Y) - 0.015
    assert np.array_equal(scores(spec, sparse, train=worlds.with_other_nans(sparse)), found)


def test_no_label_at_all_is_an_error_that_says_so(spec):
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(spec, train=worlds.without_labels(TRAIN))


@pytest.mark.parametrize("index", range(15))
def test_every_variant_of_the_grid_learns(spec, index):
    train, val = logistic(300), logistic(100, seed=1)
    router = spec.router()
    router.fit(train, val, variant=spec.grid[index], seed=0, device="cpu")
    assert bce(router.scores(train), train.Y) < base_rate(train.Y)


def test_variants_fitted_together_score_as_those_fitted_one_by_one(spec):
    train, val = logistic(300, missing=0.3), logistic(100, seed=1)
    trials = [
        Trial(variant=variant, seed=seed) for seed in (0, 1) for variant in spec.grid[:1] + spec.grid[8:15]
    ]
    for _, found, alone in routers.fitted_both_ways(spec, train, val, trials, TEST):
        assert found == pytest.approx(alone, abs=1e-4)


def test_a_router_fitted_again_forgets_the_variant_before(spec):
    router = fit(spec, standardise=True)
    router.fit(TRAIN, VAL, variant=replace(spec.grid[0], **SMALL), seed=0, device="cpu")
    assert np.array_equal(router.scores(TEST), scores(spec))


def test_every_field_and_the_seed_reach_the_head(monkeypatch, spec):
    routers.check_fields_matter(
        lambda variant: scores(spec, **vars(variant)),
        replace(spec.grid[0], **SMALL),
        hidden=(7,), dropout=0.5, learning_rate=1e-2, weight_decay=0.5, loss="mse", per_model=True, standardise=True,
    )  # fmt: skip
    routers.check_seed_draws_the_start(
        monkeypatch, rph_plugins.routers.mlp, lambda seed: fit(spec, seed=seed, hidden=(7,))
    )


MUTATIONS = [
    (
        "targets=data.labels,",
        "targets=(data.labels[0], torch.ones_like(data.labels[1])),",
        "a missing label counts as wrong",
    ),
    ("start=level(means)", "start=-level(means)", "the head starts at the wrong base rates"),
    ("draw(hidden.relu()) @", "draw(hidden) @", "separate networks without a non-linearity"),
    ("learning_rate=variant.learning_rate,", "learning_rate=1e-3,", "the learning rate is ignored"),
    ("dropout=variant.dropout,", "dropout=0.1,", "the dropout is ignored"),
    ("weight_decay=variant.weight_decay,", "weight_decay=1e-4,", "the weight decay is ignored"),
    ('chance(seed, "initial")', 'chance(0, "initial")', "every seed starts alike"),
    ('"mse": mse_loss', '"mse": bce_loss', "the squared error is a cross-entropy"),
]
