"""`rph list`, `show`, `check` and `plugins`: what is installed, what it says of itself, and whether it keeps its contract."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rph.cli.options import Json, PluginFiles, Strict, open_registry, passive_threads, print_json
from rph.cli.progress import interruptible, print_rows, shown_progress, tell_failures
from rph.errors import RphError, UsageError

if TYPE_CHECKING:
    from rph.registry import Kind, Plugin, Registry

app = typer.Typer(rich_markup_mode=None)
check_app = typer.Typer(help="Does a plugin keep its contract?", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(check_app, name="check")


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
    loaded, failed = load_all(open_registry(plugin, strict_plugins), singular)
    if as_json:
        print_json([_card(one) for one in loaded])
    else:
        columns: dict[Kind, tuple[str, ...]] = {
            "router": ("name", "family", "paper", "year", "deterministic", "calibrated", "distribution"),
            "encoder": ("name", "hf_id", "dim", "pooling", "max_tokens", "licence", "distribution"),
            "benchmark": ("name", "title", "costs", "licence", "distribution"),
            "executor": ("name", "title", "needs", "distribution"),
        }
        cards = [{**_card(one), "distribution": one.source.origin} for one in loaded]  # with its version
        print_rows([{c: card[c] for c in columns[singular]} for card in cards], False)
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
    registry = open_registry(plugin, strict_plugins)
    passive_threads()
    from rph.conformance import routers
    from rph.engine import resolve
    from rph.engine.failures import Failure, failing
    from rph.registry import ALL

    routers.find_checks(only or ())  # an unknown id is refused before anything runs
    failures: list[Failure] = []
    names = [ALL] if every else name or []
    plugins = resolve.usable(registry, "router", names, lambda one: registry.load("router", one), failures)
    specs = [plugin.spec for _, plugin in plugins]
    results = []
    with shown_progress() as progress, interruptible():
        for spec in specs:
            with failing(failures, "checks"):
                for result in routers.run_checks(spec, only=only):
                    results.append(result)
                    progress.trial(
                        f"checking {spec.name}", len(results), len(specs) * len(only or routers.CHECKS)
                    )
    if as_json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        worth_a_line = [r for r in results if r.status != "passed"]
        if worth_a_line:
            print_rows(
                [{**dataclasses.asdict(r), "seconds": f"{r.seconds:.1f}"} for r in worth_a_line], False
            )
        for spec in specs:
            own = [r for r in results if r.router == spec.name]
            counts = ", ".join(
                f"{sum(r.status == status for r in own)} {status}"
                for status in dict.fromkeys(r.status for r in own)
            )
            typer.echo(f"{spec.name}: {counts or 'not checked'}, {sum(r.seconds for r in own):.1f} s")
    tell_failures(failures)
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
    from rph.api import variant_name
    from rph.data import published
    from rph.registry import KINDS

    registry = open_registry(plugin, strict_plugins)
    found = plugins_named(registry, name, KINDS)
    cards = []
    for one in found:
        card = _card(one)
        if one.source.kind == "router":
            card["variants"] = [
                {"name": variant_name(variant), **dataclasses.asdict(one.spec.variant_card(variant))}
                for variant in one.spec.grid
            ]
        if one.source.kind == "benchmark":
            card["options"] = one.spec.options
            card["differs"] = published.paper_note(one.spec.card)
        cards.append(card)
    if as_json:
        print_json(cards)
        return
    for card in cards:
        width = max(map(len, card))
        for key, value in card.items():
            for i, line in enumerate(_lines([*map(_of_variant, value)] if key == "variants" else value)):
                typer.echo(f"{key if i == 0 else '':{width}}  {line}")
        typer.echo()


def _of_variant(card: dict[str, Any]) -> str:
    """A variant on one line: its name, and what its card says."""
    said = {True: "original", False: "not original", None: ""}[card["original"]]
    limits = [] if card["most_models"] is None else [f"pools of at most {card['most_models']} models"]
    limits += ["reads the text, not the encoder"] if card["reads"] == "text" else []
    limits += [card["no_gain"]] if card["no_gain"] else []
    line = ": ".join(filter(None, [said, card["why"]]))
    return "; ".join(filter(None, [card["name"], line, *limits]))


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

    registry = open_registry(plugin, strict_plugins)
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
    print_rows(rows, as_json)


def load_all(registry: Registry, kind: Kind) -> tuple[list[Plugin], list[tuple[str, RphError]]]:
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


def plugins_named(registry: Registry, name: str, kinds: Sequence[Kind]) -> list[Plugin]:
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
