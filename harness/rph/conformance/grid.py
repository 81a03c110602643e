"""Checks of wiring: what the grid varies, what the seed decides and what is held out must reach what is learned.

The whole grid is fitted once per seed, on one world: the checks here share these fits.
"""

from __future__ import annotations

import functools
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from rph.api import RouterSpec, Trial, variant_name
from rph.conformance.requirements import fit_router, require, require_equal
from rph.conformance.suite import NotApplicable, owed
from rph.conformance.worlds import NAN, SEED, smooth_world
from rph.lazy import np

if TYPE_CHECKING:
    from rph.api import Float32

HIDDEN = 0.3  # of the train labels, where some are to become observed


@functools.lru_cache(maxsize=2)  # the two seeds of one router
def _whole_grid(spec: RouterSpec, seed: int) -> dict[Any, Float32]:
    """Variant -> its scores on the test queries, of those that are for the world's pool.

    The world is so large that caps on clusters, and on leaves, do not make all sizes one.
    """
    world = smooth_world(900, 80, 60, K=8)
    variants = spec.variants(len(world.train.models))
    if spec.fit_many is None:
        return {v: fit_router(spec, world, seed=seed, variant=v).scores(world.test) for v in variants}
    trials = [Trial(variant=variant, seed=seed) for variant in variants]
    group = spec.fit_many(world.train, world.val, trials, "cpu")
    return dict(zip(variants, group.scores(world.test), strict=True))


@owed
def every_field_matters(spec: RouterSpec) -> None:
    """Each field that the grid varies changes scores, in variants that differ in it alone where there are such."""
    scores = _whole_grid(spec, SEED)
    variants = list(scores)
    dead = []
    for name in (field.name for field in fields(variants[0])):
        pairs = [
            (a, b)
            for i, a in enumerate(variants)
            for b in variants[i + 1 :]
            if getattr(a, name) != getattr(b, name)
        ]
        alone = [(a, b) for a, b in pairs if replace(a, **{name: getattr(b, name)}) == b]
        if pairs and all(np.array_equal(scores[a], scores[b]) for a, b in alone or pairs):
            dead.append(name)
    require(not dead, f"variants that differ in {' or '.join(dead)} score alike")


@owed
def every_seed_matters(spec: RouterSpec) -> None:
    """The first variant that knows chance scores otherwise with another seed, and none that is said to be deterministic."""
    first, second = (_whole_grid(spec, seed) for seed in (SEED, SEED + 1))
    by_chance = [variant for variant in first if not spec.variant_card(variant).deterministic]
    for variant in first.keys() - set(by_chance):
        what = f"{variant_name(variant)}, which is said to be deterministic, with two seeds"
        require_equal(second[variant], first[variant], what)
    # Not all: a codebook as large as the world, say, is the same whoever draws it.
    for variant in by_chance[:1]:
        same = np.array_equal(second[variant], first[variant])
        require(not same, f"{variant_name(variant)}, which is not said to be deterministic, ignores the seed")


@owed
def a_label_that_becomes_observed_matters(spec: RouterSpec) -> None:
    """Labels that were missing and become observed change scores, right labels and wrong ones."""
    world = smooth_world()
    hidden = np.random.default_rng(SEED).random(world.train.Y.shape) < HIDDEN
    hidden[:, 0] = False  # no query loses all its labels: what is left out is left out for another reason

    def scores(label: float) -> Float32:
        Y = np.where(hidden, np.float32(label), world.train.Y)
        return fit_router(spec, replace(world, train=replace(world.train, Y=Y))).scores(world.test)

    missing = scores(NAN)
    for what, label in (("right", 1.0), ("wrong", 0.0)):
        same = np.array_equal(scores(label), missing)
        require(
            not same, f"scores stay the same where {HIDDEN:.0%} of the labels are {what} instead of missing"
        )


@owed
def no_row_that_trained_calibrates(spec: RouterSpec) -> None:
    """Labels of the rows that a router says it calibrates on change none of its trained parameters."""
    rows_of = getattr(spec.router, "calibration_rows", None)
    if rows_of is None:
        raise NotApplicable("the router has no calibration_rows: nothing says that it calibrates")
    world = smooth_world()
    for seed in (0, SEED):
        rows = rows_of(len(world.train), seed)
        Y = world.train.Y.copy()
        Y[rows] = 1 - Y[rows]
        other = replace(world, train=replace(world.train, Y=Y))
        plain, turned = (fit_router(spec, one, seed=seed).state() for one in (world, other))
        trained = [name for name in plain if name.startswith("parameter/")]
        require(trained, "its state has no array `parameter/...`: which of them are trained cannot be told")
        for name in trained:
            same = np.array_equal(plain[name], turned[name])
            require(same, f"{name} learns from rows that seed {seed} is said to calibrate on")
