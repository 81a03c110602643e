"""Nine-by-30k: 31,027 queries of 57 sources, each answered by nine commercial models, with dollars per call.

Paper: The Routing Plateau, Appendix D (arXiv:2606.07587). No public release is known: it is read from a folder or a
hub repository of the user's, in the form that `rph.data.nine` describes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rph import BenchmarkCard, BenchmarkSpec, RoutingDataset, hookimpl
from rph.data import nine, published, routing_table

if TYPE_CHECKING:
    from rph.api import SplitName

NAME = "nine30k"
COUNTS: dict[SplitName, int] = {"train": 23_027, "val": 3_000, "test": 5_000}


def load(path: str | None = None, repo: str | None = None, revision: str = "main") -> RoutingDataset:
    """Nine-by-30k from a folder or from the hub; converted once, then read from disk."""
    sources = nine.sources(NAME, path, repo, revision)
    return routing_table.cached(f"{NAME}-{sources.content}-v{nine.VERSION}", lambda: _convert(sources))


def _convert(sources: published.Sources) -> RoutingDataset:
    splits = nine.read(sources)
    dataset = RoutingDataset(
        name=NAME, models=nine.MODELS, train=splits["train"], val=splits["val"], test=splits["test"]
    )
    return published.named(dataset, COUNTS)


CARD = BenchmarkCard(
    name=NAME,
    title="Nine-by-30k: 31,027 queries, 9 models, dollars per call; read from a copy of yours",
    citation="arXiv:2606.07587, Appendix D",
    url="https://arxiv.org/abs/2606.07587",
    licence="not known: no public release",
    models=nine.MODELS,
    splits=COUNTS,
    paper=COUNTS,
    costs=True,
    label_rule="0 or 1 as given, by the scorer of each task; null is no label",
    split_rule="as given: a file per split; in the paper 3,000 val and 5,000 test queries drawn from all",
    notes=(
        *nine.NOTES,
        "In the paper every model was asked every query; missing labels are read all the same.",
    ),
)


@hookimpl
def register_benchmark() -> BenchmarkSpec:
    return BenchmarkSpec(card=CARD, load=load, options=nine.OPTIONS)
