"""What a set of results says together: which of them may be set side by side, means over encoders, ranks.

Functions of result files (rph.results.files.Entry): nothing is trained. The paper's tables and figures
are built on this in rph.study: plateau (its Sec. 4) and bottleneck (Sec. 5).

Two rules hold for all of it. A router's number on a benchmark is its mean over encoders, as everywhere in the paper's
main text (end of Sec. 4.2), where each encoder's is the mean over seeds; what is unknown for one encoder is unknown.
And only results on the same rows of a benchmark, by the same protocol, are set side by side.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rph.errors import UsageError
from rph.results import missing
from rph.results.cell import DIGITS, CellResult, Reference
from rph.results.files import Entry

KNN = "knn"  # the router that the paper holds the others against


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The results on one benchmark that may be set side by side: the same rows, the same protocol."""

    name: str  # the benchmark's, and what tells it from another group: fingerprint, protocol
    bench: str
    protocol: str
    subset: str  # not empty: the rows are not the benchmark's full release
    entries: tuple[Entry, ...]

    @property
    def reference(self) -> Reference:
        """What no router decides: the same in every result."""
        return self.entries[0].result.reference

    @property
    def encoders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.result.encoder for entry in self.entries))

    @property
    def routers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.result.router for entry in self.entries))

    def of(self, router: str) -> list[Entry]:
        """One entry per encoder."""
        return [entry for entry in self.entries if entry.result.router == router]


def groups(entries: Iterable[Entry]) -> list[Group]:
    """The entries by (benchmark, fingerprint, protocol), in the order in which these came.

    Raises UsageError where a group has two results of one router on one encoder.
    """
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        result = entry.result
        found.setdefault((result.bench, result.bench_fingerprint, result.protocol), []).append(entry)
    for members in found.values():
        _check_unique(members)
    return [
        Group(
            name=_name(key, list(found)),
            bench=key[0],
            protocol=key[2],
            subset=members[0].result.subset,
            entries=tuple(members),
        )
        for key, members in found.items()
    ]


def _name(key: tuple[str, str, str], keys: Sequence[tuple[str, str, str]]) -> str:
    bench, fingerprint, protocol = key
    name = bench
    if len({other[1] for other in keys if other[0] == bench}) > 1:
        name += f" {fingerprint[:8]}"
    return name if protocol == "paper" else f"{name}, protocol {protocol}"


def _check_unique(entries: Sequence[Entry]) -> None:
    places: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        place = (entry.result.router, entry.result.encoder)
        if place in places:
            raise UsageError(
                f"{places[place].path} and {entry.path} are results of the same router and encoder",
                why=f"both are {' x '.join(place)} on {entry.result.bench}",
                fix="keep one of the two",
            )
        places[place] = entry


class Average(NamedTuple):
    """A number of one router over its encoders."""

    mean: float | None  # None: unknown for one of them
    std: float | None  # sample standard deviation over encoders; None: one encoder, or no mean
    encoders: int


def average(values: Sequence[float | None]) -> Average:
    """The paper does not say which standard deviation its subscripts are; here the sample's, with n - 1.

    >>> average([0.5, 0.7]).mean, average([0.5, None]).mean
    (0.6, None)
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Average(None, None, len(values))
    std = statistics.stdev(known) if len(known) > 1 else None
    return Average(statistics.fmean(known), std, len(values))


def averages(group: Group, read: Callable[[CellResult], float | None]) -> dict[str, Average]:
    """Router -> the average of what `read` takes from each of its results, best first, the unknown last."""
    found = {router: average([read(entry.result) for entry in group.of(router)]) for router in group.routers}
    return dict(sorted(found.items(), key=lambda item: descending(item[1].mean)))


def accuracies(group: Group) -> dict[str, Average]:
    """Router -> test accuracy at lambda = 0; the best first, with missing labels counted 0."""
    found = averages(group, lambda result: result.test_accuracy_mean)
    return {router: found[router] for router in lower_accuracies(group)}


def lower_accuracies(group: Group) -> dict[str, Average]:
    """Router -> test accuracy with the missing labels of what was chosen counted 0: what decides an order."""
    return averages(group, lambda result: result.lower)


def open_accuracies(group: Group) -> dict[str, tuple[float, float]]:
    """Router -> the two ends of its accuracy, mean over encoders, of those that missing labels leave open."""
    found = {}
    for router in accuracies(group):
        ends = [one for entry in group.of(router) if (one := entry.result.bounds) is not None]
        if any(high - low > 10**-DIGITS for low, high in ends):
            low, high = (statistics.fmean(one) for one in zip(*ends, strict=True))
            found[router] = (low, high)
    return found


def in_average(subset: str, reference: Reference) -> bool:
    """Whether a benchmark counts in averages over benchmarks: a full release, and no control world."""
    return not subset and reference.bayes is None


def descending(value: float | None) -> tuple[bool, float]:
    """A key to sort by: the highest first, the unknown last."""
    return value is None, -round(value or 0, DIGITS)


def ranks(values: Sequence[float | None]) -> list[int | None]:
    """The place of each, 1 for the highest; equals share one, and the unknown have none.

    >>> ranks([0.5, None, 0.7, 0.5])
    [2, None, 1, 2]
    """
    rounded = [None if value is None else round(value, DIGITS) for value in values]
    known = [value for value in rounded if value is not None]
    return [None if mine is None else 1 + sum(other > mine for other in known) for mine in rounded]


def encoder_notes(group: Group) -> list[str]:
    """What a reader of a mean over encoders must know."""
    notes = [f"{group.name}: encoders {', '.join(group.encoders)}."]
    lacking = {r: len(group.of(r)) for r in group.routers if len(group.of(r)) < len(group.encoders)}
    if lacking:
        counts = ", ".join(f"{router} {n}" for router, n in sorted(lacking.items()))
        notes.append(f"{group.name}: not comparable, a mean over fewer encoders: {counts}.")
    notes += [f"{group.name}: {note}" for note in missing.notes(group.entries[0].result)]
    if ends := open_accuracies(group):
        shown = ", ".join(
            f"{router} {100 * low:.2f} to {100 * high:.2f}" for router, (low, high) in ends.items()
        )
        notes.append(
            f"{group.name}: accuracies are over what was observed. With missing labels counted wrong, by which they are "
            f"ordered, and counted right, in %: {shown}."
        )
    if group.subset:
        notes.append(f"{group.name} is a subset: {group.subset}.")
    return notes
