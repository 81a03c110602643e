"""hybrid-llm: what the hand-over to the cheapest model that is no worse promises, and what every router owes."""

import numpy as np
import pytest
import torch
from rph_plugins.routers import hybrid_llm
from rph_plugins.routers.hybrid_llm import CARD, GRID, Config, HybridRouter, match_labels, register_router
from tests import routers, worlds
from tests.worlds import labelled, planted, world

from rph import Trial, UsageError
from rph.training.heads import Draw, chance

NAN = np.nan
PRICES = np.array([4.0, 1.0, 3.0, 2.0], "f4")


def priced(of, prices=PRICES):
    return labelled(of.X, of.Y, np.tile(prices, (len(of.X), 1)))


WORLD = priced(world(550))
TRAIN, VAL, TEST = (worlds.part(WORLD, *rows) for rows in ((0, 300), (300, 400), (400, 550)))
BEST = int(TRAIN.Y.mean(axis=0).argmax())
CHEAPEST = 1
SMALL = {"hidden": (16,), "threshold": 0.8}
FORMS = [{}, {"hidden": ()}, {"hidden": (8, 4)}, {"form": "pair"}, {"form": "ties-half"}]
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: str(*form.values()) or "default")


def fit(train=TRAIN, val=VAL, seed=0, **config):
    router = HybridRouter()
    router.fit(train, val, variant=Config(**{**SMALL, **config}), seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def with_labels(Y, of=TRAIN):
    return labelled(of.X, Y, of.C)


def no_worse(Y, reference):
    return Y - Y[:, [reference]] >= 0


def with_threshold(router, threshold, form="nlabel"):
    variant = Config(router.variant.hidden, threshold, form)
    return HybridRouter.from_state(router.state(), variant=variant, device="cpu")


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_default_first():
    heads, thresholds = ((), (256,), (128, 64)), (0.5, 0.8, 0.9, 0.95, 0.98)
    assert GRID[0] == Config()
    assert len(GRID) == 15 and set(GRID) == {Config(h, tau) for h in heads for tau in thresholds}
    assert {variant.form for variant in GRID} == {"nlabel"}


def test_the_card_says_stochastic_and_uncalibrated_and_has_the_papers_name_as_alias():
    assert (CARD.name, CARD.aliases, CARD.paper) == ("hybrid-llm", ("hybrid_llm",), "arXiv:2404.14618")
    assert not CARD.deterministic and not CARD.calibrated
    assert register_router().router is HybridRouter


# --- labels, reference and order ----------------------------------------------------------------------


def test_match_labels_of_the_truth_table():
    Y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "f4")  # the small model, the reference
    assert match_labels(Y, 1, 0.0)[:, 0].tolist() == [1, 0, 1, 1]
    assert match_labels(Y, 1, 0.0, ties_half=True)[:, 0].tolist() == [0.5, 0, 1, 0.5]
    assert np.isnan(match_labels(Y, 1, 0.0)[:, 1]).all()


def test_a_match_needs_both_labels():
    found = match_labels(np.array([[NAN, 1, 0], [0, 1, NAN], [0, NAN, 0]], "f4"), 1, 0.0)
    assert np.array_equal(found, [[NAN, NAN, 0], [0, NAN, NAN], [NAN, NAN, NAN]], equal_nan=True)


def test_any_slack_below_one_leaves_matches_of_binary_labels_as_they_are():
    for slack in (0.3, 0.9):
        found = match_labels(TRAIN.Y, BEST, slack)
        assert np.array_equal(found, match_labels(TRAIN.Y, BEST, 0.0), equal_nan=True)
    assert hybrid_llm.best_slack(TRAIN.Y, BEST) == 0


def test_the_search_for_slack_spreads_the_matches_and_never_makes_all_of_them_ones():
    gap = np.array([-0.9, -0.6, -0.4, -0.2])  # at t = .4 half of them match
    Y = np.stack([1 + gap, np.ones(4)], axis=1).astype("f4")
    slack = hybrid_llm.best_slack(Y, 1)
    assert 0.4 <= slack < 0.6
    assert sorted(match_labels(Y, 1, slack)[:, 0]) == [0, 0, 1, 1]
    lost = np.array([[0, 1], [0, 1]], "f4")
    assert hybrid_llm.best_slack(lost, 1) < 1
    assert match_labels(lost, 1, hybrid_llm.best_slack(lost, 1))[:, 0].tolist() == [0, 0]


def test_the_reference_is_the_model_of_the_best_observed_mean():
    Y = np.array([[0, 1, NAN, NAN], [1, NAN, 1, NAN], [1, 1, 0, NAN]], "f4")
    assert hybrid_llm.reference_model(Y) == 1
    assert hybrid_llm.reference_model(Y[:, [3, 0, 2]]) == 1
    assert int(fit().buffers["reference"]) == BEST


def test_models_are_ordered_by_mean_known_cost_and_without_costs_by_their_means():
    means = np.array([0.4, 0.6, 0.5, 0.7], "f4")
    C = np.array([[3, 1, NAN, NAN], [5, NAN, 2, NAN]], "f4")
    assert hybrid_llm.cost_ranks(C, means).tolist() == [2, 0, 1, 3]
    assert hybrid_llm.cost_ranks(None, means).tolist() == [0, 2, 1, 3]
    assert hybrid_llm.cost_ranks(np.full((2, 4), NAN, "f4"), means).tolist() == [0, 2, 1, 3]
    assert hybrid_llm.cost_ranks(np.ones((2, 4), "f4"), means).tolist() == [
        3,
        1,
        2,
        0,
    ]  # equal: the better first
    assert fit().buffers["rank"].tolist() == [3, 0, 2, 1]


# --- scores -------------------------------------------------------------------------------------------


def test_scores_by_hand():
    p = torch.tensor([[0.9, 0.2, 0.7], [0.5, 0.8, 0.1]], dtype=torch.float64)
    rank = torch.tensor([1, 2, 0])
    found = hybrid_llm.routed(p, rank, 1, Config(threshold=0.8))
    assert found.numpy() == pytest.approx(np.array([[2 - 1 / 3, 2 - 2 / 3, 0.7], [0.5, 2 - 2 / 3, 0.1]]))
    at = hybrid_llm.routed(p, rank, 1, Config(threshold=0.7))[0]
    assert at.numpy() == pytest.approx(np.array([2 - 1 / 3, 2 - 2 / 3, 2]))  # p = tau qualifies
    pair = hybrid_llm.routed(p, rank, 1, Config(threshold=0.3, form="pair"))
    assert pair.numpy() == pytest.approx(np.array([[-1, 0.3, 0.7], [-1, 0.3, 0.1]]))
    half = hybrid_llm.routed(p, rank, 1, Config(form="ties-half"))
    assert half.numpy() == pytest.approx(np.array([[0.9, 0.5, 0.7], [0.5, 0.5, 0.1]]))


def test_a_pair_of_one_model_is_that_model():
    found = hybrid_llm.routed(
        torch.tensor([[0.9, 0.9]]), torch.tensor([1, 0]), 1, Config(threshold=0.5, form="pair")
    )
    assert found.tolist() == [[-1, 0.5]]


@pytest.mark.parametrize("hidden", [(), (16,)])
def test_the_threshold_trades_the_cheapest_model_for_the_reference(hidden):
    router = fit(hidden=hidden)
    shares = []
    for tau in (-0.1, 0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.01):
        chosen = with_threshold(router, tau).scores(TEST).argmax(axis=1)
        shares.append((chosen == BEST).mean())
        if tau <= 0:
            assert (chosen == CHEAPEST).all()
    assert shares == sorted(shares) and shares[-1] == 1
    assert 0 < shares[4] < 1 or 0 < shares[5] < 1


def easy(n, seed):
    """Model 0, the cheaper one, is right where x_0 > 0; model 1 always."""
    X = np.random.default_rng(seed).standard_normal((n, 8))
    return labelled(X, np.stack([X[:, 0] > 0, np.ones(n)], axis=1), np.tile([1.0, 5.0], (n, 1)).astype("f4"))


@pytest.mark.parametrize("hidden", [(), (64,)])
@pytest.mark.parametrize("form", ["nlabel", "pair"])
def test_easy_queries_go_to_the_cheap_model_and_hard_ones_do_not(enough_steps, hidden, form):
    train, val, test = easy(2000, 0), easy(400, 1), easy(1000, 2)
    chosen = scores(test, train=train, val=val, hidden=hidden, threshold=0.5, form=form).argmax(axis=1)
    assert test.Y[np.arange(1000), chosen].mean() >= 0.99
    assert 0.45 <= (chosen == 0).mean() <= 0.55


def test_at_one_half_nearly_all_queries_go_to_the_cheapest_model_where_most_pairs_match():
    rng = np.random.default_rng(0)
    train = labelled(
        TRAIN.X, rng.random((300, 3)) < [0.35, 0.4, 0.5], np.tile([1.0, 2, 3], (300, 1)).astype("f4")
    )
    found = scores(train=train, val=worlds.part(train, 0, 100), threshold=0.5)
    assert (found.argmax(axis=1) == 0).mean() > 0.95


def test_planted_specialists_get_their_queries_where_ties_are_half_and_no_threshold_rules(enough_steps):
    (train, _), (val, _), (test, specialist) = planted(2000, 0), planted(500, 10), planted(1000, 20)
    chosen = scores(test, train=train, val=val, form="ties-half").argmax(axis=1)
    assert (chosen == specialist).mean() >= 0.98


def test_the_predicted_matches_are_as_frequent_as_the_matches(enough_steps):
    router = fit()
    p = torch.sigmoid(hybrid_llm.forward(router.parameters, router.inputs(TRAIN), Draw())).numpy()
    others = [k for k in range(4) if k != BEST]
    assert p.mean(axis=0)[others] == pytest.approx(no_worse(TRAIN.Y, BEST).mean(axis=0)[others], abs=0.05)


# --- training -----------------------------------------------------------------------------------------


def head_of(monkeypatch, train):
    heads = routers.heads_of(monkeypatch, hybrid_llm)
    fit(train=train)
    return heads[0]


def test_one_label_makes_no_reference():
    Y = np.array([[1, 0, NAN], [1, 0, NAN], [0, 1, 1], [1, 0, NAN]] * 5, "f4")
    Y[3:, 2] = NAN  # one label, of 1, where the first is wrong
    assert hybrid_llm.reference_model(Y) == 0


def test_the_loss_reads_pairs_with_both_labels_only(monkeypatch):
    sparse = priced(world(missing=0.4)).observed
    best = int(np.nanmean(sparse.Y, axis=0).argmax())
    pairs = ~np.isnan(sparse.Y) & ~np.isnan(sparse.Y[:, [best]])
    pairs[:, best] = False
    labels = np.where(pairs, no_worse(sparse.Y, best), NAN)
    routers.check_loss_is_cross_entropy(head_of(monkeypatch, sparse), labels)


def test_a_check_measures_the_cross_entropy_of_the_matches_on_val(monkeypatch):
    head = head_of(monkeypatch, TRAIN)
    p = torch.rand((2, 100, 4), generator=chance(0, "test"))
    match = no_worse(VAL.Y, BEST)
    others = [k for k in range(4) if k != BEST]
    wanted = [np.where(match, np.log(q), np.log(1 - q))[:, others].mean() for q in p.numpy().astype("f8")]
    assert head.val.accuracy(p).numpy() == pytest.approx(np.array(wanted), abs=1e-5)
    assert torch.equal(head.readout(torch.zeros(1)), torch.tensor([0.5]))


def test_a_head_starts_at_the_match_rates(monkeypatch):
    head, others = head_of(monkeypatch, TRAIN), [k for k in range(4) if k != BEST]
    start = hybrid_llm.initial(8, *head.targets, BEST, Config(hidden=(16,)), chance(0, "test"))
    p = torch.sigmoid(hybrid_llm.forward(start, torch.tensor(TRAIN.X), Draw())).numpy()
    rates = no_worse(TRAIN.Y, BEST).mean(axis=0)
    assert (p == p[0]).all() and p[0, others] == pytest.approx(rates[others], abs=1e-5)


def test_a_minibatch_is_512_cells(monkeypatch):
    routers.check_minibatch_is_512_cells(fit, routers.heads_of(monkeypatch, hybrid_llm))


def test_thresholds_and_the_pair_share_one_head(monkeypatch):
    made = routers.heads_of(monkeypatch, hybrid_llm)
    forms = [Config(h, tau) for h in ((), (16,), (8, 4)) for tau in (0.5, 0.8, 0.95)]
    forms += [Config((16,), 0.5, "pair"), Config((16,), 0.5, "ties-half")]
    register_router().fit_many(TRAIN, VAL, [Trial(variant=v, seed=0) for v in forms], "cpu")
    assert len(made) == 4


def test_fitting_many_equals_fitting_one_by_one_within_1e_4():
    variants = [Config(h, tau) for h in ((), (16,), (8, 4)) for tau in (0.5, 0.8)]
    variants += [Config((16,), 0.5, "pair"), Config((16,), 0.5, "ties-half")]
    trials = [Trial(variant=v, seed=seed) for seed in (0, 3) for v in variants]
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


@each_form
def test_permuting_the_models_permutes_the_scores(form):
    if form.get("hidden") == ():
        form = form | {"threshold": 0.999}
    order = [2, 0, 3, 1]
    train, val = (worlds.reordered(s, order) for s in (TRAIN, VAL))
    found, wanted = scores(train=train, val=val, **form), scores(**form)[:, order]
    assert (
        np.abs(found - wanted) < 1e-3
    ).mean() > 0.99  # a probability at the threshold may fall to either side


@each_form
def test_what_stands_in_a_missing_label_changes_nothing(form):
    sparse = priced(world(missing=0.5))
    assert np.array_equal(scores(train=worlds.with_other_nans(sparse), **form), scores(train=sparse, **form))


@pytest.mark.parametrize("form", ["nlabel", "pair", "ties-half"])
def test_no_query_is_handed_to_a_model_never_run(form):
    Y = TRAIN.Y.copy()
    Y[:, CHEAPEST] = NAN
    router = fit(train=with_labels(Y), form=form)
    found = router.scores(TEST)
    assert found[:, CHEAPEST] == pytest.approx(1e-3, abs=1e-5)
    assert (found.argmax(axis=1) != CHEAPEST).all()


def test_models_never_run_on_the_same_queries_leave_the_reference():
    Y = np.full_like(TRAIN.Y, NAN)
    Y[:200, 0], Y[200:, 2] = 1, 0
    assert (scores(train=with_labels(Y)).argmax(axis=1) == 0).all()


def test_a_model_that_is_always_right_is_the_reference_and_one_that_never_is_gets_nothing():
    Y = TRAIN.Y.copy()
    Y[:, 2], Y[:, CHEAPEST] = 1, 0
    found = scores(train=labelled(np.ones_like(TRAIN.X), Y, TRAIN.C))
    assert np.isfinite(found).all() and (found.argmax(axis=1) != CHEAPEST).all()


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


def test_test_labels_and_the_costs_of_val_are_never_read():
    assert np.array_equal(scores(worlds.poisoned(worlds.without_labels(TEST))), scores())
    assert np.array_equal(scores(val=labelled(VAL.X, VAL.Y)), scores())


MUTATIONS = [
    ("else gap >= -slack", "else gap > -slack", "ties are no matches"),
    ("qualifies[:, reference] = True", "qualifies[:, reference] = False", "the reference need not qualify"),
    ("    labels[:, reference] = np.nan\n", "", "the reference is compared with itself"),
]
