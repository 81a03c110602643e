"""mess-plus: what the satisfaction predictor, its online form and the virtual queue promise, and what every router owes."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from rph_plugins.routers import mess_plus
from rph_plugins.routers.mess_plus import BASE, GRID, Config, MessPlusRouter, online, sla, stream
from tests import routers, worlds
from tests.worlds import grouped, labelled

from rph import Queries, Trial, UsageError
from rph.arrays import model_means
from rph.training.headrouter import Data
from rph.training.heads import Draw, chance, masked_bce, observed

NAN = np.nan


def world(n=600, **how):
    return grouped(n, groups=5, specialists=True, **how)


TRAIN, VAL, TEST = world(), world(150, seed=1), world(300, seed=2)
SMALL = {"hidden": 16}
FORMS = [
    {},
    {"hidden": 0, "dropout": 0.3},
    {"optimiser": "adamw", "learning_rate": 1e-2},
    {"exploration": 1.0},
]
each_form = pytest.mark.parametrize("config", FORMS, ids=lambda c: "-".join(map(str, c)) or "default")


def fit(train=TRAIN, val=VAL, seed=0, **config):
    router = MessPlusRouter()
    router.fit(train, val, variant=Config(**{**SMALL, **config}), seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_default_first():
    default = Config(
        hidden=0,
        learning_rate=0.03,
        momentum=0.9,
        dropout=0.1,
        batch=64,
        optimiser="sgd",
        weight_decay=0.01,
        exploration=0.0,
    )
    assert GRID[0] == Config() == default
    wanted = {
        replace(default, hidden=h, learning_rate=r, momentum=m)
        for h, r, m in product((256, 0), (0.03, 0.08), (0.9, 0.95))
    }
    wanted |= {replace(default, hidden=h, dropout=0.3) for h in (256, 0)}
    wanted |= {replace(default, learning_rate=0.08, batch=128)}
    wanted |= {replace(default, hidden=h, learning_rate=1e-3, optimiser="adamw") for h in (256, 512, 0)}
    wanted |= {replace(default, exploration=1.0)}
    assert len(GRID) == 15 and set(GRID) == wanted


def test_the_card_says_how_it_differs_from_a_plain_classifier():
    card = mess_plus.CARD
    assert (card.name, card.aliases, card.paper) == ("mess-plus", ("mess_plus",), "arXiv:2505.19947")
    assert card.calibrated and not card.deterministic
    assert any("differs from mlp" in note for note in card.fidelity)


def test_the_head_is_trained_as_specified():
    t = MessPlusRouter(BASE).head(Data(TRAIN, VAL, "cpu"), seed=0).training
    assert (t.optimiser, t.learning_rate, t.momentum, t.weight_decay) == ("sgd", 0.03, 0.9, 0.01)
    assert (t.dropout, t.batch, t.epochs, t.clip, t.cosine) == (0.1, 64, 30, 1.0, False)


# --- the network --------------------------------------------------------------------------------------


def test_the_network_is_linear_layer_norm_relu_linear():
    p = mess_plus.initial(8, 16, model_means(TRAIN.Y), chance(0, "initial"), "cpu")
    generator = chance(1, "test")
    p = {name: value + 0.3 * torch.randn(value.shape, generator=generator) for name, value in p.items()}
    X = torch.tensor(TEST.X[:20])
    hidden = X @ p["weight0"] + p["bias0"]
    centred = hidden - hidden.mean(dim=1, keepdim=True)
    normed = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    wanted = (normed * p["scale0"] + p["bias_norm0"]).relu() @ p["weight1"] + p["bias1"]
    assert torch.allclose(mess_plus.forward(p, X, Draw()), wanted, atol=1e-5)


def test_embedding_and_hidden_layer_are_dropped_out():
    p = mess_plus.initial(8, 16, model_means(TRAIN.Y), chance(0, "initial"), "cpu")
    seen = []

    class Spy(Draw):
        def __call__(self, hidden):
            seen.append(tuple(hidden.shape))
            return hidden

    mess_plus.forward(p, torch.tensor(TEST.X[:5]), Spy())
    assert seen == [(5, 8), (5, 16)]


def test_an_untrained_network_scores_the_mean_labels():
    p = mess_plus.initial(8, 16, model_means(TRAIN.Y), chance(0, "initial"), "cpu")
    found = torch.sigmoid(mess_plus.forward(p, torch.tensor(TEST.X), Draw()))
    assert found.numpy() == pytest.approx(np.tile(TRAIN.Y.mean(axis=0), (len(TEST), 1)), abs=1e-6)


@pytest.mark.parametrize("hidden", [0, 16])
def test_the_hidden_layer_is_as_wide_as_the_embedding_or_as_told(hidden):
    assert fit(hidden=hidden).parameters["weight0"].shape == (8, hidden or 8)


def test_inputs_are_scaled_by_train_alone():
    train = labelled(TRAIN.X * 100 + 7, TRAIN.Y)
    train.X[:, 3] = 5  # a constant feature
    router = fit(train=train)
    inputs = router.inputs(train).numpy()
    others = [0, 1, 2, 4, 5, 6, 7]
    assert inputs.mean(axis=0) == pytest.approx(0, abs=1e-4)
    assert inputs.std(axis=0)[others] == pytest.approx(1, abs=1e-3) and (inputs[:, 3] == 0).all()
    assert np.isfinite(router.scores(Queries(X=TEST.X * 100 + 7, texts=TEST.texts))).all()


@each_form
def test_scores_beat_the_base_rate_and_the_best_single_model_where_queries_tell(config):
    router = fit(**config)
    p = router.scores(TRAIN).astype(float)
    q = np.broadcast_to(TRAIN.Y.mean(axis=0), p.shape)
    bce, base = (-(TRAIN.Y * np.log(r) + (1 - TRAIN.Y) * np.log(1 - r)).mean() for r in (p, q))
    assert bce < base - 0.05
    found, best = router.scores(TEST), TRAIN.Y.mean(axis=0).argmax()
    assert TEST.Y[np.arange(len(TEST)), found.argmax(axis=1)].mean() > TEST.Y[:, best].mean() + 0.1


# --- online -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.01, 0.1, 1.0])
def test_the_number_explored_is_within_four_deviations_of_the_sum_of_probabilities(c):
    n = 20_000
    p = np.minimum(1, c * np.arange(1, n + 1) ** -0.25)
    for seed in range(3):
        order, steps = stream(n, c, seed)
        assert abs(len(steps) - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())
        assert sorted(order.tolist()) == list(range(n)) and (steps.diff() > 0).all()


def test_the_first_request_is_explored_at_c_one_and_exploration_thins_out():
    _, steps = stream(20_000, 1.0, 0)
    assert steps[0] == 0
    first, last = (((steps >= a) & (steps < a + 5000)).sum().item() for a in (0, 15_000))
    assert first > 1.5 * last > 0


def decisions(Y, seed=0, n=120):
    """Of each request in order: the model it goes to, or -1 where it is explored; and the parameters at each."""
    X, variant = torch.tensor(TRAIN.X[:n]), Config(hidden=16, exploration=1.0)
    p = mess_plus.initial(8, 16, np.full(4, 0.5, "f4"), chance(seed, "initial"), "cpu")
    requests = stream(n, variant.exploration, seed)
    chosen, states = dict.fromkeys(requests[0].tolist(), -1), []
    for rows, parameters in online(p, X, observed(Y[:n], "cpu"), requests, variant, seed):
        states.append({name: value[0].detach().clone() for name, value in parameters.items()})
        z = mess_plus.forward(states[-1], X[rows], Draw())
        chosen |= dict(zip(rows.tolist(), z.argmax(dim=1).tolist(), strict=True))
    return requests, list(chosen.values()), states


def test_flipping_labels_from_a_request_on_leaves_every_earlier_decision_unchanged():
    (order, steps), before, states = decisions(TRAIN.Y)
    for place in (3, len(steps) // 2, len(steps) - 2):
        t = int(steps[place])
        Y = TRAIN.Y.copy()
        Y[order[t:].numpy()] = 1 - Y[order[t:].numpy()]
        _, after, other = decisions(Y)
        assert after[:t] == before[:t]
        for i in range(len(steps) + 1):  # parameters: equal up to the first flipped step, different after it
            same = all(torch.equal(states[i][name], other[i][name]) for name in states[i])
            assert same is (i <= place)


def test_labels_of_exploited_requests_change_nothing():
    (order, steps), before, states = decisions(TRAIN.Y)
    exploited = np.setdiff1d(np.arange(len(order)), steps.numpy())
    assert [m == -1 for m in before] == [t in set(steps.tolist()) for t in range(len(order))]
    Y = TRAIN.Y.copy()
    rows = order[torch.tensor(exploited)].numpy()
    Y[rows] = 1 - Y[rows]
    _, after, other = decisions(Y)
    assert after == before and len(rows) > 20
    assert all(torch.equal(states[-1][name], other[-1][name]) for name in states[-1])


def test_an_online_step_is_clipped_gradient_descent_with_momentum_and_decay():
    X, Y = torch.tensor(TRAIN.X[:3] * 50), observed(TRAIN.Y[:3], "cpu")
    variant = Config(hidden=16, exploration=1.0, dropout=0.0, momentum=0.5, weight_decay=0.1)
    start = mess_plus.initial(8, 16, np.full(4, 0.5, "f4"), chance(0, "initial"), "cpu")
    start["weight1"] += 1.0
    requests = torch.tensor([2, 0, 1]), torch.tensor([0, 2])  # explores rows 2 and 1
    *_, (_, learnt) = online(start, X, Y, requests, variant, 0)
    p = {name: value.clone() for name, value in start.items()}
    velocity = dict.fromkeys(p, 0.0)
    for row in (2, 1):
        p = {name: value.detach().requires_grad_() for name, value in p.items()}
        rows = slice(row, row + 1)
        masked_bce(mess_plus.forward(p, X[rows], Draw()), Y[0][rows], Y[1][rows]).backward()
        norm = torch.stack([value.grad.square().sum() for value in p.values()]).sum().sqrt()
        for name, value in p.items():
            gradient = value.grad * min(1.0, 1 / float(norm))
            gradient = gradient + (0 if name.startswith("bias") else 0.1 * value.detach())
            velocity[name] = 0.5 * velocity[name] + gradient
        p = {name: value.detach() - 0.03 * velocity[name] for name, value in p.items()}
    assert all(torch.allclose(learnt[name][0], p[name], atol=1e-5) for name in p)


def test_online_a_model_observed_on_no_explored_query_gets_the_mean_of_the_explored_ones():
    (order, steps) = stream(len(TRAIN), 1.0, 0)
    explored = order[steps].numpy()
    Y = TRAIN.Y.copy()
    Y[explored, 1] = NAN
    found = scores(train=labelled(TRAIN.X, Y), exploration=1.0)
    assert found[:, 1] == pytest.approx(Y[explored][:, [0, 2, 3]].mean(), abs=1e-5)


# --- the virtual queue --------------------------------------------------------------------------------

P = np.array([[0.9, 0.5], [0.6, 0.4], [0.8, 0.2], [0.7, 0.6], [0.9, 0.5], [0.8, 0.72]])
OUTCOMES = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 1], [1, NAN]], "f4")
COSTS = np.array([2.0, 1.0])


def test_the_queue_follows_the_hand_computed_trace():
    # alpha = .75, V = .25: the dear model 0 where Q (s_0 - s_1) > .25 (2 - 1), else the cheap model 1.
    # 1: 0, cheap, wrong: Q = .75                    4: 2.25 x .1 = .225, cheap, right: Q = 2
    # 2: .75 x .2 = .15, cheap, wrong: Q = 1.5       5: 2 x .4 = .8, dear, wrong: Q = 2.75
    # 3: 1.5 x .6 = .9, dear, wrong: Q = 2.25        6: 2.75 x .08 = .22, cheap, unknown, s = .72: Q = 2.78
    found = sla(P, OUTCOMES, COSTS, target=0.75, cost_weight=0.25)
    assert found.chosen.tolist() == [1, 1, 0, 1, 0, 1]
    assert found.queue == pytest.approx([0.75, 1.5, 2.25, 2.0, 2.75, 2.78])
    assert found.cost == pytest.approx((1 + 1 + 2 + 1 + 2 + 1) / 6)
    assert found.satisfaction == pytest.approx(1 / 5)


def test_the_queue_is_never_negative_and_satisfied_requests_empty_it():
    right = np.ones((6, 2))
    assert sla(P, right, COSTS, target=0.5, cost_weight=1.0).queue.tolist() == [0.0] * 6
    mixed = np.array([[0.0, 0.0], *[[1.0, 1.0]] * 5])
    found = sla(P, mixed, COSTS, target=0.75, cost_weight=1.0).queue
    assert found == pytest.approx([0.75, 0.5, 0.25, 0, 0, 0])


def test_without_cost_weight_routes_depend_on_neither_target_nor_cost():
    s, outcomes = np.random.default_rng(0).random((200, 4)), world(200).Y
    for target, costs in product((0.1, 0.5, 0.99), (np.arange(4.0), np.array([5.0, 0, 3, 1]))):
        found = sla(s, outcomes, costs, target=target, cost_weight=0.0)
        assert np.array_equal(found.chosen, s.argmax(axis=1))


def test_with_a_huge_cost_weight_everything_goes_to_the_cheapest():
    s, outcomes = np.random.default_rng(0).random((200, 4)), world(200).Y
    found = sla(s, outcomes, np.array([3.0, 2.0, 1.0, 4.0]), target=0.9, cost_weight=1e9)
    assert (found.chosen == 2).all() and found.cost == 1


def test_equal_choices_go_to_the_higher_score_then_to_the_lower_index():
    s = np.array([[0.2, 0.7, 0.7]])
    assert sla(s, np.ones((1, 3)), np.ones(3), target=0.5, cost_weight=1.0).chosen.tolist() == [1]


def test_a_feasible_target_is_met_below_the_cost_of_the_best_model():
    rng = np.random.default_rng(0)
    p = np.clip(np.array([0.45, 0.6, 0.8]) + 0.15 * rng.standard_normal((20_000, 3)), 0.02, 0.98)
    outcomes = (rng.random(p.shape) < p).astype("f4")
    costs = np.array([0.1, 1.0, 10.0])
    best = outcomes[:, 2].mean()
    target = best - 0.08
    found = sla(p, outcomes, costs, target=target, cost_weight=0.1)
    assert found.satisfaction >= target - 0.01
    assert found.cost < 0.9 * costs[2]
    assert (found.queue >= 0).all()


def test_satisfaction_is_nan_where_no_outcome_is_known():
    found = sla(P, np.full_like(P, NAN), COSTS, target=0.75, cost_weight=0.0)
    assert np.isnan(found.satisfaction) and np.isfinite(found.queue).all()


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_within_a_ten_thousandth():
    configs = [*FORMS, {"learning_rate": 0.08}, {"momentum": 0.95}, {"dropout": 0.3}]
    trials = [Trial(variant=Config(**{**SMALL, **c}), seed=seed) for seed in (42, 7) for c in configs]
    for _, found, alone in routers.fitted_both_ways(mess_plus.register_router(), TRAIN, VAL, trials, TEST):
        assert found == pytest.approx(alone, abs=1e-4)


# --- what every router owes ---------------------------------------------------------------------------


@each_form
def test_permuting_the_models_permutes_the_scores(config):
    order = [2, 0, 3, 1]
    train, val = (worlds.reordered(s, order) for s in (TRAIN, VAL))
    found = scores(train=train, val=val, **config)
    assert found == pytest.approx(scores(**config)[:, order], abs=1e-3)


@each_form
def test_scores_do_not_depend_on_batch_or_order(config):
    routers.check_batch_and_order(fit(**config), TEST, 30, abs=1e-6)


@each_form
def test_what_stands_where_labels_are_missing_changes_nothing(config):
    sparse = world(missing=0.6)
    found = scores(train=sparse, **config)
    assert np.isfinite(found).all()
    assert np.array_equal(scores(train=worlds.with_other_nans(sparse), **config), found)


def test_test_labels_and_costs_are_never_read():
    train, val = (worlds.poisoned(s) for s in (TRAIN, VAL))
    for config in ({}, {"exploration": 1.0}):
        found = scores(worlds.poisoned(worlds.without_labels(TEST)), train=train, val=val, **config)
        assert np.array_equal(found, scores(**config))


@pytest.mark.parametrize("config", FORMS[:3])
def test_a_model_never_observed_stays_at_the_mean_of_the_pool(config):
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    found = scores(train=labelled(TRAIN.X, Y), **config)
    assert found[:, 1] == pytest.approx(Y[:, [0, 2, 3]].mean(), abs=1e-5)


@each_form
def test_a_model_that_is_always_right_is_ranked_first(config):
    found = scores(train=worlds.always_right(TRAIN), val=worlds.always_right(VAL), **config)
    assert (found.argmax(axis=1) == 2).mean() > 0.9


@each_form
def test_no_label_at_all_is_an_error_that_says_so(config):
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN), **config)


@each_form
def test_a_router_from_its_state_gives_the_same_scores(config):
    router = fit(**config)
    routers.check_state(router, router.variant, TEST)


def test_what_the_optimiser_is_told_and_the_seed_reach_the_head(monkeypatch):
    routers.check_fields_matter(
        lambda variant: scores(**vars(variant)),
        Config(**{**SMALL, "batch": 128}),
        momentum=0.3,
        optimiser="adamw",
    )
    routers.check_seed_draws_the_start(monkeypatch, mess_plus, lambda seed: fit(seed=seed, batch=128))


MUTATIONS = [
    ("Q * (target - s)", "Q * (s - target)", "the queue drives requests to the worst model"),
    ("Q = max(0.0, Q + target", "Q = (Q + target", "the queue goes below zero"),
    (
        "penalty == penalty.min(), s, -np.inf",
        "penalty == penalty.min(), 0, -np.inf",
        "a tie goes to the lower index",
    ),
    ("optimiser=variant.optimiser,", 'optimiser="sgd",', "AdamW is ignored"),
    (
        "                momentum=variant.momentum,\n                clip",
        "                momentum=0.9,\n                clip",
        "the momentum is ignored",
    ),
    (
        'self.variant.hidden or d, p, chance(seed, "initial")',
        'self.variant.hidden or d, p, chance(0, "initial")',
        "every seed starts alike",
    ),
]
