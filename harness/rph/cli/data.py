"""`rph data`: the files of benchmarks and encoders, benchmarks made of a user's own file, and what is wrong with one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rph import disk
from rph.cli.options import Json, open_registry, print_json
from rph.cli.plugins import load_all, plugins_named
from rph.cli.progress import interruptible, print_rows, shown_progress
from rph.errors import RphError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rph.api import File, RoutingDataset
    from rph.data.checking import Check
    from rph.registry import Kind, Plugin

WITH_FILES: tuple[Kind, ...] = ("benchmark", "encoder")  # kinds of plugins whose cards name files
app = typer.Typer(help="The files that benchmarks need.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def data_list(as_json: Json = False) -> None:
    """The files that benchmarks and encoders need: which are here, how big, under which licence.

    Example: rph data list
    """
    from rph.data import hub

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
    print_rows(rows, as_json)


@app.command("pull")
def data_pull(
    names: Annotated[list[str], typer.Argument(help="Benchmarks and encoders.", metavar="NAME...")],
    as_json: Json = False,
) -> None:
    """Download what benchmarks and encoders need, and check it; what is here already is only checked.

    A download that was stopped goes on where it was. RPH_MIRRORS names other endpoints, separated by commas.

    Example: rph data pull routerbench mpnet
    """
    from rph.data import hub

    rows = []
    with interruptible():
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
    print_rows(rows, as_json)


@app.command("path")
def data_path(
    name: Annotated[str, typer.Argument(help="A benchmark or an encoder.")], as_json: Json = False
) -> None:
    """Print where the files of a benchmark or an encoder are.

    Example: rph data path routerbench
    """
    from rph.data import hub

    rows = [(file, hub.find(file)) for _, file in _files(name)]
    if as_json:
        print_rows([{"file": file.path, "path": path and str(path)} for file, path in rows], True)
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


@app.command("verify")
def data_verify(
    name: Annotated[str | None, typer.Argument(help="A benchmark or an encoder; all without it.")] = None,
    as_json: Json = False,
) -> None:
    """Check size and sha256 of the files that are here. Exit code 1 if one is wrong.

    Example: rph data verify routerbench
    """
    from rph.data import hub

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
    print_rows(rows, as_json)
    if wrong:
        raise RphError(f"{wrong} file(s) are not what was published", fix="delete them and pull them again")


@app.command("import")
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
    """Make a benchmark folder of your own results, and tell what was left out and what `rph data check` finds.

    A file is long (a row per query and model: query, model, correct) or wide (a row per query: query,
    correct/MODEL); id, task, language, split (train, val, test), cost or cost/MODEL (US dollars per call) and hole
    or hole/MODEL (why a label is missing: planned, failed, empty, cut, unscored) are optional.

    Example: rph data import results.csv --out my-bench --name my-bench
    """
    from rph.data import importing, routing_table
    from rph.data.columns import read, renames
    from rph.engine import resolve

    name = name or out.name
    with shown_progress(), interruptible():
        if file is not None and bench is None:
            rows = read(file, renames(columns))
            dataset, notes = importing.convert(str(file), rows, name=name, threshold=threshold)
            rows_read = rows.num_rows
            source = f"{file.name}, sha256 {disk.sha256_file(file)}"
            labels = "correct, as given" if threshold is None else f"1 where correct >= {threshold:g}, else 0"
        elif bench is not None and file is None:
            if columns or threshold is not None:
                raise UsageError(
                    "--columns and --threshold are for files",
                    why=f"{bench} has columns and a label rule of its own",
                    fix="leave them out; `rph show NAME` names a benchmark's options",
                )
            registry = open_registry(None, False)
            card = registry.load("benchmark", resolve.parse_name(bench)[0]).spec.card
            dataset = dataclasses.replace(resolve.benchmark_loader(registry, bench)(), name=name)
            rows_read, notes = sum(len(split) for _, split in dataset.splits()), []
            source, labels, citation = bench, card.label_rule, citation or card.citation
        else:
            raise UsageError(
                "what is to be imported?",
                why="a file and --bench exclude each other",
                fix="rph data import FILE --out FOLDER, or rph data import --bench NAME --out FOLDER",
            )
        routing_table.write(dataset, out, citation=citation, source=source, labels=labels)
        report = importing.report(dataset, rows_read, [*notes, *importing.found(dataset)])
    if as_json:
        print_json({**dataclasses.asdict(report), "folder": str(out)})
        return
    for key, text in [*report.lines(), ("folder", str(out))]:
        typer.echo(f"{key:9}  {text}")


@app.command("check")
def data_check(
    table: Annotated[
        str,
        typer.Argument(help="What --bench takes: a name, name:key=value,..., or a folder.", metavar="TABLE"),
    ],
    as_json: Json = False,
) -> None:
    """Look for what makes a benchmark's numbers wrong or weak: labels at the wrong queries, texts in two splits, ...

    Exit code 1 if labels stand at the wrong queries or a text in two splits, 2 if the benchmark cannot be run at all;
    whatever else is found is for you to look at, and the exit code is 0.

    Example: rph data check my-bench
    """
    from rph.data import checking
    from rph.engine import resolve

    load = resolve.benchmark_loader(open_registry(None, False), table)
    with shown_progress(), interruptible():
        try:
            dataset = load()
        except UsageError as error:
            if as_json:
                invalid = checking.Finding(
                    kind="invalid", what=error.what, count=1, examples=(error.why,), fix=error.fix
                )
                print_json({"table": table, **dataclasses.asdict(checking.Check(findings=(invalid,)))})
            raise
        check = checking.checked(dataset)
    if as_json:
        print_json({"table": table, "median": check.median, **dataclasses.asdict(check)})
    else:
        for key, text in _lines(dataset, check):
            typer.echo(f"{key:16}  {text}")
    if wrong := [one.kind for one in check.findings if one.kind in checking.WRONG]:
        raise RphError(
            f"{dataset.name} must not be evaluated on as it is: {', '.join(wrong)}",
            why="whatever is computed from it is wrong",
            fix="mend the table; what to do stands beside each finding",
        )


def _lines(dataset: RoutingDataset, check: Check) -> Iterator[tuple[str, str]]:
    """What a reader is told of a check, as pairs of a word and a text."""
    queries = sum(len(split) for _, split in dataset.splits())
    yield "benchmark", f"{dataset.name}: {queries:,} queries, {len(dataset.models):,} models"
    known = sorted((value, model) for model, value in check.correlations.items() if value is not None)
    if known:
        lowest = ", ".join(f"{model} {value:.2f}" for value, model in known[:3])
        yield (
            "correlation",
            f"of a model with the rest, within tasks: median {check.median:.2f}; lowest {lowest}",
        )
    for one in check.findings:
        yield one.kind, str(one)
        for example in one.examples[1:]:
            yield "", f"  and {example}"
        yield "", f"  fix: {one.fix}"
    if not check.findings:
        yield "found", "nothing"


def _files(name: str | None = None) -> list[tuple[Plugin, File]]:
    """The files of one benchmark or encoder, or of all usable ones, each with its plugin."""
    registry = open_registry(None, False)
    if name is None:
        plugins = [plugin for kind in WITH_FILES for plugin in load_all(registry, kind)[0]]
        return [(plugin, file) for plugin in plugins for file in plugin.spec.card.files]
    plugins = plugins_named(registry, name, WITH_FILES)
    found = [(plugin, file) for plugin in plugins for file in plugin.spec.card.files]
    if not found:
        raise UsageError(
            f"{plugins[0].source.kind} {name!r} has no published files",
            why="it makes them itself, or reads files of yours",
            fix=f"`rph show {name}` says what it needs",
        )
    return found
