"""`rph export`, `rph route`, `rph serve`: a router that was measured, put to use."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rph import disk
from rph.cli.options import (
    Device,
    Json,
    PluginFiles,
    Prices,
    ProtocolName,
    StorePath,
    Strict,
    open_registry,
    passive_threads,
    price_of,
    print_json,
)
from rph.distribution import install
from rph.errors import UsageError

if TYPE_CHECKING:
    from rph.deploy.export import Manifest
    from rph.deploy.routing import LoadedRouter

SHOWN = 60  # characters of a query in a table

app = typer.Typer(rich_markup_mode=None)

Folder = Annotated[Path, typer.Option("--router", help="A folder that `rph export` wrote.")]
Lambda = Annotated[float, typer.Option("--lam", help="0: by quality alone; up to 1: by price alone.")]
EncoderFiles = Annotated[
    str | None, typer.Option("--encoder", help="NAME:path=FOLDER, where the weights are a folder of yours.")
]


class Notes:
    """Tells the user what there is to tell, on stderr."""

    def note(self, text: str) -> None:
        typer.echo(f"note: {text}", err=True)

    def embedding(self, what: str, done: int, total: int) -> None:
        if done == total:
            self.note(f"{what}: {total:,} queries are encoded")

    def trial(self, cell: str, done: int, total: int) -> None:
        """No trials are run."""


@app.command()
def export(
    router: Annotated[str, typer.Option(help="A router's name.")],
    bench: Annotated[str, typer.Option(help="A benchmark's name, name:key=value,..., or a folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder.")],
    encoder: Annotated[str, typer.Option(help="An encoder's name, or name:key=value,...")] = "minilm",
    protocol: ProtocolName = "paper",
    device: Device = "auto",
    store: StorePath = None,
    prices: Prices = None,
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """Write the router of a finished cell to a folder: arrays and JSON, no code. `rph route` and `rph serve` use it.

    The selected variant is trained once more, and must give the stored val scores again.

    Example: rph export --router knn --bench synthetic --encoder lsa -o my-router
    """
    from rph.protocol import PRESETS

    if protocol not in PRESETS:
        raise UsageError(f"protocol {protocol!r} is not known", fix=f"give one of {', '.join(PRESETS)}")
    plugins = open_registry(plugin, strict_plugins)
    passive_threads()
    from rph.deploy import export as exporting
    from rph.engine import resolve
    from rph.engine.cell import Settings
    from rph.engine.store import Store

    options: list[tuple[str, Sequence[object]]] = [
        ("--router", [router]),
        ("--bench", [bench]),
        ("--encoder", [encoder]),
        ("--protocol", [protocol]),
        ("--device", [device]),
        ("--store", [store] if store else []),
        ("--price", prices or []),
        ("--plugin", plugin or []),
    ]
    command = shlex.join(
        ["rph", "eval", *(str(v) for name, values in options for one in values for v in (name, one))]
    )
    settings = Settings(
        preset=PRESETS[protocol],
        device=resolve.resolve_device(device),
        prices=dict(price_of(text) for text in prices or []),
        train=False,
        retry_failed=False,
    )
    notes = Notes()
    with contextlib.closing(Store(store or disk.home() / "store")) as opened:
        manifest = exporting.export(
            plugins,
            opened,
            settings,
            notes,
            bench=bench,
            encoder=encoder,
            router=router,
            folder=out,
            command=command,
        )
    check = manifest.check
    if not check.bit_for_bit:
        notes.note(
            f"trained again, scores differ from the stored ones by at most {check.largest_difference:.2g}, and "
            f"{check.routes_changed} of {check.queries:,} val queries are routed otherwise"
        )
    if manifest.cost_scale is not None and manifest.unpriced:
        notes.note(f"no price is known of {', '.join(manifest.unpriced)}: above lambda 0 they are not chosen")
    if manifest.tasks:
        notes.note(_without_task(manifest))
    size = sum(file.stat().st_size for file in out.iterdir())
    if as_json:
        print_json({"folder": str(out), "bytes": size, **manifest.model_dump(mode="json")})
    else:
        typer.echo(f"{out}: {manifest.router.name} {manifest.variant_name}, {size / 1e6:.1f} MB")


@app.command()
def route(
    router: Folder,
    query: Annotated[list[str] | None, typer.Argument(help="Queries; or --file, or stdin.")] = None,
    lam: Lambda = 0.0,
    task: Annotated[
        str | None, typer.Option(help="The queries' task: only models that were run on it are chosen.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A file with a query per line.")] = None,
    device: Device = "auto",
    encoder: EncoderFiles = None,
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
    as_json: Json = False,
) -> None:
    """Say which model each query goes to. Queries are arguments, or lines of a file or of stdin.

    Example: rph route --router my-router "What is 2 + 2?" --lam 0.2
    """
    queries = _queries(query, file)
    loaded = _loaded(router, device, encoder, plugin, strict_plugins)
    routes = loaded.route(queries, lam, task=task)
    notes = Notes()
    if loaded.manifest.tasks and not task:
        notes.note(_without_task(loaded.manifest))
    if lam > 0 and (unpriced := loaded.manifest.unpriced):
        notes.note(f"no price is known of {', '.join(unpriced)}: they are not chosen")
    if as_json:
        rows = [{"query": q, **dataclasses.asdict(one)} for q, one in zip(queries, routes, strict=True)]
        print_json(rows)
        return
    for text, one in zip(queries, routes, strict=True):
        cost = "unknown" if one.cost is None else f"${one.cost:.6f}"
        text = re.sub(r"\s", " ", text)  # one row per query, and no more columns
        short = text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
        typer.echo(f"{one.model}\t{one.scores[one.model]:.4f}\t{cost}\t{short}")
    notes.note(f"{len(queries):,} queries in {routes[0].seconds:.3f} s, reading the weights included")


@app.command()
def serve(
    router: Annotated[Path, typer.Argument(help="A folder that `rph export` wrote.")],
    host: Annotated[str, typer.Option(help="Beyond this machine only with --api-key-env.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 8000,
    api_key_env: Annotated[
        str | None, typer.Option(help="The environment variable with the key that clients must send.")
    ] = None,
    upstreams: Annotated[
        Path | None, typer.Option(help="A YAML file: where each model is served, for /v1/chat/completions.")
    ] = None,
    lam: Lambda = 0.0,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.", min=1)] = 1 << 20,
    max_concurrent: Annotated[int, typer.Option(help="Requests answered at once; beyond: 429.", min=1)] = 256,
    device: Device = "auto",
    encoder: EncoderFiles = None,
    plugin: PluginFiles = None,
    strict_plugins: Strict = False,
) -> None:
    """Serve an exported router over HTTP: /route, and OpenAI's /v1/chat/completions passed on to the chosen model.

    Needs the extra `serve`. Ends with Ctrl-C or SIGTERM; open requests then get 30 s.

    Example: rph serve my-router --port 8000
    """
    try:
        from rph.deploy import serve as server
        from rph.deploy import upstreams as forwarding
    except ModuleNotFoundError as error:
        raise UsageError(
            "`rph serve` needs libraries that are not installed",
            why=str(error),
            fix=install("serve"),
        ) from error
    key = None if api_key_env is None else os.environ.get(api_key_env)
    if api_key_env is not None and not key:
        raise UsageError(
            f"the environment variable {api_key_env} holds no key",
            fix="set it, for example to `openssl rand -hex 32`",
        )
    if api_key_env is not None and key is not None:
        forwarding.check_key(api_key_env, key)
    if key is None and not server.is_loopback(host):
        raise UsageError(
            f"--host {host} lets others in, and no key is asked of them",
            fix="give --api-key-env NAME, a variable with a secret; or leave --host out: this machine alone",
        )
    loaded = _loaded(router, device, encoder, plugin, strict_plugins)
    pool = None if upstreams is None else forwarding.read(upstreams, loaded.models)
    limits = server.Limits(body=max_body, concurrent=max_concurrent)
    app = server.application(loaded, lam=lam, api_key=key, pool=pool, limits=limits)
    with server.listen(host, port) as at:
        loaded.scores(["number 1"])  # any first query makes the encoder read its weights
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"rph serve: http://{shown}:{at.getsockname()[1]}", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(app, at)


def _without_task(manifest: Manifest) -> str:
    """What it means to name no task, where some models were not run on some tasks."""
    share = manifest.leaves_pool
    told = "" if share is None else f": of the val routes {share:.1%} do"
    return f"where no task is given, a query may go to a model that was never run on its task{told}"


def _loaded(
    folder: Path, device: str, encoder: str | None, plugin: list[Path] | None, strict: bool
) -> LoadedRouter:
    plugins = open_registry(plugin, strict)
    passive_threads()
    from rph.deploy import routing

    return routing.load(folder, device=device, encoder=encoder, registry=plugins)


def _queries(arguments: list[str] | None, file: Path | None) -> list[str]:
    """The queries of the call; UsageError where there are none or two kinds of them."""
    if arguments and file is not None:
        raise UsageError(
            "queries were given twice", why="as arguments and as --file", fix="give one of the two"
        )
    if arguments:
        return arguments
    if file is None and (sys.stdin is None or sys.stdin.isatty()):  # None: it was closed
        raise UsageError("there is no query", fix='rph route --router FOLDER "a query", or --file FILE')
    what = "stdin" if file is None else str(file)
    try:
        # Bytes, so that a file is the same queries from stdin, whatever the terminal's encoding.
        content = sys.stdin.buffer.read() if file is None else file.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"{what} cannot be read", why=str(error), fix="give a file of text that you may read"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{what} is no UTF-8 text", why=f"line {line}: {error.reason}", fix="save it as UTF-8"
        ) from error
    lines = [line for line in re.split("\r?\n", text) if line.strip()]
    if not lines:
        raise UsageError(f"{what} has no query", fix="write one query per line")
    return lines
