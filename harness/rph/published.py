"""Turns what publishers release into benchmarks: files found, columns checked, labels, costs and splits by stated rules.

Every benchmark plugin reads a layout of its own; what they share is here, so that a label, a price and a split mean
the same everywhere. A missing label or token count stays missing, an unknown price is an error that names the model.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import disk, hub
from rph.errors import RphError, UsageError
from rph.lazy import np

if TYPE_CHECKING:
    from rph.api import BenchmarkCard, File, Float32, RoutingDataset

PARTS = (0.6, 0.7)  # where train and val end, in a release without splits


# --- files ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sources:
    """A release's files on this machine, by their paths in the repository."""

    paths: dict[str, Path]
    content: str  # hex sha256 over all their contents: part of the name of what is converted from them

    def __getitem__(self, path: str) -> Path:
        return self.paths[path]


def sources(benchmark: str, files: Sequence[File], folder: str | None) -> Sources:
    """The files from a folder of the user's in the publisher's layout, or else from the hub, verified.

    Raises UsageError for a file that the folder lacks, RphError for one that cannot be had from the hub.
    """
    if folder is None:
        paths = {file.path: fetched(benchmark, file) for file in files}
        sums = {file.path: hub.sha256(file) for file in files}
    else:
        root = Path(folder).expanduser()
        paths = {file.path: root / file.path for file in files}
        if missing := [path for path, place in paths.items() if not place.is_file()]:
            others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
            raise UsageError(
                f"{benchmark}: {root} has no {missing[0]}{others}",
                why="the folder is read in the layout of the published repository"
                if root.is_dir()
                else "it is not a folder",
                fix=f"give the folder that holds it; `rph show {benchmark}` names all files",
            )
        sums = {path: disk.sha256_file(place) for path, place in paths.items()}
    return Sources(paths, hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest())


def fetched(benchmark: str, file: File) -> Path:
    """One file from the hub, verified; an error names also the option for a copy of the user's."""
    try:
        return hub.fetch(file, of=benchmark)
    except RphError as error:
        own = f"or give a copy you have: --bench {benchmark}:path=..."
        raise RphError(error.what, why=error.why, fix=f"{error.fix}; {own}") from error


def check_columns(where: str, found: Sequence[str], expected: Sequence[str], *, others: bool = False) -> None:
    """Raise UsageError unless the columns are those expected, in any order; `others` allows further ones."""
    repeated = [column for column, times in Counter(found).items() if times > 1]
    missing = [column for column in expected if column not in found]
    extra = [column for column in found if column not in set(expected)]
    if not (repeated or missing or (extra and not others)):
        return
    close = difflib.get_close_matches(missing[0], extra, n=1) if missing else []
    parts = (("missing", missing), ("twice", repeated), ("found besides", extra))
    raise UsageError(
        f"{where} does not have the {len(expected)} columns that are published",
        why="; ".join(f"{word}: {_some(names)}" for word, names in parts if names)
        + (f" (is {close[0]!r} meant to be {missing[0]!r}?)" if close else ""),
        fix="use the publisher's file; in one of your own, rename the columns",
    )


def _some(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# --- rows -------------------------------------------------------------------------------------------


def unique(names: Sequence[str]) -> list[str]:
    """Repeated names get #2, #3, ... in their order.

    >>> unique(["a", "b", "a", "a#2"])
    ['a', 'b', 'a#3', 'a#2']
    """
    taken = set(names)
    seen: set[str] = set()
    result = []
    for name in names:
        if name in seen:
            name = next(new for i in count(2) if (new := f"{name}#{i}") not in taken)
            taken.add(name)
        seen.add(name)
        result.append(name)
    return result


def labels(where: str, scores: Any, threshold: float, ids: Sequence[str], models: Sequence[str]) -> Float32:
    """Scores [N, K] in [0, 1] -> labels float32: 1 where score >= threshold, else 0; NaN stays NaN."""
    outside = (scores < 0) | (scores > 1)
    if outside.any():
        i, m = np.argwhere(outside)[0]
        raise UsageError(
            f"{where}: {int(outside.sum())} score(s) outside [0, 1]",
            why=f"the first is {scores[i, m]:g}, of id {ids[i]!r} and model {models[m]!r}",
            fix="use the publisher's file",
        )
    found: Float32 = np.where(np.isnan(scores), np.nan, scores >= threshold).astype(np.float32)
    return found


def check_threshold(benchmark: str, threshold: float, default: float) -> None:
    """Raise UsageError unless a label can depend on the threshold."""
    if not 0 < threshold <= 1:
        raise UsageError(
            f"{benchmark}: threshold={threshold:g} is not above 0 and at most 1",
            why="label = score >= threshold, and scores are in [0, 1]",
            fix=f"the default is {default:g}",
        )


@dataclasses.dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float


def costs(
    where: str, models: Sequence[str], prices: Mapping[str, Price], tokens_in: Any, tokens_out: Any
) -> Float32:
    """Token counts [N, K] -> US dollars per call, float32 [N, K]; where a count is missing so is the cost.

    Raises UsageError for a model that the price table does not have: an unknown price is never $0.
    """
    if unpriced := [model for model in models if model not in prices]:
        raise UsageError(
            f"{where}: no price is known for model {unpriced[0]!r}"
            + (f" and {len(unpriced) - 1} others" if len(unpriced) > 1 else ""),
            why=f"the price table has {_some(sorted(prices))}",
            fix="add the model's price to the table",
        )
    per_token = np.array([[prices[m].input, prices[m].output] for m in models]) / 1e6  # [K, 2]
    dollars: Float32 = (tokens_in * per_token[:, 0] + tokens_out * per_token[:, 1]).astype(np.float32)
    return dollars


# --- splits and names -------------------------------------------------------------------------------


def split_rows(queries: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
    """Row numbers of train, val and test for a release without splits: frozen, whatever the order of the file.

    Queries in the order of the sha256 of their text, cut at int(.6 n) and int(.7 n), which gives the counts of the
    routing-plateau paper's Table 8 (arXiv:2606.07587). Equal texts go to one split together: a group too large for
    the room left in a split goes to the next with room, and later ones fill the rest. Only where groups cannot be
    made to fit does a split get larger than its share: the last one.
    """
    keys = [hashlib.sha256(query.encode()).digest() for query in queries]
    # Stable: equal texts stay in the file's order.
    order = sorted(range(len(queries)), key=lambda i: keys[i])
    a, b = (int(part * len(queries)) for part in PARTS)
    room = [a, b - a, len(queries) - b]
    splits: tuple[list[int], list[int], list[int]] = ([], [], [])
    for _, group in groupby(order, key=lambda i: keys[i]):
        rows = list(group)
        place = next((s for s in range(3) if room[s] >= len(rows)), 2)
        splits[place].extend(rows)
        room[place] -= len(rows)
    return splits


def named(dataset: RoutingDataset, counts: Mapping[str, int]) -> RoutingDataset:
    """The dataset, named as a subset unless its splits have the counts of the full release."""
    found = {name: len(split) for name, split in dataset.splits()}
    if found == dict(counts):
        return dataset
    sizes, full = ("/".join(f"{each[name]:,}" for name in found) for each in (found, counts))
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}-subset-{sum(found.values())}-{dataset.fingerprint[:8]}",
        subset=f"{sizes} queries in train/val/test; the full release has {full}. Not comparable with results on it",
    )


def paper_note(card: BenchmarkCard) -> str:
    """Where the public release differs from Table 8 of arXiv:2606.07587; "" where it does not."""
    if card.paper is None or card.splits is None or dict(card.splits) == dict(card.paper):
        return ""
    here, there = ("/".join(f"{n:,}" for n in each.values()) for each in (card.splits, card.paper))
    return f"the public release has {here} queries in train/val/test, Table 8 of the paper says {there}"
