"""Runs trials of one router: in a group where the router can share work, else one by one, each failure on its own.

A trial fails when the router raises or when its scores break the contract (shape, finite). A group that fails
is run again in two halves, so that a bad variant does not lose the others, and one that was too much for the
memory fits. A trial that is left alone so and then succeeds says why it was: `fit_many` may be what is broken.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rph.api import Queries, RouterSpec, Trial, variant_name
from rph.engine.inputs import Inputs
from rph.lazy import np, torch
from rph.results.outcomes import Failed, Scored

if TYPE_CHECKING:
    from rph.api import Float32

SLACK = 1e-4  # rounding that a probability may carry outside [0, 1]
Outcomes = list[tuple[Trial, Scored | Failed]]


def run(spec: RouterSpec, trials: Sequence[Trial], inputs: Inputs) -> Iterator[Outcomes]:
    """Train and score the trials. Yields batches that were run together: record each whole or not at all."""
    for _, same_seed in groupby(trials, key=lambda trial: trial.seed):
        yield from _grouped(spec, list(same_seed), inputs)


def _grouped(spec: RouterSpec, trials: list[Trial], inputs: Inputs, note: str = "") -> Iterator[Outcomes]:
    if spec.fit_many is None or len(trials) == 1:
        yield from ([(trial, _alone(spec, trial, inputs, note))] for trial in trials)
        return
    outcomes = _together(spec, trials, inputs)
    if not isinstance(outcomes, str):
        yield outcomes
        return
    if inputs.device == "cuda":
        torch.cuda.empty_cache()  # what the failed group had is in pieces too small for the next
    middle = len(trials) // 2
    note = f"fit_many failed for {len(trials)} trials, which were trained one by one: {outcomes}"
    yield from _grouped(spec, trials[:middle], inputs, note)
    yield from _grouped(spec, trials[middle:], inputs, note)


def _together(spec: RouterSpec, trials: list[Trial], inputs: Inputs) -> Outcomes | str:
    """All trials through `fit_many`, or why the group failed."""
    assert spec.fit_many is not None
    start = time.perf_counter()
    try:
        group = spec.fit_many(inputs.train, inputs.val, trials, inputs.device)
        val, test = list(group.scores(inputs.val_queries)), list(group.scores(inputs.test_queries))
        costs = list(group.costs(inputs.test_queries)) if hasattr(group, "costs") else [None] * len(trials)
        if not len(val) == len(test) == len(costs) == len(trials):
            have = f"the scores of {len(val)} and {len(test)} trials and the costs of {len(costs)}"
            raise ValueError(f"it has {have}, not of {len(trials)}")
        checked = [
            _checked(spec, trial, for_val, for_test, own, inputs)
            for trial, for_val, for_test, own in zip(trials, val, test, costs, strict=True)
        ]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is its failure, also `sys.exit`
        return _in_one_line(error)
    seconds = (time.perf_counter() - start) / len(trials)
    return [
        (trial, Scored(val=for_val, test=for_test, costs=own, seconds=seconds))
        for trial, (for_val, for_test, own) in zip(trials, checked, strict=True)
    ]


def _alone(spec: RouterSpec, trial: Trial, inputs: Inputs, note: str) -> Scored | Failed:
    start = time.perf_counter()
    try:
        router = spec.router()
        router.fit(inputs.train, inputs.val, variant=trial.variant, seed=trial.seed, device=inputs.device)
        own = router.costs(inputs.test_queries) if hasattr(router, "costs") else None
        val, test = router.scores(inputs.val_queries), router.scores(inputs.test_queries)
        val, test, own = _checked(spec, trial, val, test, own, inputs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - as above
        reason = f"{spec.name} {variant_name(trial.variant)} seed {trial.seed}: {_in_one_line(error)}"
        return Failed(reason=reason, traceback=traceback.format_exc(), seconds=time.perf_counter() - start)
    return Scored(val=val, test=test, costs=own, seconds=time.perf_counter() - start, note=note)


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _checked(
    spec: RouterSpec, trial: Trial, val: Float32, test: Float32, costs: Float32 | None, inputs: Inputs
) -> tuple[Float32, Float32, Float32 | None]:
    """What a trial gives, as float32; ValueError where it breaks the router's contract."""
    k, calibrated = len(inputs.train.models), spec.variant_card(trial.variant).calibrated
    for_val, for_test = (
        _scores(scores, queries, k, calibrated)
        for scores, queries in ((val, inputs.val_queries), (test, inputs.test_queries))
    )
    return for_val, for_test, None if costs is None else _costs(costs, inputs.test_queries, k)


def _scores(scores: Float32, queries: Queries, k: int, calibrated: bool | None) -> Float32:
    array = _array(scores, "scores", queries, k)
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(f"{bad} of {array.size} scores are NaN or infinite as float32")
    if calibrated and (array.min(initial=0) < -SLACK or array.max(initial=1) > 1 + SLACK):
        raise ValueError(
            f"scores lie in [{array.min():g}, {array.max():g}], but the card says calibrated: P(correct)"
        )
    return array


def _costs(costs: Float32, queries: Queries, k: int) -> Float32:
    array = _array(costs, "costs", queries, k)
    bad = int((np.isinf(array) | (array < 0)).sum())
    if bad:
        raise ValueError(f"{bad} of {array.size} costs are negative or infinite: US dollars, or NaN")
    return array


def _array(values: Float32, what: str, queries: Queries, k: int) -> Float32:
    """The values as float32 [N, k]."""
    array = np.asarray(values)
    if array.shape != (len(queries), k):
        raise ValueError(f"{what} have shape {array.shape}, not ({len(queries)}, {k})")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{what} are {array.dtype}, not floating point")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told
        return np.ascontiguousarray(array, dtype=np.float32)
