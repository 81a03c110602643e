"""The command `rph`: options in, text out. Exit code 0: done; 1: the run failed; 2: the call is wrong.

Commands import what they run inside their bodies, so that `rph --help` and `rph list` stay fast. Results go to
stdout; progress, notes and errors go to stderr.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any

import typer

from rph import __version__, disk
from rph.cli import analyze, data, deploy, leaderboard, plugins, report, run, scaffold
from rph.cli.options import Json, StorePath, open_registry
from rph.cli.progress import print_rows
from rph.errors import RphError, UsageError

app = typer.Typer(
    name="rph",
    help="rph, the routing plateau harness: measures LLM routers by one protocol.\n\n"
    "Example: rph eval --router knn --bench synthetic --encoder lsa",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich help costs more start-up than everything else
    pretty_exceptions_enable=False,
)
for commands in (run, plugins, deploy):
    app.add_typer(commands.app)  # without a name: its commands are ours
app.add_typer(data.app, name="data")
app.add_typer(analyze.app, name="analyze")
app.add_typer(leaderboard.app, name="leaderboard")
app.command()(analyze.compare)
app.command()(report.report)
app.command("new")(scaffold.new)


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


@app.command()
def doctor(store: StorePath = None, as_json: Json = False) -> None:
    """Check this installation: versions, device, folders, plugins, run store. Exit code 1 if something is wrong.

    Example: rph doctor
    """
    import platform
    import shutil
    from importlib.metadata import version

    import torch

    from rph import distribution
    from rph.engine.store import Store
    from rph.registry import Plugin

    rows: list[dict[str, Any]] = []

    def line(what: str, value: str, ok: bool = True) -> None:
        rows.append({"check": what, "value": value, "ok": ok})

    line("rph", __version__)
    misplaced = list(distribution.problems())
    line("distribution", "; ".join(misplaced) or distribution.OURS, not misplaced)
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
    registry = open_registry(None, False)
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
    print_rows(rows, as_json)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)
