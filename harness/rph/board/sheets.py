"""Boards as tables: one per board, one over all of them, and one of what is not ranked."""

from __future__ import annotations

from collections.abc import Sequence

from rph.board.ranking import Board, Fixed, OverallRow, Row
from rph.results import findings
from rph.results.cell import DIGITS, utility_unknown
from rph.results.files import Entry
from rph.results.metrics import COLLAPSED
from rph.results.uncertainty import RESAMPLES
from rph.sheets import Column, Sheet, Value

NOTHING = ""  # of a row that no router decides


def board_sheet(board: Board) -> Sheet:
    """A board, and the rows that no router decides, by accuracy. `low` and `high` are the ends of 95 % intervals."""
    has_prices, has_bayes = board.pool_aiq is not None, board.reference.bayes is not None
    columns = [
        Column("#", "count"),
        Column("tier", "count"),
        Column("router"),
        Column("accuracy", "percent"),
        Column("std", "percent"),
        Column("low", "percent"),
        Column("high", "percent"),
        Column("rank low", "count"),
        Column("rank high", "count"),
        Column("plateau"),
        Column("best", "percent", 1),
        Column("gain low", "percent"),
        Column("gain high", "percent"),
        Column("gap closed", "percent", 1),
        *([Column("AIQ", "percent")] if has_prices else []),
        *([Column("learnable", "percent")] if has_bayes else []),
    ]
    rows: list[tuple[float, list[Value]]] = []
    for row in board.rows:
        extra = [row.aiq] if has_prices else []
        if has_bayes:
            extra.append(None if row.oracle_gap is None else row.oracle_gap.learnable)
        rows.append((row.accuracy, _router(row, extra)))
    rows += [(_or_last(fixed), _fixed(fixed, len(columns))) for fixed in board.fixed]
    # Stable, and less the rounding of means: a router stands above the floor that it equals.
    rows.sort(key=lambda found: -round(found[0], DIGITS))
    return Sheet(
        title=f"{board.bench} x {board.encoder}: {board.reference.n_test:,} test queries, "
        f"{len(board.reference.model_accuracy)} models",
        columns=tuple(columns),
        rows=tuple(tuple(values) for _, values in rows),
        notes=tuple(_notes(board)),
    )


def _or_last(fixed: Fixed) -> float:
    return -1.0 if fixed.accuracy is None else fixed.accuracy


def _router(row: Row, extra: Sequence[float | None]) -> list[Value]:
    result = row.entry.result
    return [
        row.rank,
        row.tier,
        result.router,
        row.accuracy,
        result.test_accuracy_std,
        *row.interval,
        *row.ranks,
        "yes" if row.in_plateau else "no",
        row.win,
        *((None, None) if row.gain is None else row.gain),
        result.gap_closed,
        *extra,
    ]


def _fixed(fixed: Fixed, width: int) -> list[Value]:
    values: list[Value] = [NOTHING, NOTHING, fixed.name, fixed.accuracy, NOTHING]
    values += [NOTHING, NOTHING] if fixed.interval is None else fixed.interval
    return values + [NOTHING] * (width - len(values))


def _notes(board: Board) -> list[str]:
    reference, others = board.reference, len(board.rows) - 1
    notes = [f"SUBSET: {board.subset}"] if board.subset else []
    cells = [row.entry.result for row in board.rows]
    notes += dict.fromkeys(f"Data: {found}." for cell in cells for found in findings.told(cell))
    notes += [f"{cell.router}: {why}." for cell in cells if (why := utility_unknown(cell))]
    notes += [
        f"low, high: 95 % intervals, from {RESAMPLES:,} resamples of the queries (the same for all) and the seeds.",
        "gain: accuracy - best single. gap closed: gain / (oracle - best single).",
        f"rank low, high: 95 % confidence interval of the rank; a router's {others} comparisons hold together.",
        "plateau: no other router is shown to be better. With 95 % confidence the best router is one of these.",
        "tier: routers that cannot be told apart from the first of their tier.",
        "best: share of the resamples in which the router is the best; ties share.",
        f"best single: {reference.best_single_model}, chosen on train.",
    ]
    collapsed = [row.entry.result.router for row in board.rows if row.collapsed]
    if collapsed:
        notes.append(f"Collapsed, at least {COLLAPSED:.0%} to one model: {', '.join(collapsed)}.")
    if board.pool_aiq is not None:
        notes.append(
            "AIQ: mean accuracy over the pool's range of costs (RouterBench). Mixing models at random has "
            f"{100 * board.pool_aiq:.2f} %."
        )
    if reference.bayes is not None and reference.oracle is not None:
        notes.append(
            f"Of the gap to the oracle, {100 * (reference.oracle - reference.bayes):.2f} points are chance that no "
            "router can predict (oracle - Bayes). learnable: what the router misses beyond (Bayes - accuracy)."
        )
    return notes


def overall_sheet(rows: Sequence[OverallRow], boards: Sequence[Board]) -> Sheet:
    """Routers over benchmarks: mean over encoders, and its std where there are several."""
    benches = list(dict.fromkeys(bench for row in rows for bench in row.accuracy))
    several = {
        bench for bench in benches if any(row.accuracy[bench][2] > 1 for row in rows if bench in row.accuracy)
    }
    columns = [Column("#", "count"), Column("router")]
    for bench in benches:
        columns += [Column(bench, "percent"), *([Column("std", "percent")] if bench in several else [])]
    table: list[tuple[Value, ...]] = []
    for row in rows:
        values: list[Value] = [row.rank, row.router]
        for bench in benches:
            mean, std, _ = row.accuracy.get(bench, (None, None, 0))
            values += [mean, std] if bench in several else [mean]
        table.append((*values, row.average))
    subsets = list(dict.fromkeys(board.bench for board in boards if board.subset))
    worlds = list(dict.fromkeys(board.bench for board in boards if board.reference.bayes is not None))
    notes = [
        "Means over encoders, and their standard deviation over encoders.",
        "Counted are the boards of more than half of the routers; a router that lacks one has no average.",
        "average: over the full benchmarks.",
        *([f"Subsets, in no average: {', '.join(subsets)}."] if subsets else []),
        *([f"Control worlds, in no average: {', '.join(worlds)}."] if worlds else []),
    ]
    return Sheet("All benchmarks", (*columns, Column("average", "percent")), tuple(table), tuple(notes))


def unranked_sheet(found: Sequence[tuple[Entry, str]]) -> Sheet:
    """The results that are on no board, and why."""
    rows = [(entry.result.bench, entry.result.encoder, entry.result.router, why) for entry, why in found]
    return Sheet(
        "Not ranked", (Column("benchmark"), Column("encoder"), Column("router"), Column("why")), tuple(rows)
    )
