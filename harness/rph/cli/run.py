"""`rph eval`, `sweep`, `score` and `embed`: the protocol on cells, and what it is told to do."""

from __future__ import annotations

import atexit
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rph import disk
from rph.cli.options import (
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
    open_registry,
    passive_threads,
    price_of,
)
from rph.cli.progress import (
    Progress,
    interruptible,
    print_outcome,
    print_plan,
    print_rows,
    shown_progress,
    tell_failures,
)
from rph.errors import UsageError

if TYPE_CHECKING:
    from rph.engine.cell import Settings
    from rph.engine.evaluate import Outcome
    from rph.engine.store import Store
    from rph.registry import Registry

app = typer.Typer(rich_markup_mode=None)


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
    registry = open_registry(plugin, strict_plugins)
    with shown_progress() as progress, interruptible():
        outcome = evaluated(registry, progress, router, bench, encoder, protocol, device, store, price)
    print_outcome(outcome, as_json, out)


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
    registry = open_registry(plugin, strict_plugins)
    with shown_progress() as progress, interruptible():
        names = (grid["routers"], grid["benches"], grid["encoders"])
        settings = {"retry_failed": retry_failed, "force": force}
        if dry_run:
            _print_plan(registry, progress, *names, protocol, device, store, price, settings, as_json)
            return
        outcome = evaluated(
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
    print_outcome(outcome, as_json, out)


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
    from rph.engine import evaluate

    opened, chosen = _prepared(protocol, device, store, prices, settings)
    outcome = evaluate.Outcome()
    cells = evaluate.plan(
        registry, opened, chosen, progress, outcome, benches=benches, encoders=encoders, routers=routers
    )
    known = opened.seconds_per_trial()
    plan = [cell.outlook(known) for cell in cells]
    print_plan(plan, as_json)
    print_outcome(outcome, as_json=False)


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
    registry = open_registry(plugin, strict_plugins)
    with shown_progress() as progress, interruptible():
        outcome = evaluated(
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
    print_outcome(outcome, as_json)


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
    registry = open_registry(plugin, strict_plugins)
    passive_threads()
    from rph.encoding import cache
    from rph.engine import resolve
    from rph.engine.failures import Failure, exit_code, failing

    rows: list[dict[str, Any]] = []
    failures: list[Failure] = []
    with shown_progress() as progress, interruptible():
        on = resolve.resolve_device(device)
        built = resolve.usable(
            registry, "encoder", encoder, lambda name: resolve.build_encoder(registry, name), failures
        )
        loaders = resolve.usable(
            registry, "benchmark", bench, lambda name: resolve.benchmark_loader(registry, name), failures
        )
        for name, load in loaders:
            dataset = None
            with failing(failures, f"benchmark {name}"):
                dataset = load()
            for _, one in built if dataset is not None else ():
                what = f"{dataset.name} x {one.label}"
                with failing(failures, what):
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
        print_rows(rows, as_json)
    tell_failures(failures)
    if failures:
        raise typer.Exit(exit_code(failures, anything=bool(rows)))


def evaluated(
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
    from rph.engine import evaluate, resolve

    opened, chosen = _prepared(protocol, device, store, prices, settings)
    built = resolve.build_executor(registry, executor, workers, limit, chosen.device)
    with contextlib.closing(built):  # also where a name is unknown and it never began
        outcome = evaluate.evaluate(
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
) -> tuple[Store, Settings]:
    """The open store, and how to run."""
    from rph.protocol import PRESETS

    if protocol not in PRESETS:
        raise UsageError(f"protocol {protocol!r} is not known", fix=f"give one of {', '.join(PRESETS)}")
    by_model = dict(price_of(text) for text in prices or [])
    passive_threads()
    from rph.engine.cell import Settings
    from rph.engine.resolve import resolve_device
    from rph.engine.store import Store

    chosen = Settings(preset=PRESETS[protocol], device=resolve_device(device), prices=by_model, **settings)
    opened = Store(store or disk.home() / "store")
    atexit.register(opened.close)
    return opened, chosen
