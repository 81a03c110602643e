"""Runs trials of one router: in a group where the router can share work, else one by one, each failure on its own.

A trial fails when the router raises or when its scores break the contract (shape, finite). A group that fails
is run again in two halves, so that a bad variant does not lose the others, and one that was too much for the
memory fits.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rph.api import Labelled, Queries, RouterSpec, Trial, variant_name
from rph.lazy import np, torch
from rph.registry import FAILURES
from rph.store import Failed, Scored

if TYPE_CHECKING:
    from rph.api import Float32

SLACK = 1e-4  # rounding that a probability may carry outside [0, 1]
Outcomes = list[tuple[Trial, Scored | Failed]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the trials of one (benchmark, encoder) see. Test labels and costs are in none of it."""

    train: Labelled
    val: Labelled
    val_queries: Queries  # val as a router sees queries to route: without labels
    test_queries: Queries
    device: str


def run(spec: RouterSpec, trials: Sequence[Trial], inputs: Inputs) -> Iterator[Outcomes]:
    """Train and score the trials. Yields batches that were run together: record each whole or not at all."""
    for _, same_seed in groupby(trials, key=lambda trial: trial.seed):
        yield from _grouped(spec, list(same_seed), inputs)


def _grouped(spec: RouterSpec, trials: list[Trial], inputs: Inputs) -> Iterator[Outcomes]:
    if spec.fit_many is None or len(trials) == 1:
        yield from ([(trial, _alone(spec, trial, inputs))] for trial in trials)
        return
    outcomes = _together(spec, trials, inputs)
    if outcomes is not None:
        yield outcomes
        return
    if inputs.device == "cuda":
        torch.cuda.empty_cache()  # what the failed group had is in pieces too small for the next
    middle = len(trials) // 2
    yield from _grouped(spec, trials[:middle], inputs)
    yield from _grouped(spec, trials[middle:], inputs)


def _together(spec: RouterSpec, trials: list[Trial], inputs: Inputs) -> Outcomes | None:
    """All trials through `fit_many`, or None where the group failed."""
    assert spec.fit_many is not None
    start = time.perf_counter()
    try:
        group = spec.fit_many(inputs.train, inputs.val, trials, inputs.device)
        val, test = list(group.scores(inputs.val_queries)), list(group.scores(inputs.test_queries))
        if len(val) != len(trials) or len(test) != len(trials):
            return None
        scored = [_scored(spec, v, t, inputs) for v, t in zip(val, test, strict=True)]
    except FAILURES:
        return None  # the reason shows where a trial is run alone
    seconds = (time.perf_counter() - start) / len(trials)
    return [
        (trial, Scored(val=v, test=t, seconds=seconds)) for trial, (v, t) in zip(trials, scored, strict=True)
    ]


def _alone(spec: RouterSpec, trial: Trial, inputs: Inputs) -> Scored | Failed:
    start = time.perf_counter()
    try:
        router = spec.router()
        router.fit(inputs.train, inputs.val, variant=trial.variant, seed=trial.seed, device=inputs.device)
        val, test = _scored(
            spec, router.scores(inputs.val_queries), router.scores(inputs.test_queries), inputs
        )
    except FAILURES as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        reason = f"{spec.name} {variant_name(trial.variant)} seed {trial.seed}: {why}"
        return Failed(reason=reason, traceback=traceback.format_exc(), seconds=time.perf_counter() - start)
    return Scored(val=val, test=test, seconds=time.perf_counter() - start)


def _scored(spec: RouterSpec, val: Float32, test: Float32, inputs: Inputs) -> tuple[Float32, Float32]:
    k, calibrated = len(inputs.train.models), spec.card.calibrated
    return (
        _checked(val, inputs.val_queries, k, calibrated),
        _checked(test, inputs.test_queries, k, calibrated),
    )


def _checked(scores: Float32, queries: Queries, k: int, calibrated: bool) -> Float32:
    """The scores as float32 [N, k]; ValueError where they break the router's contract."""
    array = np.asarray(scores)
    if array.shape != (len(queries), k):
        raise ValueError(f"scores have shape {array.shape}, not ({len(queries)}, {k})")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"scores are {array.dtype}, not floating point")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(f"{bad} of {array.size} scores are NaN or infinite")
    if calibrated and (array.min(initial=0) < -SLACK or array.max(initial=1) > 1 + SLACK):
        raise ValueError(
            f"scores lie in [{array.min():g}, {array.max():g}], but the card says calibrated: P(correct)"
        )
    return np.ascontiguousarray(array, dtype=np.float32)
