"""routerdc: its two losses by hand, the drawing of positives and negatives, and what every router owes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rph_plugins.routers import routerdc
from rph_plugins.routers.routerdc import CARD, Config, RouterDcRouter
from tests import routers, worlds
from tests.worlds import as_queries, labelled, logistic, planted

from rph import Trial, UsageError
from rph.training.heads import Batch, Draw, chance

NAN = np.nan

TRAIN, VAL, TEST = logistic(300), logistic(150, seed=1), logistic(300, seed=2)
QUICK = Config(learning_rate=5e-3, steps=100)
FORMS = [QUICK, replace(QUICK, hidden=16, temperature=0.07)]
each_form = pytest.mark.parametrize("variant", FORMS, ids=["linear", "hidden"])


def fit(variant=QUICK, train=TRAIN, val=VAL, seed=0):
    router = RouterDcRouter()
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def loss(z, Y, *, mapped=None, clusters=None, T=1.0, positives=np.inf, negatives=np.inf, weight=0.0, seed=0):
    """The loss of a minibatch whose cosines are z and whose mapped queries are of length 1."""
    Y = torch.as_tensor(Y, dtype=torch.float32)
    z = torch.as_tensor(z, dtype=torch.float32)
    mapped = torch.zeros(len(Y), 2) if mapped is None else torch.as_tensor(mapped, dtype=torch.float32)
    clusters = torch.zeros(len(Y), dtype=torch.long) if clusters is None else torch.tensor(clusters)
    mask = ~Y.isnan()
    constants = {"temperature": T, "positives": positives, "negatives": negatives, "weight": weight}
    batch = Batch(
        targets=(Y.nan_to_num(0), mask.float(), clusters),
        constants={name: torch.tensor(float(value)) for name, value in constants.items()},
        parameters={},
        draw=Draw([torch.Generator().manual_seed(seed)], torch.zeros(1)),
    )
    return routerdc.loss(torch.cat([z, mapped], dim=-1), batch)


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_card_says_stochastic_and_uncalibrated_and_has_the_papers_name_as_alias():
    assert (CARD.name, CARD.paper, CARD.year) == ("routerdc", "arXiv:2409.19886", 2024)
    assert not CARD.deterministic and not CARD.calibrated and CARD.aliases == ("router_dc",)
    assert CARD.needs == ("labels",) and "missing-labels" in CARD.supports


# --- the first loss -----------------------------------------------------------------------------------


def test_a_minibatch_by_hand_where_the_all_wrong_and_the_all_right_query_add_exactly_nothing():
    z = torch.tensor([[0.5, -0.2, 0.1], [0.3, 0.2, 0.9], [-0.4, 0.8, 0.0]], requires_grad=True)
    found = loss(z, [[1, 0, 0], [0, 0, 0], [1, 1, 1]], T=0.5)
    e = np.exp(np.array([0.5, -0.2, 0.1]) / 0.5)
    assert found.item() == pytest.approx(-np.log(e[0] / e.sum()) / 3, rel=1e-6)
    found.backward()
    assert torch.isfinite(z.grad).all() and (z.grad[1:] == 0).all() and (z.grad[0] != 0).all()
    assert loss(z[1:], [[0, 0, 0], [1, 1, 1]]).item() == 0


def test_every_positive_stands_alone_against_the_negatives():
    e = np.exp([0.5, -0.2, 0.1])
    by_hand = -np.log(e[0] / (e[0] + e[2])) - np.log(e[1] / (e[1] + e[2]))
    assert loss([[0.5, -0.2, 0.1]], [[1, 1, 0]]).item() == pytest.approx(by_hand, rel=1e-6)


def test_a_missing_label_is_neither_positive_nor_negative():
    z = torch.tensor([[0.5, -0.2, 0.1, 0.7]], requires_grad=True)
    found = loss(z, [[1, 0, NAN, NAN]])
    assert found.item() == pytest.approx(np.log(1 + np.exp(-0.7)), rel=1e-6)
    found.backward()
    assert (z.grad[0, 2:] == 0).all()


def test_a_graded_label_is_correct_above_one_half():
    z = [[0.5, -0.2, 0.1]]
    assert torch.equal(loss(z, [[0.9, 0.5, 0.2]]), loss(z, [[1, 0, 0]]))


def test_each_correct_model_is_a_positive_equally_often_in_a_pool_of_112():
    draws, K = 5000, 112
    correct = torch.arange(K) % 2 == 0
    z = torch.zeros(draws, K, requires_grad=True)
    Y = correct.float().expand(100, K)
    for seed in range(50):
        loss(z[100 * seed : 100 * (seed + 1)], Y, positives=3, negatives=3, seed=seed).backward()
    assert ((z.grad != 0).sum(dim=1) == 6).all()  # 3 of each are drawn
    for chosen, among in ((z.grad < 0, correct), (z.grad > 0, ~correct)):
        assert (chosen.sum(dim=1) == 3).all() and not chosen[:, ~among].any()
        count = chosen[:, among].sum(dim=0).double()
        expected = 3 * draws / 56
        assert (
            (count - expected) ** 2 / expected
        ).sum() < 93.2  # chi-square, 55 degrees of freedom, p = 0.001


def test_fewer_candidates_than_wanted_are_all_taken():
    z = torch.zeros(1, 5, requires_grad=True)
    loss(z, [[1, 1, 0, 0, 0]], positives=8, negatives=2).backward()
    assert (z.grad[0, :2] < 0).all() and (z.grad[0, 2:] > 0).sum() == 2


def test_models_are_drawn_anew_in_each_step():
    draw = Draw([torch.Generator().manual_seed(0)], torch.zeros(1))
    every = torch.ones(1, 112, dtype=torch.bool)
    first, second = (routerdc.some(every, draw.uniform((1, 112)), 3) for _ in range(2))
    assert not torch.equal(first, second)


# --- the second loss ----------------------------------------------------------------------------------


def unit(*angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_the_loss_between_queries_by_hand():
    angles, T = np.array([0.0, 0.4, 1.5, 2.5]), 0.5
    found = loss(
        np.zeros((4, 1)), np.ones((4, 1)), mapped=unit(*angles), clusters=[0, 0, 1, 1], T=T, weight=2.0
    )
    e = np.exp(np.cos(angles[:, None] - angles) / T)
    partner, others = [1, 0, 3, 2], [[2, 3], [2, 3], [0, 1], [0, 1]]
    each = [
        -np.log(e[i, p] / (e[i, p] + e[i, o].sum()))
        for i, (p, o) in enumerate(zip(partner, others, strict=True))
    ]
    assert found.item() == pytest.approx(2 * np.mean(each), rel=1e-5)


def test_a_query_without_a_partner_is_left_out_of_the_mean():
    angles = np.array([0.0, 0.4, 1.5])
    found = loss(np.zeros((3, 1)), np.ones((3, 1)), mapped=unit(*angles), clusters=[0, 0, 1], weight=1.0)
    e = np.exp(np.cos(angles[:, None] - angles))
    each = [-np.log(e[0, 1] / (e[0, 1] + e[0, 2])), -np.log(e[1, 0] / (e[1, 0] + e[1, 2]))]
    assert found.item() == pytest.approx(np.mean(each), rel=1e-5)


def test_of_many_queries_one_partner_and_three_of_other_clusters_are_drawn():
    # Orthogonal queries: each term is log(1 + 3) whoever is drawn, and would be more with more of the others.
    found = loss(np.zeros((12, 1)), np.ones((12, 1)), mapped=np.eye(12), clusters=[0, 1] * 6, weight=1.0)
    assert found.item() == pytest.approx(np.log(4), rel=1e-6)


@pytest.mark.parametrize("clusters", [[0, 0, 0], [0, 1, 2]])
def test_one_cluster_or_only_lonely_queries_add_nothing_and_leave_the_gradient_finite(clusters):
    mapped = torch.tensor(unit(0.0, 0.4, 1.5), dtype=torch.float32, requires_grad=True)
    found = loss(np.zeros((3, 1)), np.ones((3, 1)), mapped=mapped, clusters=clusters, weight=1.0)
    found.backward()
    assert found.item() == 0 and (mapped.grad == 0).all()


def test_a_stack_of_heads_has_each_ones_loss():
    rng = np.random.default_rng(0)
    Y = torch.tensor((rng.random((6, 4)) < 0.5).astype("f4"))
    outputs = torch.tensor(rng.normal(size=(2, 6, 7)).astype("f4"))
    clusters = torch.tensor([0, 0, 1, 1, 2, 2])
    values = {"temperature": (1.0, 0.2), "positives": (1, np.inf), "negatives": (2, 2), "weight": (0.0, 1.0)}

    def run(outputs, constants):
        draw = Draw([torch.Generator().manual_seed(3)], torch.zeros(1))
        batch = Batch(
            targets=(Y, torch.ones_like(Y), clusters), constants=constants, parameters={}, draw=draw
        )
        return routerdc.loss(outputs, batch)

    together = run(outputs, {name: torch.tensor(pair, dtype=torch.float32) for name, pair in values.items()})
    alone = [
        run(outputs[g], {name: torch.tensor(float(pair[g])) for name, pair in values.items()}) for g in (0, 1)
    ]
    assert together.shape == (2,) and torch.allclose(together, torch.stack(alone), atol=1e-6)


# --- the map and the embeddings -----------------------------------------------------------------------


@each_form
def test_the_map_starts_as_the_identity_and_the_scores_are_cosines(variant):
    parameters = routerdc.initial(8, 4, variant, chance(0, "initial"))
    X = torch.tensor(TEST.X)
    found = routerdc.forward(parameters, X, Draw())
    unit_X = X / X.norm(dim=1, keepdim=True)
    e = parameters["models"]
    assert torch.allclose(found[:, 4:], unit_X, atol=1e-6)
    assert torch.allclose(found[:, :4], unit_X @ (e / e.norm(dim=1, keepdim=True)).T, atol=1e-6)
    assert torch.allclose(routerdc.forward(parameters, 10 * X, Draw()), found, atol=1e-6)


def test_permuted_models_with_permuted_embeddings_have_the_same_loss_at_the_start():
    parameters = routerdc.initial(8, 4, QUICK, chance(0, "initial"))
    order = [2, 0, 3, 1]
    permuted = {**parameters, "models": parameters["models"][order]}
    X = torch.tensor(TRAIN.unit[:64])
    one, other = (routerdc.forward(p, X, Draw())[:, :4] for p in (parameters, permuted))
    assert torch.equal(other, one[:, order])
    Y = TRAIN.Y[:64]
    assert loss(other, Y[:, order]).item() == pytest.approx(loss(one, Y).item(), rel=1e-6)


@each_form
def test_scores_are_cosines_over_the_temperature(variant):
    router = fit(variant)
    found = router.scores(TEST)
    raw = routerdc.forward(router.parameters, torch.tensor(TEST.unit), Draw())[:, :4].numpy()
    assert found == pytest.approx(raw / variant.temperature, rel=1e-5, abs=1e-6)
    assert np.abs(found).max() <= 1 / variant.temperature + 1e-5
    assert scores(as_queries(TEST.X * 10), variant=variant) == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("how", [{}, {"missing": 0.4}, {"K": 112}], ids=["dense", "sparse", "padded"])
@pytest.mark.parametrize("seed", [1, 2])
def test_queries_go_to_their_specialist(seed, how):
    (train, _), (val, _), (test, right) = (
        planted(n, s, noise=0.035, **how) for n, s in ((800, 1), (200, 2), (400, 3))
    )
    found = scores(test, variant=replace(QUICK, positives=0, negatives=0), train=train, val=val, seed=seed)
    assert (found.argmax(axis=1) == right).mean() >= 0.98


def test_clusters_are_those_of_the_training_queries_and_found_once_for_all_heads(monkeypatch):
    calls, once = [], routerdc.kmeans

    def counting(X, clusters, **how):
        calls.append((len(X), clusters))
        return once(X, clusters, **how)

    monkeypatch.setattr(routerdc, "kmeans", counting)
    variants = [QUICK, replace(QUICK, weight=0.2), replace(QUICK, clusters=4), replace(QUICK, hidden=8)]
    small, val = logistic(100), logistic(50, seed=1)
    routerdc.stacked(RouterDcRouter)(
        small, val, [Trial(variant=v, seed=s) for v in variants for s in (1, 2)], "cpu"
    )
    assert sorted(calls) == [(100, 4)] * 2 + [(100, 8)] * 2


# --- what every router owes ---------------------------------------------------------------------------


@each_form
def test_it_beats_the_best_single_model_where_queries_tell(variant):
    routers.check_beats_best_single(scores(variant=variant), TRAIN, TEST)


def test_fitting_many_equals_fitting_one_by_one():
    variants = [*FORMS, replace(QUICK, weight=0.2), replace(QUICK, positives=0, negatives=0, clusters=4)]
    trials = [Trial(variant=v, seed=seed) for seed in (42, 7) for v in variants]
    for trial, found, alone in routers.fitted_both_ways(routerdc.register_router(), TRAIN, VAL, trials, TEST):
        assert found == pytest.approx(alone, abs=1e-4 / trial.variant.temperature), trial


@each_form
def test_a_router_from_its_state_gives_the_same_scores(variant):
    routers.check_state(fit(variant), variant, TEST)


@each_form
def test_scores_do_not_depend_on_batch_or_order(variant):
    routers.check_batch_and_order(fit(variant), TEST, 40, abs=1e-6 / variant.temperature)


def test_permuting_the_models_permutes_the_routes_in_distribution():
    routers.check_permuted_routes(scores, TRAIN, VAL, TEST)


def test_what_stands_in_a_missing_label_changes_nothing():
    sparse = logistic(500, missing=0.5)
    assert np.array_equal(scores(train=worlds.with_other_nans(sparse)), scores(train=sparse))


def test_a_model_never_run_has_the_lowest_score_there_is():
    train, val = (labelled(s.X, np.where([0, 1, 0, 0], NAN, s.Y)) for s in (TRAIN, VAL))
    found = scores(train=train, val=val)
    assert (found[:, 1] == np.float32(-1 / QUICK.temperature)).all()
    assert (found.argmin(axis=1) == 1).all() and np.isfinite(found).all()


def test_costs_are_never_read():
    train, val = (worlds.poisoned(s) for s in (TRAIN, VAL))
    assert np.array_equal(scores(train=train, val=val), scores())


def test_constant_embeddings_give_constant_scores():
    found = scores(as_queries(np.ones((20, 8))), train=labelled(np.ones((100, 8)), TRAIN.Y[:100]))
    assert np.isfinite(found).all() and np.ptp(found, axis=0).max() < 1e-5


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


def test_the_learning_rate_and_the_weight_of_the_second_loss_change_the_scores():
    routers.check_fields_matter(
        lambda variant: scores(variant=variant), QUICK, learning_rate=1e-3, weight=0.0
    )


MUTATIONS = [
    ("same & ~itself", "same", "a query is its own positive"),
    ("seen & ~right", "~right", "a missing label is a negative"),
    ("softplus(against - similarity)", "softplus(similarity - against)", "positives are pushed away"),
    ("learning_rate=variant.learning_rate,", "", "the learning rate is ignored"),
    ('+ batch.constants["weight"] * second', "+ second", "the weight of the second loss is ignored"),
]
