"""linucb: ridge regression under full feedback, LinUCB under bandit feedback, and what every router owes."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from rph_plugins.routers import linucb
from rph_plugins.routers.linucb import GRID, Config, Known, bandit_feedback, full_feedback
from tests import routers, worlds
from tests.worlds import as_queries, labelled, some_queries, world

from rph import Queries, Trial, UsageError
from rph.registry import MAX_VARIANTS

NAN = np.nan
SPEC = linucb.register_router()
TRAIN, VAL, TEST = world(300, d=8), world(80, d=8, seed=7), some_queries(60)
BANDIT = Config("bandit", alpha=1.0)
EVERY_KIND = [Config(), Config(components=4), BANDIT, replace(BANDIT, components=4)]
one_of_each = pytest.mark.parametrize("variant", EVERY_KIND, ids=lambda v: f"{v.feedback}-{v.components}")


def fit(variant=GRID[0], train=TRAIN, val=VAL, seed=0):
    router = SPEC.router()
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


def scores(variant=GRID[0], queries=TEST, **how):
    return fit(variant, **how).scores(queries)


def stream(train=TRAIN, *, alpha=1.0, ridge=1.0, seed=0, components=0):
    known = Known(train.observed, "cpu")
    made = known.features(components)
    return bandit_feedback(known.X, known.Y, made, ridge=ridge, alpha=alpha, seed=seed)


def with_one(X):
    """[x, 1] of unit rows, as the definition has it."""
    unit = X.astype(np.float64) / np.linalg.norm(X, axis=1, keepdims=True)
    return np.hstack([unit, np.ones((len(X), 1))])


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_default_first():
    full = {("full", ridge, c, 0.0) for ridge in (0.1, 1, 10, 100, 300) for c in (0, 128)}
    bandit = {("bandit", 1.0, 64, alpha) for alpha in (0.1, 0.5, 1, 2)} | {("bandit", 1.0, 0, 1.0)}
    assert {(v.feedback, v.ridge, v.components, v.alpha) for v in GRID} == full | bandit
    assert len(set(GRID)) == len(GRID) == MAX_VARIANTS and GRID[0] == Config() == Config("full", 1.0, 0, 0.0)


def test_the_card_says_that_scores_are_no_probabilities_and_that_seeds_matter():
    card = SPEC.card
    assert (card.name, card.paper, card.year) == ("linucb", "arXiv:1003.0146", 2010)
    assert not card.deterministic and not card.calibrated and len(card.fidelity) >= 8


# --- full feedback ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.1, 1.0, 1000.0])
def test_full_feedback_is_ridge_regression_on_the_embedding_and_a_constant(ridge):
    from sklearn.linear_model import Ridge

    wanted = Ridge(alpha=ridge, fit_intercept=False).fit(with_one(TRAIN.X), TRAIN.Y).predict(with_one(TEST.X))
    np.testing.assert_allclose(scores(Config(ridge=ridge)), wanted, atol=1e-6)


def test_with_dense_labels_and_full_feedback_alpha_decides_nothing():
    plain = scores()
    for alpha in (0.1, 1.0):
        assert np.array_equal(scores(Config(alpha=alpha)), plain)
    # And it could not: all models have one A, so the bonus adds the same number to all scores of a query.
    A = with_one(TRAIN.X).T @ with_one(TRAIN.X) + np.eye(9)
    x = with_one(TEST.X)
    bonus = np.sqrt((x * np.linalg.solve(A, x.T).T).sum(axis=1, keepdims=True))
    assert np.array_equal((plain + bonus).argmax(axis=1), plain.argmax(axis=1))


@pytest.mark.parametrize("missing", [0.1, 0.8])  # rows are taken from the whole; rows are added up
def test_with_labels_missing_each_model_is_regressed_on_the_queries_it_was_observed_on(missing):
    from sklearn.linear_model import Ridge

    sparse = world(300, d=8, missing=missing)
    found = scores(Config(ridge=0.5), train=sparse)
    for k in range(4):
        seen = ~np.isnan(sparse.Y[:, k])
        model = Ridge(alpha=0.5, fit_intercept=False).fit(with_one(sparse.X[seen]), sparse.Y[seen, k])
        np.testing.assert_allclose(found[:, k], model.predict(with_one(TEST.X)), atol=1e-6)


def test_scores_by_hand_where_contexts_are_one_hot():
    # x = (e_c, 1). Two queries of context 0 with labels 1, 1 and one of context 1 with label 0; ridge 1.
    # A = [[3,0,2],[0,2,1],[2,1,4]], b = [2,0,2]: det A = 13, theta = (6, -2, 4) / 13.
    train = labelled(np.eye(2)[[0, 0, 1]], [[1], [1], [0]])
    found = scores(train=train, val=train, queries=as_queries(np.eye(2)))
    np.testing.assert_allclose(found[:, 0], [10 / 13, 2 / 13], atol=1e-7)


def test_the_solution_does_not_depend_on_how_much_is_held_at_once(monkeypatch):
    sparse = world(300, d=8, missing=0.3, K=7)
    wanted = scores(train=sparse)
    monkeypatch.setattr(linucb, "ROWS", 17)
    monkeypatch.setattr(linucb, "MATRICES", 200)  # two models at once
    np.testing.assert_allclose(scores(train=sparse), wanted, atol=1e-6)


def test_a_model_never_observed_scores_the_mean_of_the_pool():
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    found = scores(train=labelled(TRAIN.X, Y))
    np.testing.assert_allclose(found[:, 1], Y[:, [0, 2, 3]].mean(), atol=1e-6)
    np.testing.assert_allclose(found[:, [0, 2, 3]], scores()[:, [0, 2, 3]], atol=1e-6)


# --- bandit feedback ----------------------------------------------------------------------------------


def textbook(F, Y, order, preference, *, ridge, alpha):
    """LinUCB as printed: one query after the other, every inverse made anew. F [N, D] features."""
    D, K = F.shape[1], Y.shape[1]
    A, b, played = np.stack([ridge * np.eye(D)] * K), np.zeros((K, D)), []
    for i in order:
        x, best, choice = F[i], -math.inf, None
        for k in preference:
            if np.isnan(Y[i, k]):
                continue
            inverse = np.linalg.inv(A[k])
            bound = inverse @ b[k] @ x + alpha * math.sqrt(x @ inverse @ x)
            if bound > best + 1e-12:
                best, choice = bound, k
        played.append(choice)
        A[choice] += np.outer(x, x)
        b[choice] += Y[i, choice] * x
    return played, np.stack([np.linalg.solve(A[k], b[k]) for k in range(K)], axis=1)


@pytest.mark.parametrize(("missing", "alpha", "ridge"), [(0.0, 1.0, 1.0), (0.5, 0.5, 3.0), (0.0, 0.0, 1.0)])
def test_the_blocked_pass_is_the_textbook_algorithm(missing, alpha, ridge, monkeypatch):
    monkeypatch.setattr(linucb, "BLOCK", 32)
    train = world(150, d=5, missing=missing, seed=3).observed
    found = stream(train, alpha=alpha, ridge=ridge, seed=5)
    preference = torch.randperm(4, generator=linucb.chance(5, "ties")).tolist()
    played, theta = textbook(with_one(train.X), train.Y, found.rows, preference, ridge=ridge, alpha=alpha)
    assert found.played.tolist() == played
    np.testing.assert_allclose(found.theta.numpy(), theta, atol=1e-8)
    assert sorted(found.rows) == list(range(len(train)))


@pytest.mark.parametrize("ridge", [0.1, 30.0])
def test_a_bandit_variant_has_its_own_ridge_and_bonus(ridge):
    router = fit(Config("bandit", ridge, alpha=0.5), seed=3)
    assert torch.equal(router.theta, stream(ridge=ridge, alpha=0.5, seed=3).theta)


def test_full_feedback_is_said_to_be_deterministic_and_not_the_authors_form():
    for variant in GRID:
        card, bandit = SPEC.variant_card(variant), variant.feedback == "bandit"
        assert (card.original, card.deterministic) == (bandit, not bandit)
        assert np.array_equal(scores(variant, seed=0), scores(variant, seed=1)) == card.deterministic


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_sequential_updates_equal_the_batch_solution_on_what_was_played(block, monkeypatch):
    monkeypatch.setattr(linucb, "BLOCK", block)
    found, F = stream(), with_one(TRAIN.X)
    for k in range(4):
        mine = found.rows[found.played == k]
        A, b = np.eye(9) + F[mine].T @ F[mine], F[mine].T @ TRAIN.Y[mine, k]
        np.testing.assert_allclose(found.theta[:, k], np.linalg.solve(A, b), atol=1e-8)


def test_long_task_sorted_streams_of_nearly_equal_queries_stay_exact():
    # A large common mean: single precision loses definiteness here.
    rng = np.random.default_rng(0)
    X = 1000 + np.repeat(np.eye(3, 8), 1000, axis=0) + 0.01 * rng.standard_normal((3000, 8))
    train = labelled(X, (rng.random((3000, 2)) < [0.4, 0.6]))
    found, F = stream(train, ridge=0.01), with_one(train.X)
    assert np.isfinite(found.theta.numpy()).all()
    k = int(found.played[-1])
    mine = found.rows[found.played == k]
    A, b = 0.01 * np.eye(9) + F[mine].T @ F[mine], F[mine].T @ train.Y[mine, k]
    np.testing.assert_allclose(F @ found.theta[:, k].numpy(), F @ np.linalg.solve(A, b), atol=1e-5)


@pytest.mark.parametrize("poison", [0.0, 1.0, -1e30])
def test_labels_of_models_that_were_not_played_are_never_read(poison):
    plain = stream(alpha=0.5)
    Y = np.full_like(TRAIN.Y, poison)
    Y[plain.rows, plain.played] = TRAIN.Y[plain.rows, plain.played]
    poisoned = stream(labelled(TRAIN.X, Y), alpha=0.5)
    assert np.array_equal(poisoned.played, plain.played)
    assert torch.equal(poisoned.theta, plain.theta)


def test_a_model_without_a_label_on_a_query_is_not_played_there():
    sparse = world(300, d=8, missing=0.7).observed
    found = stream(sparse)
    assert not np.isnan(sparse.Y[found.rows, found.played]).any()
    assert set(Counter(found.played.tolist())) == {0, 1, 2, 3}


def test_with_one_hot_contexts_theta_is_the_shrunk_mean_reward():
    # The features are set here: without the constant 1 the contexts are orthogonal.
    context = np.random.default_rng(0).integers(0, 3, 200)
    Y = (np.random.default_rng(1).random((200, 2)) < [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]][0]).astype(
        np.float32
    )

    class OneHot(linucb.Features):
        width = 3

        def of(self, X):
            return torch.from_numpy(X).double()

    X = np.eye(3, dtype=np.float32)[context]
    found = bandit_feedback(X, Y, OneHot(torch.zeros(3).double(), None), ridge=2.0, alpha=1.0, seed=0)
    for k in range(2):
        for c in range(3):
            mine = found.rows[(found.played == k) & (context[found.rows] == c)]
            assert found.theta[c, k].item() == pytest.approx(Y[mine, k].sum() / (len(mine) + 2.0), abs=1e-12)


def test_without_exploration_the_bandit_can_lock_in_and_with_it_every_model_is_tried():
    # Every model is right half of the time or more: whatever is played first looks good enough at alpha = 0.
    train = labelled(world(400, d=8).X, np.random.default_rng(0).random((400, 10)) < 0.7)
    assert len(set(stream(train, alpha=0.0).played.tolist())) < 10
    assert len(set(stream(train, alpha=2.0).played.tolist())) == 10


def test_a_model_never_played_scores_zero_and_the_bonus_is_left_out_of_scores():
    train = labelled(TRAIN.X, np.ones((300, 6)))
    router = fit(replace(BANDIT, alpha=0.0), train=train, val=train)
    first = torch.randperm(6, generator=linucb.chance(0, "ties"))[0].item()
    found = router.scores(TEST)
    assert set(found.any(axis=0).nonzero()[0]) == {first}  # always right: never left
    np.testing.assert_allclose(found, with_one(TEST.X) @ router.theta.numpy(), atol=1e-6)


def test_ties_favour_no_column():
    firsts = Counter(stream(seed=seed).played[0].item() for seed in range(40))
    assert set(firsts) == {0, 1, 2, 3} and max(firsts.values()) < 25


def test_the_stream_is_the_seeds():
    assert np.array_equal(scores(BANDIT, seed=3), scores(BANDIT, seed=3))
    assert not np.array_equal(scores(BANDIT, seed=3), scores(BANDIT, seed=4))
    assert not np.array_equal(stream(seed=3).rows, np.arange(300))
    assert np.array_equal(scores(Config(), seed=3), scores(Config(), seed=4))


# --- features -----------------------------------------------------------------------------------------


def test_principal_components_are_those_of_train_at_length_one():
    from sklearn.decomposition import PCA

    known = Known(TRAIN, "cpu")
    F = known.features(3).of(TEST.unit).numpy()
    projected = PCA(3).fit(known.X.astype(np.float64)).transform(TEST.unit.astype(np.float64))
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(F[:, :3]), np.abs(projected), atol=1e-6)  # signs are free
    assert (F[:, 3] == 1).all() and F.shape == (60, 4)


def test_all_components_without_a_cut_are_as_many_as_train_varies_in():
    assert Known(TRAIN, "cpu").features(128).width == 8 + 1
    few = labelled(TRAIN.X[:4], TRAIN.Y[:4])
    assert Known(few, "cpu").features(128).width == 3 + 1  # four points span three directions
    same = labelled(np.tile(TRAIN.X[:1], (5, 1)), TRAIN.Y[:5])
    assert Known(same, "cpu").features(64).width == 1  # the constant alone
    found = scores(Config(components=64), train=same, val=same)
    np.testing.assert_allclose(found, np.tile(TRAIN.Y[:5].sum(axis=0) / 6, (60, 1)), atol=1e-6)


def test_the_length_of_an_embedding_does_not_matter():
    longer = np.random.default_rng(0).uniform(0.5, 5, (60, 1)).astype(np.float32)
    for variant in EVERY_KIND:
        np.testing.assert_allclose(scores(variant, as_queries(TEST.X * longer)), scores(variant), atol=1e-5)


@one_of_each
def test_planted_specialists_are_found(variant):
    rng = np.random.default_rng(0)

    def specialists(n, missing=0.0):
        side = rng.integers(0, 2, n)
        X = np.where(side, 1, -1)[:, None] * np.eye(1, 32) + 0.1 * rng.standard_normal((n, 32))
        P = np.array([[0.95, 0.05, 0.5], [0.05, 0.95, 0.5]])[side]
        Y = (rng.random((n, 3)) < P).astype(np.float32)
        Y[rng.random((n, 3)) < missing] = NAN
        return side, labelled(X, Y)

    for missing in (0.0, 0.4):
        train, (side, test) = specialists(1500, missing)[1], specialists(500)
        routes = scores(variant, Queries(X=test.X, texts=test.texts), train=train, val=test).argmax(axis=1)
        assert (routes == side).mean() >= 0.98


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one():
    sparse = world(200, d=8, missing=0.3)
    trials = [Trial(variant=v, seed=seed) for seed in (42, 7) for v in GRID]
    together = SPEC.fit_many(sparse, VAL, trials, "cpu").scores(TEST)
    assert len(together) == len(trials)
    for trial, found in zip(trials, together, strict=True):
        alone = scores(trial.variant, train=sparse, seed=trial.seed)
        np.testing.assert_allclose(found, alone, atol=1e-6)


def test_full_feedback_is_solved_once_for_all_seeds_and_ridges(monkeypatch):
    calls, solve = [], full_feedback
    monkeypatch.setattr(linucb, "full_feedback", lambda *a: calls.append(a[3]) or solve(*a))
    SPEC.fit_many(TRAIN, VAL, [Trial(variant=v, seed=s) for s in (1, 2) for v in GRID], "cpu")
    assert calls == [[0.1, 1.0, 10.0, 100.0, 300.0]] * 2


# --- what every router owes ---------------------------------------------------------------------------


def test_permuting_the_models_permutes_the_scores_of_full_feedback():
    order = [2, 0, 3, 1]
    sparse = world(300, d=8, missing=0.2)
    train = worlds.reordered(sparse, order)
    np.testing.assert_allclose(scores(train=train), scores(train=sparse)[:, order], atol=1e-6)


@one_of_each
def test_scores_do_not_depend_on_batch_or_order(variant):
    routers.check_batch_and_order(fit(variant), TEST, len(TEST), abs=1e-6)


@one_of_each
def test_the_bits_of_a_missing_label_change_nothing(variant):
    sparse = world(300, d=8, missing=0.6)
    found = scores(variant, train=worlds.with_other_nans(sparse))
    assert np.isfinite(found).all() and np.array_equal(found, scores(variant, train=sparse))


@one_of_each
def test_val_and_costs_are_never_read(variant):
    blind = worlds.without_labels(VAL)
    costs = worlds.poisoned(TRAIN)
    assert np.array_equal(scores(variant, train=costs, val=blind), scores(variant))


@one_of_each
def test_constant_columns_and_models_never_observed_work(variant):
    Y = TRAIN.Y.copy()
    Y[:, 0], Y[:, 1], Y[:, 3] = 0, 1, NAN
    found = scores(variant, train=labelled(TRAIN.X, Y))
    assert np.isfinite(found).all() and (found[:, 1] > found[:, 0]).all()
    assert (found[:, 1] > found[:, 2]).mean() > 0.8


@one_of_each
def test_no_label_at_all_is_an_error_that_says_so(variant):
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(variant, train=worlds.without_labels(TRAIN))


@one_of_each
def test_a_router_from_its_state_gives_the_same_scores(variant):
    state = routers.check_state(fit(variant), variant, TEST)
    assert all(value.dtype == np.float64 for value in state.values())


MUTATIONS = [
    (
        "played[block] = _play(estimate, product, Y[rows], playable[rows], preference, alpha)",
        "played[block] = _play(estimate, product, Y[rows], playable[rows] | True, preference, alpha)",
        "a model without a label on a query is played there",
    ),
    (
        "variance[k, t:] -= gain * q",
        "variance[k, t:] += gain * q",
        "the bonus of a model grows with every play inside a block",
    ),
    (
        "gram += whole - part.T @ part",
        "gram += whole",
        "queries on which a model was not observed count in its A",
    ),
    (
        "ridge=v.ridge, alpha=v.alpha",
        "ridge=1.0, alpha=v.alpha",
        "the bandit has the same ridge whatever it says",
    ),
    (
        "ridge=v.ridge, alpha=v.alpha",
        "ridge=v.ridge, alpha=1.0",
        "the bandit explores as much whatever it says",
    ),
]
