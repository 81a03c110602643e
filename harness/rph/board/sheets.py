"""Boards as tables: one per board, one over all of them, and one of what is not ranked."""

from __future__ import annotations

from collections.abc import Sequence

from rph.board.ranking import Board, Fixed, OverallRow, Row
from rph.results import findings, missing, tasks, variants
from rph.results.cell import DIGITS, utility_unknown
from rph.results.files import Entry
from rph.results.metrics import COLLAPSED
from rph.results.sheets import Column, Sheet, Value
from rph.results.uncertainty import RESAMPLES

NOTHING = ""  # of a row that no router decides


def board_sheet(board: Board) -> Sheet:
    """A board, and the rows that no router decides, by accuracy. `low` and `high` are the ends of 95 % intervals."""
    has_tasks = any(fixed.name == tasks.ROW for fixed in board.fixed)
    has_prices, has_bayes = board.pool_aiq is not None, board.reference.bayes is not None
    columns = [
        Column("#", "count"),
        Column("tier", "count"),
        Column("router"),
        Column("accuracy", "percent"),
        *([Column("missing 0", "percent"), Column("missing 1", "percent")] if board.open else []),
        Column("std", "percent"),
        Column("low", "percent"),
        Column("high", "percent"),
        Column("rank low", "count"),
        Column("rank high", "count"),
        Column("plateau"),
        Column("best", "percent", 1),
        Column("gain low", "percent"),
        Column("gain high", "percent"),
        *([Column("against best single")] if board.open else []),
        Column("gap closed", "percent", 1),
        *([Column("beyond tasks", "percent", 1)] if has_tasks else []),
        *([Column("AIQ", "percent")] if has_prices else []),
        *([Column("learnable", "percent")] if has_bayes else []),
    ]
    rows: list[tuple[float, list[Value]]] = []
    for row in board.rows:
        extra = [row.beyond_tasks] if has_tasks else []
        extra += [row.aiq] if has_prices else []
        if has_bayes:
            extra.append(None if row.oracle_gap is None else row.oracle_gap.learnable)
        rows.append((row.bounds[0], _router(row, extra, is_open=board.open)))
    rows += [(_or_last(fixed), _fixed(fixed, len(columns), is_open=board.open)) for fixed in board.fixed]
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
    if fixed.bounds is not None:
        return fixed.bounds[0]
    return -1.0 if fixed.accuracy is None else fixed.accuracy


def _router(row: Row, extra: Sequence[float | None], *, is_open: bool) -> list[Value]:
    result = row.entry.result
    return [
        row.rank,
        row.tier,
        result.router,
        row.accuracy,
        *(row.bounds if is_open else ()),
        "deterministic" if result.deterministic else result.test_accuracy_std,
        *row.interval,
        *row.ranks,
        "yes" if row.in_plateau else "no",
        row.win,
        *((None, None) if row.gain is None else row.gain),
        *([row.against] if is_open else []),
        result.gap_closed,
        *extra,
    ]


def _fixed(fixed: Fixed, width: int, *, is_open: bool) -> list[Value]:
    values: list[Value] = [NOTHING, NOTHING, fixed.name, fixed.accuracy]
    if is_open:
        values += [NOTHING, NOTHING] if fixed.bounds is None else fixed.bounds
    values += [NOTHING]
    values += [NOTHING, NOTHING] if fixed.interval is None else fixed.interval
    return values + [NOTHING] * (width - len(values))


def data_notes(board: Board) -> list[str]:
    """What a reader must know of the benchmark: what was found in it, and which labels are missing."""
    cells = [row.entry.result for row in board.rows]
    notes = list(dict.fromkeys(f"Data: {found}." for cell in cells for found in findings.told(cell)))
    notes += missing.notes(cells[0])
    if board.open:
        notes += [
            "missing 0, 1: the accuracy with the missing labels of what was chosen counted wrong, and counted right.",
            "The order goes by missing 0; low, high, gain and against best single allow for both.",
            "against best single, query by query: better or worse holds whatever the missing labels are.",
            f"gap closed: given where missing labels leave it open by at most {100 * missing.SURE:g} points.",
        ]
    if board.telling:
        notes.append(
            "THE HOLES CARRY INFORMATION: a row that knows which labels are missing, and nothing else of a query, beats "
            "the best single model. They tell of the answers, or of whose calls were lost: no deployment tells either."
        )
    return notes


def _notes(board: Board) -> list[str]:
    reference, others = board.reference, len(board.rows) - 1
    notes = [f"SUBSET: {board.subset}"] if board.subset else []
    cells = [row.entry.result for row in board.rows]
    notes += data_notes(board)
    notes += [f"{cell.router}: {why}." for cell in cells if (why := utility_unknown(cell))]
    notes += [f"{cell.router}: {note}." for cell in cells for note in variants.notes(cell)]
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
    if any(fixed.name == tasks.ROW for fixed in board.fixed):
        notes.append(
            "beyond tasks: (accuracy - best model per task) / (oracle - it): what is more than coarse structure."
        )
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
