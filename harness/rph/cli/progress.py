"""What a user sees of a command: bars, notes and failures on stderr; rows, tables and files when it is done."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rph.cli.options import print_json
from rph.errors import RphError

if TYPE_CHECKING:
    from rich.console import Console

    from rph.engine.cell import Outlook
    from rph.engine.evaluate import Outcome
    from rph.engine.failures import Failure

LOG_EVERY = 30.0  # seconds between two lines of progress where stderr is no terminal


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise RphError(
            "stopped by Ctrl-C",
            why="finished trials and encoded queries are kept",
            fix="the same command continues where this one stopped",
        ) from None


class Progress:
    """Shows a run on stderr: bars with the time left on a terminal, a line now and then in a log, and notes."""

    def __init__(self, console: Console) -> None:
        from rich import progress

        self.console = console
        self.bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, progress.TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}  # when, and how much was done already
        self._said = time.monotonic()

    def note(self, text: str) -> None:
        self.console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    def embedding(self, what: str, done: int, total: int) -> None:
        self._update(f"encoding {what}", done, total, "queries/s")

    def trial(self, cell: str, done: int, total: int) -> None:
        self._update(cell, done, total)

    def _update(self, what: str, done: int, total: int, unit: str = "") -> None:
        now = time.monotonic()
        if what not in self._tasks:
            self._tasks[what] = self.bars.add_task(what, total=total, rate="")
            self._begun[what] = (now, done)
        since, already = self._begun[what]
        rate = f"{(done - already) / (now - since):.1f} {unit}" if unit and done > already else ""
        self.bars.update(self._tasks[what], completed=done, total=total, rate=rate)
        if not self.console.is_terminal and now - self._said > LOG_EVERY:
            self._said = now
            self.note(f"{what}: {done} of {total}" + (f", {rate}" if rate else ""))


@contextlib.contextmanager
def shown_progress() -> Iterator[Progress]:
    from rich.console import Console

    progress = Progress(Console(stderr=True))
    with progress.bars, warnings.catch_warnings():
        # One line each, above the bars: a damaged cache entry that was rebuilt, a library's complaint.
        warnings.showwarning = lambda message, *_, **__: progress.note(str(message))
        yield progress


def tell_failures(failures: Sequence[Failure]) -> None:
    for failure in failures:
        if failure.traceback:
            typer.echo(f"\n{failure.traceback.rstrip()}", err=True)
        typer.echo(f"error: {failure.what}: {failure.error}", err=True)


def wide_console(record: bool = False) -> Console:
    """A console that never folds a table into an unreadable one where the output is not a terminal."""
    from rich.console import Console

    console = Console(record=record)
    return console if console.is_terminal else Console(width=160, record=record)


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(*(rows[0] if rows else ["nothing"]))
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    wide_console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)


def _write_results(outcome: Outcome, folder: Path) -> None:
    """A file per cell; one that cannot be written is a failure of the outcome and keeps no other from being written."""
    from rph.engine.failures import Failure
    from rph.results import files

    for cell in outcome.cells:
        result = cell.result
        try:
            queries = files.per_query(cell.dataset, result.seeds, cell.routes())
            files.write(folder, result, queries)
        except RphError as error:
            what = f"{result.router} on {result.bench} x {result.encoder}"
            outcome.failures.append(Failure(what=what, error=error))


def print_outcome(outcome: Outcome, as_json: bool, out: Path | None = None) -> None:
    """The tables first, so that they are there whatever becomes of the files; then the files, and what failed."""
    if as_json:
        print_json([result.model_dump(mode="json") for result in outcome.results])
    elif outcome.results:
        from rph.cli.tables import leaderboards

        console = wide_console()
        for table, notes in leaderboards(outcome.results):
            console.print(table)
            for note in notes:
                console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        _write_results(outcome, out)
    tell_failures(outcome.failures)
    if outcome.failures:
        typer.echo(
            f"\n{len(outcome.results)} cell(s) finished, {len(outcome.failures)} failure(s) as above.",
            err=True,
        )
        raise typer.Exit(outcome.exit_code)


def print_plan(plan: list[Outlook], as_json: bool) -> None:
    """The cells of a sweep before it is run, and how long they may take."""
    if as_json:
        print_json([dataclasses.asdict(each) for each in plan])
    else:
        rows = [
            {**dataclasses.asdict(each), "seconds": None if each.seconds is None else round(each.seconds)}
            for each in plan
        ]
        print_rows(rows, False)
        seconds = sum(each.seconds or 0 for each in plan)
        unknown = sum(each.seconds is None for each in plan)
        typer.echo(
            f"{sum(each.trials - each.done for each in plan):,} trials to train at most, {seconds / 60:.0f} minutes on "
            "one worker by the trials in the store"
            + (f"; {unknown} cells of routers that are not in it come on top" if unknown else "")
        )
