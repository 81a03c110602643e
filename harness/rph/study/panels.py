"""What the figures are made of: style, panels, lines, and labels that hide nothing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from rph.arrays import Float64
    from rph.board.ranking import Board
    from rph.results.cell import CellResult

WIDTH = 7.0  # inches: the text width of a paper, so that 8 points stay 8 points
INK, PAGE = "#1b1f24", "#ffffff"
BLUE, RED, GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito 2008
FAINT = 0.55  # opacity of the background
BARS = 12  # models of a panel of selections; those beyond are added up
CELLS = 30  # routers up to which the cells of a heat map hold numbers
LONGEST = 34  # characters of a name in a figure
DASHES = (0, (4, 2))
# Where a label may stand about its point: offset in points, and which of its corners is there. The first free place;
# next to the point, or else away from it and tied to it by a line.
BESIDE = (
    (5, 0, "left", "center"), (-5, 0, "right", "center"), (0, 5, "center", "bottom"), (0, -5, "center", "top"),
    (4, 4, "left", "bottom"), (4, -4, "left", "top"), (-4, 4, "right", "bottom"), (-4, -4, "right", "top"),
)  # fmt: skip
AWAY = (
    (14, 12, "left", "center"), (14, -12, "left", "center"), (-14, 12, "right", "center"),
    (-14, -12, "right", "center"), (0, 18, "center", "bottom"), (0, -18, "center", "top"),
    (28, 24, "left", "center"), (28, -24, "left", "center"),
)  # fmt: skip

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    **{f"{what}color": INK for what in ("text.", "axes.edge", "axes.label", "axes.title", "grid.")},
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.1,
    "grid.linewidth": 0.5,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.dpi": 200,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "rph",  # the same results give the same bytes
    "pdf.fonttype": 42,
}


def panel_grid(n: int, *, columns: int, height: float, shared: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of the full width with n panels, each `height` inches high, in so many columns at most."""
    columns = min(columns, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(WIDTH, rows * height))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).ravel()
    for unused in axes[n:]:
        unused.remove()
    return figure, list(axes[:n])


def in_points(
    ax: Axes, points: Sequence[tuple[float, float, str]], marker: str, color: str, name: str
) -> None:
    ax.plot(*columns_for(points), marker, color=color, alpha=0.6, markersize=5, markeredgewidth=0, label=name)


def level_line(
    ax: Axes, value: float | None, text: str, color: str, *, side: Literal["left", "right"]
) -> None:
    """A dashed line across the panel with its name and its value, a share, in percent."""
    if value is None:
        return
    ax.axhline(100 * value, color=color, linewidth=1, linestyle=DASHES, label=text)
    ax.annotate(
        f"{text} {100 * value:.1f}",
        (0.98 if side == "right" else 0.02, 100 * value),
        (0, -2),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        ha=side,
        va="top",
        fontsize=7,
        color=color,
    )


def uprights(ax: Axes, board: Board) -> None:
    """The rows that no router decides, as upright lines; those far off stand at the edge that they lie beyond."""
    low, high = ax.get_xlim()
    room = 0.25 * (high - low)
    beyond: dict[str, list[str]] = {"left": [], "right": []}
    for row in board.fixed:
        if row.accuracy is None:
            continue
        x, text = 100 * row.accuracy, f"{short(row.name)} {100 * row.accuracy:.1f}"
        if low - room <= x <= high + room:
            ax.axvline(x, color=INK, alpha=FAINT, linewidth=1, linestyle=DASHES, label=row.name)
            ax.annotate(text, (x, 0), (3, 3), xycoords=ax.get_xaxis_transform(), textcoords="offset points",
                        va="bottom", fontsize=7, alpha=FAINT)  # fmt: skip
        else:
            beyond["left" if x < low else "right"].append(text)
    notes = [f"\u2190 {', '.join(beyond['left'])}"] * bool(beyond["left"])
    notes += [f"{', '.join(beyond['right'])} \u2192"] * bool(beyond["right"])
    ax.annotate(" | ".join(notes), (1, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", ha="right",
                va="bottom", fontsize=7, alpha=FAINT)  # fmt: skip


def cost_axis(ax: Axes, costs: Sequence[float]) -> None:
    """Costs spread over decades; what is free has no place on a logarithmic axis."""
    ax.set_ylabel("test accuracy, %")
    ax.set_xlabel("US dollars per 1,000 queries")
    if min(costs) > 0:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())


def label_points(ax: Axes, spots: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each (x, y, text, color) beside its point, where it hides no text, point or line; else not at all."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # settles the layout, and with it where a point lies in pixels
    figure.set_layout_engine("none")
    inside = ax.get_window_extent()
    boxes = [text.get_window_extent() for text in ax.texts]
    inked = np.concatenate([_pixels(line) for line in ax.lines])

    def write(spot: tuple[float, float, str, str], place: tuple[float, float, str, str], tied: bool) -> bool:
        (x, y, text, color), (dx, dy, ha, va) = spot, place
        written = ax.annotate(short(text), (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=6.5,
                              color=color)  # fmt: skip
        box = written.get_window_extent()
        free = not any(box.overlaps(other) for other in boxes) and not box.count_contains(inked)
        if not (free and inside.contains(*box.min) and inside.contains(*box.max)):
            written.remove()
            return False
        boxes.append(box)
        if tied:
            line = {"arrowstyle": "-", "color": color, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2}
            ax.annotate("", (x, y), (dx, dy), textcoords="offset points", arrowprops=line)
        return True

    left = [spot for spot in spots if not any(write(spot, place, tied=False) for place in BESIDE)]
    for spot in left:
        any(write(spot, place, tied=True) for place in AWAY)


def _pixels(line: Line2D) -> Float64:
    """[P, 2] where a line or its markers stand, every few pixels."""
    corners: Float64 = line.get_transform().transform(line.get_xydata())
    if line.get_linestyle() == "None":
        return np.concatenate([corners + np.array([dx, dy]) for dx in (-4, 0, 4) for dy in (-4, 0, 4)])
    steps = [np.linspace(a, b, 2 + int(np.abs(b - a).max() / 4)) for a, b in itertools.pairwise(corners)]
    return np.concatenate([corners, *steps])


def models_of(board: Board) -> list[tuple[float, float, str]]:
    """(US dollars per 1,000 queries, test accuracy in percent, name) of the single models of which both are known."""
    reference = board.reference
    if reference.model_cost is None:
        return []
    names = plain_names(board.rows[0].entry.result.models)
    found = zip(reference.model_cost, reference.model_accuracy, names, strict=True)
    return [
        (1000 * cost, 100 * accuracy, name)
        for cost, accuracy, name in found
        if cost is not None and accuracy is not None
    ]


def curve_of(result: CellResult) -> list[tuple[float, float, str]]:
    """(US dollars per 1,000 queries, test accuracy in percent, router) at each lambda of which both are known."""
    return [
        (1000 * point.cost, 100 * point.accuracy, result.router)
        for point in result.curve or ()
        if point.cost is not None and point.accuracy is not None
    ]


def columns_for(points: Sequence[tuple[float, float, str]]) -> tuple[Float64, Float64]:
    return np.array([x for x, _, _ in points]), np.array([y for _, y, _ in points])


def plain_names(models: Sequence[str]) -> list[str]:
    """The models without their publishers, where they remain apart: of `meta/llama-2`, `llama-2`."""
    plain = [model.rsplit("/", 1)[-1] for model in models]
    return plain if len(set(plain)) == len(plain) else list(models)


def title_of(board: Board) -> str:
    return f"{short(board.bench, 60)} × {short(board.encoder)}"


def file_name(kind: str, *of: str) -> str:
    """A name for a file, whatever a benchmark is called."""
    return "-".join([kind, *(re.sub(r"[^A-Za-z0-9.=+-]+", "_", one) for one in of)])


def short(name: str, longest: int = LONGEST) -> str:
    """A name as it fits into a figure: on one line, cut in the middle, without what XML cannot hold."""
    seen = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    half = (longest - 1) // 2  # an end tells as much as a beginning: sizes and versions stand there
    return seen if len(seen) <= longest else f"{seen[:half]}…{seen[-half:]}"
