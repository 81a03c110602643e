"""Results as tables for a terminal: one per (benchmark, encoder), routers ranked by test accuracy, floor and ceiling beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from rph.board.sets import descending, ranks
from rph.results import missing, tasks, variants
from rph.results.cell import CellResult, utility_unknown
from rph.results.metrics import gap_closed
from rph.study.identities import Identities

BASELINE = "dim"
EQUAL = 1e-6  # two ends closer than this are one number


def leaderboards(results: Sequence[CellResult]) -> Iterator[tuple[Table, list[str]]]:
    """A table and the lines below it per (benchmark, encoder), in the order in which the results came."""
    order = list(dict.fromkeys((r.bench, r.encoder) for r in results))
    ranked = sorted(results, key=lambda r: (order.index((r.bench, r.encoder)), descending(r.lower)))
    for _, cells in groupby(ranked, key=lambda r: (r.bench, r.encoder)):
        board = list(cells)
        yield _leaderboard(board), _notes(board)


def _leaderboard(cells: list[CellResult]) -> Table:
    first = cells[0]
    reference = first.reference
    has_costs = any(cell.utility is not None for cell in cells)
    table = Table(
        title=escape(
            f"{first.bench} x {first.encoder}, protocol {first.protocol}: "
            f"{reference.n_train} train, {reference.n_val} val, {first.n_test} test, {len(first.models)} models"
        ),
        title_justify="left",
    )
    for heading in ("#", "router", "test acc. %", "gap closed %", "val acc. %", "coverage %"):
        table.add_column(heading, justify="left" if heading == "router" else "right", no_wrap=True)
    if has_costs:
        table.add_column("U(0.5) %", justify="right", no_wrap=True)
        table.add_column("$ / 1k", justify="right", no_wrap=True)
    table.add_column("BCE", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    width = len(table.columns)

    def row(cells: Iterable[str], style: str = "") -> None:
        values = list(cells)
        table.add_row(*values, *[""] * (width - len(values)), style=style)

    holes = missing.of(first)

    def baseline(name: str, accuracy: float | None, ends: missing.Range | None = None) -> None:
        # Where missing labels leave the gap itself open, there is a share of it of its own two ends alone.
        known = holes is None or (_exact(holes.oracle) and _exact(holes.best_single) and _exact(ends))
        known = known or accuracy in (reference.best_single, reference.oracle)
        share = gap_closed(accuracy, reference.best_single, reference.oracle) if known else None
        open_ = None if ends is None else (ends.low, ends.high)
        row(["", name, percent(accuracy) + _between(open_), percent(share)], BASELINE)

    baseline("oracle", reference.oracle, None if holes is None else holes.oracle)
    if reference.bayes is not None:
        baseline("Bayes (knows P(correct))", reference.bayes)
    for rank, cell in zip(ranks([cell.lower for cell in cells]), cells, strict=True):
        values = [
            "" if rank is None else str(rank),
            escape(cell.router),
            percent(cell.test_accuracy_mean) + _plus_minus(cell) + _between(cell.bounds),
            percent(cell.gap_closed),
            percent(cell.val_accuracy),
            percent(cell.coverage),
        ]
        if has_costs:
            utility = cell.utility or {}
            values.append(percent(utility.get("0.5")))
            values.append("n/a" if cell.cost is None else f"{1000 * cell.cost:.3g}")
        values += [number(cell.bce, 3), f"{cell.seconds:.1f}"]
        row(values)
    baseline("best single", reference.best_single, None if holes is None else holes.best_single)
    if (of_tasks := tasks.of(first)) is not None:
        known = of_tasks.best_per_task
        ends = (
            None if known.low is None or known.high is None else missing.Range(low=known.low, high=known.high)
        )
        baseline("best per task", known.value, ends)
    row(["", "random", percent(reference.random)], BASELINE)
    return table


def _exact(ends: missing.Range | None) -> bool:
    """Whether no missing label leaves a row open; None: it has one end."""
    return ends is None or ends.high - ends.low < EQUAL


def _between(ends: tuple[float, float] | None) -> str:
    """The two ends of an accuracy of which labels are missing."""
    if ends is None or ends[1] - ends[0] < EQUAL:
        return ""
    return f" [{percent(ends[0])}, {percent(ends[1])}]"


def _points(gain: missing.Range) -> str:
    low, high = (f"{100 * end:+.2f}" for end in (gain.low, gain.high))
    return low if low == high else f"{low} to {high}"


def _notes(cells: list[CellResult]) -> list[str]:
    seeds = max(len(cell.seeds) for cell in cells)
    reference = cells[0].reference
    lines = [f"{cell.router}: {cell.variant_name}" for cell in cells]
    lines.append(f"test acc.: mean ± std over {seeds} seed(s); a deterministic variant is trained once.")
    lines.append(f"best single: {reference.best_single_model}, chosen on train.")
    beyond = [(cell.router, found.gap_closed) for cell in cells if (found := tasks.of(cell)) is not None]
    if beyond:
        shares = ", ".join(f"{router} {percent(share)}" for router, share in beyond)
        lines.append(f"best per task: {tasks.ROW}. Gap closed beyond it %: {shares}.")
    lines += missing.notes(cells[0])
    if missing.of(cells[0]) is not None:
        lines.append("val acc.: with missing labels counted wrong, as variants are chosen by it.")
    if any(cell.bounds is not None and cell.bounds[1] - cell.bounds[0] >= EQUAL for cell in cells):
        lines.append(
            "[low, high]: with the missing labels of what was chosen counted wrong, and counted right."
        )
        lines.append(
            "The order goes by low, gap closed is n/a where they leave it open by more than 2 points."
        )
    gains = [(cell.router, holes.gain) for cell in cells if (holes := missing.of(cell)) is not None]
    if shown := [f"{name} {_points(gain)}" for name, gain in gains if gain is not None]:
        lines.append(f"Points above best single, query by query: {', '.join(shown)}.")
    lines.append(f"BCE of predicting each model's train mean: {number(reference.base_rate_bce, 3)}.")
    if all(reasons := [missing.without_utility(cell) for cell in cells]):
        lines.append(f"Cost and utility: n/a ({reasons[0]}).")
    lines += [f"{cell.router}: {why}." for cell in cells if (why := utility_unknown(cell))]
    lines += [f"{cell.router}: {note}." for cell in cells for note in variants.notes(cell)]
    if any(cell.reference.bayes is not None for cell in cells):
        shares = ", ".join(f"{cell.router} {percent(cell.learnable_gap_closed)}" for cell in cells)
        lines.append(f"Learnable gap (Bayes - best single) closed %: {shares}.")
    if cells[0].subset:
        lines.append(f"SUBSET: {cells[0].subset}")
    if any(cell.selector_cost == "realised (oracle leak)" for cell in cells):
        lines.append("Utility routes by realised test cost: an oracle leak.")
    return lines


def heat_map(found: Identities) -> Table:
    """Routers by routers: disagreement of routes in % above the diagonal, correlation of scores below it."""
    table = Table(
        title=escape(
            f"{found.bench} x {found.encoder}: routes that differ, % (upper right); "
            "Spearman correlation of scores (lower left)"
        ),
        title_justify="left",
        padding=0,
    )
    table.add_column("")
    table.add_column("router", no_wrap=True)
    for number_ in range(1, len(found.routers) + 1):
        table.add_column(f"{number_:>5}", justify="right", no_wrap=True)
    most = max(float(found.disagreement.max()), 1e-9)
    for i, router in enumerate(found.routers):
        row = [str(i + 1), escape(router)]
        for j in range(len(found.routers)):
            if i == j:
                row.append("-")
            elif i < j:
                value = float(found.disagreement[i, j])
                row.append(_shaded(f"{100 * value:5.1f}", 1 - value / most))
            else:
                value = float(found.correlation[i, j])
                row.append("  n/a" if math.isnan(value) else _shaded(f"{value:5.2f}", value))
        table.add_row(*row)
    return table


def _shaded(text: str, likeness: float) -> str:
    """The text on a ground from dark grey (unlike) to green (alike)."""
    share = min(max(likeness, 0.0), 1.0)
    ground = f"rgb({int(40 + 20 * share)},{int(40 + 110 * share)},{int(45 + 35 * share)})"
    return f"[white on {ground}]{text}[/]"


def percent(value: float | None) -> str:
    """A share as a percentage, or n/a."""
    return "n/a" if value is None else f"{100 * value:z.2f}"  # z: never -0.00


def number(value: float | None, digits: int) -> str:
    """A number with so many decimals, or n/a."""
    return "n/a" if value is None else f"{value:z.{digits}f}"


def _plus_minus(cell: CellResult) -> str:
    if cell.deterministic:
        return " deterministic"
    return "" if cell.test_accuracy_std is None else f" ± {100 * cell.test_accuracy_std:.2f}"
