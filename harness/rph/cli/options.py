"""What several commands of `rph` share: their options, and what is done with them first."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rph.errors import UsageError

if TYPE_CHECKING:
    from rph.registry import Registry

_kept: int | None = None  # stdout, while descriptor 1 is stderr


def keep_stdout(as_json: bool) -> bool:
    """Where the answer is JSON, let only `print_json` reach stdout from here to the end of the process.

    Whatever a plugin, a library or a process of theirs prints goes to stderr: the answer stays JSON. Where sys.stdout
    is not the process's own, as in a test, it is its owner's to say what goes where.
    """
    global _kept
    own = sys.__stdout__  # None where it was closed
    if as_json and _kept is None and own is not None and own is sys.stdout and sys.stderr is not None:
        own.flush()
        _kept = os.dup(1)
        os.dup2(2, 1)
    return as_json


def print_json(content: Any) -> None:
    """The answer of a command that was called with --json."""
    text = json.dumps(content, indent=1)
    if _kept is None:
        typer.echo(text)
    else:
        with open(_kept, "w", encoding="utf-8", closefd=False) as stdout:
            stdout.write(f"{text}\n")


Json = Annotated[bool, typer.Option("--json", callback=keep_stdout, help="Print JSON instead of a table.")]
Strict = Annotated[
    bool,
    typer.Option("--strict-plugins", envvar="RPH_STRICT_PLUGINS", help="A plugin that fails is an error."),
]
PluginFiles = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A local Python file to use as a plugin; repeatable.")
]
Routers = Annotated[list[str], typer.Option("--router", help="A router's name, or all; repeatable.")]
Benches = Annotated[
    list[str],
    typer.Option("--bench", help="A benchmark's name, name:key=value,..., or a folder; repeatable."),
]
Encoders = Annotated[
    list[str], typer.Option("--encoder", help="An encoder's name, or name:key=value,...; repeatable.")
]
ProtocolName = Annotated[
    str, typer.Option("--protocol", help="paper, quick (3 variants, 2 seeds) or smoke (1 variant, 1 seed).")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
StorePath = Annotated[
    Path | None, typer.Option("--store", help="Folder of the run store [default: RPH_HOME/store].")
]
Results = Annotated[
    Path | None,
    typer.Option("--out", help="Also write <bench>/<router>/<encoder>.json and the routes into this folder."),
]
Prices = Annotated[
    list[str] | None,
    typer.Option("--price", help="MODEL=USD per call, for a model without known costs; repeatable."),
]


def open_registry(files: Sequence[Path] | None, strict: bool) -> Registry:
    """The plugins that a command may use."""
    from rph.registry import installed

    found = installed()
    for path in files or ():
        found.add_file(path)
    if strict:
        found.require_all()
    return found


def price_of(text: str) -> tuple[str, float]:
    """`MODEL=USD` as model and US dollars per call."""
    model, _, usd = text.rpartition("=")
    try:
        value = float(usd)
    except ValueError:
        value = -1.0
    if not model or not 0 <= value < float("inf"):
        raise UsageError(f"--price {text!r} cannot be read", fix="write MODEL=USD, for example gpt-4=0.005")
    return model, value


def passive_threads() -> None:
    """Ask OpenMP's threads to sleep while they wait: spinning ones make small matrix products 10x slower on a busy machine."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
