"""cp-router: the conformal quantile and sets, the entropy criterion, the fallback, and what every router owes."""

import math
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from rph_plugins.routers import cp_router
from rph_plugins.routers.cp_router import (
    ALPHAS,
    GRID,
    Config,
    CpRouter,
    choose_alpha,
    fbe,
    nonconformity,
    order_statistics,
    set_loss,
    sizes,
    trust,
)
from tests import routers, worlds
from tests.worlds import as_queries, labelled, world

from rph import Trial, UsageError
from rph.training.heads import Batch, Draw, chance, feed_forward, held_out, observed, outputs_of

NAN = np.nan
SPEC = cp_router.register_router()


def held_rows(n, seed):
    return held_out(n, 0.2, seed)


def told(n, seed):
    """Queries that tell, but for one label in ten, which of three models are right; the fourth is by chance."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    right = X @ np.array([[3, -3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0]]) + [0, 0, 0, 1] > 0
    return labelled(X, np.where(rng.random((n, 4)) < [0.1, 0.1, 0.1, 0.4], ~right, right))


TRAIN, VAL, TEST = told(400, 100), told(100, 101), told(60, 102)
DEFAULT = Config(hidden=(64,))
KINDS = [
    DEFAULT,
    replace(DEFAULT, alpha="fbe", tau="half"),
    replace(DEFAULT, form="binary", alpha=0.1),
    replace(DEFAULT, form="binary", alpha="fbe"),
    replace(DEFAULT, hidden=(), tau=4),
]
each_kind = pytest.mark.parametrize("variant", KINDS, ids=lambda v: f"{v.form}-{v.alpha}-{len(v.hidden)}")
each_form = pytest.mark.parametrize("form", ["set", "binary"])
NEVER = 1e-6  # an alpha so small that its quantile is infinite


def fit(variant=DEFAULT, train=TRAIN, val=VAL, seed=0):
    router = CpRouter()
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


@cache
def fitted(variant=DEFAULT):
    return fit(variant)


def scores(variant=DEFAULT, queries=TEST, **how):
    return (fit(variant, **how) if how else fitted(variant)).scores(queries)


def probabilities(router, queries=TEST):
    z = outputs_of(feed_forward, router.parameters, torch.tensor(queries.unit))
    return z.softmax(dim=1) if router.variant.form == "set" else z.sigmoid()


def quantile(scores, alpha):
    return order_statistics(torch.as_tensor(scores), [alpha]).item()


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_card_says_stochastic_and_that_scores_are_no_probabilities():
    card = SPEC.card
    assert (card.name, card.aliases, card.paper) == ("cp-router", ("cp_router",), "arXiv:2505.19970")
    assert card.year == 2025 and not card.deterministic and not card.calibrated and len(card.fidelity) >= 8


def test_the_grid_trains_three_heads(monkeypatch):
    trained = []
    once = cp_router.CpRouter.head
    monkeypatch.setattr(
        CpRouter, "head", lambda self, data, seed: trained.append(self.variant) or once(self, data, seed)
    )
    trials = [Trial(variant=replace(v, hidden=v.hidden and (4,)), seed=0) for v in GRID]
    group = SPEC.fit_many(TRAIN, VAL, trials, "cpu")
    assert [(v.form, v.hidden) for v in trained] == [("set", (4,)), ("binary", (4,)), ("set", ())]
    assert len(group.scores(TEST)) == len(GRID)


# --- the quantile -------------------------------------------------------------------------------------


def test_the_quantile_is_the_exact_order_statistic_for_every_size_and_alpha():
    for n in range(200):
        found = order_statistics(torch.arange(1.0, n + 1), ALPHAS).tolist()
        for alpha, value in zip(ALPHAS, found, strict=True):
            k = math.ceil((n + 1) * (1 - Fraction(round(100 * alpha), 100)))
            assert value == (k if k <= n else math.inf)


def test_the_quantile_of_few_scores_is_infinite_and_never_an_interpolation():
    assert quantile([0.3, 0.1, 0.2], 0.25) == pytest.approx(0.3)  # k = 3
    assert quantile([0.3, 0.1, 0.2], 0.5) == pytest.approx(0.2)  # k = 2
    assert quantile([0.3, 0.1, 0.2], 0.24) == math.inf  # k = 4
    assert quantile([], 0.5) == math.inf


@pytest.mark.parametrize(("n", "alpha"), [(20, 0.1), (50, 0.1), (30, 0.3)])
def test_coverage_on_exchangeable_scores_is_k_over_n_plus_one(n, alpha):
    rng = np.random.default_rng(0)
    k = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    covered = []
    for _ in range(300):
        drawn = torch.tensor(rng.random(n + 50))
        covered.append((drawn[n:] <= quantile(drawn[:n], alpha)).double().mean().item())
    error = np.std(covered) / 300**0.5
    assert abs(np.mean(covered) - k / (n + 1)) < 3 * error


@each_form
def test_coverage_of_the_sets_of_a_head_is_at_least_one_minus_alpha(form):
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(300):
        p = rng.random((90, 5))
        Y = rng.random((90, 5)) < p
        seen = torch.tensor(rng.random((90, 5)) < 0.7)
        f = torch.tensor(p / p.sum(axis=1, keepdims=True) if form == "set" else p)
        _, calibration = nonconformity(f[:40], torch.tensor(Y[:40]), seen[:40], form)
        _, fresh = nonconformity(f[40:], torch.tensor(Y[40:]), seen[40:], form)
        covered.append((fresh <= quantile(calibration, 0.2)).double().mean().item())
    error = np.std(covered) / 300**0.5
    assert np.mean(covered) > 0.8 - 3 * error
    assert np.mean(covered) < 0.8 + 0.04  # no more careful than it has to be


# --- nonconformity and sets ---------------------------------------------------------------------------


def test_the_score_of_a_query_is_that_of_its_likeliest_observed_correct_model():
    f = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.9, 0.1, 0.0]])
    Y = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 0], [1, 0, 0]]) > 0
    seen = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]) > 0
    misses, true = nonconformity(f, Y, seen, "set")
    assert torch.equal(misses, 1 - f)
    assert true.tolist() == pytest.approx([1 - 0.3, 1 - 0.3])  # the others have no observed correct model


def test_the_scores_of_binary_form_are_those_of_the_observed_labels():
    f = torch.tensor([[0.9, 0.3], [0.2, 0.6]])
    Y, seen = torch.tensor([[1, 1], [0, 1]]) > 0, torch.tensor([[1, 1], [1, 0]]) > 0
    misses, true = nonconformity(f, Y, seen, "binary")
    assert misses[0].tolist() == pytest.approx([0.9, 0.1])  # wrong, correct
    assert true.tolist() == pytest.approx([0.1, 0.7, 0.2])


@each_form
def test_a_smaller_alpha_gives_larger_sets_that_contain_the_others(form):
    f = torch.rand((200, 5), generator=chance(0, "f"))
    Y = torch.rand((200, 5), generator=chance(0, "Y")) < f
    misses, true = nonconformity(f, Y, torch.ones_like(Y), form)
    thresholds = order_statistics(true, ALPHAS)
    assert (thresholds.diff() <= 0).all() and len(thresholds.unique()) > 50
    sets = misses[None] <= thresholds[:, None, None]
    assert (sets[1:] <= sets[:-1]).all()


def test_sizes_are_counted_as_one_by_one():
    misses = torch.rand((50, 4), generator=chance(0, "test"))
    thresholds = torch.tensor([0.0, 0.25, misses[3, 2].item(), 1.0, math.inf])
    found = sizes(misses, thresholds)
    for t, row in zip(thresholds, found, strict=True):
        wanted = torch.bincount((misses <= t).sum(dim=1), minlength=5)
        assert torch.equal(row, wanted) and row.sum() == 50


# --- the entropy criterion ----------------------------------------------------------------------------


def test_fbe_of_known_sizes():
    # sizes 1, 1, 2, 3: 3 * 1.0397 + 0.6931
    assert fbe(torch.tensor([[0, 2, 1, 1]])).item() == pytest.approx(3.8123, abs=1e-4)
    assert fbe(torch.tensor([[0, 0, 7, 0], [5, 0, 0, 0]])).tolist() == [0, 0]
    # half empty, half of size 2: the sizes differ, none is 1
    assert fbe(torch.tensor([[3, 0, 3]])).item() == pytest.approx(3 * math.log(2))


def test_in_binary_form_both_entropies_are_one_and_half_the_sets_are_singletons():
    f = torch.rand((500, 3), generator=chance(0, "f"))
    Y = torch.rand((500, 3), generator=chance(0, "Y")) < f
    misses, true = nonconformity(f, Y, torch.ones_like(Y), "binary")
    counts = sizes(misses, order_statistics(true, ALPHAS))
    assert ((counts[:, 0] == 0) | (counts[:, 2] == 0)).all()
    single = counts[:, 1] / counts.sum(dim=1)
    entropy = torch.special.entr(torch.stack([single, 1 - single])).sum(dim=0)
    assert fbe(counts).numpy() == pytest.approx(4 * entropy.numpy(), abs=1e-5)
    assert single[ALPHAS.index(choose_alpha(misses, true))].item() == pytest.approx(0.5, abs=0.03)


def test_fbe_chooses_the_alpha_of_the_most_varied_sizes_and_the_least_of_equals():
    f = torch.tensor([[0.4, 0.3, 0.2, 0.1]] * 5)
    true = torch.tensor([0.55, 0.6, 0.7, 0.75, 0.9])
    assert choose_alpha(1 - f, true) == ALPHAS[0]  # all sets are alike whatever alpha
    misses = torch.rand((300, 4), generator=chance(3, "test"))
    best = max(
        ALPHAS, key=lambda a: fbe(sizes(misses, torch.tensor([quantile(misses[:, 0], a) + 1e-6]))).item()
    )
    assert choose_alpha(misses, misses[:, 0]) == best and best not in (ALPHAS[0], ALPHAS[-1])


def test_fbe_is_evaluated_on_the_calibration_slice():
    router = fit(replace(DEFAULT, alpha="fbe"))
    held = held_rows(len(TRAIN), 0).numpy()
    f = probabilities(router, as_queries(TRAIN.X[held]))
    misses, true = nonconformity(f, torch.tensor(TRAIN.Y[held] == 1), torch.ones(f.shape) > 0, "set")
    alpha = choose_alpha(misses, true)
    assert router.buffers["threshold"].item() == pytest.approx(quantile(true, alpha) + 1e-6, abs=1e-6)


# --- trust and the fallback ---------------------------------------------------------------------------


def test_small_sets_are_trusted_and_empty_and_large_ones_are_not():
    f = torch.tensor(
        [[0.3, 0.3, 0.2, 0.2], [0.7, 0.1, 0.1, 0.1], [0.45, 0.45, 0.05, 0.05], [0.36, 0.34, 0.29, 0.01]]
    )
    threshold = torch.tensor(1 - 0.33)  # models of f >= .33 are in the set: none, 1, 2, 2
    assert trust(f, threshold, replace(DEFAULT, tau=1)).tolist() == [False, True, False, False]
    assert trust(f, threshold, replace(DEFAULT, tau=2)).tolist() == [False, True, True, True]
    assert trust(f, torch.tensor(1 - 0.15), replace(DEFAULT, tau=2)).tolist() == [False, True, True, False]


@pytest.mark.parametrize(("K", "half"), [(1, 1), (2, 1), (5, 3), (8, 4)])
def test_half_of_the_pool_is_rounded_up(K, half):
    for size in range(K + 1):
        f = torch.tensor([[0.9] * size + [0.1] * (K - size)])
        assert trust(f, torch.tensor(0.5), replace(DEFAULT, tau="half")).item() == (1 <= size <= half)


def test_a_model_is_certified_where_its_set_is_correct_alone():
    binary = Config("binary")
    f = torch.tensor([[0.8, 0.4], [0.6, 0.5], [0.1, 0.2]])
    # q = .3: correct is in from f >= .7, wrong up to f <= .3
    assert trust(f, torch.tensor(0.3), binary).tolist() == [True, False, False]
    # q = .65: both are in for .35 <= f <= .65
    assert trust(f, torch.tensor(0.65), binary).tolist() == [True, False, False]
    assert trust(f, torch.tensor(math.inf), binary).tolist() == [False] * 3


@each_kind
def test_trusted_queries_get_the_heads_scores_and_the_others_the_prior(variant):
    router = fitted(variant)
    f, found = probabilities(router), router.scores(TEST)
    prior = TRAIN.Y.mean(axis=0) / (TRAIN.Y.mean(axis=0).sum() if variant.form == "set" else 1)
    trusted = trust(f, router.buffers["threshold"], variant).numpy()
    assert found[trusted] == pytest.approx(f.numpy()[trusted], abs=1e-6)
    assert found[~trusted] == pytest.approx(np.tile(prior, ((~trusted).sum(), 1)), abs=1e-6)
    assert variant.alpha == "fbe" or not variant.hidden or 0 < trusted.sum() < len(trusted)


@each_form
def test_a_vanishing_alpha_sends_every_query_to_the_best_single_model(form):
    router = fit(replace(DEFAULT, form=form, alpha=NEVER))
    assert router.buffers["threshold"].item() == math.inf
    found = router.scores(TEST)
    assert (found == found[0]).all() and found[0].argmax() == TRAIN.Y.mean(axis=0).argmax()


def test_a_vanishing_alpha_with_sets_of_any_size_is_the_argmax_of_the_head():
    router = fit(replace(DEFAULT, alpha=NEVER, tau=4))
    f = probabilities(router).numpy()
    assert np.array_equal(router.scores(TEST), f) and len(set(f.argmax(axis=1))) > 1


def test_a_constant_head_has_equal_sets_no_entropy_and_one_route():
    train, val = (labelled(np.ones_like(s.X), s.Y) for s in (TRAIN, VAL))
    for form in ("set", "binary"):
        router = fit(replace(DEFAULT, form=form, alpha="fbe"), train=train, val=val)
        f = probabilities(router, as_queries(np.ones((30, 4))))
        misses, true = nonconformity(f, f > 0, f > 0, form)
        if form == "set":
            assert (fbe(sizes(misses, order_statistics(true, ALPHAS) + 1e-6)) == 0).all()
        found = router.scores(as_queries(np.ones((30, 4))))
        assert (found.argmax(axis=1) == TRAIN.Y.mean(axis=0).argmax()).all()


def test_a_query_at_the_quantile_is_inside_its_own_set_whatever_its_batch():
    train, val = (labelled(np.ones_like(s.X), s.Y) for s in (world(300, K=3), world(60, K=3, seed=1)))
    router = fit(replace(DEFAULT, tau=3), train=train, val=val)
    one, many = (router.scores(as_queries(np.ones((n, 8)))) for n in (1, 257))
    assert many == pytest.approx(np.tile(one, (257, 1)), abs=1e-6)


# --- the head and its calibration slice ---------------------------------------------------------------


def test_a_fifth_of_train_is_held_out_by_the_seed():
    held = held_rows(103, 5)
    assert held.sum() == 20 and torch.equal(held, held_rows(103, 5))
    assert not torch.equal(held, held_rows(103, 6))
    assert held_rows(4, 0).sum() == 0


@each_form
@pytest.mark.parametrize("seed", [0, 42])
def test_labels_of_the_calibration_slice_change_the_quantile_but_not_the_head(form, seed):
    variant = replace(DEFAULT, form=form)
    Y, held = TRAIN.Y.copy(), held_rows(len(TRAIN), seed).numpy()
    assert np.array_equal(held.nonzero()[0], np.sort(CpRouter.calibration_rows(len(TRAIN), seed)))
    Y[held] = 1 - Y[held]
    other, plain = fit(variant, train=labelled(TRAIN.X, Y), seed=seed), fit(variant, seed=seed)
    for name, value in plain.parameters.items():
        assert torch.equal(value, other.parameters[name])
    assert other.buffers["threshold"] != plain.buffers["threshold"]
    Y = TRAIN.Y.copy()
    Y[~held] = 1 - Y[~held]
    other = fit(variant, train=labelled(TRAIN.X, Y), seed=seed)
    assert not torch.equal(other.parameters["weight0"], plain.parameters["weight0"])


def test_the_loss_of_set_form_is_a_softmax_over_observed_models_on_solvable_queries():
    Y = np.array([[1, 0, 1, NAN], [0, 0, NAN, 0], [NAN, 1, 0, 0], [NAN, NAN, NAN, NAN]], np.float32)
    z = torch.randn((4, 4), generator=chance(0, "test"))
    known = Batch(targets=observed(Y, "cpu"), constants={}, parameters={}, draw=Draw())
    e = z.exp().numpy()
    first = -0.5 * (np.log(e[0, 0] / e[0, :3].sum()) + np.log(e[0, 2] / e[0, :3].sum()))
    third = -np.log(e[2, 1] / e[2, 1:].sum())
    assert set_loss(z, known).item() == pytest.approx((first + third) / 2, abs=1e-5)
    stack = torch.stack([z, 2 * z])
    assert torch.allclose(set_loss(stack, known), torch.stack([set_loss(z, known), set_loss(2 * z, known)]))


def test_models_that_were_not_observed_get_no_gradient():
    Y = world(40, K=5, missing=0.6).Y
    Y[0] = NAN
    z = torch.randn((40, 5), generator=chance(0, "test"), requires_grad=True)
    set_loss(z, Batch(targets=observed(Y, "cpu"), constants={}, parameters={}, draw=Draw())).backward()
    gradient = z.grad.numpy()
    assert np.isfinite(gradient).all() and (gradient[np.isnan(Y)] == 0).all() and (gradient != 0).any()


@each_form
def test_an_untrained_head_scores_the_means_of_the_rows_that_it_learns_from(form):
    means = np.array([0.2, 0.5, 0.8], np.float32)
    parameters = cp_router.initial(4, means, replace(DEFAULT, form=form), chance(0, "initial"))
    z = feed_forward(parameters, torch.tensor(TEST.unit), Draw())
    f = z.softmax(dim=1) if form == "set" else z.sigmoid()
    assert f.numpy() == pytest.approx(np.tile(means / (1.5 if form == "set" else 1), (60, 1)), abs=1e-6)


@each_form
def test_it_beats_the_best_single_model_where_queries_tell(form):
    test = told(400, 103)
    routed = test.Y[np.arange(400), scores(replace(DEFAULT, form=form), test).argmax(axis=1)].mean()
    assert routed > test.Y.mean(axis=0).max() + 0.1


# --- what every router owes ---------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one():
    trials = [Trial(variant=replace(v, hidden=v.hidden and (16,)), seed=s) for s in (1, 2) for v in GRID]
    for _, found, alone in routers.fitted_both_ways(SPEC, TRAIN, VAL, trials, TEST, every=2):
        assert found == pytest.approx(alone, abs=1e-4)


@each_kind
def test_a_router_from_its_state_gives_the_same_scores(variant):
    routers.check_state(fitted(variant), variant, TEST)


@each_kind
def test_permuting_the_models_permutes_the_scores(variant):
    order = [2, 0, 3, 1]
    train, val = (worlds.reordered(s, order) for s in (TRAIN, VAL))
    assert scores(variant, train=train, val=val) == pytest.approx(scores(variant)[:, order], abs=1e-3)


@each_kind
def test_scores_do_not_depend_on_batch_or_order(variant):
    routers.check_batch_and_order(fitted(variant), TRAIN, 400, abs=1e-6)  # the calibration slice too


@each_kind
def test_what_stands_where_a_label_is_missing_changes_nothing(variant):
    sparse = told(400, 100)
    sparse.Y[np.random.default_rng(2).random(sparse.Y.shape) < 0.6] = NAN
    found = scores(variant, train=sparse)
    assert np.isfinite(found).all()
    assert np.array_equal(scores(variant, train=worlds.with_other_nans(sparse)), found)


@each_form
def test_a_model_never_observed_keeps_the_logit_of_the_pools_mean(form):
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    router = fit(replace(DEFAULT, form=form), train=labelled(TRAIN.X, Y))
    held = held_rows(len(TRAIN), 0).numpy()
    p = Y[~held][:, [0, 2, 3]].mean()
    z = outputs_of(feed_forward, router.parameters, torch.tensor(TEST.unit))[:, 1].numpy()
    assert z == pytest.approx(np.log(p) if form == "set" else np.log(p / (1 - p)), abs=1e-5)
    found = router.scores(TEST)
    assert np.isfinite(found).all() and ((found >= 0) & (found <= 1)).all()


@each_form
def test_a_pool_that_is_always_wrong_is_scored_all_the_same(form):
    found = scores(replace(DEFAULT, form=form), train=labelled(TRAIN.X, np.zeros_like(TRAIN.Y)))
    assert np.isfinite(found).all() and found.max() < 0.1


def test_costs_and_labels_of_the_queries_are_never_read():
    assert np.array_equal(
        scores(queries=worlds.poisoned(worlds.without_labels(TRAIN))), scores(queries=TRAIN)
    )
    assert np.array_equal(scores(train=worlds.poisoned(TRAIN)), scores())


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


def test_the_rows_held_out_are_those_of_the_seed(monkeypatch):
    seeds, real = [], held_out
    monkeypatch.setattr(
        cp_router, "held_out", lambda n, share, seed: seeds.append(seed) or real(n, share, seed)
    )
    fit(seed=5)
    assert seeds == [5, 5]  # what the head does not learn from, and what calibrates


MUTATIONS = [
    (
        "n + 1 - math.floor((n + 1) * alpha + 1e-9)",
        "max(1, math.ceil(n * (1 - alpha)))",
        "the quantile of n, not of n + 1, scores",
    ),
    ("(size >= 1) & (size <= largest)", "size <= largest", "an empty set is trusted"),
    ("M * (~held)[:, None].to(M)", "M", "the head learns from the calibration slice"),
    (
        "held_out(len(data.X), CALIBRATION, self.seed)",
        "held_out(len(data.X), CALIBRATION, 0)",
        "rows of seed 0 calibrate",
    ),
    (
        "held_out(len(data.X), CALIBRATION, seed)",
        "held_out(len(data.X), CALIBRATION, 0)",
        "the head holds out the rows of seed 0",
    ),
]
