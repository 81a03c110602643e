"""Turns what publishers release into benchmarks: files found, columns checked, labels, costs and splits by stated rules.

Every benchmark plugin reads a layout of its own; what they share is here, so that a label, a price and a split mean
the same everywhere. A missing label or token count stays missing, an unknown price is an error that names the model.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import disk
from rph.api import Split
from rph.data import hub, routing_table
from rph.data.alike import normal_form
from rph.errors import RphError, UsageError
from rph.lazy import np

if TYPE_CHECKING:
    import pandas as pd

    from rph.api import BenchmarkCard, File, Float32, RoutingDataset, SplitName

PARTS = (0.6, 0.7)  # where train and val end, in a release without splits


# --- files ------------------------------------------------------------------------------------------


class Sources:
    """A release's files on this machine, by their paths in the repository.

    From a folder of the user's in the publisher's layout, or else from the hub: then each file is fetched and verified
    when it is first asked for, so that a benchmark that was converted earlier needs neither.
    """

    def __init__(self, benchmark: str, files: Sequence[File], folder: str | None) -> None:
        self.benchmark, self.files = benchmark, {file.path: file for file in files}
        self.folder = None if folder is None else Path(folder).expanduser()

    @cached_property
    def content(self) -> str:
        """Hex sha256 over all their contents: part of the name of what is converted from them."""
        sums = {path: self._sum(path) for path in self.files}
        return hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()

    def _sum(self, path: str) -> str:
        if self.folder is None and (known := hub.sha256(self.files[path])):
            return known
        return disk.sha256_file(self[path])

    def __getitem__(self, path: str) -> Path:
        file = self.files[path]
        return fetched(self.benchmark, file) if self.folder is None else self.folder / path

    def __iter__(self) -> Iterator[Path]:
        """The files, in the order in which they were given."""
        return (self[path] for path in self.files)

    def converted(
        self, convert: Callable[..., RoutingDataset], version: int, **options: Any
    ) -> RoutingDataset:
        """What `convert` makes of the files with these options: converted once, then read from disk.

        `version` is that of the conversion: raised when its result changes.
        """
        words = (self.benchmark, self.content, *(f"{name}{value!r}" for name, value in options.items()))
        return routing_table.cached(f"{'-'.join(words)}-v{version}", lambda: convert(self, **options))


def sources(benchmark: str, files: Sequence[File], folder: str | None) -> Sources:
    """The files to read a benchmark from. Raises UsageError for one that the user's folder lacks.

    Asking for a file raises RphError where it cannot be had from the hub.
    """
    found = Sources(benchmark, files, folder)
    root = found.folder
    missing = [path for path in found.files if root and not (root / path).is_file()]
    if root and missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UsageError(
            f"{benchmark}: {root} has no {missing[0]}{others}",
            why="the folder is read in the layout of the published repository"
            if root.is_dir()
            else "it is not a folder",
            fix=f"give the folder that holds it; `rph show {benchmark}` names all files",
        )
    return found


def fetched(benchmark: str, file: File) -> Path:
    """One file from the hub, verified; an error names also the option for a copy of the user's."""
    try:
        return hub.fetch(file, of=benchmark)
    except RphError as error:
        own = f"or give a copy you have: --bench {benchmark}:path=..."
        raise RphError(error.what, why=error.why, fix=f"{error.fix}; {own}") from error


def csv_pieces(path: Path, columns: Sequence[str], rows: int = 200_000) -> Iterator[pd.DataFrame]:
    """These columns of a CSV file as the texts that stand there, `rows` at a time; an empty field is "".

    Not as what pandas would make of them: a query "None" would be missing, and a label True would be 1.
    """
    import pandas as pd

    try:
        header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
        check_columns(str(path), list(header), columns, others=True)
        yield from pd.read_csv(path, usecols=list(columns), dtype=str, keep_default_na=False, chunksize=rows)
    except ValueError as error:  # or a kind of it: not CSV, not UTF-8, cut short within quotes
        raise UsageError(
            f"{path} cannot be read as CSV in UTF-8", why=str(error).strip(), fix="use the publisher's file"
        ) from error
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            raise UsageError(
                f"{path} is cut short", why="its last line has no end", fix="copy the publisher's file again"
            )


def check_columns(
    where: str,
    found: Sequence[str],
    expected: Sequence[str],
    *,
    others: bool = False,
    form: str = "",
    fix: str = "use the publisher's file; in one of your own, rename the columns",
) -> None:
    """Raise UsageError unless the columns are those expected, in any order; `others` allows further ones.

    `form` says what has these columns, where it is not a published file.
    """
    repeated = [column for column, times in Counter(found).items() if times > 1]
    missing = [column for column in expected if column not in found]
    extra = [column for column in found if column not in set(expected)]
    if not (repeated or missing or (extra and not others)):
        return
    close = difflib.get_close_matches(missing[0], extra, n=1) if missing else []
    parts = (("missing", missing), ("twice", repeated), ("found besides", extra))
    raise UsageError(
        f"{where} does not have the {form or f'{len(expected)} columns that are published'}",
        why="; ".join(f"{word}: {_some(names)}" for word, names in parts if names)
        + (f" (is {close[0]!r} meant to be {missing[0]!r}?)" if close else ""),
        fix=fix,
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


def check_queries(where: str, ids: Sequence[str], queries: Sequence[str]) -> None:
    """Raise UsageError for a query without text: nothing could be routed by it."""
    if empty := [name for name, query in zip(ids, queries, strict=True) if not query.strip()]:
        others = f", nor have {len(empty) - 1} others" if len(empty) > 1 else ""
        raise UsageError(
            f"{where}: the query with id {empty[0]!r} has no text{others}",
            why="there is nothing to route by",
            fix="use the publisher's file; in one of your own, leave such rows out",
        )


def take(whole: Split, rows: Sequence[int]) -> Split:
    """These rows of a table, in this order, as a split."""

    def of(table: Any) -> Any:
        return None if table is None else table[rows]

    return Split(
        ids=[whole.ids[i] for i in rows],
        queries=[whole.queries[i] for i in rows],
        tasks=[whole.tasks[i] for i in rows],
        labels=whole.labels[rows],
        costs=of(whole.costs),
        p_correct=of(whole.p_correct),
        reasons=of(whole.reasons),
        languages=[whole.languages[i] for i in rows] if whole.languages else (),
    )


def decode_prompt(raw: str) -> str:
    """The text of a prompt that is published as the text of a list of turns.

    >>> decode_prompt("['Be brief.', 'Why is the sky blue?']")
    'Be brief.\\n\\nWhy is the sky blue?'
    >>> decode_prompt("[1, 2] is a list")
    '[1, 2] is a list'
    """
    if not raw.startswith("["):
        return raw
    try:
        turns = ast.literal_eval(raw)
        if turns and all(isinstance(turn, str) for turn in turns):
            text = "\n\n".join(turns)
            text.encode()  # half a surrogate pair, written as an escape, is no text: keep what was published
            return text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    return raw


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


def check_threshold(benchmark: str, threshold: float, default: float | None = None) -> None:
    """Raise UsageError unless a label can depend on the threshold."""
    if not 0 < threshold <= 1:
        raise UsageError(
            f"{benchmark}: threshold={threshold:g} is not above 0 and at most 1",
            why="label = score >= threshold, and scores are in [0, 1]",
            fix="give one in that range" if default is None else f"the default is {default:g}",
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
    for kind, tokens in (("input", tokens_in), ("output", tokens_out)):
        if (wrong := (tokens < 0) | np.isinf(tokens)).any():
            row, m = np.argwhere(wrong)[0]
            raise UsageError(
                f"{where}: {int(wrong.sum())} negative or infinite count(s) of {kind} tokens",
                why=f"the first is {tokens[row, m]:g}, of query {row + 1} and model {models[m]!r}",
                fix="use the publisher's file; leave an unknown count empty",
            )
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

    Queries in the order of the sha256 of their text in normal form (`rph.data.alike`), cut at int(.6 n) and
    int(.7 n), which gives the counts of the routing-plateau paper's Table 8 (arXiv:2606.07587). Texts equal in that
    form go to one split together: a group too large for the room left in a split goes to the next with room, and
    later ones fill the rest. Only where groups cannot be made to fit does a split get larger than its share: the
    last one.
    """
    keys = [hashlib.sha256(normal_form(query).encode()).digest() for query in queries]
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


def name_of(benchmark: str, threshold: float, default: float) -> str:
    """The name of a dataset with this threshold, which says one that is not the default."""
    return benchmark if threshold == default else f"{benchmark}-threshold{threshold!r}"


def named(dataset: RoutingDataset, counts: Mapping[SplitName, int], differs: str = "") -> RoutingDataset:
    """The dataset, named as a subset unless its splits have the counts of the full release.

    `differs` says in words what else is not that of the full release.
    """
    found = {name: len(split) for name, split in dataset.splits()}
    if found == dict(counts) and not differs:
        return dataset
    sizes, full = ("/".join(f"{each[name]:,}" for name in found) for each in (found, counts))
    also = f"; {differs}" if differs else ""
    return subset(dataset, f"{sizes} queries in train/val/test; the full release has {full}{also}")


def subset(dataset: RoutingDataset, differs: str) -> RoutingDataset:
    """The dataset, named as a subset of the full release, from which it `differs`, in words."""
    queries = sum(len(split) for _, split in dataset.splits())
    return dataclasses.replace(
        dataset,
        name=f"{dataset.name}-subset-{queries}-{dataset.fingerprint[:8]}",
        subset=f"{differs}. Not comparable with results on it",
    )


def paper_note(card: BenchmarkCard) -> str:
    """Where the public release differs from Table 8 of arXiv:2606.07587; "" where it does not."""
    if card.paper is None or card.splits is None or dict(card.splits) == dict(card.paper):
        return ""
    here, there = ("/".join(f"{n:,}" for n in each.values()) for each in (card.splits, card.paper))
    return f"the public release has {here} queries in train/val/test, Table 8 of the paper says {there}"
