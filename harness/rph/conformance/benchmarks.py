"""What a benchmark owes, checked on what it loads; `rph.testing` has the fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rph.api import BenchmarkSpec
from rph.conformance.suite import with_errors
from rph.data import validity


def wrong_with_benchmark(spec: BenchmarkSpec, **options: Any) -> list[str]:
    """Each thing that the benchmark owes and does not keep, in words. `options` are those of `--bench name:key=value`."""
    return list(with_errors(_benchmark(lambda: spec.load(**options), spec)))


def _benchmark(load: Callable[[], Any], spec: BenchmarkSpec) -> Iterator[str]:
    card, dataset = spec.card, load()
    validity.check(dataset)
    if load().fingerprint != dataset.fingerprint:
        yield "loading twice gives two contents: the fingerprints differ"
    if card.models and card.models != dataset.models:
        yield f"the card names {len(card.models)} models, {_first(card.models)}; the data have {_first(dataset.models)}"
    counts = {name: len(split) for name, split in dataset.splits()}
    if card.splits is not None and not dataset.subset and card.splits != counts:
        yield f"the card says {card.splits} queries, and there are {counts}"
    if card.costs != dataset.has_costs:
        yield f"the card says {'costs' if card.costs else 'no costs'}, and there are {'none' if card.costs else 'some'}"


def _first(models: tuple[str, ...]) -> str:
    return f"{', '.join(models[:3])}{', ...' if len(models) > 3 else ''}"
