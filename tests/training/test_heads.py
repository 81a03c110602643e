"""The training loop, by heads so small that every step can be foretold."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rph import RphError, lazy
from rph.holes import Mask
from rph.results import metrics
from rph.results.probabilities import fit_sigmoid
from rph.training.heads import (
    Batch,
    Draw,
    Head,
    Training,
    Validation,
    bce_loss,
    chance,
    feed_forward,
    layers,
    level,
    likeliest,
    masked_bce,
    masked_mse,
    observed,
    outputs_of,
    product,
    queries_of,
    route,
)
from rph.training.stacks import fit_heads

NAN = float("nan")
X = torch.arange(10.0)[:, None]  # ten rows that name themselves
OFTEN = {"steps": 0, "rest": 0, "apart": 1}  # a check every half epoch, and no floor of steps


class Script:
    """Stands for the val split: its accuracies, or (accuracy, loss), are given, and it keeps what was evaluated."""

    X, Y = torch.zeros(1, 1), torch.zeros(1, 2)

    def __init__(self, *checks):
        self.checks, self.seen = [one if isinstance(one, tuple) else (one, 1.0) for one in checks], []

    def accuracy(self, outputs):
        self.seen.append(outputs[0].clone())
        return torch.tensor([self._now[0]])

    def loss(self, outputs, likelihood):
        return torch.tensor([self._now[1]])

    @property
    def _now(self):
        return self.checks[min(len(self.seen), len(self.checks)) - 1]


def bias_only(parameters, rows, draw):
    return parameters["bias0"].expand(-1, len(rows), 2)


def pull(outputs, batch):
    return outputs.sum(dim=-1).mean(dim=-1)  # a constant gradient of 1: Adam moves by the learning rate


def train(val, forward=bias_only, loss=pull, parameters=None, targets=(), seed=0, **training):
    training = {**OFTEN, "batch": 2, "epochs": 4, "cosine": False, **training}
    head = Head(
        parameters=parameters or {"bias0": torch.zeros(1, 2)},
        forward=forward,
        loss=loss,
        X=X,
        targets=targets,
        val=val,
        training=Training(**training),
        seed=seed,
    )
    return fit_heads([head])[0]


# --- losses -------------------------------------------------------------------------------------------


def test_masked_bce_is_the_mean_over_observed_labels():
    z, Y, M = (
        torch.tensor([[0.0, 3.0], [2.0, -1.0]]),
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        torch.ones(2, 2),
    )
    M[0, 1] = 0
    cells = [math.log(2), math.log(1 + math.exp(2)), math.log(1 + math.exp(1))]
    assert masked_bce(z, Y, M).item() == pytest.approx(sum(cells) / 3)


def test_masked_mse_is_the_squared_error_of_the_probability():
    z, Y = torch.tensor([[0.0, 9.0]]), torch.tensor([[1.0, 0.0]])
    assert masked_mse(z, Y, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.25)


@pytest.mark.parametrize("loss", [masked_bce, masked_mse])
def test_what_stands_under_the_mask_changes_neither_loss_nor_gradient(loss):
    g = chance(0, "test")
    Y = (torch.rand(50, 4, generator=g) < 0.5).float()
    M = (torch.rand(50, 4, generator=g) > 0.6).float()
    results = []
    for garbage in (0.0, 1.0, -7.5, 1e6):
        z = torch.linspace(-3, 3, 200).view(50, 4).requires_grad_()
        value = loss(z, torch.where(M > 0, Y, garbage), M)
        value.backward()
        results.append((value.item(), z.grad))
    assert all(v == results[0][0] and torch.equal(grad, results[0][1]) for v, grad in results)
    assert (results[0][1][M == 0] == 0).all()


@pytest.mark.parametrize("loss", [masked_bce, masked_mse])
def test_a_batch_without_a_label_has_loss_zero(loss):
    z = torch.ones(3, 2, requires_grad=True)
    value = loss(z, torch.zeros(3, 2), torch.zeros(3, 2))
    value.backward()
    assert value.item() == 0 and (z.grad == 0).all()


def test_the_gradient_of_bce_is_probability_minus_label_over_the_observed_count():
    g = chance(0, "test")
    z = torch.randn(20, 3, generator=g).requires_grad_()
    Y, M = (torch.rand(2, 20, 3, generator=g) < 0.5).float()
    masked_bce(z, Y, M).backward()
    assert torch.allclose(z.grad, (torch.sigmoid(z.detach()) - Y) * M / M.sum(), atol=1e-7)


def test_observed_splits_labels_from_what_is_missing():
    Y, M = observed(np.array([[1, np.nan], [0.5, 0]], np.float32), "cpu")
    assert Y.tolist() == [[1, 0], [0.5, 0]] and M.tolist() == [[1, 0], [1, 1]]
    assert Y.dtype == M.dtype == torch.float32


# --- routing ------------------------------------------------------------------------------------------


def test_ties_go_to_the_higher_train_mean_and_then_to_the_lower_index():
    outputs = torch.tensor([[1.0, 1, 1, 0], [0, 0, 0, 2], [1, 0, 1, 0], [5, 5, 5, 5]])
    assert route(outputs, torch.tensor([0.1, 0.7, 0.7, 0.9])).tolist() == [1, 3, 2, 3]


FIRST, LAST = torch.tensor([[2.0, 1, 0]]).expand(3, 3), torch.tensor([[0.0, 1, 2]]).expand(3, 3)
VAL_Y = torch.tensor([[1.0, 0, 1], [NAN, 1, 1], [0, 1, NAN]])


def validation(**mask):
    return Validation(X=torch.zeros(3, 1), Y=VAL_Y, means=torch.tensor([0.5, 0.4, 0.6]), **mask)


def test_a_missing_label_of_a_routed_model_counts_0_on_val():
    val = validation()
    assert val.accuracy(FIRST).item() == pytest.approx(1 / 3)  # 1, missing, 0
    assert val.accuracy(LAST).item() == pytest.approx(2 / 3)  # 1, 1, missing
    assert val.accuracy(torch.stack([FIRST, LAST])).tolist() == pytest.approx([1 / 3, 2 / 3])  # a stack
    # all the labels of what is routed to are missing, others are there: the worst there is, and not unknown
    one = Validation(X=val.X[1:2], Y=VAL_Y[1:2], means=val.means)
    assert one.accuracy(FIRST[:1]) == 0


def test_without_any_val_label_the_accuracy_is_unknown():
    blind = Validation(X=torch.zeros(3, 1), Y=torch.full((3, 3), NAN), means=torch.zeros(3))
    assert blind.accuracy(torch.stack([FIRST, LAST])).isnan().tolist() == [True, True]
    assert blind.accuracy(FIRST).dtype == torch.float32


def test_val_accuracy_stays_in_the_pool():
    pool = torch.tensor([[True, True, False], [False, True, True], [True, True, True]])
    val = validation(pool=pool)
    assert val.accuracy(FIRST).item() == pytest.approx((1 + 1 + 0) / 3)  # first, second, first
    assert val.accuracy(LAST).item() == pytest.approx((0 + 1 + 0) / 3)  # second, third, third (missing)
    flat = torch.zeros(3, 3)  # ties, by level: first, third, third
    assert val.accuracy(flat).item() == pytest.approx((1 + 1 + 0) / 3)


def test_val_accuracy_weighs_what_was_asked_by_plan():
    weight = torch.tensor([[2.0, 1, 1], [0, 1, 1], [2, 1, 1]])
    val = validation(weight=weight)
    assert val.accuracy(FIRST).item() == pytest.approx((2 * 1 + 2 * 0) / 4)  # the second was not asked
    assert val.accuracy(LAST).item() == pytest.approx(2 / 3)  # a label missing otherwise counts 0


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_heads_and_results_measure_val_alike(seed, with_pool, with_weight):
    rng = np.random.default_rng(seed)
    V, K = rng.integers(1, 30), rng.integers(1, 6)
    Y = rng.choice([0.0, 1.0, 0.25, NAN], (V, K)).astype(np.float32)
    Y[0, 0] = 1
    scores, level = rng.integers(0, 3, (V, K)).astype(np.float32), rng.random(K).astype(np.float32)
    pool = rng.random((V, K)) < 0.7 if with_pool else None
    if with_pool:
        pool[:, 0] = True
    weight = rng.choice([0, 1, 4], (V, K)).astype(np.float32) if with_weight else None
    found = Validation(
        X=torch.zeros(V, 1),
        Y=torch.tensor(Y),
        means=torch.tensor(level),
        pool=None if pool is None else torch.tensor(pool),
        weight=None if weight is None else torch.tensor(weight),
    ).accuracy(torch.tensor(scores))
    bounds = metrics.accuracy_bounds(metrics.route(scores, level, pool), Y, Mask(pool, weight))
    assert found.isnan() if bounds is None else found.item() == pytest.approx(bounds.low, abs=1e-6)


def test_outputs_start_where_they_are_told_to_and_the_other_weights_are_the_same():
    start, free = (layers((3, 4, 2), chance(0, "initial"), start=s) for s in (torch.tensor([0.5, -1]), None))
    X = torch.randn(5, 3)
    assert torch.equal(feed_forward(start, X, Draw()), torch.tensor([[0.5, -1.0]]).expand(5, 2))
    assert torch.equal(start["weight0"], free["weight0"])


def test_the_level_of_a_mean_is_its_logit_within_bounds():
    expected = [math.log(0.2 / 0.8), math.log(999), -math.log(999)]
    assert level(np.array([0.2, 1.0, 0.0])).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("models", "queries"), [(7, 73), (112, 16), (1, 512)])
def test_a_minibatch_has_about_so_many_cells(models, queries):
    assert queries_of(512, models) == queries


# --- the loop -----------------------------------------------------------------------------------------


def batches(seed, size=4, **training):
    """The rows of each minibatch, in order, of two epochs."""
    seen = []

    def loss(outputs, batch):
        seen.append(batch.targets[0].flatten().int().tolist())
        return pull(outputs, batch)

    train(Script(*np.arange(9.0)), loss=loss, targets=(X,), seed=seed, batch=size, epochs=2, **training)
    return seen


def test_every_epoch_goes_through_every_row_once_in_an_order_of_its_own():
    seen = batches(seed=0)
    assert [len(rows) for rows in seen] == [4, 4, 2, 4, 4, 2]
    first, second = ([row for rows in epoch for row in rows] for epoch in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_the_order_of_the_batches_depends_on_the_seed_alone():
    assert batches(seed=1) == batches(seed=1, learning_rate=0.1, dropout=0.5)
    assert batches(seed=1) != batches(seed=2)


def test_rows_and_targets_of_a_batch_belong_together():
    def loss(outputs, batch):
        assert torch.equal(outputs[0, :, :1].detach(), batch.targets[0])
        return outputs.sum(dim=(-2, -1))

    def forward(parameters, rows, draw):
        return torch.cat([rows, rows], dim=1) + 0 * parameters["weight0"]

    train(Script(1.0), forward, loss, {"weight0": torch.ones(1, 1)}, targets=(X,), epochs=1)


@pytest.mark.parametrize(("batch", "steps_at_checks"), [(2, [3, 5, 8, 10]), (4, [2, 3, 5, 6]), (10, [1, 2])])
def test_checks_come_every_half_epoch(batch, steps_at_checks):
    val = Script(*np.arange(9.0))
    train(val, batch=batch, epochs=2, learning_rate=0.5)
    assert [round(-seen[0, 0].item() / 0.5) for seen in val.seen] == steps_at_checks


@pytest.mark.parametrize(
    ("checks", "kept"),
    [
        ([0.3, 0.5, 0.4, 0.2], 1),
        ([0.3, (0.5, 0.9), 0.4, (0.5, 0.8), (0.5, 0.85), 0.2], 3),  # of equal accuracy the lower loss
        ([0.3, (0.5, 0.8), 0.4, (0.5, 0.8), 0.2], 3),  # both equal: the later
        ([(0.5, 0.9), (0.5, 0.8), (0.5, 0.7), (0.5, 0.6)], 3),
        ([(0.5, 0.1), (0.6, 0.9), (0.5, 0.05)], 1),  # a lower loss makes up for no accuracy
    ],
)
def test_the_best_check_is_kept(checks, kept):
    val = Script(*checks, 0.0)
    best = train(val, learning_rate=0.1)
    assert torch.equal(best["bias0"].expand(1, 2), val.seen[kept])
    assert not best["bias0"].requires_grad


def test_training_stops_after_as_many_checks_without_a_better_one_as_patience_allows():
    val = Script(0.3, 0.5, 0.5, 0.4, 0.5, 0.9)
    best = train(val, patience=3)
    assert len(val.seen) == 5
    assert torch.equal(best["bias0"].expand(1, 2), val.seen[4])  # kept as an equal, and no better


def test_a_better_check_starts_the_patience_anew():
    for better in (0.6, (0.5, 0.9)):
        val = Script(0.5, 0.4, better, 0.4, 0.4, 0.9)
        train(val, patience=2)
        assert len(val.seen) == 5


@pytest.mark.parametrize(("batch", "rest", "checks"), [(2, 9, 5), (2, 5, 3), (10, 4, 5), (10, 0, 3)])
def test_a_rest_of_more_steps_than_the_patience_is_waited_for(batch, rest, checks):
    val = Script(0.5, *[0.4] * 98)
    train(val, batch=batch, epochs=40, patience=2, rest=rest)
    assert len(val.seen) == checks


@pytest.mark.parametrize(("steps", "epochs"), [(0, 2), (10, 2), (11, 3), (20, 4)])
def test_epochs_go_on_until_so_many_steps_are_made(steps, epochs):
    val = Script(*np.arange(99.0))
    train(val, batch=2, epochs=2, steps=steps)  # 5 steps and 2 checks per epoch
    assert len(val.seen) == 2 * epochs


@pytest.mark.parametrize(("apart", "steps_at_checks"), [(1, [3, 5, 8, 10]), (4, [5, 10]), (7, [8, 10])])
def test_checks_are_so_many_steps_apart_and_the_last_step_is_one(apart, steps_at_checks):
    val = Script(*np.arange(9.0))
    train(val, epochs=2, learning_rate=0.5, apart=apart)
    assert [round(-seen[0, 0].item() / 0.5) for seen in val.seen] == steps_at_checks


def test_by_default_no_head_stops_before_500_steps():
    val = Script(0.5, *[0.4] * 999)
    train(val, batch=10, epochs=50, learning_rate=1.0, steps=2000, rest=500, apart=20)
    last = -val.seen[-1][0, 0].item()
    assert last == pytest.approx(520)  # the first check, after 20 steps, was the best
    assert {"steps": 2000, "rest": 500, "apart": 20}.items() <= vars(Training()).items()


@given(
    scores=st.lists(st.lists(st.floats(-50, 50, width=32), min_size=8, max_size=8), min_size=1, max_size=3),
    labels=st.lists(st.sampled_from([0.0, 1.0]), min_size=8, max_size=8).filter(lambda y: 0 < sum(y) < 8),
)
def test_the_map_of_a_check_is_the_harnesss_own(scores, labels):
    s, y = torch.tensor(scores, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64)
    for row, z in zip(s, likeliest(s, y, torch.ones_like(y)), strict=True):
        a, b = fit_sigmoid(row.numpy(), y.numpy())
        cross = [float((torch.nn.functional.softplus(one) - y * one).mean()) for one in (z, a * row + b)]
        assert cross[0] == pytest.approx(cross[1], abs=1e-5)


def test_the_loss_of_a_check_is_over_observed_labels_by_weight():
    Y = torch.tensor([[1.0, NAN], [0.0, 1.0]])
    val = Validation(
        X=torch.zeros(2, 1), Y=Y, means=torch.tensor([0.5, 0.5]), weight=torch.tensor([[2.0, 1], [1, 1]])
    )
    z = torch.tensor([[[0.0, 9.0], [math.log(3), -math.log(3)]]])  # P .5; .75 and .25, both wrong
    by_hand = (2 * math.log(2) + 2 * math.log(4)) / 4
    assert val.loss(z, True).tolist() == pytest.approx([by_hand])
    # Scores that contradict the labels say nothing: the weighted rate of 3 in 4.
    rate = -(3 * math.log(0.75) + math.log(0.25)) / 4
    assert val.loss(z, False).tolist() == pytest.approx([rate], abs=1e-6)


def test_a_check_without_an_observed_label_is_not_better():
    val = Script(NAN, 0.1, NAN, 0.05)
    assert torch.equal(train(val)["bias0"].expand(1, 2), val.seen[1])


def test_a_val_split_that_never_has_the_routed_label_is_an_error():
    with pytest.raises(RphError, match="no checkpoint"):
        train(Script(NAN))


def test_divergence_is_said_and_not_returned():
    def forward(parameters, rows, draw):
        return bias_only(parameters, rows, draw) / 0

    with pytest.raises(RphError, match="diverged by step 3"):
        train(Script(1.0), forward)


def test_the_learning_rate_falls_along_a_cosine_or_stays():
    for cosine in (True, False):
        val = Script(*np.arange(99.0))
        train(val, batch=10, epochs=8, cosine=cosine, learning_rate=0.1)  # one step and one check per epoch
        moves = -np.diff([0.0] + [seen[0, 0].item() for seen in val.seen])
        expected = [0.1 * (1 + math.cos(math.pi * t / 8)) / 2 if cosine else 0.1 for t in range(8)]
        assert moves == pytest.approx(expected, rel=1e-3)


def test_weight_decay_spares_biases():
    def forward(parameters, rows, draw):
        return 0 * (parameters["weight0"] + parameters["bias0"]).expand(-1, len(rows), 2)

    best = train(
        Script(1.0, 0.0),
        forward,
        parameters={"weight0": torch.ones(1, 2), "bias0": torch.ones(1, 2)},
        weight_decay=0.1,
        learning_rate=0.5,
        epochs=1,
    )
    assert best["bias0"].tolist() == [[1, 1]]
    assert best["weight0"][0].tolist() == pytest.approx(
        [0.95**3] * 2
    )  # kept at the first check, after 3 steps


def dropped_linear(parameters, rows, draw):
    return draw(rows / 10) @ parameters["weight0"] + parameters["bias0"]


def small_head(seed, dropout=0.3):
    parameters = layers((1, 2), chance(seed, "initial"))
    targets = ((X > 4).float().expand(-1, 2), torch.ones(10, 2))
    return train(
        Script(*np.arange(99.0)), dropped_linear, bce_loss, parameters, targets, seed, dropout=dropout
    )


def test_a_seed_fixes_everything_and_another_seed_changes_it():
    torch.manual_seed(1)
    first = small_head(0)
    torch.manual_seed(2)
    again, other = small_head(0), small_head(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["weight0"], other["weight0"])


def test_training_leaves_torchs_global_chance_alone():
    state = torch.get_rng_state()
    small_head(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_keeps_the_mean_and_is_off_outside_training():
    draw = Draw([chance(0, "dropout")], torch.tensor([0.25, 0.0, 0.5]))
    for ones in (torch.ones(200, 200), torch.ones(3, 200, 200)):
        dropped = draw(ones)
        assert dropped.shape == (3, 200, 200)
        for head, rate in zip(dropped, (0.25, 0.0, 0.5), strict=True):
            assert sorted(head.unique().tolist()) == pytest.approx([0, 1 / (1 - rate)] if rate else [1])
            assert head.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(outputs_of(lambda parameters, rows, draw: draw(rows), {}, X), X)


def test_outside_training_a_normal_draw_is_zero():
    assert Draw().normal((3, 4)).item() == 0
    assert Draw([chance(0, "dropout")], torch.zeros(2)).normal((3, 4)).shape == (3, 4)


def test_heads_of_one_seed_share_their_draws_and_those_of_two_do_not():
    generators = [chance(seed, "dropout") for seed in (0, 1)]
    drawn = Draw(generators, torch.zeros(3), torch.tensor([1, 0, 1])).uniform((4, 5))
    assert drawn.shape == (3, 4, 5)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[1], torch.rand((4, 5), generator=chance(0, "dropout")))


def test_each_purpose_of_a_seed_has_its_own_chance():
    draws = {
        torch.rand(1, generator=chance(seed, purpose)).item()
        for seed in (0, 1)
        for purpose in ("order", "dropout", "initial")
    }
    assert len(draws) == 6


# --- stacks -------------------------------------------------------------------------------------------

N, D, K = 200, 6, 3


def data(seed=0):
    g = chance(seed, "data")
    rows = torch.randn(N, D, generator=g)
    labels = (torch.rand(N, K, generator=g) < torch.sigmoid(2 * rows[:, :K])).float()
    return rows, labels, (torch.rand(N, K, generator=g) < 0.7).float()


ROWS, LABELS, MASK = data()
VAL_ROWS, VAL_LABELS, _ = data(1)
VAL = Validation(X=VAL_ROWS, Y=VAL_LABELS, means=LABELS.mean(dim=0))


def shrunken_loss(outputs, batch):
    labels, mask, own = batch.targets
    size = outputs.square().mean(dim=(-2, -1))
    return masked_bce(outputs, labels, mask * own) + batch.constants["share"] * size


def head(seed=0, width=8, share=0.0, **training):
    own = (torch.rand(N, K, generator=chance(seed, "own")) < 0.9).float()
    return Head(
        parameters=layers((D, width, K), chance(seed, "initial")),
        forward=feed_forward,
        loss=shrunken_loss,
        X=ROWS,
        targets=(LABELS, MASK, own),
        val=VAL,
        training=Training(**{**OFTEN, "batch": 32, "epochs": 6, "patience": 4, **training}),
        seed=seed,
        constants={"share": share},
    )


DIFFERENT = [
    {},
    {"learning_rate": 1e-2},
    {"weight_decay": 0.5},
    {"dropout": 0.5},
    {"learning_rate": 3e-2, "dropout": 0.2},
    {"share": 1.0},
]


def differences(together, alone):
    return [
        max((a[name] - b[name]).abs().max().item() for name in a)
        for a, b in zip(together, alone, strict=True)
    ]


@pytest.mark.parametrize(
    "optimiser",
    [{}, {"optimiser": "adam"}, {"optimiser": "sgd", "momentum": 0.9, "clip": 0.3, "learning_rate": 0.05}],
)
@pytest.mark.parametrize("seeds", [(0,), (0, 5)])
def test_heads_trained_together_are_those_trained_alone(optimiser, seeds):
    made = [{"seed": seed, **optimiser, **own} for own in DIFFERENT for seed in seeds]
    alone = [fit_heads([head(**how)])[0] for how in made]
    together = fit_heads([head(**how) for how in made])
    assert max(differences(together, alone)) < 1e-4
    found = [parameters["weight0"] for parameters in alone]
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in combinations(found, 2))


@pytest.mark.parametrize(
    ("own", "kind", "options"),
    [
        ({"optimiser": "adamw"}, torch.optim.AdamW, {"weight_decay": 0.3}),
        ({"optimiser": "adam"}, torch.optim.Adam, {"weight_decay": 0.3}),
        ({"optimiser": "sgd"}, torch.optim.SGD, {"weight_decay": 0.3}),
        ({"optimiser": "sgd", "momentum": 0.9}, torch.optim.SGD, {"weight_decay": 0.3, "momentum": 0.9}),
    ],
)
def test_a_step_is_that_of_torchs_own_optimiser(own, kind, options):
    learner = head(learning_rate=0.05, weight_decay=0.3, batch=1000, epochs=6, cosine=False, **own)
    start = {name: value.clone().requires_grad_() for name, value in learner.parameters.items()}
    groups = [
        {"params": [value for name, value in start.items() if name.startswith("bias")], "weight_decay": 0.0},
        {"params": [value for name, value in start.items() if not name.startswith("bias")]},
    ]
    optimiser = kind(groups, **{"lr": 0.05, "weight_decay": 0.3, **options})
    batch = Batch(
        targets=learner.targets, constants={"share": torch.zeros(())}, parameters=start, draw=Draw()
    )
    for _ in range(6):
        optimiser.zero_grad()
        learner.loss(learner.forward(start, learner.X, Draw()), batch).backward()
        optimiser.step()
    rising = Script(*range(12))
    rising.X = VAL.X
    found = fit_heads([replace(learner, val=rising)])[0]
    for name, value in start.items():
        assert torch.allclose(found[name], value, atol=1e-5), name


def test_a_torch_without_the_step_of_an_optimiser_is_told(monkeypatch):
    monkeypatch.delattr(torch, "_fused_adamw_")
    monkeypatch.delattr(lazy.torch, "_fused_adamw_", raising=False)  # as read before
    with pytest.raises(RphError, match="has no _fused_adamw_"):
        train(Script(1.0))


def test_heads_of_other_shapes_or_losses_are_trained_in_stacks_of_their_own():
    made = [{"width": 8}, {"width": 4}, {"batch": 64}, {"width": 4, "learning_rate": 1e-2}]
    alone = [fit_heads([head(**how)])[0] for how in made]
    together = fit_heads([head(**how) for how in made])
    assert max(differences(together, alone)) < 1e-4


def test_a_head_that_has_stopped_keeps_its_best_while_others_go_on():
    # the first head never gets better, the second always does
    class Two(Script):
        def accuracy(self, outputs):
            self.seen.append(outputs.clone())
            both = [0.5 - len(self.seen) / 100, 0.5 + len(self.seen) / 100]
            return torch.tensor(both if len(outputs) == 2 else both[1:])

        def loss(self, outputs, likelihood):
            return torch.ones(len(outputs))

    def made():
        val = Two()
        return val, [
            Head(
                parameters={"bias0": torch.zeros(1, 2)},
                forward=bias_only,
                loss=pull,
                X=X,
                targets=(),
                val=val,
                training=Training(**OFTEN, batch=10, epochs=9, cosine=False, patience=3, learning_rate=rate),
                seed=0,
            )
            for rate in (0.1, 0.2)
        ]

    val, heads = made()
    first, second = fit_heads(heads)
    assert [len(seen) for seen in val.seen] == [2] * 4 + [1] * 5
    assert first["bias0"][0].tolist() == pytest.approx([-0.1] * 2, rel=1e-3)
    assert second["bias0"][0].tolist() == pytest.approx([-0.2 * 9] * 2, rel=1e-3)


def test_a_stack_is_split_where_it_would_be_too_large(monkeypatch):
    made = [{"learning_rate": rate} for rate in (1e-3, 2e-3, 3e-3)]
    whole = fit_heads([head(**how) for how in made])
    monkeypatch.setattr("rph.training.stacks.STACKED", {"cpu": 1})
    split = fit_heads([head(**how) for how in made])
    assert max(differences(whole, split)) < 1e-4


def test_one_wide_product_is_the_batched_one():
    g = chance(0, "test")
    W = torch.randn(4, D, 7, generator=g)
    assert torch.allclose(product(ROWS, W), ROWS @ W, atol=1e-5)
    assert torch.equal(product(ROWS, W[0]), ROWS @ W[0])


def test_clipping_bounds_the_norm_of_a_heads_whole_gradient():
    # plain SGD moves by learning rate x gradient: the move is the clipped gradient
    start = {"weight0": torch.zeros(1, 2), "bias0": torch.zeros(1, 2)}

    def forward(parameters, rows, draw):
        return (parameters["weight0"] + parameters["bias0"]).expand(-1, len(rows), 2)

    sgd = {"optimiser": "sgd", "learning_rate": 1.0, "weight_decay": 0.0, "batch": 10, "epochs": 1}
    best = train(Script(1.0), forward, pull, start, clip=0.5, **sgd)
    whole = torch.cat([best["weight0"], best["bias0"]], dim=1)
    assert whole.norm().item() == pytest.approx(0.5, rel=1e-4)
    assert whole[0].tolist() == pytest.approx([-0.25] * 4, rel=1e-4)
