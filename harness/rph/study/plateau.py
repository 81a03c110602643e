"""The plateau: the tables and figures of the paper's Sec. 4 and App. F, from result files.

Each comes as typed numbers and as sheets to print. Means over encoders and groups are those of rph.board.sets.
"The paper" is "The Routing Plateau", arXiv:2606.07587.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rph.board.sets import (
    KNN,
    Group,
    accuracies,
    average,
    descending,
    encoder_notes,
    groups,
    in_average,
    lower_accuracies,
    open_accuracies,
    ranks,
)
from rph.errors import UsageError
from rph.results.files import Entry
from rph.results.sheets import Column, Sheet, Value

TIER = 5  # routers of the top tier, whose spread the paper gives (Tab. 1 and 2)
NEAR = 0.02  # of the ceiling: on the plateau (Sec. 4.2)
TOP_SHARE = 0.1  # of the configurations: the red band of Fig. 2


def spread(values: Iterable[float | None], top: int = TIER) -> float | None:
    """Highest minus lowest of the `top` highest values: the last row of the paper's Tab. 1 and 2. None: fewer known.

    >>> round(spread([0.5, 0.9, 0.8, 0.7], top=3), 6)
    0.2
    """
    known = sorted((value for value in values if value is not None), reverse=True)
    return known[0] - known[top - 1] if len(known) >= top else None


def is_near(accuracy: float, ceiling: float) -> bool:
    """Within NEAR of the ceiling; the bound itself is, whatever rounding made of it."""
    return accuracy >= ceiling - NEAR - 1e-9


def _share_near(accuracies: Sequence[float], ceiling: float) -> float:
    return statistics.fmean(is_near(accuracy, ceiling) for accuracy in accuracies)


# --- Tab. 1: accuracy -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """The claims of the paper's Sec. 4.2 on one benchmark, as numbers."""

    name: str
    routers: int
    encoders: int
    best: str
    accuracy: float | None  # of the best router
    top_spread: float | None  # among the five best; None: fewer routers
    knn_rank: int | None  # 1 = the best router; None: there is no knn
    knn_behind: float | None  # the best router's accuracy minus that of knn
    best_single: float | None
    random: float | None
    oracle: float | None

    @property
    def oracle_gap(self) -> float | None:
        """How far the best router is below the oracle."""
        return None if self.oracle is None or self.accuracy is None else self.oracle - self.accuracy


def plateaus(entries: Sequence[Entry]) -> list[Plateau]:
    """One per group: do the best routers tie, is kNN among them, how far is the oracle? Paper, Sec. 4.2."""
    return [_plateau(group) for group in groups(entries)]


def _plateau(group: Group) -> Plateau:
    found = accuracies(group)
    best, (accuracy, _, _) = next(iter(found.items()))
    knn = found[KNN].mean if KNN in found else None
    places = dict(zip(found, ranks([one.mean for one in found.values()]), strict=True))
    reference = group.reference
    return Plateau(
        name=group.name,
        routers=len(found),
        encoders=len(group.encoders),
        best=best,
        accuracy=accuracy,
        top_spread=spread(one.mean for one in found.values()),
        knn_rank=places.get(KNN),
        knn_behind=None if knn is None or accuracy is None else accuracy - knn,
        best_single=reference.best_single,
        random=reference.random,
        oracle=reference.oracle,
    )


def accuracy_sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """The paper's Tab. 1, and beside it what its text says of it.

    Its last column is the mean over the benchmarks that are neither subsets nor control worlds, of routers that have a
    result on each.
    """
    found = groups(entries)
    by_group = [accuracies(group) for group in found]
    counts = [in_average(group.subset, group.reference) for group in found]
    full = [means for means, counted in zip(by_group, counts, strict=True) if counted]
    worlds = [group.name for group in found if group.reference.bayes is not None]
    routers = dict.fromkeys(router for means in by_group for router in means)
    lower = [lower_accuracies(group) for group, counted in zip(found, counts, strict=True) if counted]
    overall, order = (
        {
            router: average([means[router].mean if router in means else None for means in each]).mean
            for router in routers
        }
        for each in (full, lower)
    )
    columns, rows = [Column("router")], []
    for group in found:
        columns += [Column(group.name, "percent"), Column(f"± {group.name}", "percent")]
    columns.append(Column("average", "percent"))
    for router in sorted(routers, key=lambda router: descending(order[router])):
        row: list[Value] = [router]
        for means in by_group:
            row += means[router][:2] if router in means else [None, None]
        rows.append((*row, overall[router]))
    last: list[Value] = [f"spread of the top {TIER}"]
    for means in by_group:
        last += [spread(one.mean for one in means.values()), None]
    rows.append((*last, spread(overall.values())))
    columns, rows = without_unknown(columns, rows)
    table = Sheet(
        "Test accuracy, mean over encoders ± standard deviation over encoders (paper, Tab. 1)",
        tuple(columns),
        tuple(rows),
        (
            *(note for group in found for note in encoder_notes(group)),
            *([f"Control worlds, in no average: {', '.join(worlds)}."] if worlds else []),
        ),
    )
    return [table, _plateau_sheet(plateaus(entries))]


def without_unknown(
    columns: list[Column], rows: list[tuple[Value, ...]]
) -> tuple[list[Column], list[tuple[Value, ...]]]:
    """Without the columns in which nothing is known: one encoder has no spread."""
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    return [columns[i] for i in kept], [tuple(row[i] for i in kept) for row in rows]


def _plateau_sheet(found: Sequence[Plateau]) -> Sheet:
    return Sheet(
        "The plateau (paper, Sec. 4.2)",
        (
            Column("benchmark"),
            Column("routers", "count"),
            Column("encoders", "count"),
            Column("best router"),
            Column("accuracy", "percent"),
            Column(f"spread of the top {TIER}", "percent"),
            Column("rank of knn", "count"),
            Column("knn below the best", "percent"),
            Column("random", "percent"),
            Column("best single", "percent"),
            Column("oracle", "percent"),
            Column("best below the oracle", "percent"),
        ),
        tuple(
            (
                one.name, one.routers, one.encoders, one.best, one.accuracy, one.top_spread, one.knn_rank,
                one.knn_behind, one.random, one.best_single, one.oracle, one.oracle_gap,
            )
            for one in found
        ),
        ("Differences are in percentage points.",),
    )  # fmt: skip


# --- Fig. 2: configurations -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Configured:
    """One finished training: a point of Fig. 2."""

    router: str
    encoder: str
    variant_name: str
    seed: int
    accuracy: float  # on test


@dataclass(frozen=True, kw_only=True)
class Configurations:
    """All finished trainings on one benchmark."""

    name: str
    points: tuple[Configured, ...]  # best first; at least one
    band: tuple[float, float]  # the best tenth: from its lowest accuracy to the ceiling
    near: float  # share within NEAR of the ceiling
    oracle: float | None

    @property
    def ceiling(self) -> float:
        """The highest accuracy that any configuration reached: the empirical ceiling."""
        return self.band[1]


def configurations(entries: Sequence[Entry]) -> list[Configurations]:
    """Every (router, encoder, variant, seed) by test accuracy: the paper's Fig. 2, one per group.

    The paper counts configurations "within 0.02 pp" of the ceiling; its figure and the 69 to 75 % it finds fit 0.02 of
    accuracy, two points, which is what is counted here. A training without a test accuracy is left out.
    """
    return [one for group in groups(entries) if (one := _configurations(group)) is not None]


def _configurations(group: Group) -> Configurations | None:
    points = [
        Configured(
            router=entry.result.router,
            encoder=entry.result.encoder,
            variant_name=trial.variant_name,
            seed=trial.seed,
            accuracy=trial.test_accuracy,
        )
        for entry in group.entries
        for trial in entry.result.configurations
        if trial.test_accuracy is not None
    ]
    if not points:
        return None
    accuracy = [point.accuracy for point in points]
    ceiling = max(accuracy)
    return Configurations(
        name=group.name,
        points=tuple(sorted(points, key=lambda point: -point.accuracy)),
        band=(float(np.quantile(accuracy, 1 - TOP_SHARE)), ceiling),
        near=_share_near(accuracy, ceiling),
        oracle=group.reference.oracle,
    )


def configuration_sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """Fig. 2 as a summary, and per benchmark which routers' configurations lie on the plateau."""
    found = configurations(entries)
    near = f"within {NEAR:g} of the ceiling"
    summary = Sheet(
        "Configurations by test accuracy (paper, Fig. 2)",
        (
            Column("benchmark"),
            Column("configurations", "count"),
            Column("ceiling", "percent"),
            Column("best tenth from", "percent"),
            Column("median", "percent"),
            Column(near, "percent", 1),
            Column("oracle", "percent"),
        ),
        tuple(
            (
                one.name, len(one.points), one.ceiling, one.band[0],
                statistics.median(point.accuracy for point in one.points), one.near, one.oracle,
            )
            for one in found
        ),
        (
            f"The paper writes {NEAR:g} pp; {NEAR:g} of accuracy, {100 * NEAR:g} points, is counted.",
            "The ceiling is the best of many test accuracies, and so an optimistic one.",
            *(
                f"{group.name}: labels of what was chosen are missing. Each configuration is measured on the others, and "
                "the ceiling may be of one that avoids what it cannot answer."
                for group in groups(entries)
                if open_accuracies(group)
            ),
        ),
    )  # fmt: skip
    return [summary, *(_configuration_sheet(one, near) for one in found)]


def _configuration_sheet(found: Configurations, near: str) -> Sheet:
    by_router: dict[str, list[float]] = {}
    for point in found.points:  # best first, and so are its routers
        by_router.setdefault(point.router, []).append(point.accuracy)
    return Sheet(
        f"{found.name}: configurations of each router",
        (
            Column("router"),
            Column("configurations", "count"),
            Column("best", "percent"),
            Column("median", "percent"),
            Column("worst", "percent"),
            Column(near, "percent", 1),
        ),
        tuple(
            (
                router, len(values), values[0], statistics.median(values), values[-1],
                _share_near(values, found.ceiling),
            )
            for router, values in by_router.items()
        ),
    )  # fmt: skip


# --- Fig. 3: encoders -------------------------------------------------------------------------------

SMALL_STD = 0.005  # below which the paper says that most are (Fig. 3)


@dataclass(frozen=True, kw_only=True)
class EncoderSpread:
    """How much the encoder matters on one benchmark."""

    name: str
    encoders: tuple[str, ...]  # at least two
    accuracy: dict[str, dict[str, float | None]]  # router -> encoder -> test accuracy; best router first
    std: dict[str, float]  # router -> std over its encoders: the blue dots; routers with two or more

    @property
    def mean_std(self) -> float | None:
        """The black tick of Fig. 3."""
        return statistics.fmean(self.std.values()) if self.std else None

    @property
    def small(self) -> float | None:
        """Share of the routers whose std is below half a point."""
        return statistics.fmean(std < SMALL_STD for std in self.std.values()) if self.std else None


def encoder_spreads(entries: Sequence[Entry]) -> list[EncoderSpread]:
    """Std of test accuracy over encoders, per router: the paper's Fig. 3, for each group with two encoders."""
    return [_encoder_spread(group) for group in groups(entries) if len(group.encoders) > 1]


def _encoder_spread(group: Group) -> EncoderSpread:
    found = accuracies(group)
    return EncoderSpread(
        name=group.name,
        encoders=group.encoders,
        accuracy={
            router: {entry.result.encoder: entry.result.test_accuracy_mean for entry in group.of(router)}
            for router in found
        },
        std={router: one.std for router, one in found.items() if one.std is not None},
    )


def encoder_sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """Fig. 3, and each encoder's accuracies. Raises UsageError where no benchmark has two encoders."""
    found = encoder_spreads(entries)
    if not found:
        raise UsageError(
            "no benchmark has results of two encoders",
            why=f"there is {', '.join(f'{g.name} x {g.encoders[0]}' for g in groups(entries))}",
            fix="run `rph eval` with another --encoder and the same --out",
        )
    summary = Sheet(
        "Standard deviation of test accuracy over encoders (paper, Fig. 3)",
        (
            Column("benchmark"),
            Column("encoders", "count"),
            Column("routers", "count"),
            Column("mean std", "percent"),
            Column("lowest", "percent"),
            Column("highest", "percent"),
            Column("below 0.5 points", "percent", 1),
        ),
        tuple(
            (
                one.name, len(one.encoders), len(one.std), one.mean_std, min(one.std.values(), default=None),
                max(one.std.values(), default=None), one.small,
            )
            for one in found
        ),
    )  # fmt: skip
    return [summary, *map(_encoder_sheet, found)]


def _encoder_sheet(found: EncoderSpread) -> Sheet:
    columns = [Column(encoder, "percent") for encoder in found.encoders]
    rows = [
        (router, *(known.get(encoder) for encoder in found.encoders), found.std.get(router))
        for router, known in found.accuracy.items()
    ]
    return Sheet(
        f"{found.name}: test accuracy by encoder",
        (Column("router"), *columns, Column("std", "percent")),
        tuple(rows),
    )
