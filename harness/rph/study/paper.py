"""Our numbers beside the paper's: "The Routing Plateau", arXiv:2606.07587, as the tables of leaderboard/reference.

Only what can be the same quantity is set side by side: a full benchmark with the splits of the paper's Tab. 8, under the
paper's protocol. Everything else is named, with the reason.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rph.board.sets import Group, accuracies, groups
from rph.errors import UsageError
from rph.results.files import Entry
from rph.results.sheets import Column, Sheet
from rph.study import bottleneck, utility

NAMES = "names.csv"  # what the paper calls a router -> ours: the one place where the two meet
BENCHMARKS = "table8_benchmarks.csv"
ACCURACY = "table1_accuracy.csv"
UTILITY = {  # benchmark -> its file, and what turns the file's unit into a share
    "nine30k": ("table2_utility_nine30k.csv", 0.01),
    "routerbench": ("table9_utility_routerbench.csv", 1.0),
    "embedllm": ("table10_utility_embedllm.csv", 1.0),
    "r2": ("table11_utility_r2.csv", 1.0),
    "sprout": ("table12_utility_sprout.csv", 1.0),
}
DIFFICULTY, EXCHANGE, AGAINST_KNN = "table3_hard_easy.csv", "table4_exchange.csv", "table5_knn_vs_trained.csv"

Rows = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """One number of ours and the paper's, both shares."""

    what: str  # a router, or a quantity
    ours: float
    paper: float

    @property
    def difference(self) -> float:
        return self.ours - self.paper


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One table of the paper on one benchmark."""

    title: str
    rows: tuple[Beside, ...]
    notes: tuple[str, ...] = ()


def compare(entries: Sequence[Entry], folder: Path) -> list[Sheet]:
    """A sheet per table and benchmark. `folder` holds the paper's tables, as leaderboard/reference does.

    Raises UsageError where nothing may be compared, or a table cannot be read.
    """
    found, left_out = comparisons(entries, folder)
    if not found:
        raise UsageError(
            "nothing here can be set beside the paper",
            why="; ".join(left_out),
            fix="run `rph eval` on a full benchmark of the paper's Tab. 8, with --protocol paper",
        )
    sheets = [_sheet(one) for one in found if one.rows]
    last = sheets[-1]
    return [*sheets[:-1], Sheet(last.title, last.columns, last.rows, (*last.notes, *left_out))]


def comparisons(entries: Sequence[Entry], folder: Path) -> tuple[list[Comparison], list[str]]:
    """What can be set beside the paper, and a sentence for each group of results that cannot."""
    published = {row["benchmark"]: row for row in _read(folder, BENCHMARKS)}
    names = {row["paper"]: row["router"] for row in _read(folder, NAMES)}
    found: list[Comparison] = []
    left_out = []
    for group in groups(entries):
        why = _why_not(group, published)
        if why:
            left_out.append(f"{group.name} is not set beside the paper: {why}")
        else:
            found += [_accuracy(group, folder, names), *_utility(group, folder, names)]
            found += _bottleneck(group, folder)
    return found, left_out


def _why_not(group: Group, published: dict[str, dict[str, str]]) -> str:
    """Why a group's numbers are not the paper's quantity; empty where they are."""
    if group.subset:
        return "a subset of the benchmark"
    if group.bench not in UTILITY:
        return "it is in none of its tables of results"
    if group.protocol != "paper":
        return f"protocol {group.protocol}"
    counts = group.reference
    ours = {"train": counts.n_train, "val": counts.n_val, "test": counts.n_test}
    ours["models"] = len(group.entries[0].result.models)
    theirs = {key: int(published[group.bench][key]) for key in ours}
    differing = [f"{key} {ours[key]:,}, there {theirs[key]:,}" for key in ours if ours[key] != theirs[key]]
    return f"other splits than in its Tab. 8: {'; '.join(differing)}" if differing else ""


def _accuracy(group: Group, folder: Path, names: dict[str, str]) -> Comparison:
    theirs = {
        _named(row["router"], names, ACCURACY): _share(row[group.bench], ACCURACY, 0.01)
        for row in _read(folder, ACCURACY)
    }
    ours = {router: one.mean for router, one in accuracies(group).items()}
    return _comparison(group, "test accuracy", ACCURACY, ours, theirs)


def _utility(group: Group, folder: Path, names: dict[str, str]) -> list[Comparison]:
    name, unit = UTILITY[group.bench]
    columns = {lam: f"u{float(lam):.1f}" for lam in utility.LAMBDAS}  # Tab. 2 has no column for 0
    theirs = {
        f"{_named(row['router'], names, name)}, λ = {lam}": _share(row[column], name, unit)
        for row in _read(folder, name)
        for lam, column in columns.items()
        if column in row
    }
    return [
        _comparison(
            group,
            "realised utility",
            name,
            {
                f"{router}, λ = {lam}": one.mean
                for router, at in found.utility.items()
                for lam, one in at.items()
            },
            theirs,
        )
        for found in utility.utilities(group.entries)
    ]


def _bottleneck(group: Group, folder: Path) -> list[Comparison]:
    found = []
    for name, title, quantities in (
        (DIFFICULTY, "hard and easy queries", _difficulty(group)),
        (EXCHANGE, "pairs of routers", _exchange(group)),
        (AGAINST_KNN, "hard queries, others minus knn", _against_knn(group)),
    ):
        published = {row["benchmark"]: row for row in _read(folder, name)}[group.bench]
        ours = {what: value for what, (value, _, _) in quantities.items()}
        theirs = {
            what: _share(published[column], name, unit) for what, (_, column, unit) in quantities.items()
        }
        found.append(_comparison(group, title, name, ours, theirs))
    return found


# What of Tab. 3 to 5 is compared -> (ours, the paper's column, its unit). Not the ratios, which follow from the rest,
# and not the BCE: the paper's is on train.
Quantities = dict[str, tuple[float | None, str, float]]


def _difficulty(group: Group) -> Quantities:
    (found,) = bottleneck.difficulties(group.entries)
    return {
        "hard queries": (found.hard_share, "f_hard", 1.0),
        "spread of hard accuracy": (found.hard_spread, "hard_spread", 1.0),
        "hard gap": (found.hard_gap, "hard_gap", 1.0),
        "easy gap": (found.easy_gap, "easy_gap", 1.0),
        "gap explained by hard": (found.explained, "explained_percent", 0.01),
    }


def _exchange(group: Group) -> Quantities:
    quantities: Quantities = {}
    for found in bottleneck.exchanges(group.entries):  # none where there is one router
        disagreements = [pair.disagreement for pair in found.pairs]
        quantities = {
            "least disagreement": (min(disagreements), "disagree_min", 1.0),
            "most disagreement": (max(disagreements), "disagree_max", 1.0),
            "median accuracy gap": (found.median(lambda pair: pair.accuracy_gap), "accuracy_gap", 1.0),
            "median |ΔY|": (found.median(lambda pair: pair.change), "abs_delta", 1.0),
            "median |ΔY signed|": (found.median(lambda pair: pair.signed_change), "abs_signed_delta", 1.0),
        }
    return quantities


def _against_knn(group: Group) -> Quantities:
    quantities: Quantities = {}
    for found in bottleneck.against_knn(group.entries):  # none where there is no knn
        quantities = {
            "hard accuracy of knn": (found.hard_accuracy, "knn_hard_accuracy", 1.0),
            "median difference": (found.hard_difference, "median_trained_minus_knn_hard_accuracy", 1.0),
        }
    return quantities


def _comparison(
    group: Group, title: str, name: str, ours: dict[str, float | None], theirs: dict[str, float | None]
) -> Comparison:
    """The numbers that both have, in our order; the rest is named."""
    notes = [f"{group.name}: the paper's means are over six encoders, ours over {', '.join(group.encoders)}."]
    missing = [what for what, paper in theirs.items() if paper is not None and ours.get(what) is None]
    if missing:
        notes.append(f"No number of ours: {', '.join(missing)}.")
    unknown = [what for what, value in ours.items() if value is not None and theirs.get(what) is None]
    if unknown:
        notes.append(f"No number of the paper's: {', '.join(unknown)}.")
    return Comparison(
        title=f"{group.name}: {title}, beside the paper's Tab. {_number_of(name)}",
        rows=tuple(
            Beside(what=what, ours=value, paper=paper)
            for what, value in ours.items()
            if value is not None and (paper := theirs.get(what)) is not None
        ),
        notes=tuple(notes),
    )


def _sheet(found: Comparison) -> Sheet:
    return Sheet(
        found.title,
        (
            Column("of"),
            Column("ours", "percent"),
            Column("paper", "percent"),
            Column("difference", "percent"),
        ),
        tuple((one.what, one.ours, one.paper, one.difference) for one in found.rows),
        (
            *found.notes,
            "Differences are in percentage points; the paper's values are those it prints, in the unit of the column.",
        ),
    )


# --- the files --------------------------------------------------------------------------------------


def _number_of(name: str) -> str:
    """table12_utility_sprout.csv -> 12."""
    return name.removeprefix("table").split("_")[0]


def _read(folder: Path, name: str) -> Rows:
    try:
        with (folder / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(
            f"the paper's table {folder / name} cannot be read",
            why=str(error),
            fix="run in the project's root folder, or give --to the folder of the tables",
        ) from error


def _share(value: str, name: str, unit: float) -> float | None:
    """A field as a share; None where the paper gives none."""
    if value == "":
        return None
    try:
        return float(value) * unit
    except ValueError as error:
        raise UsageError(f"{name}: {value!r} is no number", fix="restore the file") from error


def _named(router: str, names: dict[str, str], name: str) -> str:
    if router not in names:
        raise UsageError(f"{name}: no router is known for {router!r}", fix=f"add a line to {NAMES}")
    return names[router]
