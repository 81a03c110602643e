"""Nine-by-300k: the val and test queries of Nine-by-30k, and 302,371 others to learn from, each put to some models.

Paper: The Routing Plateau, Appendix D (arXiv:2606.07587). No public release is known: it is read from a folder or a
hub repository of the user's, in the form that `rph.data.nine` describes. A copy without val and test takes those of
`base`, the folder of Nine-by-30k; where both have them they must be the same, or results on the two benchmarks would
not compare.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rph import BenchmarkSpec, RoutingDataset, Split, UsageError, hookimpl
from rph.data import nine, routing_table
from rph.holes import Holes
from rph.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rph.api import SplitName
    from rph.data.published import Sources

NAME = "nine300k"
COUNTS: dict[SplitName, int] = {"train": 302_371, "val": 3_000, "test": 5_000}
SHARED: Sequence[SplitName] = ("val", "test")


def load(
    path: str | None = None, base: str | None = None, repo: str | None = None, revision: str = "main"
) -> RoutingDataset:
    """Nine-by-300k from a folder or from the hub; converted once, then read from disk."""
    if base is None:
        advice = ", or as base the folder of Nine-by-30k, for its val and test"
        sources = [nine.sources(NAME, path, repo, revision, advice=advice)]
    else:
        sources = [nine.sources(NAME, path, repo, revision, optional=SHARED)]
        sources.append(nine.sources(NAME, base, splits=SHARED))
    content = "-".join(each.content for each in sources)
    return routing_table.cached(f"{NAME}-{content}-v{nine.VERSION}", lambda: _convert(sources))


def _convert(sources: Sequence[Sources]) -> RoutingDataset:
    """The dataset of its own files and, where they are given, those of Nine-by-30k."""
    splits: dict[str, Split] = {}
    for each in sources:
        for name, split in nine.read(each).items():
            if not _same(splits.setdefault(name, split), split):
                files = (str(path) for one in sources for path in one if path.stem == name)
                raise UsageError(
                    f"{NAME}: its {name} split is not that of Nine-by-30k",
                    why=f"{' and '.join(files)} have other rows, or another order of them",
                    fix="give the right `base`; or take val and test out of one of the folders",
                )
    # Which models a query was put to was drawn before any answer (App. D): what was not asked is no lost answer.
    return replace(nine.dataset(NAME, splits, COUNTS), holes=Holes(planned=True))


def _same(one: Split, other: Split) -> bool:
    texts = [(list(split.ids), list(split.queries), list(split.tasks)) for split in (one, other)]
    numbers = ((one.labels, other.labels), (one.costs, other.costs))
    return texts[0] == texts[1] and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in numbers
    )


CARD = nine.card(
    NAME,
    title="Nine-by-300k: 302,371 sparsely labelled train queries, val and test of Nine-by-30k",
    counts=COUNTS,
    split_rule="val and test are those of Nine-by-30k",
    notes=(
        "A train query was put to about a third of the models; the other labels are missing.",
        (
            "val and test are in the folder or repository itself, or come from `base`, the folder of Nine-by-30k; where a "
            "folder has them and `base` is given too, rows that differ, also in their order, are an error."
        ),
        "With `repo` and `base` only train is asked of the hub.",
    ),
)


@hookimpl
def register_benchmark() -> BenchmarkSpec:
    return BenchmarkSpec(
        card=CARD,
        load=load,
        options={**nine.OPTIONS, "base": "the folder of Nine-by-30k, whose val and test are used"},
    )
