"""`rph leaderboard`: what a folder of result files says, ranked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rph.cli import submissions
from rph.cli.analyze import RESULTS, Benches, Folder, Format, Formats, print_sheets, read_results
from rph.errors import UsageError

app = typer.Typer(
    help="Ranks of finished results, and how sure they are.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(submissions.app)  # without a name: its commands are ours

Encoders = Annotated[list[str] | None, typer.Option("--encoder", help="Only this encoder; repeatable.")]


@app.command()
def show(
    results: Folder = RESULTS, bench: Benches = None, encoder: Encoders = None, format: Formats = Format.rich
) -> None:
    """Print a board per benchmark and encoder: ranks, tiers that cannot be told apart, and 95 % intervals.

    Only results of the protocol `paper` are ranked; what is left out is listed with the reason.

    Example: rph leaderboard show leaderboard/results --bench routerdc7
    """
    from rich.console import Console

    from rph.board import sheets
    from rph.board.ranking import boards, overall, unranked

    entries = read_results(results, bench)
    there = sorted({entry.result.encoder for entry in entries})
    for name in encoder or ():
        if name not in there:
            raise UsageError(
                f"no result with the encoder {name!r}",
                why=f"there are: {', '.join(there)}",
                fix="see --encoder",
            )
    entries = [entry for entry in entries if not encoder or entry.result.encoder in encoder]
    with Console(stderr=True).status("resampling"):
        ranked = boards(entries)
    found = [sheets.board_sheet(board) for board in ranked]
    if len(ranked) > 1:
        found.append(sheets.overall_sheet(overall(entries), ranked))
    left_out = unranked(entries)
    if left_out:
        found.append(sheets.unranked_sheet(left_out))
    print_sheets(found, format)


@app.command()
def build(
    results: Folder = RESULTS,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The site's folder; a site that is there is replaced.")
    ] = Path("site"),
) -> None:
    """Write all boards as a static site: pages that need neither a server nor a network.

    Example: rph leaderboard build leaderboard/results -o site
    """
    from rich.console import Console

    from rph.board import site

    with Console(stderr=True).status("building the site"):
        built = site.build(read_results(results, None), out)
    boards = sum(len(benchmark.boards) for benchmark in built.benchmarks)
    typer.echo(
        f"{out / 'index.html'}: {len(built.benchmarks)} benchmark(s), {boards} board(s), "
        f"{len(built.routers)} router(s), {len(built.cells)} result(s)"
    )
