"""The two-stage validation protocol of the paper (arXiv:2606.07587, App. E.4).

Stage 1 trains every variant with the first seed and ranks them by val routing accuracy at lambda = 0. Stage 2
trains the best five with the other seeds too, and picks the variant with the best mean val accuracy over all
seeds; variants that route every val query alike share one of the five places, the best of them. A variant that knows no
chance is trained once. Test is not read here: selection sees val accuracies and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rph.api import MAX_VARIANTS, Trial

T = TypeVar("T")
VERSION = 1  # raised when a change here or in the trials changes results


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much of the protocol is run. The leaderboard ranks `paper` results only."""

    name: str
    variants: int  # of the grid, the default first
    finalists: int  # variants that stage 2 trains with every seed
    seeds: tuple[int, ...]  # the first is stage 1's


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(name="paper", variants=MAX_VARIANTS, finalists=5, seeds=(42, 1337, 2026, 7, 99)),
        Preset(name="quick", variants=3, finalists=3, seeds=(42, 1337)),
        Preset(name="smoke", variants=1, finalists=1, seeds=(42,)),
    )
}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The variant that the protocol chose, by val alone."""

    variant: Any
    trials: tuple[Trial, ...]  # one per seed; one in all where the variant is deterministic
    val_accuracy: float  # mean over the trials


# Asks for trials and is sent the val accuracy of each, None where it failed; what it returns is T.
Steps = Generator[list[Trial], Sequence[float | None], T]


def _always(_: Any) -> bool:
    return True


def _itself(variant: Any) -> Hashable:
    whole: Hashable = variant
    return whole


def select(
    grid: Sequence[Any],
    *,
    preset: Preset,
    deterministic: Callable[[Any], bool],
    competes: Callable[[Any], bool] = _always,
    routes: Callable[[Any], Hashable] = _itself,
) -> Steps[Selection | None]:
    """Run both stages and choose. None where no variant finished with every seed.

    Ties go to the earlier variant of the grid. A `deterministic` variant gives the same result for every seed, so it is
    trained with the first alone. One that does not compete (it does not read the embedding, on a board of an encoder) is
    trained in stage 1 and not chosen, unless no other was tried. `routes` gives what variants with equal val routes have
    in common, once stage 1 has trained them: of these only the first in rank goes on, so that copies keep no other from
    being tried.
    """
    variants = grid[: preset.variants]
    if not any(map(competes, variants)):
        competes = _always

    def seeds(variant: Any) -> tuple[int, ...]:
        return preset.seeds[:1] if deterministic(variant) else preset.seeds

    stage_1 = yield from _mean_accuracies({variant: preset.seeds[:1] for variant in variants})
    ranked = [variant for variant, _ in _best_first(stage_1) if competes(variant)]
    different = {routes(variant): variant for variant in reversed(ranked)}  # the first of equals
    finalists = [variant for variant in ranked if different[routes(variant)] is variant][: preset.finalists]
    stage_2 = _best_first((yield from _mean_accuracies({variant: seeds(variant) for variant in finalists})))
    if not stage_2:
        return None
    variant, accuracy = stage_2[0]
    trials = tuple(Trial(variant=variant, seed=seed) for seed in seeds(variant))
    return Selection(variant=variant, trials=trials, val_accuracy=accuracy)


def most_trials(grid: Sequence[Any], *, preset: Preset, deterministic: Callable[[Any], bool]) -> int:
    """How many trials `select` asks for at most, each counted once."""
    variants = grid[: preset.variants]
    finalists = min(sum(not deterministic(variant) for variant in variants), preset.finalists)
    return len(variants) + finalists * (len(preset.seeds) - 1)


def _mean_accuracies(wanted: Mapping[Any, Sequence[int]]) -> Steps[list[tuple[Any, float]]]:
    """Each variant with its mean val accuracy over its seeds; one with a failed trial is left out."""
    # Seed by seed, so that variants of one seed stand together and can share work.
    every = dict.fromkeys(seed for seeds in wanted.values() for seed in seeds)
    trials = [Trial(variant=v, seed=seed) for seed in every for v, seeds in wanted.items() if seed in seeds]
    by_trial = dict(zip(trials, (yield trials), strict=True))
    means = []
    for variant, seeds in wanted.items():
        values = [by_trial[Trial(variant=variant, seed=seed)] for seed in seeds]
        known = [value for value in values if value is not None]
        if len(known) == len(seeds):
            means.append((variant, sum(known) / len(known)))
    return means


def _best_first(means: list[tuple[Any, float]]) -> list[tuple[Any, float]]:
    return sorted(means, key=lambda pair: -pair[1])  # stable: ties keep the grid's order
