"""`rph analyze ...` and `rph compare`: tables from result files. Neither a benchmark nor the run store is needed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rph import disk
from rph.cli import options
from rph.cli.progress import interruptible, shown_progress, wide_console
from rph.cli.run import evaluated
from rph.errors import UsageError

if TYPE_CHECKING:
    from rph.results.files import Entry
    from rph.results.sheets import Sheet

RESULTS = Path("leaderboard/results")
PAPER = Path("leaderboard/reference")  # what `--to paper` means

app = typer.Typer(
    help="What finished results say together; nothing is trained.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Format(StrEnum):
    """How a table is printed. csv and json carry unrounded numbers, and shares as shares, not per cent."""

    rich = "rich"
    md = "md"
    latex = "latex"
    csv = "csv"
    json = "json"


Folder = Annotated[Path, typer.Argument(help="A folder of result files, as `rph eval --out` writes them.")]
Benches = Annotated[
    list[str] | None,
    typer.Option("--bench", help="Only this benchmark, as the results name it; repeatable."),
]
Formats = Annotated[
    Format, typer.Option("--format", help="csv and json: unrounded, and shares from 0 to 1 in place of %.")
]


@app.command()
def accuracy(results: Folder = RESULTS, bench: Benches = None, format: Formats = Format.rich) -> None:
    """Accuracy of each router, mean over encoders, and how flat the top is (the paper's Tab. 1).

    Example: rph analyze accuracy leaderboard/results --format md
    """
    from rph.study import plateau

    print_sheets(plateau.accuracy_sheets(read_results(results, bench)), format)


@app.command()
def utility(results: Folder = RESULTS, bench: Benches = None, format: Formats = Format.rich) -> None:
    """Realised utility over lambda, for benchmarks with costs (the paper's Tab. 2 and 9 to 12).

    Example: rph analyze utility leaderboard/results
    """
    from rph.study.utility import utility_sheets

    print_sheets(utility_sheets(read_results(results, bench)), format)


@app.command()
def plane(results: Folder = RESULTS, bench: Benches = None, format: Formats = Format.rich) -> None:
    """Accuracy against normalised cost, of routers and of each model alone (the paper's Fig. 1).

    Example: rph analyze plane leaderboard/results --format csv
    """
    from rph.study.utility import plane_sheets

    print_sheets(plane_sheets(read_results(results, bench)), format)


@app.command()
def configurations(results: Folder = RESULTS, bench: Benches = None, format: Formats = Format.rich) -> None:
    """How many of all trained configurations come near the best one (the paper's Fig. 2).

    Example: rph analyze configurations leaderboard/results
    """
    from rph.study import plateau

    print_sheets(plateau.configuration_sheets(read_results(results, bench)), format)


@app.command()
def encoders(results: Folder = RESULTS, bench: Benches = None, format: Formats = Format.rich) -> None:
    """How much the encoder matters to each router (the paper's Fig. 3 and App. F).

    Example: rph analyze encoders leaderboard/results
    """
    from rph.study import plateau

    print_sheets(plateau.encoder_sheets(read_results(results, bench)), format)


@app.command()
def difficulty(results: Folder = RESULTS, bench: Benches = None, format: Formats = Format.rich) -> None:
    """How much of the gap to the oracle lies on hard queries (the paper's Tab. 3).

    Example: rph analyze difficulty leaderboard/results
    """
    from rph.study import bottleneck

    print_sheets(bottleneck.difficulty_sheets(read_results(results, bench)), format)


@app.command()
def selection(results: Folder = RESULTS, bench: Benches = None, format: Formats = Format.rich) -> None:
    """Whom routers choose on all and on hard queries, and who is right (the paper's Fig. 4 and 6 to 9).

    Example: rph analyze selection leaderboard/results --bench routerdc7
    """
    from rph.study import bottleneck

    print_sheets(bottleneck.selection_sheets(read_results(results, bench)), format)


@app.command("tasks")
def analyze_tasks(results: Folder = RESULTS, bench: Benches = None, format: Formats = Format.rich) -> None:
    """Accuracy per task and language: routers beside best single and the best model per task, chosen on train.

    Example: rph analyze tasks leaderboard/results --bench routerdc7
    """
    from rph.study.tasks import task_sheets

    print_sheets(task_sheets(read_results(results, bench)), format)


@app.command()
def exchange(results: Folder = RESULTS, bench: Benches = None, format: Formats = Format.rich) -> None:
    """Do routers that disagree exchange errors, or is one better? (the paper's Tab. 4)

    Example: rph analyze exchange leaderboard/results
    """
    from rph.study import bottleneck

    print_sheets(bottleneck.exchange_sheets(read_results(results, bench)), format)


@app.command()
def knn(results: Folder = RESULTS, bench: Benches = None, format: Formats = Format.rich) -> None:
    """Are others better than kNN in BCE (here on test) or on hard queries? (the paper's Tab. 5)

    Example: rph analyze knn leaderboard/results
    """
    from rph.study import bottleneck

    print_sheets(bottleneck.knn_sheets(read_results(results, bench)), format)


def compare(
    results: Folder = RESULTS,
    to: Annotated[
        str, typer.Option("--to", help="paper (leaderboard/reference), or a folder of such tables.")
    ] = "paper",
    bench: Benches = None,
    format: Formats = Format.rich,
) -> None:
    """Set our numbers beside the paper's, with the difference in percentage points.

    Only full benchmarks that the paper has are set beside it; the others are named, with the reason.

    Example: rph compare --to paper leaderboard/results
    """
    from rph.study import paper

    print_sheets(paper.compare(read_results(results, bench), PAPER if to == "paper" else Path(to)), format)


def read_results(folder: Path, benches: Sequence[str] | None) -> list[Entry]:
    """All results under the folder, or those on the benchmarks named."""
    from rph.results import files

    paths = list(files.find(folder))
    if not paths:
        raise UsageError(
            f"no result files under {folder}",
            why="looked for <bench>/<router>/<encoder>.json",
            fix="give a folder that `rph eval ... --out FOLDER` has written",
        )
    entries = [files.read(path) for path in paths]
    there = sorted({entry.result.bench for entry in entries})
    for bench in benches or ():
        if bench not in there:
            raise UsageError(
                f"no result on {bench!r} under {folder}",
                why=f"there are: {', '.join(there)}",
                fix="see --bench",
            )
    return [entry for entry in entries if not benches or entry.result.bench in benches]


def print_sheets(found: Sequence[Sheet], format: Format) -> None:
    """Print the sheets one after the other; as JSON they are one array."""
    from rph.results import sheets

    if format is Format.json:
        options.print_json([sheets.to_json(sheet) for sheet in found])
    elif format is Format.rich:
        from rich.console import Console

        console = Console()
        if not console.is_terminal:
            console = Console(width=200)  # a file has no width: fold nothing
        for sheet in found:
            console.print(sheets.to_rich(sheet))
    else:
        write = {Format.md: sheets.to_markdown, Format.latex: sheets.to_latex, Format.csv: sheets.to_csv}[
            format
        ]
        typer.echo("\n".join(write(sheet) for sheet in found), nl=False)


@app.command("identities")
def analyze_identities(
    router: options.Routers,
    bench: options.Benches,
    encoder: options.Encoders = ["minilm"],  # noqa: B006 - typer copies it
    protocol: options.ProtocolName = "paper",
    device: options.Device = "auto",
    store: options.StorePath = None,
    svg: Annotated[Path | None, typer.Option(help="Also draw the heat map into this file.")] = None,
    plugin: options.PluginFiles = None,
    strict_plugins: options.Strict = False,
    as_json: options.Json = False,
) -> None:
    """Which routers are the same function: routes that differ and correlation of scores, pair by pair.

    Reads the results of `rph eval` with the same options.

    Example: rph analyze identities --router all --bench synthetic --encoder lsa
    """
    registry = options.open_registry(plugin, strict_plugins)
    with shown_progress() as progress, interruptible():
        outcome = evaluated(
            registry, progress, router, bench, encoder, protocol, device, store, None, train=False
        )
    if outcome.failures:
        raise outcome.failures[0].error
    from rph.study import identities

    found = identities.identities(outcome.cells)
    if as_json:
        rows = [
            {
                **dataclasses.asdict(one),
                "correlation": _numbers(one.correlation),
                "disagreement": _numbers(one.disagreement),
            }
            for one in found
        ]
        options.print_json(rows)
        return
    from rph.cli import tables

    console = wide_console(record=svg is not None)
    for one in found:
        console.print(tables.heat_map(one))
    if svg is not None:
        drawing = console.export_svg(title="rph analyze identities")
        with disk.new_file(svg, "writing the heat map") as file:
            file.write_text(drawing)


@app.command("train-bce")
def analyze_train_bce(
    router: options.Routers,
    bench: options.Benches,
    encoder: options.Encoders = ["minilm"],  # noqa: B006 - typer copies it
    protocol: options.ProtocolName = "paper",
    device: options.Device = "auto",
    store: options.StorePath = None,
    plugin: options.PluginFiles = None,
    strict_plugins: options.Strict = False,
    format: Formats = Format.rich,
) -> None:
    """How well routers predict what they were trained on (the paper's Tab. 5 a): trains each chosen variant once more.

    Reads the results of `rph eval` with the same options.

    Example: rph analyze train-bce --router all --bench synthetic --encoder lsa
    """
    options.keep_stdout(format is Format.json)
    registry = options.open_registry(plugin, strict_plugins)
    with shown_progress() as progress, interruptible():
        outcome = evaluated(
            registry, progress, router, bench, encoder, protocol, device, store, None, train=False
        )
        if outcome.failures:
            raise outcome.failures[0].error
        from rph.study import insample

        found = insample.train_bce(outcome.cells)
    print_sheets([insample.sheet(found)], format)


def _numbers(matrix: Any) -> list[list[float | None]]:
    """A matrix for JSON, which has no NaN."""
    return [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]
