"""Checks of the contract: the grid, the form of scores, state, shared training, and honesty about labels and the network."""

from __future__ import annotations

import io
import socket
from typing import Any

from rph.api import Labelled, Queries, RouterSpec, Trial, variant_name
from rph.conformance.requirements import (
    arrays_of,
    contents_of,
    expected_accuracy,
    fit_router,
    require,
    require_close,
    require_finite,
    routes_of,
    scores_of,
)
from rph.conformance.suite import NotApplicable, Violation, owed
from rph.conformance.worlds import NAN, SEED, smooth_world
from rph.lazy import np
from rph.registry import wrong_with_grid


@owed
def well_formed_grid(spec: RouterSpec) -> None:
    """The grid has 1 to 15 distinct frozen variants with names of their own, the default first."""
    problem = wrong_with_grid(spec.grid)
    require(not problem, problem)
    default = type(spec.grid[0])()
    require(spec.grid[0] == default, f"the default, {variant_name(default)}, is not the first variant")


@owed
def finite_float_scores(spec: RouterSpec) -> None:
    """Scores are a finite array of floats, one row per query and one column per model."""
    world = smooth_world()
    scores = scores_of(spec, world)
    require_finite(scores, world, "the default variant")
    require(scores.dtype.kind == "f", f"scores are of type {scores.dtype}, not a float")
    require(np.abs(scores).max() <= np.finfo(np.float32).max, "scores are too large for float32")


@owed
def scores_before_fit_raise(spec: RouterSpec) -> None:
    """A router that was not fitted raises rather than scores."""
    try:
        spec.router().scores(smooth_world().test)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - as above
        return
    raise Violation("it scores without having been fitted")


@owed
def state_round_trip(spec: RouterSpec) -> None:
    """A router back from its state, saved as plain arrays without pickle, gives the same routes and scores."""
    world = smooth_world()
    router = fit_router(spec, world)
    state = router.state()
    for name, value in state.items():
        plain = isinstance(value, np.ndarray) and value.dtype.kind != "O"
        require(plain, f"state {name!r} is a {type(value).__name__}, not an array of plain values")
    file = io.BytesIO()
    np.savez(file, **state)  # type: ignore[arg-type]  # a key may not be one of savez's own arguments
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        loaded = {name: stored[name] for name in stored.files}
    again = spec.router.from_state(loaded, variant=spec.grid[0], device="cpu")
    before, after = router.scores(world.test), again.scores(world.test)
    require_close(after, before, "the router from its state")
    changed = int((routes_of(after, world) != routes_of(before, world)).sum())
    require(changed == 0, f"the router from its state routes {changed} of {len(before)} queries differently")


@owed
def inputs_unchanged(spec: RouterSpec) -> None:
    """Fitting and scoring change no input, and accept arrays that are read-only."""
    world = smooth_world()
    given = [world.train, world.val, world.test]
    before = [contents_of(queries) for queries in given]
    scores_of(spec, world)
    for name, queries, was in zip(("train", "val", "test"), given, before, strict=True):
        require(contents_of(queries) == was, f"the {name} queries were changed")
    frozen = smooth_world()
    for queries in (frozen.train, frozen.val, frozen.test):
        for array in arrays_of(queries):
            array.setflags(write=False)
    scores_of(spec, frozen)


@owed
def fit_many_equals_one_by_one(spec: RouterSpec) -> None:
    """Trials fitted together route as when fitted one by one: the first, middle and last variant, two seeds."""
    if spec.fit_many is None:
        raise NotApplicable("the router has no fit_many")
    world = smooth_world(test=400)
    places = sorted({0, len(spec.grid) // 2, len(spec.grid) - 1})
    trials = [Trial(variant=spec.grid[place], seed=SEED) for place in places]
    trials.append(Trial(variant=spec.grid[0], seed=SEED + 1))
    together = spec.fit_many(world.train, world.val, trials, "cpu").scores(world.test)
    require(len(together) == len(trials), f"{len(together)} arrays of scores for {len(trials)} trials")
    for trial, found in zip(trials, together, strict=True):
        alone = fit_router(spec, world, seed=trial.seed, variant=trial.variant).scores(world.test)
        what = f"{variant_name(trial.variant)}, seed {trial.seed}"
        share = float((routes_of(found, world) != routes_of(alone, world)).mean())
        require(share <= 0.005, f"{what}: {share:.1%} of the queries go elsewhere than when fitted alone")
        moved = abs(expected_accuracy(found, world) - expected_accuracy(alone, world))
        require(moved <= 0.005, f"{what}: the expected accuracy is {moved:.4f} off that of fitting alone")


@owed
def no_test_labels(spec: RouterSpec) -> None:
    """Scoring asks the queries for no labels or costs, and labels put there all the same change nothing."""
    world = smooth_world()
    router, asked = fit_router(spec, world), list[str]()

    def sealed(name: str) -> property:
        def get(queries: Queries) -> Any:
            asked.append(name)
            raise Violation(f"scoring asks the queries for {name}")

        return property(get)

    hidden = {name: sealed(name) for name in ("Y", "C", "labels", "costs", "p_correct")}
    Sealed = type("Sealed", (Queries,), hidden)
    plain, poisoned = router.scores(world.test), []
    given = router.scores(Sealed(X=world.test.X.copy(), texts=list(world.test.texts)))
    require(not asked, f"scoring asks the queries for {' and '.join(sorted(set(asked)))}")
    require_close(given, plain, "queries whose labels are sealed")
    for label in (0.0, 1.0, NAN):
        Y = np.full(plain.shape, label, np.float32)
        queries = Labelled(X=world.test.X, texts=world.test.texts, Y=Y, C=Y, models=world.train.models)
        poisoned.append(router.scores(queries))
    for found in poisoned:
        require_close(found, plain, "queries with made-up labels")


@owed
def no_network(spec: RouterSpec) -> None:
    """Fitting and scoring open no network connection."""
    world, opened = smooth_world(), list[str]()
    real = socket.socket

    class Guarded(real):  # type: ignore[valid-type,misc]
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family in (-1, socket.AF_INET, socket.AF_INET6):  # sockets within the machine are no network
                opened.append("a socket")
                raise Violation("it opens a network connection")
            super().__init__(family, *args, **kwargs)

    def guarded(*args: Any, **kwargs: Any) -> Any:
        opened.append("an address")
        raise Violation("it looks up a network address")

    names = {"socket": Guarded, "getaddrinfo": guarded, "create_connection": guarded}
    before = {name: getattr(socket, name) for name in names}
    try:
        for name, value in names.items():
            setattr(socket, name, value)
        scores_of(spec, world)
    finally:
        for name, value in before.items():
            setattr(socket, name, value)
    require(not opened, f"it asks for {' and '.join(sorted(set(opened)))} of the network")
