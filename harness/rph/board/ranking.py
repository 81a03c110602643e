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
from rph.errors import UsageError
from rph.results import metrics, uncertainty, utility
from rph.results.cell import DIGITS, Method, Reference
from rph.results.files import Entry
from rph.results.sets import in_average

RANKED = "paper"  # the one protocol that is ranked
FLOOR, ORACLE = "\0best single", "\0oracle"  # beside the routers in a resample; no router can be named so

Interval = tuple[float, float]  # at uncertainty.LEVEL, 95 %


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One router's place on a board. `verdicts` of uncertainty.py says what can be told apart, and how sure."""

    entry: Entry
    rank: int  # 1.. by mean test accuracy; the same accuracy is the same rank
    tier: int  # 1..; a tier's routers cannot be told apart from its first at 95 %
    interval: Interval  # 95 % of the accuracy, queries and seeds resampled
    gain: Interval | None  # 95 % of accuracy - best single; None: no label of the best single was observed
    gap_closed: Interval | None  # 95 % of the share of the oracle gap closed; None: there may be no gap
    ranks: tuple[int, int]  # 95 % interval of the rank
    win: float  # share of resamples in which it is the best
    in_plateau: bool  # cannot be told apart from the best at 95 %: its `ranks` begin at 1

    @property
    def accuracy(self) -> float:
        """Mean test accuracy over seeds."""
        return _accuracy(self.entry)

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """One (benchmark, fingerprint, encoder), best router first, at least one; only the protocol `paper` is ranked."""

    bench: str
    fingerprint: str
    subset: str  # not empty: the benchmark's rows are not its full release
    encoder: str
    rows: tuple[Row, ...]
    fixed: tuple[Fixed, ...]  # oracle, Bayes where it is known, best single, random
    reference: Reference

    @property
    def pool_aiq(self) -> float | None:
        """AIQ of mixing the pool's models at random, which reads no query: RouterBench's Zero router."""
        if self.reference.model_cost is None:
            return None
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
    accuracy: dict[
        str, tuple[float, float | None, int]
    ]  # bench -> mean, std over encoders (None: one), encoders
    average: float | None  # over the full benchmarks that are counted; None: it lacks one of the boards
    rank: int  # by average; the same average is the same rank, and those without one share the last


def _accuracy(entry: Entry) -> float:
    """Of a ranked result."""
    assert entry.result.test_accuracy_mean is not None
    return entry.result.test_accuracy_mean


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
        outcomes = [_outcomes(group) for group in groups]
        resampled = uncertainty.resample_boards(outcomes, resamples=resamples)
        for group, names, values in zip(groups, outcomes, resampled, strict=True):
            found.append(_board(group, {name: values[:, i] for i, name in enumerate(names)}))
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


def _outcomes(group: Sequence[Entry]) -> dict[str, uncertainty.Floats]:
    """What is resampled of a board: the labels of each router's choices, of the best single model and of the oracle."""
    queries = group[0].queries
    outcomes: dict[str, uncertainty.Floats] = {entry.result.router: entry.queries.labels for entry in group}
    for name, labels in ((FLOOR, queries.floor), (ORACLE, queries.best)):
        if not np.isnan(labels).all():
            outcomes[name] = labels[None]
    return outcomes


def _board(group: Sequence[Entry], columns: dict[str, uncertainty.Float64]) -> Board:
    """The board of these results; `columns` are the resampled accuracies [B] of what `_outcomes` names."""
    result = group[0].result
    return Board(
        bench=result.bench,
        fingerprint=result.bench_fingerprint,
        subset=result.subset,
        encoder=result.encoder,
        rows=_rows(group, columns),
        fixed=_fixed(result.reference, columns),
        reference=result.reference,
    )


def _rows(group: Sequence[Entry], columns: dict[str, uncertainty.Float64]) -> tuple[Row, ...]:
    routers = np.stack([columns[entry.result.router] for entry in group], axis=1)  # [B, R]
    observed = np.array([_accuracy(entry) for entry in group]).round(DIGITS)  # [R]
    win = uncertainty.wins(routers)
    verdict = uncertainty.verdicts(observed, routers)
    low = 1 + (verdict == 1).sum(axis=0)
    high = len(group) - (verdict == -1).sum(axis=0)
    order = np.argsort(-observed, kind="stable")
    tiers = _tiers(order, verdict)
    floor, oracle = columns.get(FLOOR), columns.get(ORACLE)
    rows = []
    for j in order:
        values = routers[:, j]
        rows.append(
            Row(
                entry=group[j],
                rank=1 + int((observed > observed[j]).sum()),
                tier=tiers[j],
                interval=uncertainty.interval(values),
                gain=None if floor is None else uncertainty.interval(values - floor),
                gap_closed=_gap_interval(values, floor, oracle),
                ranks=(int(low[j]), int(high[j])),
                win=float(win[j]),
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
    values: uncertainty.Float64, floor: uncertainty.Float64 | None, oracle: uncertainty.Float64 | None
) -> Interval | None:
    if floor is None or oracle is None or (oracle <= floor).any():
        return None
    return uncertainty.interval((values - floor) / (oracle - floor))


def _fixed(reference: Reference, columns: dict[str, uncertainty.Float64]) -> tuple[Fixed, ...]:
    def row(name: str, accuracy: float | None, column: str = "") -> Fixed:
        known = uncertainty.interval(columns[column]) if column in columns else None
        return Fixed(name=name, accuracy=accuracy, interval=known)

    rows = [row("oracle", reference.oracle, ORACLE)]
    if reference.bayes is not None:
        rows.append(row("Bayes", reference.bayes))
    rows.append(row(f"best single: {reference.best_single_model}", reference.best_single, FLOOR))
    rows.append(row("random", reference.random))
    return tuple(rows)


def overall(entries: Iterable[Entry]) -> list[OverallRow]:
    """Routers over several boards, best average first.

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
    for router, results in held.items():
        by_bench: dict[str, list[float]] = {}
        for key in counted:
            if key in results:
                by_bench.setdefault(names[key[:2]], []).append(_accuracy(results[key]))
        accuracy[router] = {bench: _spread(values) for bench, values in by_bench.items()}
        complete = bool(full) and all(key in results for key in counted)
        average[router] = statistics.fmean(accuracy[router][bench][0] for bench in full) if complete else None
    known = [value for value in average.values() if value is not None]
    rows = [
        OverallRow(
            router=router,
            method=next(iter(held[router].values())).result.method,
            accuracy=accuracy[router],
            average=mine,
            rank=1 + sum(mine is None or round(other - mine, DIGITS) > 0 for other in known),
        )
        for router, mine in sorted(average.items())
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
