"""model-spider: its losses against Plackett and Luce, its attention against the naive form, what every router owes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rph_plugins.routers import model_spider
from rph_plugins.routers.model_spider import CARD, GRID, Config, ModelSpiderRouter
from tests import routers, worlds
from tests.worlds import as_queries, labelled, logistic, planted

from rph import Trial, UsageError
from rph.training.headrouter import Data
from rph.training.heads import Batch, Draw, chance

NAN = np.nan

TRAIN, VAL, TEST = logistic(250), logistic(150, seed=1), logistic(300, seed=2)
QUICK = Config(width=16, learning_rate=1e-2)
FORMS = {
    "plain": QUICK,
    "listnet": replace(QUICK, loss="listnet"),
    "tokens": replace(QUICK, tokens=4),
    "heads": replace(QUICK, heads=4),
    "bag": replace(QUICK, bag=5),
}
each_form = pytest.mark.parametrize("variant", FORMS.values(), ids=FORMS)


def fit(variant=QUICK, train=TRAIN, val=VAL, seed=0):
    router = ModelSpiderRouter()
    router.fit(train, val, variant=variant, seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def batch_of(Y):
    Y = torch.as_tensor(np.asarray(Y), dtype=torch.float32)
    return Batch(targets=(Y.nan_to_num(0), (~Y.isnan()).float()), constants={}, parameters={}, draw=Draw())


def loss(name, s, Y):
    return model_spider.LOSSES[name](
        torch.as_tensor(s if torch.is_tensor(s) else np.asarray(s), dtype=torch.float32), batch_of(Y)
    )


each_loss = pytest.mark.parametrize("name", ["tie-pl", "listnet"])


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_default_first():
    assert GRID[0] == Config() and len(GRID) == len(set(GRID)) == 15
    wanted = {
        Config(h, of, rate) for h in (64, 128, 256) for of in ("tie-pl", "listnet") for rate in (1e-3, 2.5e-4)
    }
    wanted |= {Config(128, tokens=4), Config(128, heads=4), Config(128, bag=16)}
    assert set(GRID) == wanted


def test_the_card_says_stochastic_and_uncalibrated_and_has_the_papers_name_as_alias():
    assert (CARD.name, CARD.paper, CARD.year) == ("model-spider", "arXiv:2306.03900", 2023)
    assert not CARD.deterministic and not CARD.calibrated and CARD.aliases == ("model_spider",)


# --- the losses ---------------------------------------------------------------------------------------


def plackett_luce(s, Y):
    """Negative log-likelihood of the rankings by Y, the best first, over K - 1; averaged over rows."""
    total = 0
    for row, y in zip(np.asarray(s, float), Y, strict=True):
        ranked = row[np.argsort(-y)]
        total += sum(np.log(np.exp(ranked[i:]).sum()) - ranked[i] for i in range(len(y) - 1)) / (len(y) - 1)
    return total / len(Y)


def test_on_strict_rankings_the_loss_is_that_of_plackett_and_luce():
    rng = np.random.default_rng(0)
    s = 2 * rng.normal(size=(30, 6))
    Y = np.stack([rng.permutation(6) / 5 for _ in range(30)])
    assert loss("tie-pl", s, Y).item() == pytest.approx(plackett_luce(s, Y), rel=1e-6)


def test_tied_labels_by_hand():
    s = np.array([0.3, -0.1, 0.8])
    e = np.exp(s)
    one = (
        np.log(1 + e[2] / e[0]) / 2 + np.log(1 + e[2] / e[1]) / 2
    )  # the two correct models, against the wrong one
    assert loss("tie-pl", [s], [[1, 1, 0]]).item() == pytest.approx(one, rel=1e-6)


@each_loss
def test_a_shift_of_a_querys_scores_changes_nothing_and_its_gradient_sums_to_zero(name):
    rng = np.random.default_rng(1)
    s = torch.tensor(rng.normal(size=(40, 5)).astype("f4"), requires_grad=True)
    Y = (rng.random((40, 5)) < 0.5).astype("f4")
    Y[rng.random(Y.shape) < 0.3] = NAN
    found = loss(name, s, Y)
    found.backward()
    assert s.grad.sum(dim=1).abs().max() < 1e-6 and s.grad.abs().max() > 1e-3
    shifted = loss(name, s.detach() + torch.tensor(rng.normal(size=(40, 1)).astype("f4")), Y)
    assert shifted.item() == pytest.approx(found.item(), rel=1e-5)


def test_the_gradient_raises_every_correct_and_lowers_every_wrong_model():
    rng = np.random.default_rng(2)
    s = torch.tensor(rng.normal(size=(50, 6)).astype("f4"), requires_grad=True)
    Y = (rng.random((50, 6)) < 0.5).astype("f4")
    loss("tie-pl", s, Y).backward()
    both = (Y.min(axis=1) < Y.max(axis=1))[:, None]
    assert (s.grad.numpy()[both & (Y == 1)] < 0).all() and (s.grad.numpy()[both & (Y == 0)] > 0).all()
    assert (s.grad.numpy()[~both[:, 0]] == 0).all()


def test_queries_on_which_all_tie_are_not_in_the_mean():
    s, Y = [[0.3, -0.1], [0.5, 0.2], [-0.4, 0.9]], [[1, 0], [1, 1], [0, 0]]
    assert loss("tie-pl", s, Y).item() == pytest.approx(loss("tie-pl", s[:1], Y[:1]).item())
    z = torch.tensor(s[1:], requires_grad=True)
    nothing = loss("tie-pl", z, Y[1:])
    nothing.backward()
    assert nothing.item() == 0 and (z.grad == 0).all()


def test_listnet_by_hand():
    s, e = np.array([0.3, -0.1, 0.8]), np.e
    chosen = np.log(np.exp(s) / np.exp(s).sum())
    by_hand = -(np.array([e, 1, 1]) / (e + 2) * chosen).sum()
    assert loss("listnet", [s], [[1, 0, 0]]).item() == pytest.approx(by_hand, rel=1e-6)
    # One observed model says nothing about a ranking: its query is not in the mean.
    assert loss("listnet", [s, s], [[1, 0, 0], [NAN, 1, NAN]]).item() == pytest.approx(by_hand, rel=1e-6)


@each_loss
def test_a_missing_label_takes_no_part(name):
    s, Y = np.array([[0.3, -0.1, 0.8, 0.1]]), [[1, 0, NAN, 0]]
    z = torch.tensor(s, dtype=torch.float32, requires_grad=True)
    found = loss(name, z, Y)
    assert found.item() == pytest.approx(loss(name, s[:, [0, 1, 3]], [[1, 0, 0]]).item(), rel=1e-6)
    found.backward()
    assert z.grad[0, 2] == 0 and (z.grad[0, [0, 1, 3]] != 0).all()


# --- the network --------------------------------------------------------------------------------------


def naive(p, X, heads):
    """The original's form: one model at a time, one sequence of tokens, whole matrices. X [B, b, d]."""
    K, h = p["models"].shape
    out = []
    for m in range(K):
        tasks = X * X.shape[-1] ** 0.5 @ p["weight_task"] + p["bias_task"]
        tasks = tasks.view(len(X), -1, h)
        tokens = torch.cat([p["models"][m].expand(len(X), 1, h), tasks], dim=1)  # [B, 1 + n, h]
        whole = []
        for a in range(heads):
            q, k, v = (tokens @ p[f"weight_{n}"][:, a * h : (a + 1) * h] for n in ("query", "key", "value"))
            whole.append(torch.softmax(q @ k.mT / h**0.5, dim=-1) @ v)
        mixed = torch.cat(whole, dim=-1) @ p["weight_out"].reshape(heads * h, h) + p["bias_out"]
        token = torch.nn.functional.layer_norm(tokens + mixed, (h,)) * p["gain_block"] + p["bias_block"]
        token = torch.nn.functional.layer_norm(token[:, 0], (h,)) * p["gain_score"]
        out.append(token @ p["weight_score"][0])
    return torch.stack(out, dim=1)


def random_parameters(variant, d=8, K=5):
    """Parameters of which none is at a special value."""
    start = model_spider.initial(d, K, variant, chance(0, "initial"))
    generator = chance(1, "test")
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=generator) for name, value in start.items()
    }


@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize(
    "variant", [QUICK, FORMS["tokens"], FORMS["heads"]], ids=["plain", "tokens", "heads"]
)
def test_the_vectorised_attention_is_the_naive_one(variant, b):
    p = random_parameters(variant)
    X = torch.randn(7, b, 8, generator=chance(2, "test"))
    found = model_spider.forward_bags(p, X, Draw())
    assert torch.allclose(found, naive(p, X, variant.heads), atol=1e-5)
    if b == 1:
        assert torch.equal(found, model_spider.forward(p, X[:, 0], Draw()))


def test_with_two_tokens_attention_is_one_gate():
    p, h = random_parameters(QUICK), 16
    x = torch.randn(6, 8, generator=chance(2, "test"))
    z = x * 8**0.5 @ p["weight_task"] + p["bias_task"]
    q, k_m, v_m = (p["models"] @ p[f"weight_{n}"] for n in ("query", "key", "value"))
    k_x, v_x = z @ p["weight_key"], z @ p["weight_value"]
    gate = torch.sigmoid((k_x @ q.T - (q * k_m).sum(dim=1)) / h**0.5)[..., None]  # [B, K, 1]
    mixed = ((1 - gate) * v_m + gate * v_x[:, None]) @ p["weight_out"][0] + p["bias_out"]
    token = torch.nn.functional.layer_norm(p["models"] + mixed, (h,)) * p["gain_block"] + p["bias_block"]
    token = torch.nn.functional.layer_norm(token, (h,)) * p["gain_score"]
    assert torch.allclose(model_spider.forward(p, x, Draw()), token @ p["weight_score"][0], atol=1e-5)


def test_equal_tokens_have_equal_scores_and_a_token_touches_its_own_model_only():
    p, X = random_parameters(QUICK), torch.tensor(TEST.unit[:20])
    p["models"][1] = p["models"][0]
    before = model_spider.forward(p, X, Draw())
    assert torch.equal(before[:, 0], before[:, 1])
    other = {**p, "models": p["models"].clone()}
    other["models"][3] += 1
    after = model_spider.forward(other, X, Draw())
    kept = [0, 1, 2, 4]
    assert torch.equal(after[:, kept], before[:, kept]) and not torch.equal(after[:, 3], before[:, 3])


def test_the_residual_keeps_the_models_apart():
    p = random_parameters(QUICK)
    p["weight_out"].zero_()  # nothing comes through the attention
    found = model_spider.forward(p, torch.tensor(TEST.unit[:3]), Draw())
    assert found.std(dim=1).min() > 0.1 and torch.allclose(found[0], found[1])


def test_a_stack_of_heads_gives_each_ones_scores():
    one, other = random_parameters(QUICK), model_spider.initial(8, 5, QUICK, chance(9, "initial"))
    stack = {name: torch.stack([one[name], other[name]]) for name in one}
    X = torch.tensor(TEST.unit[:30])
    alone = torch.stack([model_spider.forward(p, X, Draw()) for p in (one, other)])
    assert torch.allclose(model_spider.forward(stack, X, Draw()), alone, atol=1e-5)
    each = torch.stack([X, X])  # as when their seeds differ
    assert torch.allclose(model_spider.forward(stack, each, Draw()), alone, atol=1e-5)


def test_parts_that_bound_memory_do_not_change_the_scores(monkeypatch):
    router = fit(FORMS["bag"], logistic(64))
    whole = router.scores(TEST)
    monkeypatch.setattr(model_spider, "NUMBERS", 1000)
    monkeypatch.setattr(model_spider, "ROWS", 70)
    assert router.scores(TEST) == pytest.approx(whole, abs=1e-5)


# --- tasks of several queries -------------------------------------------------------------------------


def test_a_bag_is_the_query_and_its_nearest_others_with_their_mean_labels():
    train = labelled([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], [[1, 0], [0, NAN], [1, 1], [NAN, 1]])
    bags = model_spider.Bags(Data(train, labelled([[0.95, 0.05]], [[1, 0]]), "cpu"), 2)
    assert bags.train.tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    labels, mask = bags.labels
    assert labels.tolist() == [[0.5, 0], [0.5, 0], [1, 1], [1, 1]] and (mask == 1).all()
    assert bags.val[0, 0] == 4 and bags.val[0, 1] in (0, 1)
    assert torch.equal(bags.table[4], torch.tensor([0.95, 0.05]) / np.float32(np.hypot(0.95, 0.05)))


def test_a_bag_holds_its_query_once_also_where_queries_repeat():
    same = labelled(np.ones((6, 3)), np.eye(6, 2))
    bags = model_spider.Bags(Data(same, same, "cpu"), 3)
    assert bags.train[:, 0].tolist() == list(range(6))
    assert all(len(set(row)) == 3 for row in bags.train.tolist())


def test_a_model_that_no_query_of_a_bag_observed_is_masked():
    train = labelled([[1, 0], [0.9, 0.1], [0, 1]], [[1, NAN], [0, NAN], [1, 1]])
    labels, mask = model_spider.Bags(Data(train, train, "cpu"), 2).labels
    assert mask[:2].tolist() == [[1, 0], [1, 0]] and labels[:2].tolist() == [[0.5, 0], [0.5, 0]]


def test_bags_are_found_once_for_all_seeds(monkeypatch):
    calls, once = [], model_spider.Bags.__init__
    monkeypatch.setattr(model_spider.Bags, "__init__", lambda self, *a: calls.append(a[1]) or once(self, *a))
    trials = [Trial(variant=FORMS["bag"], seed=seed) for seed in (1, 2)]
    model_spider.stacked(ModelSpiderRouter)(logistic(60), logistic(30, seed=1), trials, "cpu")
    assert calls == [5]


# --- what every router owes ---------------------------------------------------------------------------


@each_form
def test_it_beats_the_best_single_model_where_queries_tell(variant):
    routers.check_beats_best_single(scores(variant=variant), TRAIN, TEST)


@pytest.mark.parametrize("how", [{}, {"missing": 0.4}, {"K": 30}], ids=["dense", "sparse", "padded"])
@pytest.mark.parametrize("seed", [1, 2])
def test_queries_go_to_their_specialist(seed, how):
    (train, _), (val, _), (test, right) = (
        planted(n, s, noise=0.035, **how) for n, s in ((500, 1), (150, 2), (400, 3))
    )
    found = scores(test, train=train, val=val, seed=seed)
    assert (found.argmax(axis=1) == right).mean() >= 0.98


def test_fitting_many_equals_fitting_one_by_one():
    variants = [*FORMS.values(), replace(QUICK, learning_rate=5e-3)]
    trials = [Trial(variant=v, seed=seed) for v in variants for seed in (42, 7)]
    small, val = logistic(70), logistic(40, seed=1)
    for trial, found, alone in routers.fitted_both_ways(
        model_spider.register_router(), small, val, trials, TEST
    ):
        assert found == pytest.approx(alone, abs=1e-4), trial


@each_form
def test_a_router_from_its_state_gives_the_same_scores(variant):
    state = routers.check_state(fit(variant, logistic(64)), variant, TEST)
    assert ("buffer/train" in state) == (variant.bag > 1)


@each_form
def test_scores_do_not_depend_on_batch_or_order_nor_on_chance_in_scoring(variant):
    router = fit(variant, logistic(64))
    assert np.array_equal(router.scores(TEST), router.scores(TEST))
    routers.check_batch_and_order(router, TEST, 40, rel=1e-5, abs=2e-6)


def test_permuting_the_models_permutes_the_routes_in_distribution():
    routers.check_permuted_routes(scores, TRAIN, VAL, TEST)


@pytest.mark.parametrize("variant", [QUICK, FORMS["bag"]], ids=["plain", "bag"])
def test_what_stands_in_a_missing_label_changes_nothing(variant):
    sparse = logistic(64, missing=0.5)
    found = scores(variant=variant, train=worlds.with_other_nans(sparse))
    assert np.array_equal(found, scores(variant=variant, train=sparse))


@each_form
def test_a_model_never_run_ranks_last(variant):
    train, val = (labelled(s.X, np.where([0, 1, 0, 0], NAN, s.Y)) for s in (logistic(64), VAL))
    found = scores(train=train, val=val, variant=variant)
    assert found[:, 1] == pytest.approx(found[:, [0, 2, 3]].min(axis=1) - 1) and np.isfinite(found).all()


def test_costs_are_never_read():
    small = logistic(70)
    train, val = (worlds.poisoned(s) for s in (small, VAL))
    assert np.array_equal(scores(train=train, val=val), scores(train=small))


@each_form
def test_constant_embeddings_give_constant_scores(variant):
    found = scores(
        as_queries(np.ones((20, 8))), train=labelled(np.ones((40, 8)), TRAIN.Y[:40]), variant=variant
    )
    assert np.isfinite(found).all() and np.ptp(found, axis=0).max() < 1e-5


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


def test_the_learning_rate_and_the_loss_change_the_scores():
    routers.check_fields_matter(
        lambda variant: scores(variant=variant), QUICK, learning_rate=1e-3, loss="listnet"
    )


MUTATIONS = [
    ("softplus(against - outputs)", "softplus(outputs - against)", "the worse model ranks higher"),
    ("worse & seen[..., None, :] & seen[..., :, None]", "worse", "a missing label ranks as wrong"),
    (
        "/ (count > 0).sum(dim=-1).clamp(min=1)",
        "/ count.shape[-1]",
        "queries on which all tie count in the mean",
    ),
    ("learning_rate=variant.learning_rate,", "", "the learning rate is ignored"),
    ("loss=LOSSES[variant.loss],", 'loss=LOSSES["tie-pl"],', "listnet trains with the other loss"),
]
