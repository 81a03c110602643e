"""Boards: the results of one benchmark and encoder, ranked, and how sure the ranks are.

Functions of result files alone (rph.results.files.Entry). What is ranked together was measured on the same queries:
a subset, or another release of a benchmark, has another fingerprint and so its own board.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rph import protocol
from rph.board.resamples import (
    CONTROL,
    FLOOR,
    ORACLE,
    PER_TASK,
    Against,
    Interval,
    Numbers,
    accuracy_of,
    against,
    bounds_of,
    numbers_of,
    span,
)
from rph.board.sets import in_average
from rph.errors import UsageError
from rph.holes import Bounds, bounds
from rph.results import metrics, missing, tasks, uncertainty, utility
from rph.results.cell import DIGITS, Method, Reference
from rph.results.files import Entry

RANKED = "paper"  # the one protocol that is ranked


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One router's place on a board. `verdicts` of uncertainty.py says what can be told apart, and how sure."""

    entry: Entry
    rank: int  # 1.. by mean test accuracy, missing labels counted 0; the same accuracy is the same rank
    tier: int  # 1..; a tier's routers cannot be told apart from its first at 95 %
    interval: Interval  # 95 % of the accuracy, queries and seeds resampled; from its lower end to its upper
    # 95 % of accuracy - best single, as `interval`; None: no label of the best single was observed.
    gain: Interval | None
    against: Against  # what `gain` says: better or worse only where missing labels cannot change that
    gap_closed: Interval | None  # 95 % of the share of the oracle gap closed; None: there may be no gap
    ranks: tuple[int, int]  # 95 % interval of the rank
    win: float  # share of resamples in which it is the best
    in_plateau: bool  # cannot be told apart from the best at 95 %: its `ranks` begin at 1

    @property
    def accuracy(self) -> float:
        """Mean test accuracy over seeds."""
        return accuracy_of(self.entry)

    @property
    def bounds(self) -> Interval:
        """It with the missing labels of what was chosen counted 0, by which it is ranked, and counted 1."""
        return bounds_of(self.entry)

    @property
    def beyond_tasks(self) -> float | None:
        """Share of the gap between the best model per task, chosen on train, and the oracle; None where it is unknown."""
        found = tasks.of(self.entry.result)
        return None if found is None else found.gap_closed

    @property
    def top_share(self) -> float:
        """Share of the queries that go to a seed's most chosen model, mean over seeds."""
        counts = [np.array(seed.selections) for seed in self.entry.result.per_seed]
        return statistics.fmean(metrics.top_share(each) for each in counts)

    @property
    def collapsed(self) -> bool:
        """Whether the router in effect sends every query to one model."""
        return self.top_share >= metrics.COLLAPSED

    @property
    def aiq(self) -> float | None:
        """Mean accuracy over the pool's range of costs (utility.aiq) of the accuracy-cost curve.

        None without prices, and where the curve is not known at every lambda.
        """
        points = self.entry.result.curve
        if points is None or any(point.cost is None or point.accuracy is None for point in points):
            return None
        return _aiq(self.entry.result.reference, [(point.cost, point.accuracy) for point in points])

    @property
    def oracle_gap(self) -> metrics.OracleGap | None:
        """What is left to the oracle, in chance and what could be learnt; None where Bayes is unknown."""
        reference = self.entry.result.reference
        return metrics.oracle_gap(self.accuracy, reference.bayes, reference.oracle)


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A row that no router decides: it stands on every board, unranked."""

    name: str
    accuracy: float | None
    interval: Interval | None  # None: the result files hold its mean alone
    bounds: Interval | None = None  # None: unknown, or both are the accuracy


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """One (benchmark, fingerprint, encoder), best router first, at least one; only the protocol `paper` is ranked."""

    bench: str
    fingerprint: str
    subset: str  # not empty: the benchmark's rows are not its full release
    encoder: str
    rows: tuple[Row, ...]
    # Oracle, Bayes where it is known, best single, best per task where tasks are, random; control where labels are missing.
    fixed: tuple[Fixed, ...]
    reference: Reference
    open: bool  # labels of what was chosen are missing, or count by a plan
    telling: (
        bool  # who knows which labels are missing, and nothing else of a query, beats the best single model
    )

    @property
    def pool_aiq(self) -> float | None:
        """AIQ of mixing the pool's models at random, which reads no query: RouterBench's Zero router."""
        holes = missing.of(self.rows[0].entry.result)
        if self.reference.model_cost is None or (holes is not None and min(holes.model_coverage) < 1):
            return None  # the models' own accuracies are over different queries
        return _aiq(
            self.reference, zip(self.reference.model_cost, self.reference.model_accuracy, strict=True)
        )


def _aiq(reference: Reference, points: Iterable[tuple[float | None, float | None]]) -> float | None:
    """AIQ of points (cost, accuracy) over the range of the models' costs that are known; None where none is."""
    prices = [cost for cost in reference.model_cost or () if cost is not None]
    if not prices:
        return None
    cost, accuracy = np.array(list(points), float).T  # None becomes NaN
    return utility.aiq(cost, accuracy, min(prices), max(prices))


@dataclass(frozen=True, kw_only=True, eq=False)
class OverallRow:
    """One router over the benchmarks and encoders that most routers have."""

    router: str
    method: Method
    # Bench -> mean, std over encoders (None: one), encoders.
    accuracy: dict[str, tuple[float, float | None, int]]
    average: float | None  # over the full benchmarks that are counted; None: it lacks one of the boards
    rank: int  # by the average with missing labels counted 0; the same is the same rank, those without one share the last


def why_unranked(entry: Entry) -> str:
    """Why a result is on no board; empty for one that is ranked."""
    result = entry.result
    if result.protocol != RANKED:
        return f"protocol {result.protocol}: only {RANKED} is ranked"
    if result.protocol_version != protocol.VERSION:
        return f"version {result.protocol_version} of the protocol: version {protocol.VERSION} is ranked"
    if result.selector_cost != "train mean":
        return f"selector cost {result.selector_cost}: a router must not know what a call will cost"
    if result.test_accuracy_mean is None:
        return "no test label of the models it chose was observed"
    return ""


def unranked(entries: Iterable[Entry]) -> list[tuple[Entry, str]]:
    """The results that are on no board, each with the reason."""
    return [(entry, why) for entry in entries if (why := why_unranked(entry))]


def boards(entries: Sequence[Entry], *, resamples: int = uncertainty.RESAMPLES) -> list[Board]:
    """A board per (benchmark, fingerprint, encoder) with a ranked result, in the order of these names.

    Raises UsageError where two results claim the same place, or disagree about the test set they share.
    """
    found: list[Board] = []
    for _, several in itertools.groupby(sorted(_groups(entries).items()), key=_drawn_together):
        groups = [group for _, group in several]
        numbers = numbers_of(groups, resamples)
        found += [_board(*each) for each in zip(groups, numbers, strict=True)]
    return found


Key = tuple[str, str, str]  # benchmark, fingerprint, encoder


def _groups(entries: Iterable[Entry]) -> dict[Key, list[Entry]]:
    """The ranked results of each board, in the order of their routers."""
    groups: dict[Key, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.result.router):
        if not why_unranked(entry):
            result = entry.result
            groups.setdefault((result.bench, result.bench_fingerprint, result.encoder), []).append(entry)
    for group in groups.values():
        _check(group)
    return groups


def _check(group: Sequence[Entry]) -> None:
    """Raise UsageError unless these are results of different routers on the same test set and encoder."""
    first = group[0]
    for before, entry in itertools.pairwise(group):
        if before.result.router == entry.result.router:
            raise UsageError(
                f"{before.path} and {entry.path} are results of the same router on the same board",
                why=f"{entry.result.router} on {entry.result.bench} x {entry.result.encoder} has one place",
                fix="keep one of the two",
            )
        same = {
            "the subset": entry.result.subset == first.result.subset,
            "the models": entry.result.models == first.result.models,
            "the encoder's identity": entry.result.encoder_identity == first.result.encoder_identity,
            "the oracle's labels": np.array_equal(entry.queries.best, first.queries.best, equal_nan=True),
            "the best single model's labels": np.array_equal(
                entry.queries.floor, first.queries.floor, equal_nan=True
            ),
            "the tasks": np.array_equal(
                entry.queries.blocks.get("tasks/task", 0), first.queries.blocks.get("tasks/task", 0)
            ),
            "the pools and missing labels": np.array_equal(
                entry.queries.blocks.get("holes/cells", 0), first.queries.blocks.get("holes/cells", 0)
            ),
        }
        for what, agree in same.items():
            if not agree:
                raise UsageError(
                    f"{entry.path} and {first.path} cannot stand on one board",
                    why=f"{what} differ, though both name {entry.result.bench} x {entry.result.encoder}",
                    fix="run both again with the same versions of rph, the benchmark and the encoder",
                )


def _drawn_together(item: tuple[Key, list[Entry]]) -> tuple[str, str, int]:
    """Boards of one benchmark differ in the encoder alone: what is drawn of their queries is the same."""
    (bench, fingerprint, _), group = item
    return bench, fingerprint, group[0].result.n_test


def _board(group: Sequence[Entry], numbers: Numbers) -> Board:
    result = group[0].result
    control = numbers.gains.get(CONTROL)
    return Board(
        bench=result.bench,
        fingerprint=result.bench_fingerprint,
        subset=result.subset,
        encoder=result.encoder,
        rows=_rows(group, numbers),
        fixed=_fixed(group[0], numbers),
        reference=result.reference,
        open=numbers.open,
        telling=control is not None and against(*control) == "better",
    )


def _rows(group: Sequence[Entry], numbers: Numbers) -> tuple[Row, ...]:
    observed = np.array([bounds_of(entry)[0] for entry in group]).round(DIGITS)  # [R]
    low = 1 + (numbers.verdicts == 1).sum(axis=0)
    high = len(group) - (numbers.verdicts == -1).sum(axis=0)
    order = np.argsort(-observed, kind="stable")
    tiers = _tiers(order, numbers.verdicts)
    rows = []
    for j in order:
        name = group[j].result.router
        gain = numbers.gains.get(name)
        rows.append(
            Row(
                entry=group[j],
                rank=1 + int((observed > observed[j]).sum()),
                tier=tiers[j],
                interval=span(numbers.ends[name]),
                gain=None if gain is None else span(gain),
                against="too close to call" if gain is None else against(*gain),
                gap_closed=_gap_interval(group[j], numbers, gain),
                ranks=(int(low[j]), int(high[j])),
                win=float(numbers.wins[j]),
                in_plateau=bool(low[j] == 1),
            )
        )
    return tuple(rows)


def _tiers(order: Iterable[int], verdict: uncertainty.Int8) -> dict[int, int]:
    """Router -> tier: down the order, one that is told apart from the first of the tier begins the next."""
    tiers: dict[int, int] = {}
    first, tier = None, 0
    for j in order:
        if first is None or verdict[first, j] == 1:
            first, tier = j, tier + 1
        tiers[j] = tier
    return tiers


def _gap_interval(
    entry: Entry, numbers: Numbers, gain: tuple[uncertainty.Float64, uncertainty.Float64] | None
) -> Interval | None:
    """Of the share of the oracle gap closed; None where there may be no gap, or missing labels leave it open."""
    if gain is None or ORACLE not in numbers.ends or entry.result.gap_closed is None:
        return None
    gap = numbers.ends[ORACLE][0] - numbers.ends[FLOOR][0]
    return None if (gap <= 0).any() else span((gain[0] / gap, gain[1] / gap))


def _fixed(entry: Entry, numbers: Numbers) -> tuple[Fixed, ...]:
    reference = entry.result.reference
    holes = missing.of(entry.result)
    # A result from before there were blocks has every choice count 1.
    floor = bounds(entry.queries.floor) if holes is None else holes.best_single

    def row(
        name: str, accuracy: float | None, column: str = "", found: Bounds | missing.Range | None = None
    ) -> Fixed:
        known = span(numbers.ends[column]) if column in numbers.ends else None
        ends = None if found is None or not numbers.open else (found.low, found.high)
        return Fixed(name=name, accuracy=accuracy, interval=known, bounds=ends)

    rows = [row("oracle", reference.oracle, ORACLE, None if holes is None else holes.oracle)]
    if reference.bayes is not None:
        rows.append(row("Bayes", reference.bayes))
    name = f"best single: {reference.best_single_model}"
    rows.append(row(name, reference.best_single, FLOOR, floor))
    if (of_tasks := tasks.of(entry.result)) is not None:
        known = of_tasks.best_per_task
        ends = None if known.low is None or known.high is None else Bounds(known.low, known.high)
        rows.append(row(tasks.ROW, known.value, PER_TASK, ends))
    rows.append(row("random", reference.random))
    if holes is not None and holes.control is not None and numbers.open:
        rows.append(row("control: knows which labels are missing", holes.control.low, CONTROL, holes.control))
    return tuple(rows)


def overall(entries: Iterable[Entry]) -> list[OverallRow]:
    """Routers over several boards, best average first: by the lower ends, where labels are missing.

    Counted are the boards that more than half of the ranked routers are on: so a result on a board of its own neither
    ranks nor unranks another router. A router's accuracy on a benchmark is the mean over the counted encoders, and its
    average runs over the full benchmarks; a subset, or a control world whose P(correct) is known, has its own column
    and is in no average. A second fingerprint of a benchmark has its own column too, named by its first eight digits.
    """
    groups = _groups(entries)
    held: dict[str, dict[Key, Entry]] = {}  # router -> its results
    for key, group in groups.items():
        for entry in group:
            held.setdefault(entry.result.router, {})[key] = entry
    counted = [key for key in sorted(groups) if 2 * len(groups[key]) > len(held)]
    names = _column_names(counted)
    full = {
        names[key[:2]]
        for key in counted
        if in_average(groups[key][0].result.subset, groups[key][0].result.reference)
    }
    accuracy: dict[str, dict[str, tuple[float, float | None, int]]] = {}
    average: dict[str, float | None] = {}
    lower: dict[str, float | None] = {}  # what they are ranked by
    for router, results in held.items():
        by_bench: dict[str, list[Entry]] = {}
        for key in counted:
            if key in results:
                by_bench.setdefault(names[key[:2]], []).append(results[key])
        accuracy[router] = {bench: _spread([*map(accuracy_of, found)]) for bench, found in by_bench.items()}
        complete = bool(full) and all(key in results for key in counted)
        average[router] = lower[router] = None
        if complete:
            average[router] = statistics.fmean(accuracy[router][bench][0] for bench in full)
            lower[router] = statistics.fmean(
                statistics.fmean(bounds_of(entry)[0] for entry in by_bench[bench]) for bench in full
            )
    known = [value for value in lower.values() if value is not None]
    rows = [
        OverallRow(
            router=router,
            method=next(iter(held[router].values())).result.method,
            accuracy=accuracy[router],
            average=average[router],
            rank=1 + sum(mine is None or round(other - mine, DIGITS) > 0 for other in known),
        )
        for router, mine in sorted(lower.items())
    ]
    return sorted(rows, key=lambda row: row.rank)


def _spread(values: Sequence[float]) -> tuple[float, float | None, int]:
    """Mean, sample standard deviation (None of one value) and number."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def _column_names(keys: Iterable[Key]) -> dict[tuple[str, str], str]:
    """(benchmark, fingerprint) -> the benchmark's name, with the fingerprint where the name has several."""
    pairs = list(dict.fromkeys((bench, fingerprint) for bench, fingerprint, _ in keys))
    times = Counter(bench for bench, _ in pairs)
    return {
        (bench, fingerprint): bench if times[bench] == 1 else f"{bench} ({fingerprint[:8]})"
        for bench, fingerprint in pairs
    }
