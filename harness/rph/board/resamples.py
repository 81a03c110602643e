"""What is resampled of a board, and what the resamples say of its rows: ends of accuracies, gains, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rph.results import missing, tasks, uncertainty
from rph.results.cell import DIGITS
from rph.results.files import Entry

# Beside the routers in a resample; no router can be named so.
FLOOR, ORACLE, PER_TASK, CONTROL = "\0best single", "\0oracle", "\0per task", "\0control"
NOBODY = 1 << 16  # a route of none of the models, which are numbered below
Interval = tuple[float, float]  # at uncertainty.LEVEL, 95 %
Against = Literal["better", "worse", "too close to call", "depends on missing labels"]


def accuracy_of(entry: Entry) -> float:
    """Of a ranked result."""
    assert entry.result.test_accuracy_mean is not None
    return entry.result.test_accuracy_mean


def bounds_of(entry: Entry) -> Interval:
    """The two ends of a ranked result's accuracy."""
    accuracy = accuracy_of(entry)
    return entry.result.bounds or (accuracy, accuracy)


Outcomes = dict[str, uncertainty.Choices]


def _outcomes(group: Sequence[Entry]) -> Outcomes:
    """What is resampled of a board: what each router, the best single model, the oracle and the control row chose."""
    found = {entry.result.router: choices_of(entry) for entry in group}
    first = group[0]
    q, blocks = first.queries, first.queries.blocks
    if not np.isnan(q.floor).all():
        single = first.result.models.index(first.result.reference.best_single_model)
        route = blocks.get("holes/floor_route", np.full(len(q.floor), single))
        found[FLOOR] = _choices(q.floor, route, blocks.get("holes/floor_weight"))
    if not np.isnan(q.best).all():
        nobody = np.full((1, len(q.best)), NOBODY)
        top = missing.top(q.best, blocks["holes/cells"]) if "holes/cells" in blocks else q.best
        found[ORACLE] = uncertainty.Choices(
            low=np.where(np.isnan(q.best), 0, q.best)[None],
            high=np.where(np.isnan(top), 1, top)[None].astype(np.float32),
            routes=nobody,
        )
    if (line := tasks.line(q.arrays())) is not None:
        found[PER_TASK] = _choices(line.labels, line.route, line.weight)
    if "holes/control" in blocks:
        mine = {name: blocks[f"holes/{name}"] for name in ("cells", "control_route")}
        found[CONTROL] = _choices(
            blocks["holes/control"], blocks["holes/control_route"], missing.control_weight(mine)
        )
    return found


def choices_of(entry: Entry) -> uncertainty.Choices:
    """What the seeds of a result chose."""
    q = entry.queries
    return _choices(q.labels, q.routes, q.blocks.get("holes/weight"))


def _choices(labels: Any, routes: Any, weight: Any) -> uncertainty.Choices:
    """Of labels, routes and weights [S, N], or [N] of a row that has no seeds."""
    seen = np.atleast_2d(np.asarray(labels, np.float32))
    return uncertainty.Choices(
        low=np.where(np.isnan(seen), 0, seen),
        high=np.where(np.isnan(seen), 1, seen),
        routes=np.atleast_2d(routes).astype(np.int64),
        weight=None if weight is None or (weight == 1).all() else np.atleast_2d(weight),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """What a board's resamples say, whichever way they were drawn."""

    # Row -> its accuracies [B], low and high.
    ends: dict[str, tuple[uncertainty.Float64, uncertainty.Float64]]
    gains: dict[str, tuple[uncertainty.Float64, uncertainty.Float64]]  # row -> less the best single model [B]
    verdicts: uncertainty.Int8  # [R, R] of the routers
    wins: uncertainty.Float64  # [R]
    open: bool  # labels of what was chosen are missing, or count by a plan


def numbers_of(groups: Sequence[Sequence[Entry]], resamples: int) -> list[Numbers]:
    """Of several boards of the same test queries. Where no label is missing the two ends are one, and cost nothing."""
    outcomes = [_outcomes(group) for group in groups]
    if any(choices.open for board in outcomes for choices in board.values()):
        bounded = uncertainty.resample_bounds(outcomes, resamples=resamples)
        return [_open(*each) for each in zip(groups, outcomes, bounded, strict=True)]
    labels = [{name: choices.low for name, choices in board.items()} for board in outcomes]
    resampled = uncertainty.resample_boards(labels, resamples=resamples)
    return [_dense(*each) for each in zip(groups, outcomes, resampled, strict=True)]


def _dense(group: Sequence[Entry], outcomes: Outcomes, resampled: uncertainty.Float64) -> Numbers:
    columns = dict(zip(outcomes, resampled.T, strict=True))
    R = len(group)
    observed = np.array([accuracy_of(entry) for entry in group]).round(DIGITS)
    gains = {name: values - columns[FLOOR] for name, values in columns.items()} if FLOOR in columns else {}
    return Numbers(
        ends={name: (values, values) for name, values in columns.items()},
        gains={name: (values, values) for name, values in gains.items()},
        verdicts=uncertainty.verdicts(observed, resampled[:, :R]),
        wins=uncertainty.wins(resampled[:, :R]),
        open=False,
    )


def _open(group: Sequence[Entry], outcomes: Outcomes, resampled: uncertainty.Bounded) -> Numbers:
    """As `_dense`, where labels are missing or count by a plan; what is decided goes by the lower ends."""
    R, names = len(group), list(outcomes)
    routers = list(range(R))
    gains = {}
    if FLOOR in outcomes:
        floor = names.index(FLOOR)
        gains = {
            name: (resampled.least[:, i, floor], resampled.most[:, i, floor]) for i, name in enumerate(names)
        }
    return Numbers(
        ends={name: (resampled.low[:, i], resampled.high[:, i]) for i, name in enumerate(names)},
        gains=gains,
        verdicts=uncertainty.verdicts_of_bounds(
            uncertainty.observed_bounds({name: outcomes[name] for name in names[:R]}), resampled.of(routers)
        ),
        wins=uncertainty.wins(resampled.low[:, :R]),
        open=True,
    )


def against(least: uncertainty.Float64, most: uncertainty.Float64) -> Against:
    """What resampled differences [B] to the best single model say, missing labels for the worst and for the best."""
    signs = [_sign(uncertainty.interval(each)) for each in (least, most)]
    if signs[0] == signs[1]:
        return "better" if signs[0] > 0 else "worse" if signs[0] < 0 else "too close to call"
    return "depends on missing labels"


def _sign(interval: Interval) -> int:
    """Which side of 0 an interval is on; what is closer to it than rounding is on none."""
    return 1 if interval[0] > uncertainty.EQUAL else -1 if interval[1] < -uncertainty.EQUAL else 0


def span(ends: tuple[uncertainty.Float64, uncertainty.Float64]) -> Interval:
    """From the lower end of the interval of the first to the upper end of that of the second."""
    return uncertainty.interval(ends[0])[0], uncertainty.interval(ends[1])[1]
