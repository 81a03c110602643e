"""zooter: what distillation from smoothed labels promises, and what every router owes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rph_plugins.routers import zooter
from rph_plugins.routers.zooter import BASE, GRID, Config, ZooterRouter, masked_kl, smoothed_targets
from tests import routers, worlds
from tests.worlds import grouped, labelled

from rph import Trial, UsageError
from rph.training.headrouter import Data
from rph.training.heads import Draw, observed

NAN = np.nan


def world(n=1200, **how):
    return grouped(n, groups=5, specialists=True, **how)


TRAIN, VAL, TEST = world(), world(200, seed=1), world(200, seed=2)
SMALL = {"hidden": (64, 32), "tags": 10}
FORMS = [{}, {"bce_weight": 0.0}, {"hidden": ()}, {"per_query": 3, "beta": 0.0}]
each_form = pytest.mark.parametrize("config", FORMS, ids=lambda c: "-".join(map(str, c)) or "default")


def fit(train=TRAIN, val=VAL, seed=0, **config):
    router = ZooterRouter()
    router.fit(train, val, variant=Config(**{**SMALL, **config}), seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def targets(Y, tags, beta=0.3, temperature=0.1):
    Y, tags = np.asarray(Y, "f4"), torch.tensor(tags)
    return smoothed_targets(Y, tags if tags.dim() == 2 else tags[:, None], beta=beta, temperature=temperature)


def kl(z, target, Y):
    return masked_kl(z, target, observed(Y, "cpu")[1])


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_default_first():
    default = Config(beta=0.3, temperature=0.1, bce_weight=1.0, tags=60, per_query=1, hidden=(512, 256))
    assert GRID[0] == Config() == default
    wanted = {replace(default, beta=b) for b in (0.0, 0.3, 0.5, 1.0)}
    wanted |= {replace(default, temperature=t) for t in (1.0, 0.3, 0.05)}
    wanted |= {replace(default, bce_weight=w) for w in (0.0, 0.3, 3.0)}
    wanted |= {replace(default, tags=t) for t in (20, 150)} | {replace(default, per_query=3)}
    wanted |= {replace(default, hidden=h) for h in ((), (1024, 512))}
    assert len(GRID) == 15 and set(GRID) == wanted


def test_the_card_claims_no_calibration_and_says_which_variant_is_why():
    card = zooter.CARD
    assert (card.name, card.aliases, card.paper, card.year) == (
        "zooter",
        ("zooter_lite",),
        "arXiv:2311.08692",
        2023,
    )
    assert not card.deterministic and not card.calibrated
    assert any("softmax(z), which only ranks" in note for note in card.fidelity)


def test_the_head_is_trained_as_specified():
    router = ZooterRouter(BASE)
    head = router.head(Data(TRAIN, VAL, "cpu"), seed=0)
    t = head.training
    assert (t.optimiser, t.learning_rate, t.weight_decay, t.dropout) == ("adamw", 1e-3, 1e-4, 0.1)
    assert (t.batch, t.epochs, head.constants) == (256, 50, {"bce_weight": 1.0})


# --- targets ------------------------------------------------------------------------------------------


def test_a_target_is_the_hand_computed_one():
    # tau = 1 / ln 3: a right answer weighs 3, a wrong one 1.
    Y = [[1, 0], [0, 0], [1, 1], [0, 1]]
    own = [[3 / 4, 1 / 4], [1 / 2, 1 / 2], [1 / 2, 1 / 2], [1 / 4, 3 / 4]]
    found = targets(Y, [0, 0, 1, 1], beta=0.3, temperature=1 / math.log(3))
    first, second = np.array([5 / 8, 3 / 8]), np.array([3 / 8, 5 / 8])  # the tags' means
    wanted = 0.3 * np.array(own) + 0.7 * np.array([first, first, second, second])
    assert found.numpy() == pytest.approx(wanted, abs=1e-6)


def test_a_target_with_missing_labels_and_two_tags_is_the_hand_computed_one():
    Y = [[1, NAN, 0], [1, 1, NAN], [0, 1, 0]]  # at tau = 1 / ln 3: 3/4 . 1/4, 1/2 1/2 ., 1/5 3/5 1/5
    found = targets(Y, [[0, 1], [0, 2], [1, 2]], beta=0.0, temperature=1 / math.log(3))
    # Tag 0 has queries 0 and 1, tag 1 has 0 and 2, tag 2 has 1 and 2.
    tag0 = np.array([(3 / 4 + 1 / 2) / 2, 1 / 2, 1 / 4])
    tag1 = np.array([(3 / 4 + 1 / 5) / 2, 3 / 5, (1 / 4 + 1 / 5) / 2])
    tag2 = np.array([(1 / 2 + 1 / 5) / 2, (1 / 2 + 3 / 5) / 2, 1 / 5])
    seen = np.array([[1, 0, 1], [1, 1, 0], [1, 1, 1]])
    wanted = np.array([tag0 + tag1, tag0 + tag2, tag1 + tag2]) / 2 * seen
    assert found.numpy() == pytest.approx(wanted / wanted.sum(axis=1, keepdims=True), abs=1e-6)


def test_beta_one_is_plain_distillation_of_the_querys_own_rewards():
    Y = world(50, missing=0.3).observed.Y
    tags = np.random.default_rng(0).integers(0, 5, len(Y))
    own = np.where(np.isnan(Y), 0, np.exp(Y.astype(float) / 0.1))
    found = targets(Y, tags, beta=1.0)
    assert found.numpy() == pytest.approx(own / own.sum(axis=1, keepdims=True), abs=1e-7)
    assert torch.equal(found, zooter.own_targets(Y, 0.1).float())


def test_with_beta_zero_queries_of_equal_tags_have_equal_targets():
    tags = np.random.default_rng(0).integers(0, 5, len(TRAIN))
    found = targets(TRAIN.Y, tags, beta=0.0)
    for tag in range(5):
        rows = found[torch.tensor(tags == tag)]
        assert torch.equal(rows, rows[:1].expand_as(rows))
    assert not torch.equal(found[tags == 0][0], found[tags == 1][0])


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_target_rows_sum_to_one_over_the_observed_models_and_are_zero_elsewhere(beta):
    sparse = world(200, missing=0.6).observed
    tags = np.random.default_rng(0).integers(0, 5, (len(sparse), 2))
    found = targets(sparse.Y, tags, beta=beta).numpy()
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert (found[np.isnan(sparse.Y)] == 0).all() and (found >= 0).all()


def test_equal_labels_and_beta_one_give_a_uniform_target_over_the_observed_models():
    found = targets([[1, 1, 1, NAN], [0, 0, 0, 0]], [0, 0], beta=1.0)
    third = 1 / 3
    assert found.numpy() == pytest.approx(np.array([[third, third, third, 0], [0.25] * 4]), abs=1e-7)


def test_a_single_right_model_and_no_temperature_is_training_on_hard_labels():
    Y = np.eye(4, dtype="f4")[[0, 2, 1, 3, 3]]
    found = targets(Y, [0, 0, 1, 1, 1], beta=1.0, temperature=1e-3)
    assert np.array_equal(found.numpy(), Y)
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    hard = torch.nn.functional.cross_entropy(z, torch.tensor([0, 2, 1, 3, 3]))
    assert kl(z, found, Y).item() == pytest.approx(hard.item(), abs=1e-6)


def test_tags_are_the_nearest_clusters():
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    X = torch.tensor([[0.9, 0.1], [0.0, 2.0], [0.1, 0.0]])
    assert zooter.nearest_tags(X, centres, 2).tolist() == [[1, 0], [2, 0], [0, 1]]
    assert zooter.nearest_tags(X, centres, 9).shape == (3, 3)


def test_tags_come_from_train_queries_only_and_variants_of_a_seed_share_them(monkeypatch):
    calls, once = [], zooter.kmeans

    def spy(X, clusters, **how):
        calls.append((len(X), clusters))
        return once(X, clusters, **how)

    monkeypatch.setattr(zooter, "kmeans", spy)
    data = Data(TRAIN, VAL, "cpu")
    base = replace(BASE, tags=10)
    made = [
        zooter.targets_of(data, v, seed)
        for seed in (0, 1)
        for v in (base, replace(base, bce_weight=0.0), replace(base, temperature=1.0))
    ]
    assert calls == [(len(TRAIN), 10)] * 2
    assert made[0] is made[1] and made[0] is not made[2] and made[0] is not made[3]


def test_there_is_at_most_one_tag_per_twenty_training_queries(monkeypatch):
    calls, once = [], zooter.kmeans
    monkeypatch.setattr(zooter, "kmeans", lambda X, c, **how: calls.append(c) or once(X, c, **how))
    for n in (7, 60, 400):
        zooter.targets_of(Data(labelled(TRAIN.X[:n], TRAIN.Y[:n]), VAL, "cpu"), BASE, 0)
    assert calls == [1, 3, 20]


# --- the loss -----------------------------------------------------------------------------------------


def test_the_divergence_is_the_hand_computed_one():
    z = torch.tensor([[0.0, math.log(3)], [5.0, 7.0]])
    target = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    Y = np.array([[1, 1], [1, NAN]], "f4")  # the second query tells nothing
    wanted = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl(z, target, Y).item() == pytest.approx(wanted, abs=1e-6)


def test_the_gradient_of_the_divergence_is_softmax_minus_target_and_sums_to_zero():
    sparse = world(60, missing=0.4).observed
    target = targets(sparse.Y, np.zeros(len(sparse), int))
    z = torch.randn(sparse.Y.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kl(z, target, sparse.Y).backward()
    M = observed(sparse.Y, "cpu")[1]
    several = M.sum(dim=1) > 1
    assert 0 < several.sum() < len(several)
    p = z.detach().exp() * M
    wanted = (p / p.sum(dim=1, keepdim=True) - target) * several[:, None] / several.sum()
    assert torch.allclose(z.grad, wanted, atol=1e-7)
    assert z.grad.sum(dim=1).numpy() == pytest.approx(0, abs=1e-7)
    assert (z.grad[M == 0] == 0).all()


def test_the_divergence_ignores_a_constant_added_to_a_querys_logits_and_the_cross_entropy_does_not():
    target = targets(TRAIN.Y, np.zeros(len(TRAIN), int))
    z = torch.randn(TRAIN.Y.shape, generator=torch.Generator().manual_seed(0))
    shift = torch.linspace(-3, 3, len(z))[:, None]
    assert kl(z + shift, target, TRAIN.Y).item() == pytest.approx(kl(z, target, TRAIN.Y).item(), abs=1e-5)
    batch = type("B", (), {"targets": (*observed(TRAIN.Y, "cpu"), target)})
    found = []
    for logits in (z, z + shift):
        batch.constants = {"bce_weight": torch.tensor(1.0)}
        found.append(zooter.distillation(logits, batch).item())
    assert abs(found[0] - found[1]) > 0.1


def test_the_loss_adds_the_weighted_cross_entropy():
    target = targets(TRAIN.Y, np.zeros(len(TRAIN), int))
    z = torch.randn((2, *TRAIN.Y.shape), generator=torch.Generator().manual_seed(0))  # a stack of two heads
    batch = type("B", (), {"targets": (*observed(TRAIN.Y, "cpu"), target)})
    batch.constants = {"bce_weight": torch.tensor([0.0, 3.0])}
    found = zooter.distillation(z, batch)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(z[1], torch.tensor(TRAIN.Y))
    assert found[0].item() == pytest.approx(kl(z[0], target, TRAIN.Y).item(), rel=1e-6)
    assert found[1].item() == pytest.approx((kl(z[1], target, TRAIN.Y) + 3 * bce).item(), rel=1e-6)


def test_one_tag_and_beta_zero_give_a_constant_router():
    found = scores(TRAIN, beta=0.0, tags=1, bce_weight=0.0)
    target = targets(TRAIN.Y, np.zeros(len(TRAIN), int), beta=0.0).numpy()[0]
    assert len(set(found.argmax(axis=1))) == 1 and found.argmax(axis=1)[0] == target.argmax()
    assert np.abs(found - target).mean() < 0.05
    assert found.std(axis=0).max() < scores(TRAIN, bce_weight=0.0).std(axis=0).max() / 3


def test_scores_are_sigmoids_with_cross_entropy_and_sum_to_one_without():
    for weight in (1.0, 0.0):
        router = fit(bce_weight=weight)
        z = zooter.forward(router.parameters, torch.tensor(TEST.unit), Draw())
        found = torch.tensor(router.scores(TEST))
        expected = torch.sigmoid(z) if weight else torch.softmax(z, dim=1)
        assert torch.allclose(found, expected, atol=1e-6)
        assert torch.allclose(found.sum(dim=1), torch.ones(len(found)), atol=1e-5) is (weight == 0)


def test_with_cross_entropy_it_beats_the_base_rate_on_train():
    p = np.clip(scores(TRAIN).astype(float), 1e-6, 1 - 1e-6)
    q = np.broadcast_to(TRAIN.Y.mean(axis=0), p.shape)
    bce, base = (-(TRAIN.Y * np.log(r) + (1 - TRAIN.Y) * np.log(1 - r)).mean() for r in (p, q))
    assert bce < base - 0.05


@pytest.mark.parametrize("config", [c for c in FORMS if "hidden" not in c])
def test_it_beats_the_best_single_model_where_groups_differ(config):
    routers.check_beats_best_single(scores(**config), TRAIN, TEST)


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_within_a_ten_thousandth():
    base = Config(**SMALL)
    variants = [replace(base, **c) for c in FORMS] + [replace(base, temperature=1.0)]
    trials = [Trial(variant=v, seed=seed) for seed in (42, 7) for v in variants]
    for _, found, alone in routers.fitted_both_ways(zooter.register_router(), TRAIN, VAL, trials, TEST):
        assert found == pytest.approx(alone, abs=1e-4)


# --- what every router owes ---------------------------------------------------------------------------


def test_permuting_the_models_permutes_the_scores():
    order = [2, 0, 3, 1]
    train, val = (worlds.reordered(s, order) for s in (TRAIN, VAL))
    for config in ({"hidden": ()}, {}):
        found = scores(train=train, val=val, **config)
        assert found == pytest.approx(scores(**config)[:, order], abs=1e-3)


@each_form
def test_scores_do_not_depend_on_batch_or_order(config):
    routers.check_batch_and_order(fit(**config), TEST, 30, abs=1e-6)


def test_what_stands_where_labels_are_missing_changes_nothing():
    sparse = world(missing=0.6)
    found = scores(train=sparse)
    assert np.isfinite(found).all()
    assert np.array_equal(scores(train=worlds.with_other_nans(sparse)), found)


def test_test_labels_and_costs_are_never_read():
    train, val = (worlds.poisoned(s) for s in (TRAIN, VAL))
    found = scores(worlds.poisoned(worlds.without_labels(TEST)), train=train, val=val)
    assert np.array_equal(found, scores())


def test_a_model_never_observed_stays_at_the_mean_of_the_pool():
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    found = scores(train=labelled(TRAIN.X, Y))
    assert found[:, 1] == pytest.approx(Y[:, [0, 2, 3]].mean(), abs=1e-5)
    assert np.isfinite(scores(train=labelled(TRAIN.X, Y), bce_weight=0.0)).all()


def test_a_model_that_is_always_right_is_ranked_first():
    found = scores(train=worlds.always_right(TRAIN), val=worlds.always_right(VAL))
    assert (found.argmax(axis=1) == 2).mean() > 0.95


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


@each_form
def test_a_router_from_its_state_gives_the_same_scores(config):
    router = fit(**config)
    routers.check_state(router, router.variant, TEST)


def test_every_field_and_the_seed_reach_the_head(monkeypatch):
    routers.check_fields_matter(
        lambda variant: scores(**vars(variant)),
        Config(**SMALL),
        beta=0.9, temperature=2.0, bce_weight=7.0, tags=3, per_query=2, hidden=(5,),
    )  # fmt: skip
    routers.check_seed_draws_the_start(monkeypatch, zooter, lambda seed: fit(seed=seed, hidden=(5,)))


MUTATIONS = [
    ("beta * own + (1 - beta) * shared", "(1 - beta) * own + beta * shared", "beta weighs the tags"),
    ("    shared *= seen\n", "", "a target has mass on models that were not observed"),
    ("- target * log_p).sum", "+ target * log_p).sum", "the divergence has the wrong sign"),
    (
        "nearest_tags(data.X, centres, variant.per_query)",
        "nearest_tags(data.X, centres, 1)",
        "a query has one tag",
    ),
    (
        "beta=variant.beta, temperature=variant.temperature)",
        "beta=variant.beta, temperature=0.1)",
        "the temperature is ignored",
    ),
]
