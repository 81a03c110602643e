"""The two-stage protocol against accuracies written down by hand: no router, no disk."""

from dataclasses import dataclass

import pytest

from rph.api import Trial
from rph.protocol import PRESETS, Preset, most_trials
from rph.protocol import select as steps

PAPER = PRESETS["paper"]


@dataclass(frozen=True)
class Config:
    k: int


GRID = tuple(Config(k) for k in range(15))


class Asked:
    """Answers val accuracies by a rule, and remembers what was asked."""

    def __init__(self, rule):
        self.rule, self.trials = rule, []

    def __call__(self, trials):
        self.trials += [trial for trial in trials if trial not in self.trials]
        return [self.rule(trial.variant.k, trial.seed) for trial in trials]


def always(deterministic):
    return lambda config: deterministic


def select(grid, *, deterministic, preset, val_accuracies, **more):
    """The protocol, with its questions answered."""
    asking = steps(
        grid,
        preset=preset,
        deterministic=deterministic if callable(deterministic) else always(deterministic),
        **more,
    )
    wanted = next(asking)
    while True:
        try:
            wanted = asking.send(val_accuracies(wanted))
        except StopIteration as end:
            return end.value


def test_the_presets_are_the_ones_of_the_paper():
    assert Preset(name="paper", variants=15, finalists=5, seeds=(42, 1337, 2026, 7, 99)) == PAPER
    assert [(p.variants, len(p.seeds)) for p in PRESETS.values()] == [(15, 5), (3, 2), (1, 1)]


def test_stage_1_trains_all_variants_with_seed_42_and_stage_2_the_best_five_with_four_more():
    asked = Asked(lambda k, seed: k / 100)
    selection = select(GRID, deterministic=False, preset=PAPER, val_accuracies=asked)
    assert asked.trials[:15] == [Trial(variant=config, seed=42) for config in GRID]
    second = asked.trials[15:]
    assert {trial.variant.k for trial in second} == {10, 11, 12, 13, 14}
    assert sorted({trial.seed for trial in second}) == [7, 99, 1337, 2026]
    assert len(asked.trials) == 15 + 20
    assert selection.variant == Config(14)
    assert [trial.seed for trial in selection.trials] == [42, 1337, 2026, 7, 99]
    assert selection.val_accuracy == pytest.approx(0.14)


def test_variants_with_equal_val_routes_share_one_place():
    """Five copies that lead stage 1, and a sixth variant that is the second best."""
    asked = Asked(lambda k, seed: 0.9 if k < 5 else 0.8 - k / 100)
    selection = select(
        GRID, deterministic=False, preset=PAPER, val_accuracies=asked, routes=lambda config: max(config.k, 4)
    )
    assert {trial.variant.k for trial in asked.trials[15:]} == {
        0,
        5,
        6,
        7,
        8,
    }  # of the copies the first of the grid
    assert selection.variant == Config(0)


def test_the_mean_over_five_seeds_decides_not_the_first_seed():
    def rule(k, seed):
        if k == 3:
            return 0.9 if seed == 42 else 0.1  # lucky once
        return 0.5 if k == 4 else 0.2

    selection = select(GRID, deterministic=False, preset=PAPER, val_accuracies=Asked(rule))
    assert selection.variant == Config(4)
    assert selection.val_accuracy == pytest.approx(0.5)


def test_a_variant_beyond_the_best_five_of_stage_1_is_never_trained_again():
    def rule(k, seed):
        return 1.0 if k == 0 and seed != 42 else k / 100  # excellent, but sixth or worse in stage 1

    selection = select(GRID, deterministic=False, preset=PAPER, val_accuracies=Asked(rule))
    assert selection.variant == Config(14)


def test_ties_go_to_the_earlier_variant():
    selection = select(GRID, deterministic=False, preset=PAPER, val_accuracies=Asked(lambda k, seed: 0.5))
    assert selection.variant == Config(0)


def test_a_deterministic_router_is_trained_once_per_variant():
    asked = Asked(lambda k, seed: -abs(k - 6))
    selection = select(GRID, deterministic=True, preset=PAPER, val_accuracies=asked)
    assert asked.trials == [Trial(variant=config, seed=42) for config in GRID]
    assert selection.trials == (Trial(variant=Config(6), seed=42),)


def test_a_deterministic_variant_among_others_is_trained_once_and_can_win():
    asked = Asked(lambda k, seed: 0.9 if k == 3 else 0.8)
    selection = select(GRID, deterministic=lambda config: config.k < 4, preset=PAPER, val_accuracies=asked)
    assert {trial.variant.k for trial in asked.trials[15:]} == {
        4
    }  # of 3, 0, 1, 2 and 4 the one that knows chance
    assert selection.trials == (Trial(variant=Config(3), seed=42),)
    assert most_trials(GRID, preset=PAPER, deterministic=lambda config: config.k < 13) == 15 + 2 * 4


def test_a_variant_that_does_not_compete_is_tried_and_not_chosen():
    asked = Asked(lambda k, seed: k / 100)
    selection = select(
        GRID, deterministic=False, preset=PAPER, val_accuracies=asked, competes=lambda config: config.k < 10
    )
    assert {trial.variant.k for trial in asked.trials[15:]} == {5, 6, 7, 8, 9}
    assert selection.variant == Config(9)
    alone = select(
        GRID, deterministic=True, preset=PAPER, val_accuracies=asked, competes=lambda config: False
    )
    assert alone.variant == Config(14)


def test_a_variant_that_failed_in_stage_1_is_left_out():
    selection = select(
        GRID,
        deterministic=False,
        preset=PAPER,
        val_accuracies=Asked(lambda k, s: None if k == 14 else k / 100),
    )
    assert selection.variant == Config(13)


def test_a_finalist_with_one_failed_seed_cannot_win():
    def rule(k, seed):
        return None if k == 14 and seed == 7 else k / 100

    assert select(GRID, deterministic=False, preset=PAPER, val_accuracies=Asked(rule)).variant == Config(13)


def test_nothing_is_chosen_where_every_trial_failed():
    assert select(GRID, deterministic=False, preset=PAPER, val_accuracies=Asked(lambda k, s: None)) is None


@pytest.mark.parametrize(("name", "trials"), [("quick", 6), ("smoke", 1)])
def test_the_small_presets_train_few_trials(name, trials):
    asked = Asked(lambda k, seed: k / 100)
    select(GRID, deterministic=False, preset=PRESETS[name], val_accuracies=asked)
    assert len(asked.trials) == trials


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("variants", [2, 15])
def test_the_most_trials_are_those_asked_for_where_none_fails(name, deterministic, variants):
    asked = Asked(lambda k, seed: k / 100)
    preset, grid = PRESETS[name], GRID[:variants]
    select(grid, deterministic=deterministic, preset=preset, val_accuracies=asked)
    assert most_trials(grid, preset=preset, deterministic=always(deterministic)) == len(asked.trials)
