"""The command `rph`: options in, text out. Exit code 0: done; 1: the run failed; 2: the call is wrong.

Commands import what they run inside their bodies, so that `rph --help` and `rph list` stay fast. Results go to
stdout; progress, notes and errors go to stderr.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import errno
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rph import __version__, cli_analyze, cli_leaderboard, cli_report, cli_use, disk, scaffold
from rph.errors import RphError, UsageError
from rph.options import (
    Benches,
    Device,
    Encoders,
    Json,
    PluginFiles,
    Prices,
    ProtocolName,
    Results,
    Routers,
    StorePath,
    Strict,
    keep_stdout,
)
from rph.options import passive_threads as _passive_threads
from rph.options import price as _price
from rph.options import print_json as _print_json
from rph.options import registry as _registry

if TYPE_CHECKING:
    from rich.console import Console

    from rph.api import File
    from rph.registry import Kind, Plugin, Registry
    from rph.run import Failure, Outcome

WITH_FILES: tuple[Kind, ...] = ("benchmark", "encoder")  # kinds of plugins whose cards name files
LOG_EVERY = 30.0  # seconds between two lines of progress where stderr is no terminal

app = typer.Typer(
    name="rph",
    help="rph, the routing plateau harness: measures LLM routers by one protocol.\n\n"
    "Example: rph eval --router knn --bench synthetic --encoder lsa",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich help costs more start-up than everything else
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="The files that benchmarks need.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
check_app = typer.Typer(help="Does a plugin keep its contract?", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(check_app, name="check")
app.add_typer(cli_analyze.app, name="analyze")
app.command()(cli_analyze.compare)
app.command()(cli_report.report)
app.add_typer(cli_leaderboard.leaderboard, name="leaderboard")
app.command("new")(scaffold.new)
app.add_typer(cli_use.app)  # without a name: its commands are ours


def main() -> None:
    """The console script. An RphError is printed without a traceback, and so is what the system says of a file where
    no other message was; anything else is our bug and keeps its own.
    """
    try:
        app()
    except RphError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno in disk.REFUSED | {errno.ENOENT} and error.filename is not None:
            refused = UsageError(
                f"{error.filename} cannot be used", why=str(error.strerror), fix="name another file or folder"
            )
            typer.echo(f"error: {refused}", err=True)
            sys.exit(refused.exit_code)
        if error.errno not in disk.NO_ROOM:
            raise
        # What is still buffered would fail once more when Python ends, with a message of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        full = RphError("no room for the output", why=str(error.strerror), fix="free some space")
        typer.echo(f"error: {full}", err=True)
        sys.exit(full.exit_code)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rph {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# --- running ----------------------------------------------------------------------------------------


@app.command("eval")
def eval_(
    router: Routers,
    bench: Benches,
    encoder: Encoders = ["minilm"],  # noqa: B006 - typer copies it
    protocol: ProtocolName = "paper",
    device: Device = "auto",
    store: StorePath = None,
    price: Prices = None,
    out: Results = None,
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """Run the two-stage protocol on every (benchmark, encoder, router) and print ranked tables.

    What is finished is kept: the same command again continues. Exit code 1 if a trial failed.

    Example: rph eval --router knn --router mlp --bench synthetic --encoder lsa
    """
    registry = _registry(plugin, strict_plugins)
    with _progress() as progress, _interruptible():
        outcome = _evaluate(registry, progress, router, bench, encoder, protocol, device, store, price)
    _print_outcome(outcome, as_json, out)


@app.command("sweep")
def sweep_(
    routers: Annotated[str, typer.Option(help="Names, separated by commas, or all.")] = "",
    encoders: Annotated[str, typer.Option(help="As --routers.")] = "",
    benches: Annotated[str, typer.Option(help="As --routers; also name:key=value,... and folders.")] = "",
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with these options; those given here come first.")
    ] = None,
    protocol: ProtocolName = "paper",
    executor: Annotated[
        str, typer.Option(help="local, processes, or another: rph list executors.")
    ] = "processes",
    workers: Annotated[int | None, typer.Option(help="[default: one per core, or per GPU]", min=1)] = None,
    trial_limit: Annotated[
        float | None, typer.Option(help="Seconds that a trial may take; then it has failed.", min=0.001)
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also try again what failed in an earlier run.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Train again what is finished.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; nothing is trained.")] = False,
    device: Device = "auto",
    store: StorePath = None,
    price: Prices = None,
    out: Results = None,
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """Run the protocol on a grid of benchmarks, encoders and routers, with every core or GPU.

    Only what is missing is run: the same command again continues, and does nothing where all is done. What failed in
    an earlier run is reported, and tried again with --retry-failed. Exit code 1 if anything failed.

    Example: rph sweep --routers knn,mlp --encoders lsa --benches synthetic --executor processes
    """
    given = {"routers": routers, "encoders": encoders, "benches": benches}
    grid = _grid(config, {key: value for key, value in given.items() if value})
    registry = _registry(plugin, strict_plugins)
    with _progress() as progress, _interruptible():
        names = (grid["routers"], grid["benches"], grid["encoders"])
        settings = {"retry_failed": retry_failed, "force": force}
        if dry_run:
            _print_plan(registry, progress, *names, protocol, device, store, price, settings, as_json)
            return
        outcome = _evaluate(
            registry,
            progress,
            *names,
            protocol,
            device,
            store,
            price,
            executor=executor,
            workers=workers,
            limit=trial_limit,
            retry_failed=retry_failed,
            force=force,
        )
    _print_outcome(outcome, as_json, out)


def _grid(config: Path | None, given: dict[str, str]) -> dict[str, list[str]]:
    """routers, encoders and benches, from the command line or else from a file."""
    found: dict[str, Any] = {}
    if config is not None:
        import yaml

        try:
            found = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"{config} cannot be read", why=" ".join(str(error).split())) from error
        if not isinstance(found, dict) or (unknown := set(found) - {"routers", "encoders", "benches"}):
            raise UsageError(
                f"{config} is not the grid of a sweep",
                why=f"unknown: {', '.join(sorted(map(str, unknown)))}"
                if isinstance(found, dict)
                else "no mapping",
                fix="write routers:, encoders: and benches:, each a list of names",
            )
    grid = {}
    for key in ("routers", "encoders", "benches"):
        value = given.get(key) or found.get(key)
        if not value:
            raise UsageError(f"a sweep of which {key}?", fix=f"give --{key} NAME,NAME or all")
        # A comma before key=value belongs to the options of one name.
        names = value if isinstance(value, list) else re.split(r",(?!\w+=)", str(value))
        grid[key] = [str(name).strip() for name in names]
    return grid


def _print_plan(
    registry: Registry,
    progress: Progress,
    routers: list[str],
    benches: list[str],
    encoders: list[str],
    protocol: str,
    device: str,
    store: Path | None,
    prices: list[str] | None,
    settings: dict[str, bool],
    as_json: bool,
) -> None:
    run, opened, chosen = _prepared(protocol, device, store, prices, settings)
    outcome = run.Outcome()
    cells = run.plan(
        registry, opened, chosen, progress, outcome, benches=benches, encoders=encoders, routers=routers
    )
    known = opened.seconds_per_trial()
    plan = [cell.outlook(known) for cell in cells]
    if as_json:
        _print_json([dataclasses.asdict(each) for each in plan])
    else:
        rows = [
            {**dataclasses.asdict(each), "seconds": None if each.seconds is None else round(each.seconds)}
            for each in plan
        ]
        _print_rows(rows, False)
        seconds = sum(each.seconds or 0 for each in plan)
        unknown = sum(each.seconds is None for each in plan)
        typer.echo(
            f"{sum(each.trials - each.done for each in plan):,} trials to train at most, {seconds / 60:.0f} minutes on "
            "one worker by the trials in the store"
            + (f"; {unknown} cells of routers that are not in it come on top" if unknown else "")
        )
    _print_outcome(outcome, as_json=False)


@app.command()
def score(
    router: Routers,
    bench: Benches,
    encoder: Encoders = ["minilm"],  # noqa: B006 - typer copies it
    protocol: ProtocolName = "paper",
    device: Device = "auto",
    store: StorePath = None,
    price: Prices = None,
    selector_cost: Annotated[
        str,
        typer.Option(help="train-mean, or realised: routes by the test cost itself, an oracle leak."),
    ] = "train-mean",
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """Compute all metrics again from the stored scores; nothing is trained or encoded.

    Example: rph score --router knn --bench synthetic --encoder lsa
    """
    if selector_cost not in ("train-mean", "realised"):
        raise UsageError(f"--selector-cost {selector_cost!r} is not known", fix="give train-mean or realised")
    registry = _registry(plugin, strict_plugins)
    with _progress() as progress, _interruptible():
        outcome = _evaluate(
            registry,
            progress,
            router,
            bench,
            encoder,
            protocol,
            device,
            store,
            price,
            train=False,
            realised_selector=selector_cost == "realised",
        )
    _print_outcome(outcome, as_json)


@app.command()
def embed(
    bench: Benches,
    encoder: Encoders = ["minilm"],  # noqa: B006 - typer copies it
    device: Device = "auto",
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """Fill the embedding cache, so that later runs only read it; `--encoder all` is every installed encoder.

    Example: rph embed --bench synthetic --encoder lsa
    """
    registry = _registry(plugin, strict_plugins)
    _passive_threads()
    from rph import embed as cache
    from rph import run

    rows: list[dict[str, Any]] = []
    failures: list[run.Failure] = []
    with _progress() as progress, _interruptible():
        on = run.resolve_device(device)
        built = run.usable(
            registry, "encoder", encoder, lambda name: run.build_encoder(registry, name), failures
        )
        loaders = run.usable(
            registry, "benchmark", bench, lambda name: run.benchmark_loader(registry, name), failures
        )
        for name, load in loaders:
            dataset = None
            with run.failing(failures, f"benchmark {name}"):
                dataset = load()
            for _, one in built if dataset is not None else ():
                what = f"{dataset.name} x {one.label}"
                with run.failing(failures, what):
                    made = cache.embed(
                        dataset,
                        one.spec,
                        one.encoder,
                        device=on,
                        progress=lambda done, total, what=what: progress.embedding(what, done, total),  # type: ignore[misc]
                    )
                    rows.append(
                        {
                            "bench": dataset.name,
                            "encoder": one.label,
                            "queries": len(made.train) + len(made.val) + len(made.test),
                            "dim": made.train.shape[1],
                            "cut": made.cut,
                            "cached": made.cached,
                            "seconds": round(made.seconds, 3),
                            "path": str(made.path),
                        }
                    )
    if rows or as_json or not failures:
        _print_rows(rows, as_json)
    _tell(failures)
    if failures:
        raise typer.Exit(run.exit_code(failures, anything=bool(rows)))


@cli_analyze.app.command("identities")
def analyze_identities(
    router: Routers,
    bench: Benches,
    encoder: Encoders = ["minilm"],  # noqa: B006 - typer copies it
    protocol: ProtocolName = "paper",
    device: Device = "auto",
    store: StorePath = None,
    svg: Annotated[Path | None, typer.Option(help="Also draw the heat map into this file.")] = None,
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """Which routers are the same function: routes that differ and correlation of scores, pair by pair.

    Reads the results of `rph eval` with the same options.

    Example: rph analyze identities --router all --bench synthetic --encoder lsa
    """
    registry = _registry(plugin, strict_plugins)
    with _progress() as progress, _interruptible():
        outcome = _evaluate(
            registry, progress, router, bench, encoder, protocol, device, store, None, train=False
        )
    if outcome.failures:
        raise outcome.failures[0].error
    from rph import analysis

    found = analysis.identities(outcome.cells)
    if as_json:
        rows = [
            {
                **dataclasses.asdict(one),
                "correlation": _numbers(one.correlation),
                "disagreement": _numbers(one.disagreement),
            }
            for one in found
        ]
        _print_json(rows)
        return
    from rph import report

    console = _wide_console(record=svg is not None)
    for one in found:
        console.print(report.heat_map(one))
    if svg is not None:
        drawing = console.export_svg(title="rph analyze identities")
        with disk.new_file(svg, "writing the heat map") as file:
            file.write_text(drawing)


@cli_analyze.app.command("train-bce")
def analyze_train_bce(
    router: Routers,
    bench: Benches,
    encoder: Encoders = ["minilm"],  # noqa: B006 - typer copies it
    protocol: ProtocolName = "paper",
    device: Device = "auto",
    store: StorePath = None,
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    format: cli_analyze.Formats = cli_analyze.Format.rich,
) -> None:
    """How well routers predict what they were trained on (the paper's Tab. 5 a): trains each chosen variant once more.

    Reads the results of `rph eval` with the same options.

    Example: rph analyze train-bce --router all --bench synthetic --encoder lsa
    """
    keep_stdout(format is cli_analyze.Format.json)
    registry = _registry(plugin, strict_plugins)
    with _progress() as progress, _interruptible():
        outcome = _evaluate(
            registry, progress, router, bench, encoder, protocol, device, store, None, train=False
        )
        if outcome.failures:
            raise outcome.failures[0].error
        from rph import insample

        found = insample.train_bce(outcome.cells)
    cli_analyze.print_sheets([insample.sheet(found)], format)


def _numbers(matrix: Any) -> list[list[float | None]]:
    """A matrix for JSON, which has no NaN."""
    return [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]


def _evaluate(
    registry: Registry,
    progress: Progress,
    routers: list[str],
    benches: list[str],
    encoders: list[str],
    protocol: str,
    device: str,
    store: Path | None,
    prices: list[str] | None,
    executor: str = "local",
    workers: int | None = None,
    limit: float | None = None,
    **settings: bool,
) -> Outcome:
    """Runs the cells. The store stays open for their scores until the command ends."""
    run, opened, chosen = _prepared(protocol, device, store, prices, settings)
    built = run.build_executor(registry, executor, workers, limit, chosen.device)
    with contextlib.closing(built):  # also where a name is unknown and it never began
        outcome: Outcome = run.evaluate(
            registry,
            opened,
            chosen,
            progress,
            benches=benches,
            encoders=encoders,
            routers=routers,
            executor=built,
        )
    return outcome


def _prepared(
    protocol: str, device: str, store: Path | None, prices: list[str] | None, settings: dict[str, bool]
) -> tuple[Any, Any, Any]:
    """The module that runs, the open store, and how to run."""
    from rph.protocol import PRESETS

    if protocol not in PRESETS:
        raise UsageError(f"protocol {protocol!r} is not known", fix=f"give one of {', '.join(PRESETS)}")
    by_model = dict(_price(text) for text in prices or [])
    _passive_threads()
    from rph import run
    from rph.store import Store

    chosen = run.Settings(
        preset=PRESETS[protocol], device=run.resolve_device(device), prices=by_model, **settings
    )
    opened = Store(store or disk.home() / "store")
    atexit.register(opened.close)
    return run, opened, chosen


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
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
def _progress() -> Iterator[Progress]:
    from rich.console import Console

    progress = Progress(Console(stderr=True))
    with progress.bars, warnings.catch_warnings():
        # One line each, above the bars: a damaged cache entry that was rebuilt, a library's complaint.
        warnings.showwarning = lambda message, *_, **__: progress.note(str(message))
        yield progress


def _write_results(outcome: Outcome, folder: Path) -> None:
    """A file per cell; one that cannot be written is a failure of the outcome and keeps no other from being written."""
    from rph import resultfiles, run

    for cell in outcome.cells:
        result = cell.result
        try:
            queries = resultfiles.per_query(cell.dataset, result.seeds, cell.routes())
            resultfiles.write(folder, result, queries)
        except RphError as error:
            what = f"{result.router} on {result.bench} x {result.encoder}"
            outcome.failures.append(run.Failure(what=what, error=error))


def _print_outcome(outcome: Outcome, as_json: bool, out: Path | None = None) -> None:
    """The tables first, so that they are there whatever becomes of the files; then the files, and what failed."""
    if as_json:
        _print_json([result.model_dump(mode="json") for result in outcome.results])
    elif outcome.results:
        from rph import report

        console = _wide_console()
        for table, notes in report.leaderboards(outcome.results):
            console.print(table)
            for note in notes:
                console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        _write_results(outcome, out)
    _tell(outcome.failures)
    if outcome.failures:
        typer.echo(
            f"\n{len(outcome.results)} cell(s) finished, {len(outcome.failures)} failure(s) as above.",
            err=True,
        )
        raise typer.Exit(outcome.exit_code)


def _tell(failures: Sequence[Failure]) -> None:
    for failure in failures:
        if failure.traceback:
            typer.echo(f"\n{failure.traceback.rstrip()}", err=True)
        typer.echo(f"error: {failure.what}: {failure.error}", err=True)


# --- plugins ----------------------------------------------------------------------------------------


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="routers, encoders or benchmarks.")],
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """List the installed routers, encoders or benchmarks with their cards.

    Example: rph list routers
    """
    from rph.registry import KINDS

    singular: Any = kind.removesuffix("s")
    if singular not in KINDS:
        raise UsageError(
            f"kind {kind!r} is not known", fix="rph list routers, rph list encoders or rph list benchmarks"
        )
    loaded, failed = _load_all(_registry(plugin, strict_plugins), singular)
    if as_json:
        _print_json([_card(one) for one in loaded])
    else:
        columns: dict[Kind, tuple[str, ...]] = {
            "router": ("name", "family", "paper", "year", "deterministic", "calibrated", "distribution"),
            "encoder": ("name", "hf_id", "dim", "pooling", "max_tokens", "licence", "distribution"),
            "benchmark": ("name", "title", "costs", "licence", "distribution"),
            "executor": ("name", "title", "needs", "distribution"),
        }
        cards = [{**_card(one), "distribution": one.source.origin} for one in loaded]  # with its version
        _print_rows([{c: card[c] for c in columns[singular]} for card in cards], False)
    for name, error in failed:
        typer.echo(f"note: {singular} {name!r} is not listed: {error.why or error.what}", err=True)


@check_app.command("router")
def check_router(
    name: Annotated[list[str] | None, typer.Argument(help="Routers; or give --all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every installed router.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="The id of a check to run; repeatable.")
    ] = None,
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """Run the conformance checks on routers: small made-up worlds, the default variant.

    Exit code 1 if a check failed that the router's card does not announce, or passed one that it does.

    Example: rph check router knn --only planted-clusters
    """
    if every == bool(name):
        raise UsageError(
            "which routers?", why="names and --all exclude each other", fix="rph check router NAME, or --all"
        )
    registry = _registry(plugin, strict_plugins)
    _passive_threads()
    from rph import checks, run
    from rph.registry import ALL

    checks.find_checks(only or ())  # an unknown id is refused before anything runs
    failures: list[run.Failure] = []
    names = [ALL] if every else name or []
    plugins = run.usable(registry, "router", names, lambda one: registry.load("router", one), failures)
    specs = [plugin.spec for _, plugin in plugins]
    results = []
    with _progress() as progress, _interruptible():
        for spec in specs:
            with run.failing(failures, "checks"):
                for result in checks.run_checks(spec, only=only):
                    results.append(result)
                    progress.trial(
                        f"checking {spec.name}", len(results), len(specs) * len(only or checks.CHECKS)
                    )
    if as_json:
        _print_json([dataclasses.asdict(result) for result in results])
    else:
        worth_a_line = [r for r in results if r.status != "passed"]
        if worth_a_line:
            _print_rows(
                [{**dataclasses.asdict(r), "seconds": f"{r.seconds:.1f}"} for r in worth_a_line], False
            )
        for spec in specs:
            own = [r for r in results if r.router == spec.name]
            counts = ", ".join(
                f"{sum(r.status == status for r in own)} {status}"
                for status in dict.fromkeys(r.status for r in own)
            )
            typer.echo(f"{spec.name}: {counts or 'not checked'}, {sum(r.seconds for r in own):.1f} s")
    _tell(failures)
    if failures or not all(result.ok for result in results):
        raise typer.Exit(1)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A router, encoder or benchmark.")],
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """Print the card of a router, encoder or benchmark.

    Example: rph show knn
    """
    from rph import published
    from rph.api import variant_name
    from rph.registry import KINDS

    registry = _registry(plugin, strict_plugins)
    found = _named(registry, name, KINDS)
    cards = []
    for one in found:
        card = _card(one)
        if one.source.kind == "router":
            card["variants"] = [variant_name(variant) for variant in one.spec.grid]
        if one.source.kind == "benchmark":
            card["options"] = one.spec.options
            card["differs"] = published.paper_note(one.spec.card)
        cards.append(card)
    if as_json:
        _print_json(cards)
        return
    for card in cards:
        width = max(map(len, card))
        for key, value in card.items():
            for i, line in enumerate(_lines(value)):
                typer.echo(f"{key if i == 0 else '':{width}}  {line}")
        typer.echo()


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}: {one}" for key, one in value.items()] or ["-"]
    if isinstance(value, (list, tuple)):
        return [str(one) for one in value] or ["-"]
    return ["-" if value in (None, "") else str(value)]


@app.command()
def plugins(
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """Show every plugin with its distribution, and why one cannot be used.

    RPH_PLUGINS=name,... allows only these third-party plugins; RPH_PLUGINS= (empty) none.

    Example: rph plugins --json
    """
    from rph.registry import Plugin

    registry = _registry(plugin, strict_plugins)
    rows = []
    for source in registry.sources():
        loaded = registry.try_load(source)
        rows.append(
            {
                "kind": source.kind,
                "name": source.name,
                "distribution": source.distribution,
                "version": source.version,
                "status": "ok" if isinstance(loaded, Plugin) else "failed",
                "reason": "" if isinstance(loaded, Plugin) else f"{loaded.what}: {loaded.why}",
            }
        )
    _print_rows(rows, as_json)


def _load_all(registry: Registry, kind: Kind) -> tuple[list[Plugin], list[tuple[str, RphError]]]:
    """The usable plugins of a kind, and the others with their errors."""
    from rph.registry import Plugin

    loaded, failed = [], []
    for source in registry.sources():
        if source.kind == kind:
            one = registry.try_load(source)
            if isinstance(one, Plugin):
                loaded.append(one)
            else:
                failed.append((source.name, one))
    return loaded, failed


def _card(plugin: Plugin) -> dict[str, Any]:
    source = plugin.source
    return {
        "name": source.name,
        "kind": source.kind,
        "distribution": source.distribution,
        "version": source.version,
        **{
            # The card's own version is the method's; `version` is the distribution's.
            "method_version" if key == "version" else key: value
            for key, value in dataclasses.asdict(plugin.spec.card).items()
            if key != "name"
        },
    }


# --- data -------------------------------------------------------------------------------------------


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """The files that benchmarks and encoders need: which are here, how big, under which licence.

    Example: rph data list
    """
    from rph import hub

    rows = []
    for plugin, file in _files():
        path = hub.find(file)
        size = path.stat().st_size if path is not None else hub.size(file)
        rows.append(
            {
                "for": plugin.name,
                "file": f"{file.repo}/{file.path}",
                "revision": file.revision if as_json else file.revision[:10],
                "megabytes": None if size is None else round(size / 1e6, 1),
                "checked by": hub.checked_by(file),
                "licence": file.licence or "not stated",
                "here": path is not None,
                **({"citation": plugin.spec.card.citation} if as_json else {}),
            }
        )
    _print_rows(rows, as_json)


@data_app.command("pull")
def data_pull(
    names: Annotated[list[str], typer.Argument(help="Benchmarks and encoders.", metavar="NAME...")],
    as_json: Json = False,
) -> None:
    """Download what benchmarks and encoders need, and check it; what is here already is only checked.

    A download that was stopped goes on where it was. RPH_MIRRORS names other endpoints, separated by commas.

    Example: rph data pull routerbench mpnet
    """
    from rph import hub

    rows = []
    with _interruptible():
        for name in names:
            for plugin, file in _files(name):
                there = hub.find(file) is not None
                path = hub.fetch(file, of=plugin.name)
                rows.append(
                    {
                        "for": plugin.name,
                        "file": f"{file.repo}/{file.path}",
                        "megabytes": round(path.stat().st_size / 1e6, 1),
                        "checked by": hub.checked_by(file),
                        "was here": there,
                        "path": str(path),
                    }
                )
    _print_rows(rows, as_json)


@data_app.command("path")
def data_path(
    name: Annotated[str, typer.Argument(help="A benchmark or an encoder.")], as_json: Json = False
) -> None:
    """Print where the files of a benchmark or an encoder are.

    Example: rph data path routerbench
    """
    from rph import hub

    rows = [(file, hub.find(file)) for _, file in _files(name)]
    if as_json:
        _print_rows([{"file": file.path, "path": path and str(path)} for file, path in rows], True)
    else:
        for _, path in rows:
            if path is not None:
                typer.echo(path)
    missing = [file for file, path in rows if path is None]
    if missing:
        raise RphError(
            f"{len(missing)} of {len(rows)} files of {name!r} are not here",
            why=", ".join(f"{file.repo}/{file.path}" for file in missing),
            fix=f"`rph data pull {name}` downloads them; or give files of yours: `rph show {name}`",
        )


@data_app.command("verify")
def data_verify(
    name: Annotated[str | None, typer.Argument(help="A benchmark or an encoder; all without it.")] = None,
    as_json: Json = False,
) -> None:
    """Check size and sha256 of the files that are here. Exit code 1 if one is wrong.

    Example: rph data verify routerbench
    """
    from rph import hub

    rows, wrong = [], 0
    for plugin, file in _files(name):
        path = hub.find(file)
        status = "not here"
        if path is not None:
            try:
                hub.verify(file, path)
                status = "ok" if hub.sha256(file) else "never checked"
            except RphError as error:
                status, wrong = str(error), wrong + 1
        rows.append(
            {
                "for": plugin.name,
                "file": f"{file.repo}/{file.path}",
                "checked by": hub.checked_by(file),
                "status": status,
            }
        )
    _print_rows(rows, as_json)
    if wrong:
        raise RphError(f"{wrong} file(s) are not what was published", fix="delete them and pull them again")


@data_app.command("import")
def data_import(
    out: Annotated[Path, typer.Option(help="The new folder.")],
    file: Annotated[
        Path | None, typer.Argument(help="Results as CSV, JSONL or Parquet; or give --bench.")
    ] = None,
    bench: Annotated[
        str | None, typer.Option(help="A benchmark instead of a file: NAME, or NAME:path=FOLDER.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The new benchmark's name [default: the folder's].")
    ] = None,
    columns: Annotated[str, typer.Option(help="What your columns are: query=prompt,correct=score,...")] = "",
    threshold: Annotated[
        float | None, typer.Option(help="Label = correct >= this; without it, correct as it is.")
    ] = None,
    citation: Annotated[str, typer.Option(help="What to cite for it.")] = "",
    as_json: Json = False,
) -> None:
    """Make a benchmark folder of your own results, and tell what was left out.

    A file is long (a row per query and model: query, model, correct) or wide (a row per query: query,
    correct/MODEL); id, task, split (train, val, test) and cost or cost/MODEL (US dollars per call) are optional.

    Example: rph data import results.csv --out my-bench --name my-bench
    """
    from rph import importing, run, table

    name = name or out.name
    with _progress(), _interruptible():
        if file is not None and bench is None:
            rows = importing.read(file, importing.renames(columns))
            dataset, notes = importing.convert(str(file), rows, name=name, threshold=threshold)
            report = importing.report(dataset, rows.num_rows, notes)
            source = f"{file.name}, sha256 {disk.sha256_file(file)}"
            labels = "correct, as given" if threshold is None else f"1 where correct >= {threshold:g}, else 0"
        elif bench is not None and file is None:
            if columns or threshold is not None:
                raise UsageError(
                    "--columns and --threshold are for files",
                    why=f"{bench} has columns and a label rule of its own",
                    fix="leave them out; `rph show NAME` names a benchmark's options",
                )
            registry = _registry(None, False)
            card = registry.load("benchmark", run.parse_name(bench)[0]).spec.card
            dataset = dataclasses.replace(run.benchmark_loader(registry, bench)(), name=name)
            report = importing.report(dataset, len(dataset.train) + len(dataset.val) + len(dataset.test))
            source, labels, citation = bench, card.label_rule, citation or card.citation
        else:
            raise UsageError(
                "what is to be imported?",
                why="a file and --bench exclude each other",
                fix="rph data import FILE --out FOLDER, or rph data import --bench NAME --out FOLDER",
            )
        table.write(dataset, out, citation=citation, source=source, labels=labels)
    if as_json:
        _print_json({**dataclasses.asdict(report), "folder": str(out)})
        return
    for key, text in [*report.lines(), ("folder", str(out))]:
        typer.echo(f"{key:9}  {text}")


def _files(name: str | None = None) -> list[tuple[Plugin, File]]:
    """The files of one benchmark or encoder, or of all usable ones, each with its plugin."""
    registry = _registry(None, False)
    if name is None:
        plugins = [plugin for kind in WITH_FILES for plugin in _load_all(registry, kind)[0]]
        return [(plugin, file) for plugin in plugins for file in plugin.spec.card.files]
    plugins = _named(registry, name, WITH_FILES)
    found = [(plugin, file) for plugin in plugins for file in plugin.spec.card.files]
    if not found:
        raise UsageError(
            f"{plugins[0].source.kind} {name!r} has no published files",
            why="it makes them itself, or reads files of yours",
            fix=f"`rph show {name}` says what it needs",
        )
    return found


def _named(registry: Registry, name: str, kinds: Sequence[Kind]) -> list[Plugin]:
    """The plugins of these kinds that have the name, one or more; UsageError where there is none."""
    found = []
    for kind in kinds:
        with contextlib.suppress(UsageError):
            found.append(registry.load(kind, name))
    if found:
        return found
    import difflib

    every = sorted({n for kind in kinds for n in registry.names(kind)})
    close = difflib.get_close_matches(name, every, n=3)
    raise UsageError(
        f"no {' or '.join(kinds)} is named {name!r}",
        why=f"did you mean {' or '.join(map(repr, close))}?" if close else f"installed: {', '.join(every)}",
        fix=f"{', '.join(f'`rph list {kind}s`' for kind in kinds)} name them all",
    )


# --- the machine ------------------------------------------------------------------------------------


@app.command()
def doctor(store: StorePath = None, as_json: Json = False) -> None:
    """Check this installation: versions, device, folders, plugins, run store. Exit code 1 if something is wrong.

    Example: rph doctor
    """
    import platform
    import shutil
    from importlib.metadata import version

    import torch

    from rph.registry import Plugin
    from rph.store import Store

    rows: list[dict[str, Any]] = []

    def line(what: str, value: str, ok: bool = True) -> None:
        rows.append({"check": what, "value": value, "ok": ok})

    line("rph", __version__)
    line("python", platform.python_version())
    for package in ("torch", "numpy", "scikit-learn", "sentence-transformers"):
        line(package, version(package))
    line("device", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
    line("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores")
    line("offline", "yes" if disk.offline() else "no")
    home = disk.home()
    try:
        with disk.new_file(home / "doctor", "checking the folder"):
            pass
        (home / "doctor").unlink()
        line("RPH_HOME", f"{home}, {shutil.disk_usage(home).free / 1e9:.1f} GB free")
    except RphError as error:
        line("RPH_HOME", str(error), ok=False)
    registry = _registry(None, False)
    failed = [one for s in registry.sources() if not isinstance(one := registry.try_load(s), Plugin)]
    line("plugins", "; ".join(f"{e.what}: {e.why}" for e in failed) or "all can be used", not failed)
    folder = store or home / "store"
    if (folder / "trials.sqlite").exists():
        try:
            opened = Store(folder)
            problems = opened.problems()
            counts = opened.counts()
            opened.close()
            summary = f"{folder}: {counts['done']} trials done, {counts['failed']} failed"
            line("run store", "; ".join(problems) or summary, not problems)
        except RphError as error:
            line("run store", str(error), ok=False)
    else:
        line("run store", f"{folder}: empty")
    _print_rows(rows, as_json)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


def _wide_console(record: bool = False) -> Console:
    """A console that never folds a table into an unreadable one where the output is not a terminal."""
    from rich.console import Console

    console = Console(record=record)
    return console if console.is_terminal else Console(width=160, record=record)


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(*(rows[0] if rows else ["nothing"]))
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    _wide_console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)
