"""`rph new`: writes a plugin's package that works at once, from the templates in `templates/`.

`templates/package/` is the package; `router/`, `encoder/` and `benchmark/` beside it hold what differs between the kinds.
The engine is copier, of the extra `new`.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rph import __version__, disk
from rph.distribution import OURS, install
from rph.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

TEMPLATES = Path(__file__).parent / "templates"
KINDS = ("router", "encoder", "benchmark")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 50  # characters: a name becomes part of file names
RESERVED = ("all",)  # `--router all` is every router


def new(
    kind: Annotated[str, typer.Argument(help="router, encoder or benchmark.")],
    name: Annotated[str, typer.Argument(help="The plugin's name: small letters, digits and dashes.")],
    out: Annotated[
        Path | None, typer.Option(help="The new folder [default: rph-NAME-KIND, or rph-NAME].")
    ] = None,
) -> None:
    """Write a package with a router, encoder or benchmark that works at once: code, tests, workflow.

    Example: rph new router my-router
    """
    folder = write(kind, name, out)
    typer.echo(folder)
    typer.echo(f"note: next: pip install -e '{folder}[test]' && pytest {folder}", err=True)


def distribution(kind: str, name: str) -> str:
    """What is installed: the kind is said once.

    >>> distribution("router", "softmax"), distribution("router", "my-router")
    ('rph-softmax-router', 'rph-my-router')
    """
    return f"rph-{name}" if name.endswith(f"-{kind}") else f"rph-{name}-{kind}"


def write(kind: str, name: str, out: Path | None = None) -> Path:
    """Write the package of a plugin into `out`, whole or not at all, and return the folder.

    Raises UsageError for a kind or name that cannot be, for a folder that is not empty, and without copier; RphError
    where nothing can be written.
    """
    _check(kind, name)
    package = distribution(kind, name)
    folder = out or Path(package)
    with disk.disk_errors("a new package", folder):  # to look at it may be forbidden
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UsageError(
                f"{folder} {'is not empty' if folder.is_dir() else 'is a file'}",
                why="nothing is written over",
                fix="give another folder with --out",
            )
    copy = _engine()
    with disk.new_folder(folder, "a new package") as temporary:
        copy(
            str(TEMPLATES),
            temporary,
            data={
                "kind": kind,
                "name": name,
                "distribution": package,
                "module": package.replace("-", "_"),
                "class_name": "".join(part.capitalize() for part in package.split("-")[1:]),
                "rph_distribution": OURS,
                "rph_version": __version__,
                "year": datetime.datetime.now(tz=datetime.UTC).year,
            },
            defaults=True,  # ask nothing
            overwrite=True,  # the temporary folder exists
            quiet=True,
        )
    return folder


def _check(kind: str, name: str) -> None:
    if kind not in KINDS:
        raise UsageError(f"there is no template of kind {kind!r}", fix=f"give one of {', '.join(KINDS)}")
    what = f"{kind} {name!r} cannot be made"
    if not NAME.fullmatch(name) or len(name) > LONGEST or name in RESERVED:
        raise UsageError(
            what,
            why="the word means every plugin"
            if name in RESERVED
            else "the name becomes a package's, an entry point's and a file's",
            fix=f"use small letters and digits, words joined by single dashes, beginning with a letter, at most {LONGEST} "
            "characters: my-router",
        )
    from rph import registry

    taken = {source.name: source for source in registry.installed().sources() if source.kind == kind}
    if name in taken:
        raise UsageError(
            what,
            why=f"the name is taken: it is installed, by {taken[name].origin}",
            fix="choose another name: two plugins of one name cannot be used",
        )


def _engine() -> Callable[..., object]:
    try:
        from copier import run_copy
    except ImportError as error:
        raise UsageError(
            "`rph new` needs a template engine that is not installed",
            why=str(error),
            fix=install("new"),
        ) from error
    return run_copy
