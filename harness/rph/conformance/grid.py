"""Checks of wiring: what the grid varies, what the seed decides and what is held out must reach what is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from rph.api import RouterSpec, Trial, variant_name
from rph.conformance.requirements import fit_router, require, require_equal
from rph.conformance.suite import NotApplicable, owed
from rph.conformance.worlds import NAN, SEED, World, smooth_world
from rph.lazy import np

if TYPE_CHECKING:
    from rph.api import Float32

HIDDEN = 0.3  # of the train labels, where some are to become observed


def _world() -> World:
    """So large that caps on clusters, and on leaves, do not make all sizes one."""
    return smooth_world(700, 80, 60, K=7)


def _scores(spec: RouterSpec, variants: Sequence[Any], seed: int) -> dict[Any, Float32]:
    """Variant -> its scores on the test queries, all fitted together."""
    world = _world()
    if spec.fit_many is None:
        return {v: fit_router(spec, world, seed=seed, variant=v).scores(world.test) for v in variants}
    trials = [Trial(variant=variant, seed=seed) for variant in variants]
    group = spec.fit_many(world.train, world.val, trials, "cpu")
    return dict(zip(variants, group.scores(world.test), strict=True))


@owed
def every_field_matters(spec: RouterSpec) -> None:
    """Each field that the grid varies changes scores, in variants that differ in it alone where there are such."""
    variants = spec.variants(len(_world().train.models))
    scores = _scores(spec, variants, SEED)
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
    variants = spec.variants(len(_world().train.models))
    deterministic = [variant for variant in variants if spec.variant_card(variant).deterministic]
    # Not all that know chance: a codebook as large as the world, say, is the same whoever draws it.
    by_chance = [variant for variant in variants if variant not in deterministic][:1]
    first, second = (_scores(spec, [*deterministic, *by_chance], seed) for seed in (SEED, SEED + 1))
    for variant in deterministic:
        what = f"{variant_name(variant)}, which is said to be deterministic, with two seeds"
        require_equal(second[variant], first[variant], what)
    for variant in by_chance:
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
