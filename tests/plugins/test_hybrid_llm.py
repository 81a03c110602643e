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
SMALL = {"hidden": (16,), "share": 0.3}
FORMS = [{}, {"hidden": ()}, {"hidden": (8, 4)}, {"form": "pair"}, {"form": "ties-half"}, {"share": "paper"}]
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


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_card_says_stochastic_and_uncalibrated_and_has_the_papers_name_as_alias():
    assert (CARD.name, CARD.aliases, CARD.paper) == ("hybrid-llm", ("hybrid_llm",), "arXiv:2404.14618")
    assert not CARD.deterministic and not CARD.calibrated
    assert register_router().router is HybridRouter


def test_the_papers_forms_are_those_whose_threshold_follows_the_papers_rule():
    original = [variant for variant in GRID if register_router().variant_card(variant).original]
    assert original == [variant for variant in GRID if variant.share == "paper"]


def test_variants_route_a_planted_pair_in_many_ways():
    train, val, test = easy(2000, 0), easy(400, 1), easy(1000, 2)
    group = register_router().fit_many(train, val, [Trial(variant=v, seed=0) for v in GRID], "cpu")
    routes = {scores.argmax(axis=1).tobytes() for scores in group.scores(test)}
    assert len(GRID) == 15 and len(routes) >= 8


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


def test_the_reference_and_the_slack_are_learnt_without_the_rows_that_calibrate():
    held = HybridRouter.calibration_rows(len(TRAIN), 3)
    Y = TRAIN.Y.copy()
    Y[held] = [1, 0, 0, 0]
    Y[np.delete(np.arange(300), held)[:, None], 0] *= 0.5
    plain = fit(train=with_labels(Y), seed=3)
    Y[held] = [0, 0.3, 1, 0]
    other = fit(train=with_labels(Y), seed=3)
    assert len(held) == 30 and int(plain.buffers["reference"]) == int(other.buffers["reference"])
    assert all(np.array_equal(value, other.parameters[name]) for name, value in plain.parameters.items())


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
    found = hybrid_llm.routed(p, rank, 1, "nlabel", 0.8)
    assert found.numpy() == pytest.approx(np.array([[2 - 1 / 3, 2 - 2 / 3, 0.7], [0.5, 2 - 2 / 3, 0.1]]))
    at = hybrid_llm.routed(p, rank, 1, "nlabel", 0.7)[0]
    assert at.numpy() == pytest.approx(np.array([2 - 1 / 3, 2 - 2 / 3, 2]))  # p = tau qualifies
    pair = hybrid_llm.routed(p, rank, 1, "pair", 0.3)
    assert pair.numpy() == pytest.approx(np.array([[-1, 0.3, 0.7], [-1, 0.3, 0.1]]))


def test_no_query_is_handed_to_a_model_that_is_not_cheaper():
    p, rank = torch.tensor([[0.9, 0.9, 0.9]]), torch.tensor([2, 1, 0])
    assert hybrid_llm.cheaper(rank, 1, "nlabel").tolist() == [False, False, True]
    assert hybrid_llm.cheaper(rank, 0, "nlabel").tolist() == [False, True, True]
    assert hybrid_llm.cheaper(rank, 0, "pair").tolist() == [False, False, True]
    assert hybrid_llm.chances(p, rank, 2, "nlabel").tolist() == [0]
    for form in ("nlabel", "pair"):
        assert hybrid_llm.routed(p, rank, 2, form, 0.5).argmax(dim=1).tolist() == [2]


def test_scores_where_ties_are_half_are_the_chances_and_one_half():
    router = fit(form="ties-half")
    p = torch.sigmoid(router.outputs(router.inputs(TEST))).float().numpy()
    p[:, BEST] = 0.5
    assert np.array_equal(router.scores(TEST), p)


# --- the threshold ------------------------------------------------------------------------------------


def test_a_threshold_hands_on_its_share():
    m = torch.tensor([0.2, 0.8, 0.4, 0.6], dtype=torch.float64)
    found = [hybrid_llm.threshold_of(m, share) for share in (0.25, 0.5, 0.6, 1)]
    assert found == pytest.approx([0.7, 0.5, 0.5, 0.1])
    assert hybrid_llm.threshold_of(m, 0) > 1


def test_the_papers_threshold_hands_on_as_many_as_cost_one_percent():
    """Of 200 queries the reference is right on 100; the small model, the surer the earlier, is wrong on some of them."""
    p = torch.linspace(0.99, 0.01, 200, dtype=torch.float64)[:, None].expand(-1, 2)
    Y, rank = torch.ones(200, 2, dtype=torch.float64), torch.tensor([0, 1])
    Y[100:] = 0
    Y[[30, 60, 90], 0] = 0  # one loss is 1 % of 100 right answers

    def handed(Y):
        return [
            int((p[:, 0] >= hybrid_llm.paper_threshold(p, Y, rank, 1, form)).sum())
            for form in ("nlabel", "pair")
        ]

    assert handed(Y) == [60, 60]
    Y[[150, 151], 0] = 1  # gains later make up for two of three
    assert handed(Y) == [200, 200]
    Y[:, 0] = NAN  # nothing is known of the small model
    assert handed(Y) == [0, 0]


def test_a_share_is_handed_on_and_none_where_the_cheap_model_is_never_right():
    train = easy(600, 0)
    held = train.X[HybridRouter.calibration_rows(600, 5)]
    for form in ("nlabel", "pair"):
        for share in (0.1, 0.5):
            router = fit(train=train, val=easy(100, 1), share=share, form=form, seed=5)
            assert (router.scores(worlds.as_queries(held)).argmax(axis=1) == 0).mean() == pytest.approx(share)
        bad = labelled(train.X, train.Y * [0, 1], train.C)
        found = fit(train=bad, val=easy(100, 1), share="paper", form=form).scores(easy(300, 2))
        assert (found.argmax(axis=1) == 1).all()


def easy(n, seed):
    """Model 0, the cheaper one, is right where x_0 > 0; model 1 always."""
    X = np.random.default_rng(seed).standard_normal((n, 8))
    return labelled(X, np.stack([X[:, 0] > 0, np.ones(n)], axis=1), np.tile([1.0, 5.0], (n, 1)).astype("f4"))


@pytest.mark.parametrize("hidden", [(), (64,)])
@pytest.mark.parametrize("form", ["nlabel", "pair"])
def test_easy_queries_go_to_the_cheap_model_and_hard_ones_do_not(enough_steps, hidden, form):
    train, val, test = easy(2000, 0), easy(400, 1), easy(1000, 2)
    chosen = scores(test, train=train, val=val, hidden=hidden, share="paper", form=form).argmax(axis=1)
    assert test.Y[np.arange(1000), chosen].mean() >= 0.99
    assert 0.45 <= (chosen == 0).mean() <= 0.55


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
    held = HybridRouter.calibration_rows(len(sparse), 0)
    best = int(np.nanmean(np.delete(sparse.Y, held, axis=0), axis=0).argmax())
    pairs = ~np.isnan(sparse.Y) & ~np.isnan(sparse.Y[:, [best]])
    pairs[:, best], pairs[held] = False, False
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
    learnt = np.delete(TRAIN.Y, HybridRouter.calibration_rows(300, 0), axis=0)
    rates = no_worse(learnt, BEST).mean(axis=0)
    assert (p == p[0]).all() and p[0, others] == pytest.approx(rates[others], abs=1e-5)


def test_a_minibatch_is_512_cells(monkeypatch):
    routers.check_minibatch_is_512_cells(fit, routers.heads_of(monkeypatch, hybrid_llm))


def test_thresholds_and_the_pair_share_one_head(monkeypatch):
    made = routers.heads_of(monkeypatch, hybrid_llm)
    forms = [Config(h, "nlabel", share) for h in ((), (16,), (8, 4)) for share in ("paper", 0.1, 0.5)]
    forms += [Config((16,), "pair", 0.5), Config((16,), "ties-half")]
    register_router().fit_many(TRAIN, VAL, [Trial(variant=v, seed=0) for v in forms], "cpu")
    assert len(made) == 4


def test_hidden_layers_have_dropout(monkeypatch):
    assert head_of(monkeypatch, TRAIN).training.dropout == 0.05
    X = torch.ones(1, 2)
    parameters = hybrid_llm.layers((2, 64, 1), chance(0, "test"))
    parameters = {name: value[None] for name, value in parameters.items()}
    draw = Draw([chance(0, "dropout")], torch.tensor([0.5]))
    kept = hybrid_llm.forward(parameters, X, Draw())
    assert not torch.equal(hybrid_llm.forward(parameters, X, draw), kept)


def test_fitting_many_equals_fitting_one_by_one_within_1e_4():
    variants = [Config(h, "nlabel", share) for h in ((), (16,), (8, 4)) for share in ("paper", 0.5)]
    variants += [Config((16,), "pair"), Config((16,), "ties-half")]
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


@pytest.mark.parametrize("share", [0.9, "paper"])
@pytest.mark.parametrize("form", ["nlabel", "pair", "ties-half"])
def test_no_query_is_handed_to_a_model_never_run(form, share):
    Y = TRAIN.Y.copy()
    Y[:, CHEAPEST] = NAN
    router = fit(train=with_labels(Y), form=form, share=share)
    found = router.scores(TEST)
    assert found[:, CHEAPEST] == pytest.approx(-1 if form == "pair" else 1e-3, abs=1e-5)
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
    ("dropout=0.05,", "", "no dropout"),
    (
        "return feed_forward(parameters, X, draw)",
        "return feed_forward(parameters, X, Draw())",
        "dropout is ignored",
    ),
    ("mask = mask * (~held)[:, None].to(mask)", "", "the head learns from the rows that calibrate"),
    (
        "held_out(len(data.X), CALIBRATION, self.seed)",
        "held_out(len(data.X), CALIBRATION, 0)",
        "rows of seed 0 calibrate",
    ),
    ("<= most:", "<= 2 * most:", "2 % of the accuracy may be lost"),
    ("found & (rank == rank.min()) if", "found if", "the pair hands on to every cheaper model"),
    (
        "held_out(len(data.X), CALIBRATION, seed)",
        "held_out(len(data.X), CALIBRATION, 0)",
        "the head holds out the rows of seed 0",
    ),
]
