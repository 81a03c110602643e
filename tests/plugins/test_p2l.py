"""p2l: the four losses, the anchor and the map to probabilities, and what every router owes."""

from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rph_plugins.routers import p2l
from rph_plugins.routers.p2l import GRID, Config, P2lRouter, grk_log_probabilities, votes
from tests import routers, worlds
from tests.worlds import labelled, some_queries, splits, world

from rph import Trial, UsageError
from rph.training.heads import Batch, Draw, bce_loss, chance, masked_bce, observed, outputs_of
from rph.training.stacks import fit_heads

NAN = np.nan
SPEC = p2l.register_router()

TRAIN, VAL = splits(160, 50)
TEST = some_queries(60)
DEFAULT = Config(hidden=16)
KINDS = [
    DEFAULT,
    replace(DEFAULT, anchor=0.0),
    Config("bt", 0.0, hidden=0),
    Config("grk", 0.0, hidden=16),
    Config(hidden=0, rank=3),
]
each_kind = pytest.mark.parametrize(
    "variant", KINDS, ids=lambda v: f"{v.loss}-{v.anchor:g}-{v.hidden}-{v.rank}"
)
PAIRWISE = {"bt": p2l.bt_loss, "bt_tie": p2l.bt_tie_loss, "grk": p2l.grk_loss}


def fit(variant=DEFAULT, train=TRAIN, val=VAL, seed=0):
    router = P2lRouter()
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


@cache
def fitted(variant=DEFAULT):
    return fit(variant)


def scores(variant=DEFAULT, queries=TEST, **how):
    return (fit(variant, **how) if how else fitted(variant)).scores(queries)


def batch(Y, anchor=0.0, draw=None):
    Y = np.asarray(Y, np.float32)
    constants = {"anchor": torch.tensor(anchor)}
    return Batch(
        targets=observed(Y, "cpu"), constants=constants, parameters={}, draw=Draw() if draw is None else draw
    )


def some_outputs(rows, K, loss="bt", seed=0):
    return torch.randn((rows, K + (loss == "grk")), generator=chance(seed, "test"))


def best_constant(loss, Y, anchor=0.0):
    """The coefficients [K] that a constant query gets."""
    beta = torch.zeros(np.shape(Y)[1] + (loss is p2l.grk_loss), dtype=torch.float32, requires_grad=True)
    optimiser = torch.optim.LBFGS([beta], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-7)
    known = batch(Y, anchor)

    def closure():
        optimiser.zero_grad()
        value = loss(beta.expand(len(Y), -1), known)
        value.backward()
        return value

    optimiser.step(closure)
    return beta.detach()


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_card_says_ranking_stochastic_and_calibrated():
    card = SPEC.card
    assert (card.name, card.paper, card.year, card.family) == ("p2l", "arXiv:2502.14855", 2025, "ranking")
    assert not card.deterministic and card.calibrated and len(card.fidelity) >= 8


def test_a_minibatch_has_512_queries_where_an_epoch_has_40_steps_of_them(monkeypatch):
    seen = []

    def spy(heads):
        seen.extend(head.training for head in heads)
        return [head.parameters for head in heads]

    monkeypatch.setattr("rph.training.headrouter.fit_heads", spy)
    for n in (100, 4000, 20_480, 30_000):
        fit(train=world(n, d=2, K=2), val=world(20, d=2, K=2))
    assert [training.batch for training in seen] == [32, 100, 512, 512]
    assert {(t.epochs, t.optimiser) for t in seen} == {(30, "adamw")}


# --- the losses ---------------------------------------------------------------------------------------


def cost_of_a_vote(loss, b, eta, i, j, y_i, y_j):
    """One pair by hand, from the definitions; labels may lie between 0 and 1."""
    lead = b[i] - b[j]
    win, lose = -np.log(sigmoid(lead)), -np.log(sigmoid(-lead))
    outcomes = [y_i * (1 - y_j), y_j * (1 - y_i), y_i * y_j, (1 - y_i) * (1 - y_j)]
    if loss == "bt":
        costs = [win, lose, 0, 0]
    elif loss == "bt_tie":
        costs = [win, lose, (win + lose) / 2, (win + lose) / 2]
    else:
        pi_i, pi_j, theta = np.exp(b[i]), np.exp(b[j]), np.exp(eta) + 1 + 1e-6
        first, second = pi_i / (pi_i + theta * pi_j + 1), pi_j / (pi_j + theta * pi_i + 1)
        bad = 1 / (1 + pi_i + pi_j)
        costs = -np.log([first, second, max(1e-6, 1 - first - second - bad), bad])
    return float(np.dot(outcomes, costs))


@pytest.mark.parametrize("loss", PAIRWISE)
@pytest.mark.parametrize("kind", ["binary", "missing", "fractional"])
def test_a_loss_is_the_mean_over_a_querys_pairs_and_then_over_queries_with_a_pair(loss, kind):
    rng = np.random.default_rng(3)
    Y = rng.random((30, 5)) if kind == "fractional" else (rng.random((30, 5)) < 0.6).astype(float)
    if kind == "missing":
        Y[rng.random(Y.shape) < 0.5] = NAN
        assert (np.isfinite(Y).sum(axis=1) < 2).any()  # queries without a pair
    outputs = some_outputs(30, 5, loss)
    means = []
    for row, b in zip(Y, outputs.numpy().astype(np.float64), strict=True):
        pairs = [(i, j) for i, j in combinations(range(5), 2) if np.isfinite(row[i] + row[j])]
        if pairs:
            means.append(np.mean([cost_of_a_vote(loss, b, b[-1], i, j, row[i], row[j]) for i, j in pairs]))
    assert PAIRWISE[loss](outputs, batch(Y)).item() == pytest.approx(np.mean(means), rel=1e-5)


@pytest.mark.parametrize("loss", PAIRWISE)
def test_a_stack_of_heads_has_the_losses_of_its_heads(loss):
    Y = world(20, K=5, missing=0.3).Y
    outputs = torch.stack([some_outputs(20, 5, loss, seed) for seed in range(3)])
    anchors = torch.tensor([0.0, 0.25, 1.0])
    together = PAIRWISE[loss](outputs, replace(batch(Y), constants={"anchor": anchors}))
    alone = [PAIRWISE[loss](outputs[g], batch(Y, float(anchors[g]))) for g in range(3)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)


def test_a_constant_per_query_changes_nothing_in_bt_and_bt_tie_but_in_grk_and_the_anchor():
    Y = world(40, K=5, missing=0.2).Y
    beta, eta = some_outputs(40, 5), torch.zeros(40, 1)
    moved = beta + 3 * torch.randn((40, 1), generator=chance(1, "test"))
    for loss in (p2l.bt_loss, p2l.bt_tie_loss):
        assert loss(moved, batch(Y)).item() == pytest.approx(loss(beta, batch(Y)).item(), rel=1e-5)
        assert abs(loss(moved, batch(Y, 1.0)) - loss(beta, batch(Y, 1.0))) > 0.1
    grk = [p2l.grk_loss(torch.cat([b, eta], dim=1), batch(Y)) for b in (beta, moved)]
    assert abs(grk[0] - grk[1]) > 0.1


def test_the_coefficients_of_two_models_on_constant_queries_have_closed_forms():
    Y = np.array([[1, 0]] * 6 + [[0, 1]] * 2 + [[1, 1]] * 5 + [[0, 0]] * 3)
    bt, tie = (best_constant(PAIRWISE[loss], Y) for loss in ("bt", "bt_tie"))
    assert sigmoid(bt[0] - bt[1]) == pytest.approx(6 / 8, abs=1e-3)
    assert sigmoid(tie[0] - tie[1]) == pytest.approx((1 + 11 / 16 - 7 / 16) / 2, abs=1e-3)


def test_bt_tie_on_constant_queries_ranks_models_by_mean_label():
    rng = np.random.default_rng(0)
    for _ in range(10):
        Y = (rng.random((60, 4)) < rng.random(4)).astype(float)
        beta = best_constant(p2l.bt_tie_loss, Y)
        assert np.array_equal(np.argsort(beta.numpy()), np.argsort(Y.mean(axis=0)))


def test_the_probabilities_of_grk_are_a_distribution_that_swapping_the_models_mirrors():
    b_i, b_j, eta = (4 * torch.randn(500, generator=chance(0, name)) for name in "ije")
    win, lose, tie, bad = (log.exp() for log in grk_log_probabilities(b_i, b_j, eta))
    for p in (win, lose, tie, bad):
        assert ((p > 0) & (p < 1)).all()
    assert (win + lose + tie + bad).numpy() == pytest.approx(1, abs=5e-6)  # each is 1e-6 at least
    mirrored = [log.exp() for log in grk_log_probabilities(b_j, b_i, eta)]
    for p, q in zip((lose, win, tie, bad), mirrored, strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_the_probabilities_of_grk_have_the_papers_values():
    # beta = (ln 2, 0) and eta = 0: pi = (2, 1) and theta = 2
    logs = grk_log_probabilities(torch.log(torch.tensor(2.0)), torch.tensor(0.0), torch.tensor(0.0))
    assert [log.exp().item() for log in logs] == pytest.approx([2 / 5, 1 / 6, 11 / 60, 1 / 4], abs=1e-5)


def test_grk_stays_finite_where_e_to_the_beta_overflows():
    outputs = torch.tensor([[200.0, -200.0, 0.0], [-200.0, -200.0, -90.0]], requires_grad=True)
    loss = p2l.grk_loss(outputs, batch([[0, 1], [1, 1]]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(outputs.grad).all()


def test_unanimous_queries_say_nothing_to_bt_shrink_bt_tie_and_lift_or_lower_grk():
    beta = [0.5, 0.2, -0.4]

    def gradient(loss, label):
        outputs = torch.tensor([beta + [0.0] * (loss == "grk")], requires_grad=True)
        PAIRWISE[loss](outputs, batch([[label] * 3])).backward()
        return outputs.grad[0, :3].numpy()

    for label in (0, 1):
        assert (gradient("bt", label) == 0).all()
        shrinking = gradient("bt_tie", label)
        assert shrinking[0] > 0 and shrinking[2] < 0
    assert (gradient("grk", 1) < 0).all() and (gradient("grk", 0) > 0).all()


# --- the anchor ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_the_anchor_alone_is_the_binary_cross_entropy(missing):
    Y = world(40, K=5, missing=missing).Y
    beta = some_outputs(40, 5).requires_grad_()
    found = p2l.anchor(beta, batch(Y, 1.0))
    p = sigmoid(beta.detach().numpy())
    assert found.item() == pytest.approx(np.nanmean(-(Y * np.log(p) + (1 - Y) * np.log(1 - p))), abs=1e-6)
    gradient = torch.autograd.grad(found, beta)[0].numpy()
    assert gradient == pytest.approx(np.nan_to_num(p - Y) / np.isfinite(Y).sum(), abs=1e-6)
    both, pairs = (p2l.bt_tie_loss(beta, batch(Y, weight)) for weight in (1.0, 0.0))
    assert (both - pairs).item() == pytest.approx(found.item(), abs=1e-6)


def test_the_anchor_is_games_against_an_opponent_that_beats_wrong_models_and_loses_to_correct_ones():
    Y = np.array([[1.0, 0, NAN], [0, 0, 1]])
    beta = some_outputs(2, 3)
    games = [
        p2l.bt_loss(torch.stack([beta[n, m], torch.tensor(0.0)])[None], batch([[Y[n, m], 1 - Y[n, m]]]))
        for n in range(2)
        for m in range(3)
        if np.isfinite(Y[n, m])
    ]
    assert p2l.anchor(beta, batch(Y, 1.0)).item() == pytest.approx(np.mean(games), abs=1e-6)


def test_a_head_that_trains_on_the_anchor_alone_is_the_classifier():
    data = p2l.Data(TRAIN, VAL, "cpu")
    heads = []
    for loss in (p2l.anchor, bce_loss):
        router = P2lRouter(DEFAULT)
        heads.append(replace(router.head(data, 0), loss=loss))
    ours, theirs = (outputs_of(p2l.feed_forward, found, data.X) for found in fit_heads(heads))
    assert torch.allclose(ours, theirs, atol=1e-5) and ours.std() > 0.1


def test_a_label_without_a_partner_counts_in_the_anchor_only():
    beta = some_outputs(2, 3)
    with_one, without = [[1, 0, NAN], [NAN, 1, NAN]], [[1, 0, NAN], [NAN, NAN, NAN]]
    assert p2l.bt_tie_loss(beta, batch(with_one)) == p2l.bt_tie_loss(beta, batch(without))
    assert p2l.bt_tie_loss(beta, batch(with_one, 1.0)) != p2l.bt_tie_loss(beta, batch(without, 1.0))


# --- pairs of a large pool ----------------------------------------------------------------------------


def test_pools_of_up_to_sixteen_compare_all_pairs_and_draw_nothing():
    found = votes(batch(np.ones((2, 16))))
    pairs = {
        tuple(pair)
        for pair in zip(found.first.argmax(0).tolist(), found.second.argmax(0).tolist(), strict=True)
    }
    assert pairs == set(combinations(range(16), 2))


@pytest.mark.parametrize(("K", "count"), [(17, 119), (112, 112), (200, 200)])
def test_large_pools_compare_different_pairs_in_which_every_model_plays_as_often(K, count):
    found = votes(batch(np.ones((2, K)), draw=Draw([chance(0, "test")])))
    assert found.first.shape == (K, count)
    played = found.first + found.second
    assert (played.sum(dim=0) == 2).all() and (played.sum(dim=1) == 2 * count / K).all()
    assert len({tuple(column) for column in played.T.tolist()}) == count
    assert found.weight.sum().item() == pytest.approx(1, abs=1e-5)


def test_the_loss_of_drawn_pairs_is_that_of_all_pairs_on_average(monkeypatch):
    Y = world(6, K=20, missing=0.4).Y
    beta, draw = some_outputs(6, 20), Draw([chance(0, "test")])
    drawn = torch.stack([p2l.bt_tie_loss(beta, batch(Y, draw=draw)) for _ in range(600)])
    monkeypatch.setattr(p2l, "PAIRS", 1000)
    exact = p2l.bt_tie_loss(beta, batch(Y))
    assert drawn.std() > 0
    assert abs(drawn.mean() - exact) < 3 * drawn.std() / 600**0.5


# --- scores -------------------------------------------------------------------------------------------


@each_kind
def test_scores_are_one_increasing_map_of_the_coefficients(variant):
    router = fitted(variant)
    outputs = outputs_of(P2lRouter.forward(variant), router.parameters, torch.tensor(TEST.unit).double())
    beta = outputs[:, :4].double().numpy()
    slope, offset = (float(router.buffers[name]) for name in ("slope", "offset"))
    found = router.scores(TEST)
    assert outputs.shape == (60, 5 if variant.loss == "grk" else 4) and slope > 0
    assert found == pytest.approx(sigmoid(slope * beta + offset), abs=1e-5)
    assert np.array_equal(found.argmax(axis=1), beta.argmax(axis=1))


def test_anchored_coefficients_are_no_log_odds_and_the_map_mends_most_of_it():
    p = np.array([0.9, 0.6, 0.5])
    Y = (np.arange(10)[:, None] < 10 * p - 0.5).astype(float)
    beta = best_constant(p2l.bt_tie_loss, Y, anchor=1.0).numpy()
    raw = np.abs(sigmoid(beta) - p).max()
    slope, offset = p2l.fit_sigmoid(np.tile(beta, (10, 1)), Y.astype(np.float32))
    assert raw > 0.05 and np.abs(sigmoid(slope * beta + offset) - p).max() < raw / 3


@each_kind
@pytest.mark.parametrize("seed", [0, 42])
def test_the_map_is_fitted_on_rows_of_train_that_no_parameter_sees_and_not_on_val(variant, seed):
    rows = P2lRouter.calibration_rows(len(TRAIN), seed)
    assert len(set(rows)) == 16
    held = labelled(TRAIN.X[rows], TRAIN.Y[rows])
    found = fit(variant, seed=seed)
    beta = outputs_of(P2lRouter.forward(variant), found.parameters, torch.tensor(held.unit).double())
    slope = p2l.fit_sigmoid(beta[:, :4].numpy(), held.Y)[0]
    assert float(found.buffers["slope"]) == pytest.approx(slope if slope > 0 else 1)
    if slope > 0:  # else of these 16 queries there is no rising map
        assert found.scores(TRAIN).mean() == pytest.approx(TRAIN.Y.mean(), abs=1e-4)
    Y = TRAIN.Y.copy()
    Y[rows] = 1 - Y[rows]
    other = fit(variant, train=labelled(TRAIN.X, Y), seed=seed)
    assert all(torch.equal(found.parameters[name], other.parameters[name]) for name in found.parameters)
    assert not torch.equal(found.buffers["slope"], other.buffers["slope"])


@given(
    beta=st.lists(st.lists(st.floats(-60, 60), min_size=5, max_size=5), min_size=1, max_size=4),
    slope=st.floats(0.01, 3),
)
def test_scores_in_float32_keep_the_order_of_the_coefficients(beta, slope):
    beta = torch.tensor(beta, dtype=torch.float64)
    P = torch.sigmoid(slope * beta)
    found = p2l.in_order(P, beta)
    assert found.dtype == torch.float32 and found.min() > 0 and found.max() <= 1
    assert (found.double() - P).abs().max() < 1e-6
    for row, coefficients in zip(found.tolist(), beta.tolist(), strict=True):
        for (a, x), (b, y) in combinations(zip(row, coefficients, strict=True), 2):
            assert (a > b) == (x > y) and (a == b) == (x == y)


def test_a_pool_of_one_model_scores_its_mean_label_without_an_anchor():
    train = world(200, K=1)
    for loss in PAIRWISE:
        found = scores(Config(loss, 0.0, hidden=8), train=train, val=world(50, K=1, seed=1))
        learnt = np.delete(train.Y, P2lRouter.calibration_rows(200, 0), axis=0)
        assert found == pytest.approx(learnt.mean(), abs=1e-5)


def test_labels_against_the_order_of_the_coefficients_do_not_turn_the_routes(monkeypatch):
    monkeypatch.setattr(p2l, "fit_sigmoid", lambda scores, Y: (0.0, 0.3))
    router = fit()
    assert (float(router.buffers["slope"]), float(router.buffers["offset"])) == (1, 0)


@each_kind
def test_it_beats_the_best_single_model_where_queries_tell(variant):
    X = np.random.default_rng(0).standard_normal((700, 4)).astype("f4")
    right = (X @ np.array([[3, -3, 0], [0, 0, 3], [0, 0, 0], [0, 0, 0]])) > 0
    train, val, test = (labelled(X[a:b], right[a:b]) for a, b in ((0, 300), (300, 400), (400, 700)))
    found = scores(replace(variant, learning_rate=1e-2), test, train=train, val=val)
    routed = test.Y[np.arange(300), found.argmax(axis=1)].mean()
    assert routed > test.Y.mean(axis=0).max() + 0.2


# --- what every router owes ---------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one():
    train, val = splits(100, 40, d=6, missing=0.2)
    small = [replace(v, hidden=min(v.hidden, 16), rank=min(v.rank, 3)) for v in GRID]
    trials = [Trial(variant=v, seed=1) for v in small] + [
        Trial(variant=v, seed=2) for v in (small[0], small[6])
    ]
    queries = some_queries(30, d=6)
    for _, found, alone in routers.fitted_both_ways(SPEC, train, val, trials, queries):
        assert found == pytest.approx(alone, abs=1e-4)


def test_drawn_pairs_of_several_seeds_are_those_of_each_seed():
    trials = [Trial(variant=DEFAULT, seed=seed) for seed in (1, 2)]
    for _, found, alone in routers.fitted_both_ways(SPEC, *splits(80, 30, K=20), trials, some_queries(10)):
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
    routers.check_batch_and_order(fitted(variant), TEST, 20, abs=1e-6)


@each_kind
def test_what_stands_where_a_label_is_missing_changes_nothing(variant):
    sparse = world(160, missing=0.6)
    found = scores(variant, train=sparse)
    assert np.isfinite(found).all()
    assert np.array_equal(scores(variant, train=worlds.with_other_nans(sparse)), found)


@pytest.mark.parametrize("loss", PAIRWISE)
def test_a_model_never_observed_keeps_the_coefficient_of_the_pools_mean(loss):
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    router = fit(Config(loss, 0.0, hidden=16), train=labelled(TRAIN.X, Y))
    p = np.delete(Y, P2lRouter.calibration_rows(len(Y), 0), axis=0)[:, [0, 2, 3]].mean()
    outputs = outputs_of(p2l.feed_forward, router.parameters, torch.tensor(TEST.unit).double())
    assert outputs[:, 1].numpy() == pytest.approx(np.log(p / (1 - p)), abs=1e-5)
    assert np.isfinite(router.scores(TEST)).all()


def test_costs_and_labels_of_the_queries_are_never_read():
    assert np.array_equal(
        scores(queries=worlds.poisoned(worlds.without_labels(TRAIN))), scores(queries=TRAIN)
    )
    train = worlds.poisoned(TRAIN)
    assert np.array_equal(scores(train=train), scores())


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


def test_the_anchor_uses_the_harness_cross_entropy_of_observed_cells():
    Y, M = observed(world(20, K=3, missing=0.5).Y, "cpu")
    beta = some_outputs(20, 3)
    known = Batch(
        targets=(Y + 7 * (1 - M), M), constants={"anchor": torch.tensor(0.5)}, parameters={}, draw=Draw()
    )
    assert p2l.anchor(beta, known).item() == pytest.approx(0.5 * masked_bce(beta, Y, M).item(), abs=1e-7)


def test_every_field_reaches_the_head():
    linear = Config(hidden=0)
    routers.check_fields_matter(
        scores, linear, loss="bt", anchor=0.25, hidden=5, rank=2, learning_rate=1e-2, weight_decay=0.5
    )
    low = Config(hidden=0, rank=3)
    X = torch.tensor(TEST.unit).double()
    parameters = fitted(low).parameters
    zero, one, two = (outputs_of(P2lRouter.forward(low), parameters, scale * X) for scale in (0, 1, 2))
    assert torch.allclose(two - zero, 2 * (one - zero))  # two linear maps are linear


MUTATIONS = [
    ("won = (1 + found.y_i - found.y_j) / 2", "won = (1 + found.y_j - found.y_i) / 2", "the loser wins"),
    ("seen = (M @ first) * (M @ second)", "seen = M @ first", "a pair of which one label is missing counts"),
    (
        "return y_i * (1 - y_j), y_j * (1 - y_i), y_i * y_j, (1 - y_i) * (1 - y_j)",
        "return y_i * (1 - y_j), y_j * (1 - y_i), (1 - y_i) * (1 - y_j), y_i * y_j",
        "both good and both bad are exchanged",
    ),
    ("fit_sigmoid(beta[held], Y[held])", "fit_sigmoid(beta, Y)", "the slope is fitted on rows that trained"),
    ("weight_decay=variant.weight_decay,", "weight_decay=0.01,", "the weight decay is ignored"),
    (
        'between = product(X, parameters["weight0"]) + parameters["bias0"]\n',
        'between = (product(X, parameters["weight0"]) + parameters["bias0"]).relu()\n',
        "a low rank is not linear",
    ),
    (
        'constants={"anchor": variant.anchor}',
        'constants={"anchor": float(variant.anchor > 0)}',
        "the weight of the anchor is ignored",
    ),
]
