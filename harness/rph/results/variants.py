"""What the cards of a cell's variants say of them, and which of the others a row shows beside the chosen one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Literal

from rph.results.cell import CellResult, Record

NAME = "variants"


class Variant(Record):
    """What a variant's card says of it (rph.VariantCard)."""

    variant_name: str
    original: bool | None
    why: str
    calibrated: bool
    deterministic: bool
    reads: Literal["embedding", "text"]
    no_gain: str


class Variants(Record):
    """The variants that stage 1 was to try, in the order of the grid."""

    variants: tuple[Variant, ...]


def of(result: CellResult) -> dict[str, Variant]:
    """Variant -> what is said of it; empty in a result without the block."""
    if NAME not in result.blocks:
        return {}
    return {one.variant_name: one for one in Variants.model_validate(result.blocks[NAME]).variants}


class Beside(Record):
    """Another variant than the chosen one that a row shows, with the seeds it was trained with: no trial is for it alone."""

    variant_name: str
    why: str
    seeds: tuple[int, ...]
    val_accuracy: float  # mean over the seeds
    test_accuracy: float | None

    def __str__(self) -> str:
        known = "n/a" if self.test_accuracy is None else f"{100 * self.test_accuracy:.2f}"
        return f"{self.variant_name}, test {known} over {len(self.seeds)} seed(s), val {100 * self.val_accuracy:.2f}"


def best_original(result: CellResult) -> Beside | None:
    """The best by val of the variants that are the authors' form and read what the chosen one does; None: it is the chosen one, or there is none."""
    said = of(result)
    chosen = said.get(result.variant_name)
    return (
        None
        if chosen is None
        else _beside(result, lambda one: one.original is True and one.reads == chosen.reads)
    )


def best_of_text(result: CellResult) -> Beside | None:
    """The best by val of the variants that read the text and not the embedding; None where there is none, or it was chosen."""
    return _beside(result, lambda one: one.reads == "text")


def notes(result: CellResult) -> Iterator[str]:
    """What a row's reader must know of the variant that stands in it."""
    chosen = of(result).get(result.variant_name)
    if chosen is None:
        return
    if chosen.reads == "text":
        yield "reads the text, not the encoder"
    elif (text := best_of_text(result)) is not None:
        yield f"reads the text, not the encoder, and is not chosen beside an encoder: {text}"
    if (original := best_original(result)) is not None:
        yield f"not the authors' form ({chosen.why}); the best original one: {original}"
    elif chosen.original is False:
        yield f"not the authors' form ({chosen.why})"
    if result.selector_cost == "router's own":
        yield "utility chooses by the router's own estimates of the costs"


def _beside(result: CellResult, of_kind: Callable[[Variant], bool]) -> Beside | None:
    """Those trained with the most seeds go first: the others lost to them in stage 1."""
    said = of(result)
    names = [name for name, one in said.items() if of_kind(one)]
    if result.variant_name in names:
        return None
    tried = []
    for name in names:
        own = [one for one in result.configurations if one.variant_name == name]
        val, test = ([getattr(one, f"{split}_accuracy") for one in own] for split in ("val", "test"))
        if not own or None in val:
            continue
        known = None if None in test else statistics.fmean(test)
        tried.append(
            Beside(
                variant_name=name,
                why=said[name].why,
                seeds=tuple(one.seed for one in own),
                val_accuracy=statistics.fmean(val),
                test_accuracy=known,
            )
        )
    return max(
        tried,
        key=lambda one: (len(one.seeds) > 1 or said[one.variant_name].deterministic, one.val_accuracy),
        default=None,
    )
