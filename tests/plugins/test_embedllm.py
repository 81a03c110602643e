"""embedllm: one product for all pairs, the noise, and what every router owes."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from rph_plugins.routers import embedllm
from rph_plugins.routers.embedllm import GRID, Config, EmbedLlmRouter, forward, forward_projected
from tests import routers, worlds
from tests.worlds import labelled, some_queries, splits, world

from rph import Trial, UsageError
from rph.training.headrouter import Data
from rph.training.heads import Draw, Training, Validation, bce_loss, chance, masked_bce, observed, outputs_of
from rph.training.stacks import fit_heads

NAN = np.nan
SPEC = embedllm.register_router()

TRAIN, VAL = splits(160, 50)
TEST = some_queries(60)
DEFAULT = Config(size=16, learning_rate=1e-2)
KINDS = [
    DEFAULT,
    replace(DEFAULT, noise=0.0),
    replace(DEFAULT, absolute=True),
    replace(DEFAULT, projection=True),
]
each_kind = pytest.mark.parametrize(
    "variant", KINDS, ids=lambda v: f"{v.noise:g}-{'abs' if v.absolute else 'rel'}-{v.projection}"
)


def fit(variant=DEFAULT, train=TRAIN, val=VAL, seed=0):
    router = EmbedLlmRouter()
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


@cache
def fitted(variant=DEFAULT):
    return fit(variant)


def scores(variant=DEFAULT, queries=TEST, **how):
    return (fit(variant, **how) if how else fitted(variant)).scores(queries)


def head(variant=DEFAULT, train=TRAIN, seed=0):
    return EmbedLlmRouter(variant).head(Data(train, VAL, "cpu"), seed)


class Likelihood(Validation):
    """Checks of these tests where the optimum of the loss is meant, not the checkpoint that routes best."""

    def accuracy(self, scores):
        return -(torch.nn.functional.softplus(scores) - self.Y * scores).nanmean(dim=(-2, -1))


def likeliest_scores(variant, train, val):
    """Scores of the checkpoint that predicts the val labels best."""
    router = EmbedLlmRouter(variant)
    data = Data(train, val, "cpu")
    start = router.head(data, 0)
    measure = Likelihood(X=start.val.X, Y=start.val.Y, means=start.val.means)
    router.parameters = fit_heads([replace(start, val=measure)])[0]
    router.finish(data)
    return router.scores(TEST)


def in_training(seed=0):
    return Draw([chance(seed, "test")], rates=torch.zeros(1))


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_card_says_stochastic_and_calibrated():
    card = SPEC.card
    assert (card.name, card.paper, card.year) == ("embedllm", "arXiv:2410.02223", 2024)
    assert not card.deterministic and card.calibrated and len(card.fidelity) >= 8


def test_training_is_that_of_the_original_but_for_its_batches_and_rate():
    training = head(Config()).training
    assert (training.optimiser, training.cosine, training.epochs) == ("adam", False, 50)
    assert (training.batch, training.learning_rate, training.weight_decay) == (512, 1e-3, 1e-5)
    decayed = [name for name in head().parameters if not name.startswith("bias")]
    assert set(head().parameters) - set(decayed) == {"bias_noise"}


# --- the method ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [False, True])
def test_one_product_equals_the_two_class_network_on_every_pair(projection):
    p = head(replace(DEFAULT, noise=0.0, projection=projection)).parameters
    X = torch.tensor(TEST.unit)
    z = (forward_projected if projection else forward)(p, X, in_training())
    for n in range(20):
        x = (X[n] @ p["inner"] + p["inner_shift"][0]).relu() if projection else X[n]
        question = x @ p["projection"] + p["projection_shift"][0]
        for m in range(4):
            logits = (p["models"][m] * question) @ p["classes"] + p["classes_shift"][0]
            assert z[n, m].item() == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)
            cost = torch.nn.functional.cross_entropy(logits, torch.tensor(1))
            assert torch.nn.functional.softplus(-z[n, m]).item() == pytest.approx(cost.item(), abs=1e-5)


def test_centred_logits_have_the_rank_of_the_models_vectors_at_most():
    train, val = splits(200, 40, K=12)
    router = fit(Config(size=3, learning_rate=1e-2), train=train, val=val)
    X = some_queries(500)
    z = outputs_of(forward, router.parameters, torch.tensor(X.unit)).double()
    centred = z - z.mean(dim=0)
    values = torch.linalg.svdvals(centred)
    assert values[2] > 1e-3 and values[3] < 1e-5 * values[0]


def test_with_as_many_dimensions_as_models_it_reaches_the_optimum_of_logistic_regression():
    train = world(200, K=3, d=4)
    X, (Y, M) = torch.tensor(train.unit), observed(train.Y, "cpu")
    weight = torch.zeros((5, 3), dtype=torch.float64, requires_grad=True)
    with_one = torch.cat([X, torch.ones(200, 1)], dim=1).double()
    optimiser = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = masked_bce(with_one @ weight, Y.double(), M.double())
        loss.backward()
        return loss

    optimiser.step(closure)
    optimum = closure().item()
    ours = head(Config(size=8, noise=0.0, learning_rate=1e-2, weight_decay=0.0), train=train)
    training = Training(
        optimiser="adam", learning_rate=1e-2, weight_decay=0.0, batch=200, epochs=400, patience=900
    )
    on_train = Likelihood(X=X, Y=torch.tensor(train.Y), means=ours.val.means)
    found = fit_heads([replace(ours, training=training, val=on_train)])[0]
    loss = masked_bce(forward(found, X, Draw()), Y, M).item()
    assert optimum - 1e-6 <= loss <= optimum + 1e-2


def test_models_with_equal_labels_get_equal_columns():
    train, val = (labelled(s.X, np.concatenate([s.Y, s.Y[:, :1]], axis=1)) for s in splits(500, 100))
    found = likeliest_scores(replace(DEFAULT, size=32), train, val)
    assert np.corrcoef(found[:, 0], found[:, 4])[0, 1] > 0.99
    assert np.corrcoef(found[:, 0], found[:, 1])[0, 1] < 0.9


def test_checkpoints_are_chosen_by_val_routing_accuracy():
    assert type(head().val) is Validation


def test_scores_are_the_probabilities_of_the_logits():
    router = fitted()
    z = outputs_of(forward, router.parameters, torch.tensor(TEST.unit)).numpy()
    assert router.scores(TEST) == pytest.approx(sigmoid(z), abs=1e-6)


def test_an_untrained_head_is_near_the_pools_mean_label():
    start = head(Config())
    z = forward(start.parameters, start.X, Draw())
    p = TRAIN.Y.mean()
    assert z.mean().item() == pytest.approx(np.log(p / (1 - p)), abs=0.4)
    assert start.parameters["models"].std().item() == pytest.approx(1, abs=0.1)


def test_it_beats_the_best_single_model_where_queries_tell():
    X = np.random.default_rng(0).standard_normal((700, 4)).astype("f4")
    right = (X @ np.array([[3, -3, 0], [0, 0, 3], [0, 0, 0], [0, 0, 0]])) > 0
    train, val, test = (labelled(X[a:b], right[a:b]) for a, b in ((0, 300), (300, 400), (400, 700)))
    for variant in KINDS:
        found = scores(variant, test, train=train, val=val)
        routed = test.Y[np.arange(300), found.argmax(axis=1)].mean()
        assert routed > test.Y.mean(axis=0).max() + 0.2


# --- the noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [False, True])
def test_the_noise_is_added_to_the_embedding_once_per_query(projection):
    p = head(replace(DEFAULT, noise=0.5, projection=projection)).parameters
    network = forward_projected if projection else forward
    X = torch.tensor(TEST.unit)
    noise = in_training().normal(X.shape) * p["bias_noise"]
    assert torch.allclose(network(p, X, in_training()), network(p, X + noise, Draw()), atol=1e-5)
    assert (network(p, X, in_training()) - network(p, X, Draw())).abs().max() > 0.01


def test_the_relative_noise_follows_the_embeddings_and_the_absolute_one_does_not():
    for d in (8, 32):
        train = world(60, d=d)
        relative, absolute = (
            head(replace(DEFAULT, absolute=a), train=train).parameters["bias_noise"].item()
            for a in (False, True)
        )
        assert relative == pytest.approx(0.05 / d**0.5, rel=1e-5)  # the coordinates of unit rows
        assert absolute == pytest.approx(0.05)


def test_training_does_not_learn_the_noise_and_prediction_has_none():
    router = fit(replace(DEFAULT, noise=3.0, absolute=False))
    assert router.parameters["bias_noise"].item() == pytest.approx(3 / 8**0.5, rel=1e-6)
    assert np.array_equal(router.scores(TEST), router.scores(TEST))
    quiet = {**router.parameters, "bias_noise": torch.zeros(1, 1)}
    assert torch.equal(
        outputs_of(forward, quiet, torch.tensor(TEST.unit)),
        outputs_of(forward, router.parameters, torch.tensor(TEST.unit)),
    )


def test_the_amount_of_noise_changes_what_is_learnt():
    found = [scores(replace(DEFAULT, noise=noise)) for noise in (0.0, 0.05, 0.2)]
    assert not np.allclose(found[0], found[1], atol=1e-4) and not np.allclose(found[1], found[2], atol=1e-4)


# --- what every router owes ---------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one():
    train, val = splits(100, 40, d=6, missing=0.2)
    trials = [Trial(variant=replace(v, size=v.size // 8), seed=1) for v in GRID]
    trials += [Trial(variant=replace(v, size=29), seed=2) for v in (GRID[0], GRID[-1])]
    queries = some_queries(30, d=6)
    for _, found, alone in routers.fitted_both_ways(SPEC, train, val, trials, queries):
        assert found == pytest.approx(alone, abs=1e-4)


@each_kind
def test_a_router_from_its_state_gives_the_same_scores(variant):
    routers.check_state(fitted(variant), variant, TEST)


def test_permuting_the_models_gives_nearly_the_same_scores():
    # The models' vectors start at random, so not the same: training brings them together.
    order, (train, val) = [2, 0, 3, 1], splits(500, 100)
    plain = likeliest_scores(DEFAULT, train, val)
    found = likeliest_scores(DEFAULT, *(worlds.reordered(s, order) for s in (train, val)))
    assert np.abs(found - plain[:, order]).mean() < 0.03


@each_kind
def test_scores_do_not_depend_on_batch_or_order(variant):
    routers.check_batch_and_order(fitted(variant), TEST, 20, abs=1e-6)


@each_kind
def test_what_stands_where_a_label_is_missing_changes_nothing(variant):
    sparse = world(160, missing=0.6)
    found = scores(variant, train=sparse)
    assert np.isfinite(found).all()
    assert np.array_equal(scores(variant, train=worlds.with_other_nans(sparse)), found)


def test_missing_labels_are_not_wrong_answers():
    rng = np.random.default_rng(1)
    train, val = (labelled(s.X, np.where(rng.random(s.Y.shape) < 0.7, NAN, 1.0)) for s in (TRAIN, VAL))
    assert (scores(train=train, val=val) > 0.9).all()


@each_kind
def test_a_model_never_observed_scores_the_pools_mean(variant):
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    router = fit(variant, train=labelled(TRAIN.X, Y))
    assert router.scores(TEST)[:, 1] == pytest.approx(Y[:, [0, 2, 3]].mean(), abs=1e-6)
    assert (router.parameters["models"][1] == 0).all() and (router.parameters["models"][0] != 0).any()


def test_costs_and_labels_of_the_queries_are_never_read():
    assert np.array_equal(
        scores(queries=worlds.poisoned(worlds.without_labels(TRAIN))), scores(queries=TRAIN)
    )
    assert np.array_equal(scores(train=worlds.poisoned(TRAIN)), scores())


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


def test_the_loss_is_the_cross_entropy_of_observed_cells():
    start = head(train=world(60, missing=0.5))
    assert start.loss is bce_loss
    assert start.targets[1].sum().item() == np.isfinite(world(60, missing=0.5).Y).sum()


def test_every_field_reaches_the_head_and_shifts_start_at_random():
    routers.check_fields_matter(
        scores, DEFAULT, size=7, noise=0.5, absolute=not DEFAULT.absolute, learning_rate=3e-3, weight_decay=0.5,
        projection=True,
    )  # fmt: skip
    assert head().parameters["projection_shift"].abs().min() > 0


MUTATIONS = [
    (
        "(correct - wrong)[..., None, :]",
        "(wrong - correct)[..., None, :]",
        "the difference of the classes turns",
    ),
    (
        'torch.where(self.buffers["never"], self.buffers["means"], torch.sigmoid(outputs))',
        "torch.sigmoid(outputs)",
        "a model never observed is scored by a head that never saw it",
    ),
    (
        'parameters["bias_noise"].detach() * product(noise, weight)',
        'parameters["bias_noise"] * product(noise, weight)',
        "the size of the noise is learnt",
    ),
    ('f"{name}_shift": drawn[-1:].clone()', 'f"{name}_shift": 0 * drawn[-1:]', "biases start at 0"),
    ("learning_rate=variant.learning_rate,", "learning_rate=1e-3,", "the learning rate is ignored"),
]
