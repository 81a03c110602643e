"""`rph leaderboard validate`, `submit` and `diff`: results on their way to the leaderboard."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rph import disk
from rph.cli.analyze import RESULTS
from rph.cli.options import Json, PluginFiles, open_registry, print_json
from rph.errors import RphError, UsageError

if TYPE_CHECKING:
    from rph.api import RoutingDataset
    from rph.board.submissions import Problem, Verdict

app = typer.Typer(rich_markup_mode=None)

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="<bench>/<router>/<encoder>.json, or a folder of such files."),
]
Benches = Annotated[
    list[str] | None,
    typer.Option("--bench", help="Compare with this benchmark too: a name or a folder; repeatable."),
]


@app.command()
def validate(
    files: Files,
    root: Annotated[Path, typer.Option("--root", help="The leaderboard's results.")] = RESULTS,
    bench: Benches = None,
    plugin: PluginFiles = None,
    as_json: Json = False,
) -> None:
    """Are results what they claim to be? All that their files tell is computed again.

    Exit code 1 where one is refused. What cannot be verified is named.

    Example: rph leaderboard validate results/routerdc7/knn/minilm.json
    """
    from rph.board import submissions

    paths = _results(files)
    board = submissions.board_of(root, besides=paths)
    datasets = _datasets(bench or [], plugin)
    verdicts = submissions.validate(paths, board=board, datasets=datasets)
    _note_unused(datasets, verdicts)
    if as_json:
        print_json([_as_json(verdict) for verdict in verdicts])
    else:
        _print(verdicts)
    if any(verdict.problems for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def submit(
    files: Files,
    into: Annotated[
        Path, typer.Option("--into", help="Your clone of the leaderboard's repository.")
    ] = Path(),
    bench: Benches = None,
    plugin: PluginFiles = None,
) -> None:
    """Put results in their place in a clone, and write the text of a pull request. Nothing is sent.

    The files are validated first; the git commands that remain are printed.

    Example: rph leaderboard submit results/routerdc7/knn/minilm.json --into ../rph
    """
    from rph.board import changes, submissions
    from rph.results.files import queries_path

    root = into / RESULTS
    text_path = _git_path(into, "pull-request.md")
    paths = _results(files)
    before = submissions.board_of(root)
    cells = {path.absolute().parts[-3:] for path in paths}
    kept = [entry for entry in before if entry.path.parts[-3:] not in cells]
    datasets = _datasets(bench or [], plugin)
    verdicts = submissions.validate(paths, board=kept, datasets=datasets)
    _note_unused(datasets, verdicts)
    _print(verdicts)
    entries = [verdict.entry for verdict in verdicts if verdict.entry is not None and not verdict.problems]
    if len(entries) < len(paths):
        raise RphError(
            "nothing was prepared", why="a result was refused, as above", fix="mend it, or leave it out"
        )
    # A file that already lies in the clone was read as a part of the board, and is not what stood there before.
    inside = {entry.path.resolve() for entry in entries}
    before = [entry for entry in before if entry.path.resolve() not in inside]
    unverified = dict.fromkeys(what for verdict in verdicts for what in verdict.unverified)
    proposal = changes.propose(before, entries, list(unverified))
    placed = []
    for entry in entries:
        for source in (entry.path, queries_path(entry.path)):
            target = root.joinpath(*source.absolute().parts[-3:])
            placed.append(target.relative_to(into).as_posix())
            if target.resolve() != source.resolve():
                with disk.new_file(target, "placing a result") as temporary:
                    temporary.write_bytes(source.read_bytes())
    with disk.new_file(text_path, "writing the text of a pull request") as temporary:
        temporary.write_text(proposal.text, encoding="utf-8")
    typer.echo("\nIn place. What remains is yours to send:\n")
    for command in (
        ["cd", str(into.resolve())],
        ["git", "switch", "--create", proposal.branch],
        ["git", "add", *placed],
        ["git", "commit", "--message", proposal.title],
        ["git", "push", "--set-upstream", "origin", proposal.branch],
        ["gh", "pr", "create", "--title", proposal.title, "--body-file", str(text_path.resolve())],
    ):
        typer.echo(f"  {shlex.join(command)}")


@app.command()
def diff(
    base: Annotated[Path, typer.Option("--base", help="The branch that a change goes to, as a folder.")],
    head: Annotated[Path, typer.Option("--head", help="What the change would make of it, as a folder.")],
    allow_score_changes: Annotated[
        bool,
        typer.Option("--allow-score-changes", help="Results that stand on the leaderboard may change."),
    ] = False,
) -> None:
    """What a change does to the leaderboard, in Markdown, and whether it may: exit code 1 where it is refused.

    Only `--base` is trusted: files of `--head` are read as data, and nothing in it is run.

    Example: rph leaderboard diff --base ../main --head .
    """
    from rph.board import changes

    for tree in (base, head):
        if not tree.is_dir():
            raise UsageError(
                f"{tree} is no folder", fix="give two working copies of the leaderboard's repository"
            )
    found = changes.compare(base, head, scores_may_change=allow_score_changes)
    typer.echo(changes.comment(found, head), nl=False)
    if found.problems:
        raise typer.Exit(1)


def _results(files: Sequence[Path]) -> list[Path]:
    """The JSON of each result named, and of each result in a folder named. Raises UsageError where there is none."""
    from rph.results.files import find

    paths: list[Path] = []
    for file in files:
        found = list(find(file)) if file.is_dir() else [file]
        if not found:
            raise UsageError(
                f"{file} holds no results", why="they would be at <bench>/<router>/<encoder>.json below it"
            )
        paths += found
    for path in paths:
        if path.suffix != ".json":
            raise UsageError(
                f"{path} is no result", fix="give <encoder>.json; <encoder>.queries.npz is read with it"
            )
        if not path.exists() and not path.is_symlink():
            raise UsageError(f"{path} does not exist", fix="`rph eval ... --out FOLDER` writes results")
    return list(dict.fromkeys(paths))


def _datasets(names: Sequence[str], plugins: Sequence[Path] | None) -> dict[str, RoutingDataset]:
    """The benchmarks by the name that results give them."""
    if not names:
        return {}
    from rph.engine import resolve

    found = open_registry(plugins, strict=False)
    loaded = [resolve.benchmark_loader(found, name)() for name in names]
    return {dataset.name: dataset for dataset in loaded}


def _note_unused(datasets: Mapping[str, RoutingDataset], verdicts: Sequence[Verdict]) -> None:
    """A benchmark that no result is of has verified nothing."""
    used = {verdict.entry.result.bench for verdict in verdicts if verdict.entry is not None}
    for name in sorted(datasets.keys() - used):
        typer.echo(f"note: no result is of the benchmark {name!r}", err=True)


def _print(verdicts: Sequence[Verdict]) -> None:
    """Each verdict, then what was taken on trust, once."""
    from rph.board.submissions import printable

    for verdict in verdicts:
        typer.echo(f"{'refused' if verdict.problems else 'ok'}: {printable(str(verdict.path))}")
        for problem in verdict.problems:
            typer.echo(
                f"  {problem.rule}: {printable(str(problem.file))}: {problem.what}\n    fix: {problem.fix}"
            )
    unverified = dict.fromkeys(what for verdict in verdicts for what in verdict.unverified)
    if unverified:
        typer.echo("not verified:")
        for what in unverified:
            typer.echo(f"  {what}")
    bad = sum(bool(verdict.problems) for verdict in verdicts)
    typer.echo(
        f"{len(verdicts) - bad} of {len(verdicts)} result(s) are as they claim, as far as this was verified."
    )


def _as_json(verdict: Verdict) -> dict[str, object]:
    def problem(one: Problem) -> dict[str, str]:
        return {"rule": one.rule, "file": str(one.file), "what": one.what, "fix": one.fix}

    return {
        "path": str(verdict.path),
        "ok": not verdict.problems,
        "problems": [problem(one) for one in verdict.problems],
        "unverified": list(verdict.unverified),
    }


def _git_path(clone: Path, name: str) -> Path:
    """Where git keeps files of a clone that it never commits."""
    fix = "give a clone of the leaderboard's repository with --into"
    if not (clone / RESULTS).is_dir():
        raise UsageError(f"{clone} is no copy of the leaderboard", why=f"it has no {RESULTS}", fix=fix)
    command = ["git", "-C", str(clone), "rev-parse", "--git-path", f"rph-{name}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise UsageError("git is not installed", fix="install it; a submission is a pull request") from error
    except subprocess.CalledProcessError as error:
        raise UsageError(f"{clone} is no git clone", why=error.stderr.strip(), fix=fix) from error
    return clone / found.stdout.strip()
