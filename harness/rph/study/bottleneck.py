"""Why there is a plateau: the tables and figures of the paper's Sec. 5 and App. G, from result files.

Each comes as typed numbers and as sheets to print. Means over encoders and groups are those of rph.board.sets.
"The paper" is "The Routing Plateau", arXiv:2606.07587.

Its Sec. 5 compares 12 routers and does not say how they were chosen; the ten that it names are among the first twelve of its
Tab. 1. Here they are the twelve with the best accuracy on the benchmark.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rph.board.sets import KNN, Average, Group, accuracies, average, averages, encoder_notes, groups
from rph.errors import UsageError
from rph.results import metrics
from rph.results.cell import CellResult, Reference
from rph.results.files import EASY, HARD, Entry
from rph.results.sheets import Column, Sheet, Value

if TYPE_CHECKING:
    from rph.arrays import Float64

LEADING = 12  # routers of the paper's Sec. 5


def leading(group: Group) -> list[str]:
    """The LEADING routers by accuracy, best first; all where there are fewer. Only routers with a known accuracy."""
    return [router for router, one in accuracies(group).items() if one.mean is not None][:LEADING]


def _notes(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(
        line
        for group in groups(entries)
        for line in (*encoder_notes(group), f"{group.name}: routers {', '.join(leading(group))}.")
    )


# --- Tab. 3: hard and easy queries ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """How much of the gap to the oracle lies on hard queries. None: a number is unknown, or there is no such query."""

    name: str
    routers: tuple[str, ...]  # best first
    hard_share: float  # of all test queries
    hard_spread: float | None  # highest minus lowest hard accuracy
    hard_gap: float | None  # the oracle's accuracy on hard queries minus the routers' mean
    easy_gap: float | None
    explained: float | None  # share of the whole gap that lies on hard queries

    @property
    def ratio(self) -> float | None:
        """Hard gap over easy gap."""
        return self.hard_gap / self.easy_gap if self.hard_gap is not None and self.easy_gap else None


def difficulties(entries: Sequence[Entry]) -> list[Difficulty]:
    """The paper's Tab. 3, one row per group.

    Hard and easy as in metrics.hard_easy. The share explained is hard_share * hard_gap / (oracle - mean accuracy): the
    sum over hard queries of what the routers miss, over the sum over all queries; exact where no label is missing.
    """
    return [_difficulty(group) for group in groups(entries)]


def _difficulty(group: Group) -> Difficulty:
    routers = leading(group)
    reference, queries = group.reference, group.entries[0].queries

    def mean_over_routers(read: Callable[[CellResult], float | None]) -> float | None:
        found = averages(group, read)
        return average([found[router].mean for router in routers]).mean

    def gap(kind: int, read: Callable[[CellResult], float | None]) -> float | None:
        oracle = metrics.oracle(queries.best[queries.difficulty == kind, None]).value
        return _minus(oracle, mean_over_routers(read))

    hard = averages(group, lambda result: result.hard_accuracy)
    known = [value for router in routers if (value := hard[router].mean) is not None]
    whole = _minus(reference.oracle, mean_over_routers(lambda result: result.test_accuracy_mean))
    hard_gap = gap(HARD, lambda result: result.hard_accuracy)
    return Difficulty(
        name=group.name,
        routers=tuple(routers),
        hard_share=reference.hard_share,
        hard_spread=max(known) - min(known) if known else None,
        hard_gap=hard_gap,
        easy_gap=gap(EASY, lambda result: result.easy_accuracy),
        explained=_share(reference.hard_share, hard_gap, whole),
    )


def _share(hard_share: float, hard_gap: float | None, whole: float | None) -> float | None:
    if hard_gap is None or whole is None or whole <= 0:
        return None
    return hard_share * hard_gap / whole


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def difficulty_sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """The paper's Tab. 3."""
    found = difficulties(entries)
    sheet = Sheet(
        "Gap between oracle and routers on hard and easy queries (paper, Tab. 3)",
        (
            Column("benchmark"),
            Column("routers", "count"),
            Column("hard queries", "percent", 1),
            Column("hard spread", "number", 3),
            Column("hard gap", "number", 3),
            Column("easy gap", "number", 3),
            Column("ratio", "number", 1),
            Column("gap explained by hard", "percent", 1),
        ),
        tuple(
            (
                one.name, len(one.routers), one.hard_share, one.hard_spread, one.hard_gap, one.easy_gap, one.ratio,
                one.explained,
            )
            for one in found
        ),
        _notes(entries),
    )  # fmt: skip
    return [sheet]


# --- Fig. 4 and 6 to 9: what is selected ------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Selections:
    """Shares of the K models among the queries; each array [K] adds up to 1."""

    name: str
    models: tuple[
        str, ...
    ]  # the best on train, which defines a hard query; then by test accuracy; as all arrays
    truth: Float64 | None  # who answers correctly (metrics.correct_mass)
    hard_truth: Float64 | None  # on hard queries; None: there are none
    routers: dict[str, Float64]  # mean over seeds and encoders; best router first
    hard_routers: dict[str, Float64]  # the same on hard queries; empty where there are none


def selections(entries: Sequence[Entry]) -> list[Selections]:
    """Whom routers choose, and who is right: the paper's Fig. 4 and 6 to 9, one per group."""
    return [_selections(group) for group in groups(entries)]


def _selections(group: Group) -> Selections:
    reference, models = group.reference, group.entries[0].result.models
    names = tuple(sorted(models, key=lambda name: _standing(reference, models, name)))
    order = [models.index(name) for name in names]

    def mass(shares: tuple[float, ...] | None) -> Float64 | None:
        return None if shares is None else np.array(shares)[order]

    def chosen(router: str, read: Callable[[CellResult], dict[str, float] | None]) -> Float64 | None:
        found = [shares for entry in group.of(router) if (shares := read(entry.result)) is not None]
        table = np.array([[shares[name] for name in names] for shares in found])
        return table.mean(axis=0) if len(table) else None

    routers = list(accuracies(group))
    everywhere = {router: chosen(router, lambda result: result.selection_share) for router in routers}
    hard = {router: chosen(router, lambda result: result.hard_selection_share) for router in routers}
    return Selections(
        name=group.name,
        models=names,
        truth=mass(reference.correct_mass),
        hard_truth=mass(reference.hard_correct_mass),
        routers={router: shares for router, shares in everywhere.items() if shares is not None},
        hard_routers={router: shares for router, shares in hard.items() if shares is not None},
    )


def _standing(reference: Reference, models: Sequence[str], name: str) -> tuple[bool, float]:
    accuracy = reference.model_accuracy[models.index(name)]
    return name != reference.best_single_model, -(accuracy or 0)


def selection_sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """Two per group: how far hard queries change a router's selection, and the shares of each model."""
    return [sheet for one in selections(entries) for sheet in (_change_sheet(one), _share_sheet(one))]


def _change_sheet(found: Selections) -> Sheet:
    """The claim of App. G as numbers: on hard queries routers choose as ever, and not who is right."""

    def distance(a: Float64 | None, b: Float64 | None) -> float | None:
        return None if a is None or b is None else metrics.total_variation(a, b)

    def first(shares: Float64 | None) -> float | None:
        return None if shares is None else float(shares[0])

    rows: list[tuple[Value, ...]] = [
        (
            "truth", first(found.truth), first(found.hard_truth), distance(found.truth, found.hard_truth), None,
        )
    ]  # fmt: skip
    for router, shares in found.routers.items():
        hard = found.hard_routers.get(router)
        rows.append(
            (router, first(shares), first(hard), distance(shares, hard), distance(hard, found.hard_truth))
        )
    return Sheet(
        f"{found.name}: selection on all and on hard queries (paper, Fig. 4)",
        (
            Column("router"),
            Column("best model, all", "percent", 1),
            Column("best model, hard", "percent", 1),
            Column("all from hard", "number", 3),
            Column("hard from hard truth", "number", 3),
        ),
        tuple(rows),
        (
            f"Best model: {found.models[0]}, the best on train.",
            "Truth: each solved query weighs 1, shared by the models that are right.",
            "The last two columns are total variation distances: 0, the same distribution; 1, nothing shared.",
        ),
    )


def _share_sheet(found: Selections) -> Sheet:
    def column(shares: Iterable[Float64 | None]) -> list[float | None]:
        known = [share for share in shares if share is not None]
        return np.mean(known, axis=0).tolist() if known else [None] * len(found.models)

    columns = [
        column([found.truth]),
        column(found.routers.values()),
        column([found.hard_truth]),
        column(found.hard_routers.values()),
    ]
    return Sheet(
        f"{found.name}: who is right and who is chosen, mean over all routers",
        (
            Column("model"),
            Column("right", "percent", 1),
            Column("chosen", "percent", 1),
            Column("right, hard", "percent", 1),
            Column("chosen, hard", "percent", 1),
        ),
        tuple(zip(found.models, *columns, strict=True)),
    )


# --- Tab. 4: error exchange -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two routers set against each other (metrics.Exchange), each number the mean over the encoders both have."""

    a: str
    b: str
    disagreement: float
    accuracy_gap: float | None
    change: float | None  # over the encoders on which they disagree; None: on none
    signed_change: float | None


@dataclass(frozen=True, kw_only=True)
class Exchanges:
    """All pairs of the leading routers on one benchmark."""

    name: str
    routers: tuple[str, ...]
    pairs: tuple[Pair, ...]  # at least one

    def median(self, read: Callable[[Pair], float | None]) -> float | None:
        """Over the pairs for which the number is known."""
        known = [value for pair in self.pairs if (value := read(pair)) is not None]
        return statistics.median(known) if known else None

    @property
    def known(self) -> int:
        """Pairs that disagree on any query, so that there is a change."""
        return sum(pair.change is not None for pair in self.pairs)

    @property
    def ratio(self) -> float | None:
        """Median change over median signed change: how much of the disagreement cancels out."""
        change, signed = self.median(lambda pair: pair.change), self.median(lambda pair: pair.signed_change)
        return change / signed if change is not None and signed else None


def exchanges(entries: Sequence[Entry]) -> list[Exchanges]:
    """The paper's Tab. 4, for each group with two routers on one encoder.

    A pair is compared query by query on the same encoder, each router with its first seed, 42 in the protocol; the
    paper says neither. Its column |dY| / |dY signed| is the ratio of the two medians, which its rounded values fit.
    """
    found = [_exchanges(group) for group in groups(entries)]
    return [one for one in found if one.pairs]


def _exchanges(group: Group) -> Exchanges:
    routers = leading(group)
    pairs = [_pair(group, a, b) for a, b in itertools.combinations(routers, 2)]
    return Exchanges(
        name=group.name, routers=tuple(routers), pairs=tuple(pair for pair in pairs if pair is not None)
    )


def _pair(group: Group, a: str, b: str) -> Pair | None:
    of_b = {entry.result.encoder: entry.queries for entry in group.of(b)}
    found = [
        metrics.exchange(
            one.routes[0],
            one.labels[0],
            other.routes[0],
            other.labels[0],
            weight_a=one.blocks["holes/weight"][0] if "holes/weight" in one.blocks else None,
            weight_b=other.blocks["holes/weight"][0] if "holes/weight" in other.blocks else None,
        )
        for one, other in ((e.queries, of_b.get(e.result.encoder)) for e in group.of(a))
        if other is not None
    ]
    if not found:
        return None
    return Pair(
        a=a,
        b=b,
        disagreement=statistics.fmean(one.disagreement for one in found),
        accuracy_gap=average([one.accuracy_gap for one in found]).mean,
        change=_mean_of_known(one.change for one in found),
        signed_change=_mean_of_known(one.signed_change for one in found),
    )


def _mean_of_known(values: Iterable[float | None]) -> float | None:
    """Over the encoders on which a pair disagrees: on the others there is nothing to exchange."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def exchange_sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """The paper's Tab. 4. Raises UsageError where no benchmark has two routers."""
    found = exchanges(entries)
    if not found:
        raise UsageError(
            "no benchmark has results of two routers on one encoder",
            why="errors are exchanged between two",
            fix="run `rph eval` with another --router and the same --out",
        )
    sheet = Sheet(
        "Pairs of routers: do they exchange errors, or is one better? (paper, Tab. 4)",
        (
            Column("benchmark"),
            Column("pairs", "count"),
            Column("disagree, least", "number", 3),
            Column("disagree, most", "number", 3),
            Column("accuracy gap", "number", 4),
            Column("|ΔY|", "number", 3),
            Column("|ΔY signed|", "number", 3),
            Column("ratio", "number", 1),
        ),
        tuple(
            (
                one.name, len(one.pairs), min(pair.disagreement for pair in one.pairs),
                max(pair.disagreement for pair in one.pairs), one.median(lambda pair: pair.accuracy_gap),
                one.median(lambda pair: pair.change), one.median(lambda pair: pair.signed_change), one.ratio,
            )
            for one in found
        ),
        (
            "Gap and ΔY: medians over pairs; ΔY where the two disagree. The first seed of each router.",
            *(
                f"{one.name}: ΔY of {one.known} of the {len(one.pairs)} pairs; the others never disagree."
                for one in found
                if one.known < len(one.pairs)
            ),
            *_notes(entries),
        ),
    )  # fmt: skip
    return [sheet]


# --- Tab. 5: kNN against the others -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AgainstKnn:
    """kNN and the best other routers: are their probabilities better, or their hard queries? None: unknown."""

    name: str
    others: dict[
        str, tuple[float | None, float | None]
    ]  # router -> BCE and hard accuracy, minus kNN's; best first
    bce: float | None  # of kNN on test, in nats
    base_rate_bce: float | None  # of each model's train mean
    hard_accuracy: float | None  # of kNN

    @property
    def bce_differences(self) -> list[float]:
        """BCE minus kNN's, the best other first."""
        return sorted(bce for bce, _ in self.others.values() if bce is not None)

    @property
    def hard_difference(self) -> float | None:
        """Median over the others of hard accuracy minus kNN's."""
        known = [hard for _, hard in self.others.values() if hard is not None]
        return statistics.median(known) if known else None

    @property
    def better(self) -> tuple[str, ...]:
        """The others whose BCE is lower than kNN's."""
        return tuple(router for router, (bce, _) in self.others.items() if bce is not None and bce < 0)


def against_knn(entries: Sequence[Entry]) -> list[AgainstKnn]:
    """The paper's Tab. 5 for each group that has knn, but with the BCE on TEST, where its part (a) gives the train BCE.

    A router whose scores are no probabilities enters by its mapped ones (rph.results.cell).
    """
    return [_against_knn(group) for group in groups(entries) if KNN in group.routers]


def _against_knn(group: Group) -> AgainstKnn:
    others = [router for router in accuracies(group) if router != KNN][: LEADING - 1]
    bce: dict[str, Average] = averages(group, lambda result: result.bce)
    hard = averages(group, lambda result: result.hard_accuracy)
    return AgainstKnn(
        name=group.name,
        others={
            router: (_minus(bce[router].mean, bce[KNN].mean), _minus(hard[router].mean, hard[KNN].mean))
            for router in others
        },
        bce=bce[KNN].mean,
        base_rate_bce=group.reference.base_rate_bce,
        hard_accuracy=hard[KNN].mean,
    )


def knn_sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """The paper's Tab. 5, and per benchmark each router's differences. Raises UsageError where there is no knn."""
    found = against_knn(entries)
    if not found:
        raise UsageError(
            f"no benchmark has a result of {KNN}",
            why="this table holds the others against it",
            fix=f"run `rph eval --router {KNN}` with the same --out",
        )
    summary = Sheet(
        f"{KNN} against the {LEADING - 1} best others: TEST BCE and hard accuracy (paper, Tab. 5)",
        (
            Column("benchmark"),
            Column("others", "count"),
            Column("knn test BCE", "number", 3),
            Column("ΔBCE, least", "number", 3),
            Column("ΔBCE, most", "number", 3),
            Column("lower BCE than knn", "count"),
            Column("base-rate BCE", "number", 3),
            Column("knn hard accuracy", "number", 3),
            Column("median Δ hard", "number", 3),
        ),
        tuple(_knn_row(one) for one in found),
        (
            "Δ: the other minus knn; a BCE is better where it is lower.",
            "The paper's Tab. 5 (a) gives the BCE on train (rph analyze train-bce); here it is the one on test.",
            *(note for group in groups(entries) for note in encoder_notes(group)),
        ),
    )
    return [summary, *map(_others_sheet, found)]


def _knn_row(one: AgainstKnn) -> tuple[Value, ...]:
    least, most = (one.bce_differences[0], one.bce_differences[-1]) if one.bce_differences else (None, None)
    return (
        one.name, len(one.others), one.bce, least, most, len(one.better), one.base_rate_bce, one.hard_accuracy,
        one.hard_difference,
    )  # fmt: skip


def _others_sheet(found: AgainstKnn) -> Sheet:
    return Sheet(
        f"{found.name}: each of the others minus {KNN}, best router first",
        (Column("router"), Column("Δ test BCE", "number", 3), Column("Δ hard accuracy", "number", 3)),
        tuple((router, *differences) for router, differences in found.others.items()),
    )
