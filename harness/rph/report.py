"""Results as tables for a terminal: one per (benchmark, encoder), routers ranked by test accuracy, floor and ceiling beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from rph.metrics import gap_closed
from rph.results import CellResult

BASELINE = "dim"


def leaderboards(results: Sequence[CellResult]) -> Iterator[tuple[Table, list[str]]]:
    """A table and the lines below it per (benchmark, encoder), in the order in which the results came."""
    order = list(dict.fromkeys((r.bench, r.encoder) for r in results))
    ranked = sorted(results, key=lambda r: (order.index((r.bench, r.encoder)), -(r.test_accuracy_mean or 0)))
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

    row(["", "oracle", percent(reference.oracle), percent(1.0)], BASELINE)
    if reference.bayes is not None:
        share = gap_closed(reference.bayes, reference.best_single, reference.oracle)
        row(["", "Bayes (knows P(correct))", percent(reference.bayes), percent(share)], BASELINE)
    for rank, cell in enumerate(cells, start=1):
        values = [
            str(rank),
            escape(cell.router),
            percent(cell.test_accuracy_mean) + _plus_minus(cell.test_accuracy_std),
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
    row(["", "best single", percent(reference.best_single), percent(0.0)], BASELINE)
    row(["", "random", percent(reference.random)], BASELINE)
    return table


def _notes(cells: list[CellResult]) -> list[str]:
    seeds = max(len(cell.seeds) for cell in cells)
    reference = cells[0].reference
    lines = [f"{cell.router}: {cell.variant_name}" for cell in cells]
    lines.append(f"test acc.: mean ± std over {seeds} seed(s); a deterministic router is trained once.")
    lines.append(f"best single: {reference.best_single_model}, chosen on train.")
    lines.append(f"BCE of predicting each model's train mean: {number(reference.base_rate_bce, 3)}.")
    if all(cell.utility is None for cell in cells):
        lines.append("Cost and utility: n/a (the benchmark has no costs).")
    if any(cell.reference.bayes is not None for cell in cells):
        shares = ", ".join(f"{cell.router} {percent(cell.learnable_gap_closed)}" for cell in cells)
        lines.append(f"Learnable gap (Bayes - best single) closed %: {shares}.")
    if cells[0].subset:
        lines.append(f"SUBSET: {cells[0].subset}")
    if any(cell.selector_cost != "train mean" for cell in cells):
        lines.append("Utility routes by realised test cost: an oracle leak.")
    return lines


def percent(value: float | None) -> str:
    """A share as a percentage, or n/a."""
    return "n/a" if value is None else f"{100 * value:.2f}"


def number(value: float | None, digits: int) -> str:
    """A number with so many decimals, or n/a."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def _plus_minus(std: float | None) -> str:
    return "" if std is None else f" ± {100 * std:.2f}"
