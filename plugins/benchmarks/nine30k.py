"""Nine-by-30k: 31,027 queries of 57 sources, each answered by nine commercial models, with dollars per call.

Paper: The Routing Plateau, Appendix D (arXiv:2606.07587). No public release is known: it is read from a folder or a
hub repository of the user's, in the form that `rph.data.nine` describes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rph import BenchmarkSpec, RoutingDataset, hookimpl
from rph.data import nine

if TYPE_CHECKING:
    from rph.api import SplitName
    from rph.data.published import Sources

NAME = "nine30k"
COUNTS: dict[SplitName, int] = {"train": 23_027, "val": 3_000, "test": 5_000}


def load(path: str | None = None, repo: str | None = None, revision: str = "main") -> RoutingDataset:
    """Nine-by-30k from a folder or from the hub; converted once, then read from disk."""
    return nine.sources(NAME, path, repo, revision).converted(_convert, nine.VERSION)


def _convert(sources: Sources) -> RoutingDataset:
    return nine.dataset(NAME, nine.read(sources), COUNTS)


CARD = nine.card(
    NAME,
    title="Nine-by-30k: 31,027 queries, 9 models, dollars per call",
    counts=COUNTS,
    split_rule="in the paper 3,000 val and 5,000 test queries drawn from all",
    notes=("In the paper every model was asked every query; missing labels are read all the same.",),
)


@hookimpl
def register_benchmark() -> BenchmarkSpec:
    return BenchmarkSpec(card=CARD, load=load, options=nine.OPTIONS)
