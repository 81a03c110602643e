"""Checks on hard cases: pools of any size, models without labels or without variance, holes, few queries, unknown costs."""

from __future__ import annotations

from dataclasses import replace

from rph.api import Labelled, RouterSpec
from rph.conformance.requirements import (
    require,
    require_close,
    require_equal,
    require_finite,
    require_probabilities,
    routes_of,
    scores_of,
)
from rph.conformance.suite import NotApplicable, owed, owed_once_trained
from rph.conformance.worlds import NAN, SEED, smooth_world, unrelated_world, with_column, with_missing
from rph.holes import Holes, weight_of
from rph.lazy import np


@owed
def pools_of_any_size(spec: RouterSpec) -> None:
    """Pools of 1, 2, 9 and 112 models work."""
    for K in (1, 2, 9, 112):
        world = smooth_world(120, 40, 20, K=K)
        require_finite(scores_of(spec, world), world, f"{K} models")


@owed_once_trained
def constant_columns(spec: RouterSpec) -> None:
    """Models that are always right or always wrong break nothing, and one always wrong is not chosen."""
    world = smooth_world()
    train, val = world.train, world.val
    world = replace(
        world,
        train=with_column(with_column(train, 1, 1.0), 3, 0.0),
        val=with_column(with_column(val, 1, 1.0), 3, 0.0),
    )
    scores = scores_of(spec, world)
    require_finite(scores, world, "constant columns")
    share = float((routes_of(scores, world) == 3).mean())
    require(share <= 0.01, f"{share:.0%} of the queries go to the model that is always wrong")


@owed_once_trained
def always_right_model(spec: RouterSpec) -> None:
    """A model that is always right gets at least 90% of the queries, where the others are far from sure."""
    world = smooth_world(slope=1.0)
    world = replace(world, train=with_column(world.train, 2, 1.0), val=with_column(world.val, 2, 1.0))
    share = float((routes_of(scores_of(spec, world), world) == 2).mean())
    require(share >= 0.9, f"only {share:.0%} of the queries go to the model that is always right")


@owed
def never_observed_model(spec: RouterSpec) -> None:
    """A model without a single label gets finite scores, and probabilities where the card says calibrated."""
    world = smooth_world()
    world = replace(world, train=with_column(world.train, 1, NAN), val=with_column(world.val, 1, NAN))
    scores = scores_of(spec, world)
    require_finite(scores, world, "a model never observed")
    if spec.variant_card(spec.grid[0]).calibrated:
        require_probabilities(scores)


@owed
def nan_payloads(spec: RouterSpec) -> None:
    """With 60% of the labels missing, the bits of their NaNs change nothing, bit for bit."""
    found = []
    for other_bits in (False, True):
        world = smooth_world(300, 100)
        train, val = with_missing(world.train, 0.6), with_missing(world.val, 0.6)
        if other_bits:
            for Y in (train.Y, val.Y):
                bits, missing = Y.view(np.uint32), np.isnan(Y)
                sign_and_payload = np.random.default_rng(SEED).integers(1, 1 << 22, missing.sum(), np.uint32)
                bits[missing] = 0x7FC00000 | sign_and_payload | ((sign_and_payload & 1) << 31)
        world = replace(world, train=train, val=val)
        found.append(scores_of(spec, world))
        require_finite(found[-1], world, "60% of the labels missing")
    require_equal(found[1], found[0], "missing labels with other NaN bits")


@owed_once_trained
def missing_is_not_wrong(spec: RouterSpec) -> None:
    """The best model gets at least 80% of the queries, though by plan 70% of its labels were not asked for."""
    world = unrelated_world((0.4, 0.85, 0.35, 0.3), 500, 200, 300)

    def rarely(known: Labelled) -> Labelled:
        Y = known.Y.copy()
        Y[np.random.default_rng(SEED).random(len(Y)) < 0.7, 1] = NAN
        # Else they might be failed calls, and checkpoints would keep away from them.
        weight = weight_of([""] * len(Y), known.models, Y, None, Holes(planned=True))
        return replace(known, Y=Y, weight=weight)

    world = replace(world, train=rarely(world.train), val=rarely(world.val))
    share = float((routes_of(scores_of(spec, world), world) == 1).mean())
    require(share >= 0.8, f"only {share:.0%} of the queries go to a model that is best but rarely observed")


@owed
def queries_without_labels(spec: RouterSpec) -> None:
    """Training queries without any label change nothing."""
    world = smooth_world()
    more, train = smooth_world(test=40, d=6).test, world.train
    rng = np.random.default_rng(SEED)
    order = np.argsort(np.concatenate([np.arange(len(train)), rng.uniform(0, len(train), len(more))]))
    texts = [*train.texts, *(f"unheard {i}" for i in range(len(more)))]
    blank = np.full((len(more), train.Y.shape[1]), NAN, np.float32)
    padded = Labelled(
        X=np.concatenate([train.X, 3 * more.X])[order],
        texts=[texts[i] for i in order],
        Y=np.concatenate([train.Y, blank])[order],
        C=None if train.C is None else np.concatenate([train.C, blank])[order],
        models=train.models,
    )
    wanted = scores_of(spec, world)
    require_close(scores_of(spec, replace(world, train=padded)), wanted, "with queries that have no label")


@owed
def few_training_queries(spec: RouterSpec) -> None:
    """Six training queries are enough to fit: fewer than any number of neighbours or clusters."""
    world = smooth_world(6, 6, 20, K=3)
    train = replace(world.train, Y=np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]] * 2, np.float32))
    world = replace(world, train=train)
    require_finite(scores_of(spec, world), world, "six training queries")


@owed
def unknown_costs(spec: RouterSpec) -> None:
    """A router that does not need costs works without them, and where some are unknown."""
    if "costs" in spec.card.needs:
        raise NotApplicable("the card says that the router needs costs")
    for share, what in ((1.0, "no costs"), (0.5, "half of the costs unknown")):
        world = smooth_world()

        def priced(known: Labelled, share: float = share) -> Labelled:
            if share == 1.0 or known.C is None:
                return replace(known, C=None)
            C = known.C.copy()
            C[np.random.default_rng(SEED).random(C.shape) < share] = NAN
            return replace(known, C=C)

        world = replace(world, train=priced(world.train), val=priced(world.val))
        require_finite(scores_of(spec, world), world, what)
