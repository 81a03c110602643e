"""`rph report` and `rph analyze figures`: what a folder of result files says, as a page, tables and figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rph import disk
from rph.cli import analyze
from rph.cli.analyze import RESULTS, Benches, Folder, read_results
from rph.distribution import install
from rph.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from rich.status import Status

    from rph.study.report import Section


class Form(StrEnum):
    """What a report is written as."""

    html = "html"
    md = "md"
    latex = "latex"
    csv = "csv"


class Picture(StrEnum):
    """What a figure is written as."""

    svg = "svg"
    pdf = "pdf"
    png = "png"


def report(
    results: Folder = RESULTS,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The file to write; with --format csv a folder [default: report.*]."
        ),
    ] = None,
    bench: Benches = None,
    format: Annotated[
        Form, typer.Option("--format", help="html is the whole report; md, latex and csv are its tables.")
    ] = Form.html,
) -> None:
    """Write all that the results say into one file: ranks, tables, figures, methods. It needs no network.

    Example: rph report leaderboard/results -o report.html
    """
    from rph.board import ranking
    from rph.results import sheets
    from rph.study import report as pages

    entries = read_results(results, bench)
    figures = _figures() if format is Form.html else None
    with _busy("resampling"):
        boards = ranking.boards(entries)
    if figures is not None:
        with _busy("drawing"):
            text = pages.page(entries, boards, list(figures.draw(entries, boards)))
        path = out or Path("report.html")
        _write(path, text)
    elif format is Form.csv:
        path = out or Path("report")
        _write_csv(path, pages.tables(entries, boards))
    else:
        write, ending = (sheets.to_markdown, "md") if format is Form.md else (sheets.to_latex, "tex")
        path = out or Path(f"report.{ending}")
        _write(path, pages.text(pages.tables(entries, boards), write))
    typer.echo(str(path))


@analyze.app.command("figures")
def draw(
    results: Folder = RESULTS,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write into.")] = Path("figures"),
    bench: Benches = None,
    format: Annotated[Picture, typer.Option("--format", help="svg, pdf or png.")] = Picture.svg,
) -> None:
    """Draw the paper's figures 1 to 4 and 6 to 9, the accuracies with intervals, the frontier, and who routes alike.

    What the results do not allow is said, with the reason.

    Example: rph analyze figures leaderboard/results -o figures --format pdf
    """
    from rph.board import ranking

    figures = _figures()
    entries = read_results(results, bench)
    with _busy("resampling"):
        boards = ranking.boards(entries)
    for drawing in figures.draw(entries, boards):
        path = figures.save(drawing, out, format.value)
        if path is None:
            typer.echo(f"no {drawing.name}: {drawing.caption}", err=True)
        else:
            typer.echo(str(path))


def _figures() -> ModuleType:
    """The module that draws. Raises UsageError where its library is not installed."""
    try:
        from rph.study import figures
    except ModuleNotFoundError as error:
        raise UsageError(
            "figures cannot be drawn",
            why=f"{error.name} is not installed",
            fix=install("report"),
        ) from error
    return figures


def _busy(doing: str) -> Status:
    from rich.console import Console

    return Console(stderr=True).status(doing)


def _write(path: Path, text: str) -> None:
    with disk.disk_errors("writing the report", path):  # to look at it may be forbidden
        if path.is_dir():
            raise UsageError(f"{path} is a folder", why="the report is one file", fix="give -o FILE")
    with disk.new_file(path, "writing the report") as file:
        file.write_text(text, "utf-8")


def _write_csv(folder: Path, sections: Sequence[Section]) -> None:
    """One file per table, numbered as they come."""
    from rph.results import sheets

    found = [sheet for section in sections for sheet in section.sheets]
    for number, sheet in enumerate(found, start=1):
        name = re.sub(r"[^A-Za-z0-9]+", "-", sheet.title)[:60].strip("-").lower()
        _write(folder / f"{number:02}-{name}.csv", sheets.to_csv(sheet))
