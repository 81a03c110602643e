"""equi: what a ranking scorer shared by the models promises, and what every router owes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rph_plugins.routers import equi
from rph_plugins.routers.equi import BASE, GRID, Config, EquiRouter, preferred, ranking_loss
from tests import routers, worlds
from tests.worlds import grouped, labelled

from rph import Trial, UsageError
from rph.training.headrouter import Data
from rph.training.heads import Batch, Draw, Head, chance, masked_bce, masked_mean, observed
from rph.training.stacks import fit_heads

NAN = np.nan


def world(n=250, **how):
    return grouped(n, groups=4, **how)


TRAIN, VAL, TEST = world(), world(100, seed=1), world(150, seed=2)
SMALL = {"trunk": (16,), "dimensions": 8, "embedding": 8, "learning_rate": 3e-3}
FORMS = [
    {},
    {"pair_norm": "query", "rank_weight": 5.0},
    {"pointwise": "bce", "rank_weight": 1.0},
    {"tie_by_cost": True, "dropout": 0.2},
]
each_form = pytest.mark.parametrize("config", FORMS, ids=lambda c: "-".join(map(str, c)) or "default")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """A narrow head, so that the tests are quick."""
    monkeypatch.setattr(equi, "WIDTH", 32)


def fit(train=TRAIN, val=VAL, seed=0, **config):
    router = EquiRouter()
    router.fit(train, val, variant=Config(**{**SMALL, **config}), seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def start(K=4, seed=0, **config):
    """Parameters before training, with embeddings that differ more than at the start."""
    parameters = equi.initial(8, K, Config(**{**SMALL, **config}), chance(seed, "initial"), "cpu")
    parameters["embedding"] *= 50
    return parameters


def ranking(s, Y, power=1.0, C=None):
    C = None if C is None else torch.tensor(np.asarray(C, "f4"))
    pairs = preferred(*observed(np.asarray(Y, "f4"), "cpu"), C)
    return ranking_loss(torch.as_tensor(s, dtype=torch.float32), pairs, torch.tensor(power))


def batch_of(Y, weight, C=None, power=1.0):
    targets = observed(np.asarray(Y, "f4"), "cpu") + (() if C is None else (torch.tensor(C),))
    constants = {"rank_weight": torch.tensor(weight), "power": torch.tensor(power)}
    return Batch(targets=targets, constants=constants, parameters={}, draw=Draw())


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_default_first():
    default = Config(50.0, (1024, 512), 512, 128, 1e-4, 0.0, "batch", "mse", False)
    assert GRID[0] == Config() == default
    wanted = {replace(default, rank_weight=w) for w in (1.0, 5.0, 10.0, 50.0)}
    wanted |= {replace(default, rank_weight=w, pair_norm="query") for w in (5.0, 50.0)}
    wanted |= {replace(default, rank_weight=w, trunk=(512,), dimensions=256) for w in (5.0, 50.0)}
    wanted |= {replace(default, rank_weight=10.0, dimensions=128, embedding=32)}
    wanted |= {replace(default, rank_weight=w, learning_rate=3e-4) for w in (5.0, 50.0)}
    wanted |= {replace(default, rank_weight=10.0, dropout=0.2)}
    wanted |= {replace(default, rank_weight=w, pointwise="bce") for w in (1.0, 5.0)}
    wanted |= {replace(default, rank_weight=10.0, tie_by_cost=True)}
    assert len(GRID) == 15 and set(GRID) == wanted


def test_the_card_says_stochastic_and_not_calibrated():
    card = equi.CARD
    assert (card.name, card.aliases, card.paper) == ("equi", ("equi_router",), "arXiv:2602.03478")
    assert (card.family, card.year, card.deterministic, card.calibrated) == ("ranking", 2026, False, False)


def test_the_head_is_trained_as_specified():
    t = EquiRouter(BASE).head(Data(TRAIN, VAL, "cpu"), seed=0).training
    assert (t.optimiser, t.learning_rate, t.cosine, t.weight_decay) == ("adam", 1e-4, False, 0.0)
    assert (t.batch, t.epochs) == (128, 20)


# --- the scorer ---------------------------------------------------------------------------------------


def test_the_score_is_that_of_the_concatenation_computed_model_by_model():
    p = start()
    X = torch.tensor(TEST.unit[:7])

    def activate(name, hidden):
        hidden = torch.nn.functional.gelu(hidden)
        mean, variance = hidden.mean(-1, keepdim=True), hidden.var(-1, keepdim=True, correction=0)
        return (hidden - mean) / (variance + 1e-5).sqrt() * p[f"scale_{name}"] + p[f"bias_norm_{name}"]

    z = X
    for layer in ("trunk0", "trunk1"):
        z = activate(layer, z @ p[f"weight_{layer}"] + p[f"bias_{layer}"])
    wanted = torch.empty(7, 4)
    for m, e in enumerate(p["embedding"]):
        gamma, beta = (e @ p["weight_film"] + p["bias_film"])[0].chunk(2)
        v = (e @ p["weight_value"] + p["bias_value"]).expand(7, -1)
        z_m = gamma * z + beta
        joined = torch.cat([z_m, v, z_m * v, (z_m - v).abs()], dim=1)
        hidden = activate("head", joined @ p["weight_head"] + p["bias_head"])
        wanted[:, m] = (hidden @ p["weight_score"] + p["bias_score"])[:, 0]
    assert wanted.std(dim=0).min() > 1e-3
    assert torch.allclose(equi.forward(p, X, Draw()), wanted, atol=1e-5)


def test_the_start_is_xavier_with_small_embeddings_and_biases_zero():
    p = equi.initial(300, 400, Config(), chance(0, "initial"), "cpu")
    assert p["embedding"].std().item() == pytest.approx(0.02, rel=0.02)
    for name, value in p.items():
        if name.startswith("bias"):
            assert (value == 0).all()
        elif name.startswith("weight") and value.numel() > 10_000:
            bound = math.sqrt(6 / sum(value.shape))
            assert value.abs().max().item() == pytest.approx(bound, rel=0.05)
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    gamma = (p["embedding"] @ p["weight_film"]).chunk(2, dim=1)[0]  # plain gamma, no 1 +
    assert gamma.abs().mean().item() == pytest.approx(0.008, rel=0.1)


def test_swapping_two_models_embeddings_swaps_their_scores():
    p, X = start(), torch.tensor(TEST.unit)
    order = [2, 1, 0, 3]
    plain = equi.forward(p, X, Draw())
    swapped = equi.forward(p | {"embedding": p["embedding"][order]}, X, Draw())
    assert torch.allclose(swapped, plain[:, order], atol=1e-6)
    assert not torch.allclose(swapped, plain, atol=1e-3)


def test_equal_embeddings_give_equal_scores():
    p = start()
    p["embedding"] = p["embedding"][:1].expand(4, -1)
    found = equi.forward(p, torch.tensor(TEST.unit), Draw())
    assert torch.allclose(found, found[:, :1].expand(-1, 4), atol=1e-6) and found.std() > 0


def test_scoring_in_parts_changes_nothing(monkeypatch):
    p, X = start(), torch.tensor(TEST.unit)
    stack = {name: torch.stack([value, value]) for name, value in p.items()}
    whole = equi.forward(p, X, Draw())
    monkeypatch.setitem(equi.AT_ONCE, "cpu", 4 * 8 * 13)  # 13 rows of one head, 6 of the stack
    assert torch.allclose(equi.forward(p, X, Draw()), whole, atol=1e-6)
    assert torch.allclose(equi.forward(stack, X, Draw()), whole.expand(2, -1, -1), atol=1e-6)


# --- the ranking loss ---------------------------------------------------------------------------------


def test_the_ranking_loss_is_the_hand_computed_one_in_both_normalisations():
    Y = [[1, 0, NAN], [1, 0, 0], [1, 1, 1]]  # one pair, two pairs, none
    s = [[0.0, 2.0, 9.0], [1.0, 0.0, 4.0], [0.0, 5.0, 7.0]]
    losses = [math.log(1 + math.exp(x)) for x in (2.0, -1.0, 3.0)]
    assert ranking(s, Y).item() == pytest.approx(sum(losses) / 3, abs=1e-6)
    by_query = (losses[0] + (losses[1] + losses[2]) / 2) / 2
    assert ranking(s, Y, power=0.0).item() == pytest.approx(by_query, abs=1e-6)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_ranking_loss_ignores_a_constant_added_to_a_querys_scores(power):
    s = torch.randn(TRAIN.Y.shape, generator=chance(0, "test"))
    shift = torch.linspace(-4, 4, len(s))[:, None]
    assert ranking(s + shift, TRAIN.Y, power).item() == pytest.approx(
        ranking(s, TRAIN.Y, power).item(), abs=1e-5
    )


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_ranking_loss_is_log_2_for_equal_scores_and_vanishes_for_separated_ones(power):
    assert ranking(np.full(TRAIN.Y.shape, 3.0), TRAIN.Y, power).item() == pytest.approx(math.log(2), abs=1e-6)
    assert ranking(50 * TRAIN.Y, TRAIN.Y, power).item() == pytest.approx(0, abs=1e-6)
    assert ranking(-50 * TRAIN.Y, TRAIN.Y, power).item() == pytest.approx(50, abs=1e-4)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_without_any_pair_the_ranking_loss_and_its_gradient_are_zero(power):
    s = torch.randn((3, 2), generator=chance(0, "test")).requires_grad_()
    loss = ranking(s, [[1, 1], [0, 0], [1, NAN]], power)
    loss.backward()
    assert loss.item() == 0 and (s.grad == 0).all()


def test_the_gradient_of_the_ranking_loss_sums_to_zero_over_the_models_of_a_query():
    s = torch.randn(TRAIN.Y.shape, generator=chance(0, "test")).requires_grad_()
    ranking(s, TRAIN.Y).backward()
    assert s.grad.sum(dim=1).numpy() == pytest.approx(0, abs=1e-7)
    assert s.grad.abs().max() > 1e-4


def test_pairs_are_within_a_query_strict_and_observed():
    pairs = preferred(*observed(np.array([[1, 0, NAN, 1]], "f4"), "cpu"))
    assert pairs[0].nonzero().tolist() == [[0, 1], [3, 1]]
    graded = preferred(*observed(np.array([[0.2, 0.7, 0.7]], "f4"), "cpu"))
    assert graded[0].nonzero().tolist() == [[1, 0], [2, 0]]


def test_costs_settle_ties_where_both_are_known():
    Y, M = observed(np.array([[1, 1, 0, 0, 1]], "f4"), "cpu")
    C = torch.tensor([[2.0, 1.0, 3.0, 0.5, NAN]])
    found = preferred(Y, M, C)[0].nonzero().tolist()
    better = [[i, j] for i in (0, 1, 4) for j in (2, 3)]
    assert found == sorted([*better, [1, 0], [3, 2]])


@pytest.mark.parametrize("loss", [equi.ranked_mse, equi.ranked_bce])
def test_without_ranking_weight_the_loss_is_plain_masked_regression(loss):
    sparse = world(60, missing=0.4)
    Y, M = observed(sparse.Y, "cpu")
    s = torch.randn(Y.shape, generator=chance(0, "test"))
    plain = masked_bce(s, Y, M) if loss is equi.ranked_bce else masked_mean((s - Y) ** 2, M)
    assert loss(s, batch_of(sparse.Y, 0.0)).item() == plain.item()
    with_ranking = loss(s, batch_of(sparse.Y, 50.0)).item()
    assert with_ranking == pytest.approx(plain.item() + 50 * ranking(s, sparse.Y).item(), rel=1e-6)


def test_a_stack_of_heads_has_each_heads_own_weight_and_normalisation():
    s = torch.randn((3, *TRAIN.Y.shape), generator=chance(0, "test"))
    weights, powers = [0.0, 1.0, 50.0], [1.0, 0.0, 1.0]
    found = equi.ranked_mse(s, batch_of(TRAIN.Y, weights, power=powers))
    for g in range(3):
        alone = equi.ranked_mse(s[g], batch_of(TRAIN.Y, weights[g], power=powers[g]))
        assert found[g].item() == pytest.approx(alone.item(), rel=1e-5)


# --- what it learns -----------------------------------------------------------------------------------


@each_form
def test_it_beats_the_best_single_model_where_groups_differ(config):
    routers.check_beats_best_single(scores(**config), TRAIN, TEST)


def priced(split, prices):
    Y = split.Y.copy()
    Y[:, :2] = 1  # two models that are always right
    return labelled(split.X, Y, np.tile(np.asarray(prices, "f4"), (len(Y), 1)))


def learnt(Y, C):
    """Scores of the train queries after 100 steps on all of them."""
    p, X, batch = start(), torch.tensor(TRAIN.unit), batch_of(Y, 10.0, C)
    optimiser = torch.optim.Adam([value.requires_grad_() for value in p.values()], lr=3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        equi.ranked_mse(equi.forward(p, X, Draw()), batch).backward()
        optimiser.step()
    return equi.forward(p, X, Draw()).detach()


def test_costs_put_the_cheaper_of_two_always_right_models_on_top_and_change_nothing_otherwise():
    for cheaper, prices in ((0, [1, 2, 3, 4]), (1, [2, 1, 3, 4])):
        train = priced(TRAIN, prices)
        found = learnt(train.Y, train.C)  # to the end: no checkpoint of best val accuracy tells the two apart
        assert (found.argmax(axis=1) == cheaper).float().mean() > 0.99
    plain, other = (scores(train=priced(TRAIN, p), val=priced(VAL, p)) for p in ([1, 2, 3, 4], [2, 1, 3, 4]))
    assert np.array_equal(plain, other)


def test_without_costs_ties_are_not_settled():
    config = {"rank_weight": 10.0}
    assert np.array_equal(scores(tie_by_cost=True, **config), scores(**config))


def test_permuting_models_and_their_embeddings_permutes_what_is_learnt():
    order = [2, 0, 3, 1]
    heads = []
    for columns in ([0, 1, 2, 3], order):
        train, val = (worlds.reordered(s, columns) for s in (TRAIN, VAL))
        head = EquiRouter(Config(**SMALL)).head(Data(train, val, "cpu"), seed=0)
        p = start()
        heads.append(Head(**vars(head) | {"parameters": p | {"embedding": p["embedding"][columns]}}))
    plain, permuted = fit_heads(heads[:1])[0], fit_heads(heads[1:])[0]
    X = torch.tensor(TEST.unit)
    found, wanted = equi.forward(permuted, X, Draw()), equi.forward(plain, X, Draw())[:, order]
    assert torch.allclose(found, wanted, atol=5e-3 * float(wanted.abs().max()))


def test_scores_are_raw_or_sigmoids():
    X = torch.tensor(TEST.unit)
    raw, squashed = fit(), fit(pointwise="bce", rank_weight=1.0)
    assert torch.allclose(torch.tensor(raw.scores(TEST)), equi.forward(raw.parameters, X, Draw()), atol=1e-5)
    s = equi.forward(squashed.parameters, X, Draw())
    assert torch.allclose(torch.tensor(squashed.scores(TEST)), torch.sigmoid(s), atol=1e-6)


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_within_a_thousandth_of_the_scores():
    variants = [Config(**{**SMALL, "learning_rate": 1e-3, **c}) for c in (*FORMS, {"rank_weight": 5.0})]
    trials = [Trial(variant=v, seed=seed) for seed in (42, 7) for v in variants]
    for _, found, alone in routers.fitted_both_ways(equi.register_router(), TRAIN, VAL, trials, TEST):
        assert found == pytest.approx(alone, abs=1e-3 * max(1, float(np.abs(alone).max())))


# --- what every router owes ---------------------------------------------------------------------------


@each_form
def test_scores_do_not_depend_on_batch_or_order(config):
    router = fit(**config)
    routers.check_batch_and_order(router, TEST, abs=1e-6 * max(1, float(np.abs(router.scores(TEST)).max())))


def test_what_stands_where_labels_are_missing_changes_nothing():
    sparse = world(missing=0.6)
    found = scores(train=sparse)
    assert np.isfinite(found).all()
    assert np.array_equal(scores(train=worlds.with_other_nans(sparse)), found)


def test_test_labels_are_never_read_and_costs_only_to_settle_ties():
    train, val = (worlds.poisoned(s) for s in (TRAIN, VAL))
    assert np.array_equal(
        scores(worlds.poisoned(worlds.without_labels(TEST)), train=train, val=val), scores()
    )
    assert np.isfinite(scores(train=train, tie_by_cost=True)).all()


def test_a_model_never_observed_gets_the_mean_score_of_the_others():
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    for pointwise in ("mse", "bce"):
        router = fit(train=labelled(TRAIN.X, Y), pointwise=pointwise)
        found = router.scores(TEST)
        assert found[:, 1] == pytest.approx(found[:, [0, 2, 3]].mean(axis=1), abs=1e-5)
        again = EquiRouter.from_state(router.state(), variant=router.variant, device="cpu")
        assert np.array_equal(again.scores(TEST), found)


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


def test_every_field_reaches_the_head():
    routers.check_fields_matter(
        lambda variant: scores(**vars(variant)),
        Config(**SMALL),
        rank_weight=0.0, learning_rate=1e-2, dropout=0.5, pair_norm="query", pointwise="bce",
    )  # fmt: skip


MUTATIONS = [
    (
        "softplus(s[..., None, :] - s[..., :, None])",
        "softplus(s[..., :, None] - s[..., None, :])",
        "worse wins",
    ),
    (" & seen[..., :, None] & seen[..., None, :]", "", "a label that is missing counts as wrong"),
    (
        "cheaper = C[..., :, None] < C[..., None, :]",
        "cheaper = C[..., :, None] > C[..., None, :]",
        "dear wins",
    ),
    (
        'pointwise + batch.constants["rank_weight"] * ranking',
        "pointwise + 0 * ranking",
        "there is no ranking loss",
    ),
    ("learning_rate=variant.learning_rate,", "learning_rate=1e-4,", "the learning rate is ignored"),
]
