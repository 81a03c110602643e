"""What a change to the leaderboard's files does to its ranks, and whether it may: two trees of files, compared.

Nothing of the changed tree is run: it is read as data, by the rules of submissions.py.
"""

from __future__ import annotations

import filecmp
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rph.board import submissions
from rph.board.ranking import Board, boards
from rph.board.submissions import Problem, Verdict
from rph.errors import RphError, UsageError
from rph.results import recompute, sheets
from rph.results.cell import CellResult
from rph.results.files import NAME, Entry
from rph.results.sheets import Column, Sheet

RESULTS = PurePosixPath("leaderboard/results")
EPSILON = 1e-6  # a score that moves by more was measured again: sums on two machines differ by less
SCORES = {
    "test_accuracy_mean", "test_accuracy_std", "val_accuracy", "coverage", "utility", "utility_native", "cost", "bce",
    "ece", "hard_accuracy", "easy_accuracy", "curve", "apgr", "cpt50", "cpt80", "selection_entropy",
}  # fmt: skip
MOVES = (
    Column("rank", "count"), Column("before"), Column("router"), Column("test acc.", "percent"),
    Column("low", "percent"), Column("high", "percent"), Column("change", "percent"), Column("tier", "count"),
)  # fmt: skip
BOUNDS = (
    "low, high: 95 % of the accuracy, queries and seeds resampled. "
    "The routers of one tier cannot be told apart from its first."
)
LISTED = 40  # problems; the rest are counted
LONGEST = 60_000  # characters; GitHub takes comments of up to 65,536

_RESULT = re.compile(rf"{RESULTS}/(?:{NAME.pattern}/){{2}}{NAME.pattern}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Changes:
    """What is new in a tree of files, and what is wrong with it."""

    files: dict[str, str]  # path in the tree -> added, changed or removed
    verdicts: tuple[Verdict, ...]  # of each result that was added or changed
    problems: tuple[Problem, ...]  # all of them, those of the verdicts too
    ranks: tuple[Sheet, ...]  # of each board that changes


def compare(base: Path, head: Path, *, scores_may_change: bool = False) -> Changes:
    """What `head` changes against `base`, two working copies of the leaderboard's repository. Only `base` is trusted.

    Raises UsageError where `base` is not such a copy.
    """
    files = _changed(base, head)
    problems = list(_foreign(files, head))
    touched = list(
        dict.fromkeys(_json_of(path) for path, how in files.items() if _is_result(path) and how != "removed")
    )
    before = submissions.board_of(base / RESULTS)
    kept = [entry for entry in before if entry.path.relative_to(base).as_posix() not in touched]
    verdicts = submissions.validate([head / path for path in touched], board=kept)
    problems += [problem for verdict in verdicts for problem in verdict.problems]
    sound = [verdict.entry for verdict in verdicts if verdict.entry is not None and not verdict.problems]
    if not scores_may_change:
        problems += _score_changes(before, sound)
    ranks: tuple[Sheet, ...] = ()
    try:
        ranks = tuple(moves(before, sound))
    except RphError as error:
        problems.append(
            Problem(rule="board", file=head / RESULTS, what=f"{error.what}: {error.why}", fix=error.fix)
        )
    return Changes(files=files, verdicts=tuple(verdicts), problems=tuple(problems), ranks=ranks)


# --- files ------------------------------------------------------------------------------------------


def _files(tree: Path) -> set[str]:
    """The paths in a tree: of a git working copy those that git would commit, so neither .git nor what it ignores."""
    if not (tree / ".git").exists():
        found = [path for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()]
        return {path.relative_to(tree).as_posix() for path in found}
    command = ["git", "-C", str(tree), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=False)
    if listed.returncode:
        raise UsageError(
            f"git cannot list the files of {tree}", why=listed.stderr.decode(errors="replace").strip()
        )
    names = [name for name in listed.stdout.decode(errors="surrogateescape").split("\0") if name]
    return {name for name in names if (tree / name).exists() or (tree / name).is_symlink()}


def _changed(base: Path, head: Path) -> dict[str, str]:
    old, new = _files(base), _files(head)
    changed = {path for path in old & new if not _same(base / path, head / path)}
    how = {**dict.fromkeys(new - old, "added"), **dict.fromkeys(changed, "changed")}
    return dict(sorted((how | dict.fromkeys(old - new, "removed")).items()))


def _same(one: Path, other: Path) -> bool:
    """Of equal content; a link is what it says, not what it leads to."""
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return filecmp.cmp(one, other, shallow=False)


def _is_result(path: str) -> bool:
    return bool(_RESULT.fullmatch(path)) and path.endswith((".json", ".queries.npz"))


def _json_of(path: str) -> str:
    """The JSON of the result that a file belongs to."""
    return path if path.endswith(".json") else path.removesuffix(".queries.npz") + ".json"


def _foreign(files: dict[str, str], head: Path) -> Iterator[Problem]:
    for path, how in files.items():
        if not _is_result(path):
            yield Problem(
                rule="files",
                file=head / path,
                what=f"it is {how}, and is no result file",
                fix="propose code and texts in a pull request of their own",
            )
        elif how == "removed":
            yield Problem(
                rule="removal",
                file=head / path,
                what="a result of the leaderboard is removed",
                fix="restore the file; results are only added or measured again",
            )


# --- scores and ranks -------------------------------------------------------------------------------


def _cell(result: CellResult) -> tuple[str, str, str]:
    return result.bench, result.router, result.encoder


def _score_changes(before: Sequence[Entry], sound: Sequence[Entry]) -> Iterator[Problem]:
    old = {_cell(entry.result): entry.result for entry in before}
    for entry in sound:
        known = old.get(_cell(entry.result))
        if known is None:
            continue
        moved = recompute.differences(
            entry.result.model_dump(include=SCORES), known.model_dump(include=SCORES), rounding=EPSILON
        )
        for where, new, was in list(moved)[:1]:
            yield Problem(
                rule="score",
                file=entry.path,
                what=f"{where} of a result that stands on the leaderboard changes from {was} to {new}",
                fix="say why in the pull request; a maintainer allows it by the label scores-change",
            )


def moves(before: Sequence[Entry], new: Sequence[Entry]) -> Iterator[Sheet]:
    """Each board that `new` results join, or replace a result of, with the ranks before and after."""
    places = {_cell(entry.result) for entry in new}
    after = [entry for entry in before if _cell(entry.result) not in places] + list(new)
    affected = {(entry.result.bench, entry.result.encoder) for entry in new}

    def ranked(entries: Sequence[Entry]) -> list[Board]:
        return boards([one for one in entries if (one.result.bench, one.result.encoder) in affected])

    old = {(b.bench, b.fingerprint, b.encoder): b for b in ranked(before)}
    for board in ranked(after):
        known = old.get((board.bench, board.fingerprint, board.encoder))
        was = {row.entry.result.router: row for row in known.rows} if known else {}
        rows = []
        for row in board.rows:
            name, earlier = row.entry.result.router, was.get(row.entry.result.router)
            rows.append(
                (
                    row.rank,
                    "new" if earlier is None else str(earlier.rank),
                    name,
                    row.accuracy,
                    row.interval[0],
                    row.interval[1],
                    None if earlier is None else row.accuracy - earlier.accuracy,
                    row.tier,
                )
            )
        yield Sheet(
            title=f"{board.bench} x {board.encoder}",
            columns=MOVES,
            rows=tuple(rows),
            notes=((f"Subset: {board.subset}",) if board.subset else ()) + (BOUNDS,),
        )


# --- texts ------------------------------------------------------------------------------------------


def comment(found: Changes, head: Path) -> str:
    """The changes in Markdown, for a pull request. Every name in it is escaped; it ends before it is too long."""
    state = "refused" if found.problems else "accepted"
    results = len(found.verdicts)
    parts = [
        f"### Leaderboard: {state}\n",
        f"{results} result(s) added or changed, {len(found.problems)} problem(s).\n",
    ]
    if found.problems:
        listed = found.problems[:LISTED]
        rows = tuple((one.rule, _within(head, one.file), one.what, one.fix) for one in listed)
        more = (f"and {len(found.problems) - LISTED} more",) if len(found.problems) > LISTED else ()
        columns = (Column("rule"), Column("file"), Column("what is wrong"), Column("what to do"))
        parts.append(sheets.to_markdown(Sheet("Problems", columns, rows, more)))
    parts += [sheets.to_markdown(sheet) for sheet in found.ranks]
    trusted = dict.fromkeys(what for verdict in found.verdicts for what in verdict.unverified)
    if trusted:
        lines = tuple((what,) for what in trusted)
        parts.append(sheets.to_markdown(Sheet("Not verified", (Column("taken on trust"),), lines)))
    text = ""
    for part in parts:
        if len(text) + len(part) > LONGEST:
            return text + "\nThe rest is too long for a comment: run `.ci/leaderboard BASE HEAD`.\n"
        text += part + "\n"
    return text


def _within(tree: Path, path: Path) -> str:
    return submissions.printable(str(path.relative_to(tree) if path.is_relative_to(tree) else path))


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A pull request as it would be sent."""

    branch: str
    title: str
    text: str  # Markdown


def propose(before: Sequence[Entry], new: Sequence[Entry], unverified: Sequence[str]) -> Proposal:
    """The text of a pull request that adds `new` results, at least one, to those that stand on the leaderboard."""
    names = [_title(entry.result) for entry in new]
    known = {_cell(entry.result) for entry in before}
    verb = "Measure again" if all(_cell(entry.result) in known for entry in new) else "Add"
    title = f"{verb} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    parts = [f"{title}.\n", *(_described(entry.result) for entry in new)]
    parts += [sheets.to_markdown(sheet) for sheet in moves(before, new)]
    parts.append(
        "Not verified by `rph leaderboard validate`:\n" + "".join(f"- {what}\n" for what in unverified)
    )
    branch = re.sub(r"[^A-Za-z0-9-]+", "-", f"result-{'-'.join(_cell(new[0].result))}")
    return Proposal(branch=branch, title=title, text="\n".join(parts))


def _title(result: CellResult) -> str:
    return f"{result.router} x {result.bench} x {result.encoder}"


def _described(result: CellResult) -> str:
    """What was run, with the command that runs it again."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result.packages.items()))
    rows = (
        ("router", f"{result.router}, from {result.router_distribution} {result.router_version}"),
        ("method", f"{result.method.title} ({result.method.paper})"),
        ("variant chosen", result.variant_name),
        ("benchmark", f"{result.bench}, fingerprint {result.bench_fingerprint[:16]}"),
        ("encoder", f"{result.encoder}: {result.encoder_identity}"),
        ("protocol", f"{result.protocol}, version {result.protocol_version}, {len(result.seeds)} seed(s)"),
        ("trials", f"{result.trials} finished, {len(result.failed_trials)} failed"),
        ("ran on", f"{result.device}, {versions}"),
    )
    table = sheets.to_markdown(Sheet(_title(result), (Column("what"), Column("value")), rows))
    command = [
        "rph", "eval", "--router", result.router, "--bench", result.bench, "--encoder", result.encoder,
        "--protocol", result.protocol, "--device", result.device, "--out", str(RESULTS),
    ]  # fmt: skip
    return f"{table}\n```\n{shlex.join(command)}\n```\n"
