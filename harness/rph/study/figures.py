"""Figures of a set of results, the paper's and ours, as matplotlib figures without the state of pyplot.

Every figure is a pure function of result files. One ink, three colours that remain apart for the colour-blind and in
grey print: blue is what is measured, red (vermilion) the plateau and hard queries, green the oracle. What stands in the
background is the ink made faint, so that a page may choose the ink.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rph import disk
from rph.board import sets
from rph.results import metrics, utility
from rph.study import bottleneck, identities, plateau
from rph.study.panels import (
    BARS,
    BLUE,
    CELLS,
    DASHES,
    FAINT,
    GREEN,
    INK,
    PAGE,
    RED,
    STYLE,
    columns_for,
    cost_axis,
    curve_of,
    file_name,
    in_points,
    label_points,
    level_line,
    models_of,
    panel_grid,
    plain_names,
    short,
    title_of,
    uprights,
)
from rph.study.utility import Plane, Spot, planes

if TYPE_CHECKING:
    from rph.arrays import Float64
    from rph.board.ranking import Board
    from rph.results.files import Entry


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """One figure and what it shows."""

    name: str  # of its file, without the ending
    caption: str  # what it shows; where there is no figure, why
    figure: Figure | None


def draw(entries: Sequence[Entry], boards: Sequence[Board]) -> Iterator[Drawing]:
    """All figures: those over encoders first, then each board's. `boards` are those of the entries."""
    yield from map(accuracy_cost, planes(entries))
    yield configurations(plateau.configurations(entries))
    yield encoder_spread(plateau.encoder_spreads(entries))
    yield from map(selections, bottleneck.selections(entries))
    for board in boards:
        yield from (intervals(board), frontier(board), agreement(board))


def save(drawing: Drawing, folder: Path, form: str) -> Path | None:
    """Write the figure as `<name>.<form>`, on white; None where there is nothing to draw."""
    if drawing.figure is None:
        return None
    path = folder / f"{drawing.name}.{form}"
    with disk.new_file(path, "writing a figure") as file:
        file.write_bytes(_rendered(drawing.figure, form, PAGE))
    return path


def svg(figure: Figure) -> str:
    """The figure as SVG on a transparent ground."""
    return _rendered(figure, "svg", "none").decode()


def _rendered(figure: Figure, form: str, ground: str) -> bytes:
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
    to = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks: a reader's SVG viewer has others, and the tables have it too.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(to, format=form, facecolor=ground, metadata=undated[form])
    return to.getvalue()


# --- the paper's, across benchmarks and over encoders -------------------------------------------------


@matplotlib.rc_context(STYLE)
def accuracy_cost(plane: Plane) -> Drawing:
    """Paper, Fig. 1: accuracy against normalised cost; without costs, accuracy alone, best first."""
    priced = any(spot.normalised_cost is not None for spot in plane.routers)
    figure, (ax,) = panel_grid(1, columns=1, height=3.4)
    routers, models = _spots(plane.routers, priced), _spots(plane.models, priced)
    in_points(ax, routers, "o", BLUE, "routers")
    in_points(ax, models, "D", INK, "models")
    if plane.band is not None:
        low, high = plane.band
        ax.axhspan(100 * low, 100 * high, color=RED, alpha=0.2, linewidth=0, label="plateau")
    level_line(ax, plane.oracle, "oracle", GREEN, side="right")
    ax.set_ylabel("test accuracy, %")
    if priced:
        ax.set_xlabel("mean cost of a query: 0 the cheapest model, 1 the dearest")
    else:
        ax.set_xlabel("place among routers, and among models (there are no costs)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(short(plane.name, 60))
    label_points(ax, [(*model, INK) for model in models])
    unknown = len(plane.routers) + len(plane.models) - len(routers) - len(models)
    return Drawing(
        name=file_name("fig1-cost", plane.name),
        caption=f"{plane.name}: test accuracy of routers (dots, means over encoders) and single models (diamonds), against "
        f"{'cost' if priced else 'their places, as the benchmark has no costs'}. The red band reaches "
        f"{100 * plateau.NEAR:g} points below the best router; the green line is the oracle."
        + (f" Not shown: {unknown}, of unknown accuracy or cost." if unknown else "")
        + ("" if plane.over is None else f" {plane.over}"),
        figure=figure,
    )


def _spots(found: Sequence[Spot], priced: bool) -> list[tuple[float, float, str]]:
    """(normalised cost, or else the place among these; accuracy in percent; name) of those of which both are known."""
    ranked = sorted(
        (spot for spot in found if spot.accuracy is not None), key=lambda s: sets.descending(s.accuracy)
    )
    names = plain_names([spot.name for spot in ranked])
    return [
        (x, 100 * spot.accuracy, name)
        for place, (spot, name) in enumerate(zip(ranked, names, strict=True), start=1)
        if spot.accuracy is not None and (x := spot.normalised_cost if priced else float(place)) is not None
    ]


@matplotlib.rc_context(STYLE)
def configurations(found: Sequence[plateau.Configurations]) -> Drawing:
    """Paper, Fig. 2: every finished (router, encoder, variant, seed), sorted by test accuracy."""
    name = "fig2-configurations"
    if not found:
        return Drawing(name=name, caption="No configuration has a test accuracy.", figure=None)
    figure, panels = panel_grid(len(found), columns=3, height=2.3)
    for ax, one in zip(panels, found, strict=True):
        values = [100 * point.accuracy for point in one.points]
        ax.plot(range(1, len(values) + 1), values, ".", color=BLUE, markersize=3, markeredgewidth=0,
                label="configurations")  # fmt: skip
        ax.axhspan(100 * one.band[0], 100 * one.band[1], color=RED, alpha=0.25, linewidth=0, label="plateau")
        level_line(ax, one.oracle, "oracle", GREEN, side="right")
        ax.set_title(short(one.name))
        ax.set_xlim(0, len(values) + 1)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.set_xlabel("configurations, best first")
        near = f"{100 * one.near:.0f} % within {100 * plateau.NEAR:g} points of the best"
        ax.annotate(near, (0.02, 0.04), xycoords="axes fraction", fontsize=7)
    panels[0].set_ylabel("test accuracy, %")
    return Drawing(
        name=name,
        caption="Every finished (router, encoder, variant, seed), sorted by test accuracy at lambda = 0. The red band "
        "holds the best tenth, the green line is the oracle.",
        figure=figure,
    )


@matplotlib.rc_context(STYLE)
def encoder_spread(found: Sequence[plateau.EncoderSpread]) -> Drawing:
    """Paper, Fig. 3: how far a router's test accuracy moves with the encoder."""
    name = "fig3-encoders"
    spreads = [(one, one.mean_std) for one in found if one.mean_std is not None]
    if not spreads:
        return Drawing(
            name=name,
            caption="The spread over encoders needs results of one router with two encoders: there are none here.",
            figure=None,
        )
    figure, (ax,) = panel_grid(1, columns=1, height=0.6 + 0.4 * len(spreads))
    for y, (one, mean) in enumerate(spreads):
        stds = [100 * std for std in one.std.values()]
        ax.plot(stds, [y] * len(stds), "o", color=BLUE, alpha=0.5, markersize=5, markeredgewidth=0,
                label="routers")  # fmt: skip
        ax.plot([100 * mean], [y], "|", color=INK, markersize=14, markeredgewidth=1.5, label="mean")
        widest = max(one.std, key=lambda router: one.std[router])
        ax.annotate(short(widest), (100 * one.std[widest], y), (5, 0), textcoords="offset points", va="center",
                    fontsize=6.5)  # fmt: skip
    ax.set_yticks(range(len(spreads)), [short(one.name) for one, _ in spreads])
    ax.set_ylim(len(spreads) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.margins(x=0.12)
    ax.set_xlabel("standard deviation of test accuracy over encoders, percentage points")
    return Drawing(
        name=name,
        caption="Standard deviation of test accuracy over encoders: a dot per router, a tick for their mean, and the "
        "router that moves most by its name.",
        figure=figure,
    )


@matplotlib.rc_context(STYLE)
def selections(found: bottleneck.Selections) -> Drawing:
    """Paper, Figs. 4 and 6-9: how often each model is chosen, beside how often it is right."""
    K = len(found.models)
    kept = K if K <= BARS else BARS - 1

    def bars(shares: Float64 | None) -> Float64 | None:
        if shares is None:
            return None
        return 100 * np.append(shares[:kept], [shares[kept:].sum()] if kept < K else [])

    shown = [("truth", bars(found.truth), bars(found.hard_truth))]
    for router, shares in found.routers.items():
        shown.append((router, bars(shares), bars(found.hard_routers.get(router))))
    names = [short(name, 22) for name in plain_names(found.models)[:kept]]
    names += [f"{K - kept} others"] if kept < K else []
    places = np.arange(len(names))
    columns = 6
    figure, panels = panel_grid(len(shown), columns=columns, height=0.42 + 0.1 * len(names), shared=True)
    for ax, (title, everywhere, hard) in zip(panels, shown, strict=True):
        for offset, widths, color, name in ((-0.2, everywhere, BLUE, "all"), (0.2, hard, RED, "hard")):
            if widths is not None:
                ax.barh(places + offset, widths, 0.4, color=color, linewidth=0, label=name)
        ax.set_title(short(title, 18), fontsize=7, fontweight="bold" if ax is panels[0] else "normal")
        ax.set_yticks(places, names, fontsize=5.5)
        ax.tick_params(axis="x", labelsize=6)
        ax.tick_params(axis="y", length=0)
        ax.grid(False, axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(3))
    for ax in panels[-columns:]:
        ax.tick_params(axis="x", labelbottom=True)  # also where the row below is not full
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    panels[0].set_xlim(left=0)
    title = f"{short(found.name, 60)}: % of all queries (blue) and of hard queries (red)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=8)
    return Drawing(
        name=file_name("fig4-selections", found.name),
        caption=f"{found.name}: models chosen, % of all test queries (blue) and of the hard ones (red), mean over seeds and "
        "encoders; models in the order of their test accuracy. Truth: how often each model is right, a query shared "
        "among the models that solve it.",
        figure=figure,
    )


# --- of one board -----------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def intervals(board: Board) -> Drawing:
    """Every router's accuracy with its 95 % interval, in tiers."""
    rows = board.rows
    figure, (ax,) = panel_grid(1, columns=1, height=0.9 + 0.17 * len(rows))
    for y, row in enumerate(rows):
        low, high = row.interval
        color = RED if row.in_plateau else BLUE
        ax.plot([100 * low, 100 * high], [y, y], color=color, linewidth=1.2, label="interval")
        x = 100 * row.accuracy
        ax.plot([x], [y], "o", color=color, markersize=4, markeredgewidth=0, label="accuracy")
    for tier in sorted({row.tier for row in rows}):
        places = [y for y, row in enumerate(rows) if row.tier == tier]
        if tier % 2 == 0:
            ax.axhspan(places[0] - 0.5, places[-1] + 0.5, color=INK, alpha=0.05, linewidth=0, label="tier")
        ax.annotate(f"tier {tier}", (1, places[0]), (4, 0), xycoords=ax.get_yaxis_transform(),
                    textcoords="offset points", va="center", fontsize=7, alpha=FAINT)  # fmt: skip
    ax.set_yticks(range(len(rows)), [f"{short(row.entry.result.router)}  {row.rank}" for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) + 0.2, -0.5)  # the names of upright lines stand below the last row
    ax.set_xlabel("test accuracy, %")
    ax.set_title(title_of(board))
    uprights(ax, board)
    return Drawing(
        name=file_name("accuracy", board.bench, board.fingerprint[:8], board.encoder),
        caption=f"Test accuracy on {board.bench} with {board.encoder}: mean over seeds, and its 95 % interval over "
        "queries and seeds. Red: cannot be told apart from the best at 95 %. A tier holds the routers that cannot be "
        "told apart from its first.",
        figure=figure,
    )


@matplotlib.rc_context(STYLE)
def frontier(board: Board) -> Drawing:
    """What routers reach as the weight of cost grows, against single models and coin flips between them."""
    name = file_name("frontier", board.bench, board.fingerprint[:8], board.encoder)
    models = models_of(board)
    points = [point for row in board.rows for point in curve_of(row.entry.result)]
    if not models or not points:
        return Drawing(
            name=name,
            caption=f"{board.bench} has no costs: there is no accuracy to draw against cost.",
            figure=None,
        )
    figure, (ax,) = panel_grid(1, columns=1, height=3.8)
    ax.plot(
        *columns_for(points), ".", color=BLUE, alpha=0.35, markersize=3, markeredgewidth=0, label="routers"
    )
    best = [points[i] for i in utility.frontier(*columns_for(points))]
    cost, reached = (
        column.repeat(2) for column in columns_for(best)
    )  # each accuracy holds until the next cost
    ax.plot(cost[1:], reached[:-1], color=BLUE, linewidth=1.5, label="frontier")
    corner, height = utility.cost_hull(*columns_for(models))
    costs = [cost for cost, _, _ in points + models]
    spread = np.geomspace if min(costs) > 0 else np.linspace
    x = spread(min(cost for cost, _, _ in models), max(costs), 200)
    y = np.interp(x, corner, height)
    ax.plot(x, y, color=INK, alpha=FAINT, linewidth=1, linestyle=DASHES, label="mixture")
    in_points(ax, models, "D", INK, "models")
    level_line(ax, board.reference.oracle, "oracle", GREEN, side="left")
    cost_axis(ax, costs)
    ax.set_title(title_of(board))
    middle = best[2 * len(best) // 3]
    label_points(
        ax,
        [(*model, INK) for model in models]
        + [(*middle[:2], f"best of {len(board.rows)} routers", BLUE)]
        + [(float(x[150]), float(y[150]), "coin flips between models", INK)],
    )
    return Drawing(
        name=name,
        caption=f"Accuracy against cost on {board.bench} with {board.encoder}, as the weight of cost goes from 0 to 1: "
        "every router (dots), the best of all routers at each cost (line), single models (diamonds), and the best that "
        "flipping coins between single models gives (dashed).",
        figure=figure,
    )


@matplotlib.rc_context(STYLE)
def agreement(board: Board) -> Drawing:
    """Which routers are the same function: routes that differ, pair by pair."""
    name = file_name("agreement", board.bench, board.fingerprint[:8], board.encoder)
    if len(board.rows) < 2:
        return Drawing(
            name=name,
            caption=f"One router on {board.bench} with {board.encoder}: nothing to compare.",
            figure=None,
        )
    routes = [row.entry.queries.routes[0] for row in board.rows]
    apart = 100 * np.array([[metrics.disagreement(a, b) for b in routes] for a in routes])
    order = identities.clustered(apart)
    routers, apart = [board.rows[i].entry.result.router for i in order], apart[np.ix_(order, order)]
    R = len(routers)
    names = [short(router) for router in routers]
    figure, (ax,) = panel_grid(1, columns=1, height=0.5 + 0.2 * R + 0.07 * max(map(len, names)))
    # Opacity instead of a colour map, so that the page shows through: what is alike is blue.
    ground = np.empty((R, R, 4))
    ground[..., :3] = to_rgb(BLUE)
    ground[..., 3] = 0.9 * (1 - apart / max(apart.max(), 1))
    ax.pcolormesh(ground, label="cells")
    for i in range(R):
        for j in range(R):
            if i != j and R <= CELLS:
                dark = ground[i, j, 3] > 0.7
                ax.text(j + 0.5, i + 0.5, f"{apart[i, j]:.0f}", ha="center", va="center", fontsize=6,
                        color=PAGE if dark else INK)  # fmt: skip
    ax.grid(False)
    ax.set_aspect("equal")
    ax.set_xticks(np.arange(R) + 0.5, names, rotation=90)
    ax.set_yticks(np.arange(R) + 0.5, names)
    ax.tick_params(length=0)
    ax.set_ylim(R, 0)
    ax.spines[:].set_visible(False)
    ax.set_title(title_of(board))
    return Drawing(
        name=name,
        caption=f"Test queries of {board.bench} that two routers with {board.encoder} send to different models, %. "
        "Routers that route alike stand together.",
        figure=figure,
    )
