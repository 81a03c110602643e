"""What every router owes, for the tests of each: the checks that they share, and the heads that they look at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.worlds import reordered, world

from rph import Queries
from rph.training.heads import Batch, Draw, chance


def check_state(router, variant, queries):
    """A router made from the state has the same scores, to the bit; the state, all of arrays, is returned."""
    state = router.state()
    assert all(isinstance(value, np.ndarray) and value.dtype != object for value in state.values())
    again = type(router).from_state(state, variant=variant, device="cpu")
    assert np.array_equal(again.scores(queries), router.scores(queries))
    return state


def check_batch_and_order(router, queries, alone=30, **near):
    """The first queries one by one, and all in another order, have the scores that they have in one batch.

    To the bit, or as near as `pytest.approx` is asked for.
    """
    near = near or {"abs": 0}
    whole, order = router.scores(queries), np.random.default_rng(0).permutation(len(queries))
    one_by_one = [router.scores(rows_of(queries, [i])) for i in range(min(alone, len(queries)))]
    assert np.concatenate(one_by_one) == pytest.approx(whole[:alone], **near)
    assert router.scores(rows_of(queries, order)) == pytest.approx(whole[order], **near)


def rows_of(queries, rows):
    return Queries(X=queries.X[rows], texts=[queries.texts[i] for i in rows])


def fitted_both_ways(spec, train, val, trials, queries, every=1):
    """Of each trial, or every so many: (trial, scores where all are fitted together, where it is fitted alone)."""
    together = spec.fit_many(train, val, trials, "cpu").scores(queries)
    assert len(together) == len(trials)
    for trial, found in list(zip(trials, together, strict=True))[::every]:
        router = spec.router()
        router.fit(train, val, variant=trial.variant, seed=trial.seed, device="cpu")
        yield trial, found, router.scores(queries)


def check_beats_best_single(scores, train, test):
    """The routes of scores [N, K] are right more often than the best model of train, by 5 points and more."""
    assert routed(scores, test).mean() > test.Y[:, train.Y.mean(axis=0).argmax()].mean() + 0.05


def check_near_best_single(scores, test):
    """Where queries tell nothing, the routes of scores [N, K] are right about as often as the best model, the last."""
    standard_error = np.sqrt(0.7 * 0.3 / len(test))
    assert routed(scores, test).mean() > test.Y[:, -1].mean() - 2 * standard_error


def check_permuted_routes(scores, train, val, test):
    """Models in another order have other starts, but most routes are the same, and they are as good.

    `scores` of the test queries is called with train and val, by default these.
    """
    order = np.array([2, 0, 3, 1])
    plain = scores()
    permuted = scores(train=reordered(train, order), val=reordered(val, order))[:, order.argsort()]
    found = routed(plain, test).mean()
    assert routed(permuted, test).mean() == pytest.approx(found, abs=0.05)
    assert routed(permuted, test).mean() > test.Y.mean(axis=0).max() + 0.05
    assert (plain.argmax(axis=1) == permuted.argmax(axis=1)).mean() > 0.6


def routed(scores, of):
    """The labels [N] of the models that scores [N, K] choose."""
    return of.Y[np.arange(len(of)), scores.argmax(axis=1)]


def check_fields_matter(scores, variant, **others):
    """`scores` of the test queries by a variant: another value of each of these fields changes them."""
    plain = scores(variant)
    for name, value in others.items():
        assert not np.array_equal(scores(replace(variant, **{name: value})), plain), name


# --- routers that are heads ---------------------------------------------------------------------------


def check_seed_draws_the_start(monkeypatch, module, fit, parameter="weight0"):
    """Before training, `parameter` of two seeds differ: not only the order of the data does."""
    heads = heads_of(monkeypatch, module)
    starts = []
    for seed in (0, 1):
        fit(seed=seed)
        starts.append(heads[-1].parameters[parameter])
    assert not torch.equal(*starts)


def heads_of(monkeypatch, module):
    """A list to which every head is added that the router of this module makes from now on."""
    heads, real = [], module.Head
    monkeypatch.setattr(module, "Head", lambda **how: heads.append(real(**how)) or heads[-1])
    return heads


def changed(router, **parameters):
    """The router with other values of some parameters."""
    state = router.state() | {f"parameter/{name}": value for name, value in parameters.items()}
    return type(router).from_state(state, variant=router.variant, device="cpu")


def check_loss_is_cross_entropy(head, labels):
    """The head's loss is that of labels [N, K], 0 or 1, over those that are not NaN: it reads no other outputs."""
    outputs, seen = torch.randn(labels.shape, generator=chance(0, "test")), ~np.isnan(labels)

    def loss(z):
        return head.loss(z, Batch(targets=head.targets, constants={}, parameters={}, draw=Draw())).item()

    p = torch.sigmoid(outputs).numpy().astype("f8")
    by_hand = -np.where(labels == 1, np.log(p), np.log(1 - p))[seen].mean()
    assert loss(outputs) == pytest.approx(by_hand, abs=1e-5)
    assert loss(outputs + 5 * torch.tensor(~seen)) == pytest.approx(by_hand, abs=1e-5)


def check_minibatch_is_512_cells(fit, heads):
    """`fit` is called with train and val of pools of several sizes, `heads` are as from `heads_of`."""
    for K, rows in ((1, 512), (3, 170), (32, 16), (112, 16)):
        fit(train=world(20, K=K), val=world(20, K=K, seed=1))
        assert heads[-1].training.batch == rows
