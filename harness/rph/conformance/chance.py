"""Checks of chance and order: what a seed decides, and what it and the order of queries and models must not."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace

from rph.api import RouterSpec
from rph.conformance.requirements import (
    expected_accuracy,
    fit_router,
    models_of,
    require,
    require_close,
    require_equal,
    rows_of,
    scores_of,
)
from rph.conformance.suite import owed, owed_once_trained
from rph.conformance.worlds import SEED, cluster_world, smooth_world
from rph.lazy import np, torch


@contextlib.contextmanager
def _global_chance_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@owed
def deterministic_under_a_seed(spec: RouterSpec) -> None:
    """Two fits with one seed give the same scores, bit for bit, whatever state global chance is in."""
    found = []
    for state in (1, 2):
        with _global_chance_kept():
            random.seed(state)
            np.random.seed(state)
            torch.manual_seed(state)
            found.append(scores_of(spec, smooth_world()))
    require_equal(found[1], found[0], "two fits with one seed")


@owed
def global_chance_untouched(spec: RouterSpec) -> None:
    """Fitting and scoring leave the global random states of Python, numpy and torch as they were."""
    world = smooth_world()
    with _global_chance_kept():
        before = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()
        scores_of(spec, world)
        require(random.getstate() == before[0], "the state of `random` changed")
        require(repr(np.random.get_state()) == before[1], "the state of `numpy.random` changed")
        require(
            torch.equal(torch.get_rng_state(), before[2]), "the state of torch's global generator changed"
        )


@owed
def two_predicts_equal(spec: RouterSpec) -> None:
    """Scoring the same queries twice gives the same scores, bit for bit."""
    world = smooth_world()
    router = fit_router(spec, world)
    require_equal(router.scores(world.test), router.scores(world.test), "scoring twice")


@owed
def batch_equals_one_by_one(spec: RouterSpec) -> None:
    """A query's scores do not depend on the other queries of its batch."""
    world = smooth_world()
    router = fit_router(spec, world)
    whole = router.scores(world.test)
    for size, count in ((1, 20), (7, 35)):
        parts = [router.scores(rows_of(world.test, range(i, i + size))) for i in range(0, count, size)]
        require_close(np.concatenate(parts), whole[:count], f"batches of {size} against all at once")


@owed
def permuted_queries_permute_rows(spec: RouterSpec) -> None:
    """Queries in another order get the same scores in that order."""
    world = smooth_world()
    router = fit_router(spec, world)
    order = np.random.default_rng(SEED).permutation(len(world.test))
    shuffled = router.scores(rows_of(world.test, order.tolist()))
    require_close(shuffled, router.scores(world.test)[order], "queries in another order")


@owed_once_trained
def permuted_models_permute_columns(spec: RouterSpec) -> None:
    """Models in another order get the same scores in that order; routes as good, where the seed decides too."""
    world = cluster_world(400, 100, 300)
    order = [2, 0, 3, 1]
    other = replace(
        world,
        train=models_of(world.train, order),
        val=models_of(world.val, order),
        P=np.ascontiguousarray(world.P[:, order]),
    )
    plain, permuted = scores_of(spec, world), scores_of(spec, other)
    if spec.variant_card(spec.grid[0]).deterministic:
        require_close(permuted, plain[:, order], "models in another order")
        return
    before, after = expected_accuracy(plain, world), expected_accuracy(permuted, other)
    require(
        abs(before - after) <= 0.05,
        f"with the models in another order the expected routing accuracy goes from {before:.3f} to {after:.3f}",
    )
