"""The interactive plot of a board, as data for BokehJS: accuracy against cost, or accuracy with its interval.

A glyph names its colour in a tag, "colour:accent", and assets/plots.js looks it up in the theme of the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bokeh
from bokeh.embed import json_item
from bokeh.models import (
    ColumnDataSource,
    FactorRange,
    HoverTool,
    LogScale,
    NoOverlap,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.plotting import figure

from rph.board.ranking import Board

TOOLS = "pan,wheel_zoom,box_zoom,reset,save"
ROW = 22  # pixels per router

Record = dict[str, Any]  # column -> value


def library() -> str:
    """The text of bokeh.min.js, from the installed package: its version is that of the data."""
    return (Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js").read_text("utf-8")


def plot(board: Board, prefix: str) -> Any:
    """What `Bokeh.embed.embed_item` draws. Its ids begin with `prefix`, which no other plot of a page has."""
    fig = _intervals(board) if board.reference.model_cost is None else _costs(board)
    return _renamed(json_item(fig), prefix, {})


def _renamed(item: Any, prefix: str, names: dict[str, str]) -> Any:
    """The item with ids that count from 1, where Bokeh counts on from plot to plot: equal boards give equal pages."""
    if isinstance(item, list):
        return [_renamed(one, prefix, names) for one in item]
    if not isinstance(item, dict):
        return item
    return {
        key: names.setdefault(value, f"{prefix}{len(names) + 1}")
        if key in ("id", "root_id") and isinstance(value, str)
        else _renamed(value, prefix, names)
        for key, value in item.items()
    }


def _costs(board: Board) -> Any:
    """Accuracy against cost: a curve per router over lambda, a point where it ignores costs, and the models themselves."""
    reference, result = board.reference, board.rows[0].entry.result
    models: list[Record] = [
        {"name": name, "x": 1000 * cost, "y": 100 * accuracy}
        for name, accuracy, cost in zip(
            result.models, reference.model_accuracy, reference.model_cost or (), strict=True
        )
        if accuracy is not None and cost is not None
    ]
    curves: list[Record] = []
    points: list[Record] = []
    for row in board.rows:
        cell = row.entry.result
        known = [
            (1000 * point.cost, 100 * point.accuracy)
            for point in cell.curve or ()
            if point.cost is not None and point.accuracy is not None
        ]
        curves.append({"name": cell.router, "x": [x for x, _ in known], "y": [y for _, y in known]})
        if cell.cost is not None and known:  # at lambda 0, of the models with a price
            points.append({"name": cell.router, "x": known[0][0], "y": known[0][1]})
    xs = [p["x"] for p in models + points] + [x for curve in curves for x in curve["x"]]
    fig = _figure(
        x_axis_label="US dollars per 1,000 queries",
        y_axis_label="test accuracy, %",
        x_axis_type="log" if xs and min(xs) > 0 else "linear",  # a free model has no place on a log axis
        height=480,
    )
    fig.xaxis.formatter = NumeralTickFormatter(format="0.[0000]")
    fig.xaxis.major_label_policy = NoOverlap(min_distance=8)
    if isinstance(fig.x_scale, LogScale):  # Bokeh's own ticker leaves whole decades without a label
        fig.xaxis.ticker = [digit * 10.0**power for power in range(-5, 4) for digit in (1, 2, 3, 4, 5, 7)]
    lines = fig.multi_line(
        "x", "y", source=_source(curves), line_width=1.5, line_alpha=0.35, hover_line_alpha=1.0
    )
    lines.glyph.tags = lines.hover_glyph.tags = ["colour:accent"]
    lines.hover_glyph.line_width = 3
    pool = fig.scatter("x", "y", source=_source(models), marker="diamond", size=11)
    pool.glyph.tags = ["colour:grey"]
    free = fig.scatter("x", "y", source=_source(points), size=7)
    free.glyph.tags = ["colour:accent"]
    where = [("accuracy", "@y{0.00} %"), ("cost", "$@x{0.[0000]} per 1,000")]
    fig.add_tools(
        HoverTool(
            renderers=[lines],
            tooltips=[("router", "@name"), ("accuracy", "$y{0.00} %"), ("cost", "$$x{0.[0000]} per 1,000")],
        ),
        HoverTool(renderers=[pool], tooltips=[("model", "@name"), *where]),
        HoverTool(renderers=[free], tooltips=[("router, by accuracy alone", "@name"), *where]),
    )
    return fig


def _intervals(board: Board) -> Any:
    """Accuracy with its 95 % interval: a line per router, the best on top, and the best single model."""
    names = [row.entry.result.router for row in board.rows]
    rows: list[Record] = [
        {
            "name": row.entry.result.router,
            "x": 100 * row.accuracy,
            "low": 100 * row.interval[0],
            "high": 100 * row.interval[1],
            "place": f"{row.rank} ({row.ranks[0]} to {row.ranks[1]})",
        }
        for row in board.rows
    ]
    floor = board.reference.best_single
    ends = [value for row in rows for value in (row["low"], row["high"])]
    ends += [] if floor is None else [100 * floor]
    room = 0.05 * (max(ends) - min(ends)) or 0.5
    fig = _figure(
        x_axis_label="test accuracy, %",
        x_range=Range1d(start=min(ends) - room, end=max(ends) + room),
        y_range=FactorRange(factors=names[::-1]),
        height=90 + ROW * len(names),
    )
    source = _source(rows)
    lines = fig.segment("low", "name", "high", "name", source=source, line_width=3, line_alpha=0.45)
    dots = fig.scatter("x", "name", source=source, size=8)
    lines.glyph.tags = dots.glyph.tags = ["colour:accent"]
    if floor is not None:
        line = fig.vspan([100 * floor], line_dash="dotted")
        line.glyph.tags = ["colour:muted"]
    fig.add_tools(
        HoverTool(
            renderers=[dots],
            tooltips=[
                ("router", "@name"),
                ("accuracy", "@x{0.00} %"),
                ("95 %", "@low{0.00} to @high{0.00}"),
                ("rank", "@place"),
            ],
        )
    )
    return fig


def _figure(**options: Any) -> Any:
    """A figure as wide as the page, on which a finger or a wheel moves the page until a tool is chosen."""
    fig = figure(tools=TOOLS, active_drag=None, active_scroll=None, sizing_mode="stretch_width", **options)
    fig.toolbar.logo = None
    fig.toolbar.autohide = True
    return fig


def _source(rows: list[Record]) -> ColumnDataSource:
    keys = rows[0] if rows else ("name", "x", "y")
    return ColumnDataSource({key: [row[key] for row in rows] for key in keys})
