"""Named blocks of a result: how it grows without another format.

A block is an object under `blocks` in the JSON and, if need be, arrays `<block>/<array>` in the npz beside it: no name of
the core holds a slash, so that a block can take no core array's place, and two blocks never meet. A block that stands in
`KNOWN` is held to its record and its arrays. One that does not, of a later version or another tool, is kept as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError
from pydantic_core import to_json

from rph.results import findings, missing, tasks, variants
from rph.results.cell import BLOCK_NAME, CellResult, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import RoutingDataset

Arrays = Mapping[str, "NDArray[Any]"]
Kind = tuple[str, Sequence[str | int]]  # dtype, dimensions: letters of `sizes`, or numbers
Form = tuple["np.dtype[Any]", tuple[int, ...]]  # an array's dtype and shape


@dataclass(frozen=True, kw_only=True)
class Block:
    """What a block holds. In a result it is `record(...).model_dump(mode="json")`; `record.model_validate` reads it."""

    record: type[Record]  # without defaults: what a claim leaves out cannot be held against it
    arrays: Mapping[str, Kind] = field(default_factory=dict)  # those of `holes/low` stand under `low`
    # What is wrong with values that its arrays hold, of models and all arrays of the npz; None: any number will do.
    wrong: Callable[[Sequence[str], Arrays], Iterator[str]] | None = None
    # Its arrays, by a dataset and the routes [S, N] of a cell; None: that has no such block.
    draw: Callable[[RoutingDataset, NDArray[np.int64]], dict[str, NDArray[Any]] | None] | None = None
    # The record, by the dataset and all arrays of the npz; None: it has no such block, or is made elsewhere.
    make: Callable[[RoutingDataset, Arrays], Record | None] | None = None
    # The record, of the result (its core computed again) and all arrays of its npz; None: it is taken as claimed.
    recompute: Callable[[CellResult, Arrays], Record] | None = None


ALIKE, ENCODING = "alike", "encoding"


class Encoding(Record):
    """Of an encoder that learns from the train queries."""

    learned: str  # what its fit found, as it says: a hash of a vocabulary


class Alike(Record):
    """Variants that route every val query alike with the first seed: of a group one goes on to stage 2 (rph.protocol)."""

    variants: tuple[tuple[str, ...], ...]  # names, groups of two or more in the order of the grid


def alike(result: CellResult) -> dict[str, str]:
    """Variant -> the name of its group, of those that share one; what `protocol.select` takes for equal routes."""
    if ALIKE not in result.blocks:
        return {}
    groups = Alike.model_validate(result.blocks[ALIKE]).variants
    return {name: group[0] for group in groups for name in group}


# Here, and nowhere else, this version's blocks are listed.
KNOWN: dict[str, Block] = {
    ALIKE: Block(record=Alike),
    ENCODING: Block(record=Encoding),
    variants.NAME: Block(record=variants.Variants),
    findings.NAME: Block(record=findings.Data, make=findings.make),
    missing.NAME: Block(
        record=missing.Holes,
        arrays=missing.ARRAYS,
        wrong=missing.wrong,
        draw=missing.draw,
        make=missing.make,
        recompute=missing.recomputed,
    ),
    missing.PRICES: Block(record=missing.Prices, make=missing.make_prices),
    tasks.NAME: Block(
        record=tasks.Tasks, arrays=tasks.ARRAYS, draw=tasks.draw, make=tasks.make, recompute=tasks.recomputed
    ),
    tasks.LANGUAGES: Block(
        record=tasks.Languages,
        arrays=tasks.LANGUAGE_ARRAYS,
        draw=tasks.draw_languages,
        make=tasks.make_languages,
        recompute=tasks.recomputed_languages,
    ),
}


def draw(dataset: RoutingDataset, routes: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The arrays of the blocks that a cell of these routes [S, N] has, by their names in the npz."""
    return {
        f"{name}/{array}": values
        for name, block in KNOWN.items()
        if block.draw is not None
        for array, values in (block.draw(dataset, routes) or {}).items()
    }


def make(dataset: RoutingDataset, arrays: Arrays) -> dict[str, Record]:
    """The blocks that a cell of this dataset has, of all arrays of its npz."""
    made = {name: block.make(dataset, arrays) for name, block in KNOWN.items() if block.make is not None}
    return {name: record for name, record in made.items() if record is not None}


def sizes(result: CellResult) -> dict[str, int]:
    """What a letter in an array's dimensions stands for: seeds, test queries, models, val queries."""
    return {
        "S": len(result.seeds),
        "N": result.n_test,
        "K": len(result.models),
        "V": result.reference.n_val,
    }


def form(kind: Kind, result: CellResult) -> Form:
    """The dtype and shape that an array of this kind has beside `result`."""
    dtype, dimensions = kind
    length = sizes(result)
    shape = tuple(length[one] if isinstance(one, str) else one for one in dimensions)
    return np.dtype(dtype), shape


def kinds(result: CellResult) -> dict[str, Kind]:
    """The arrays that the result's known blocks must have."""
    return {
        f"{name}/{array}": kind
        for name in result.blocks
        if name in KNOWN
        for array, kind in KNOWN[name].arrays.items()
    }


def unknown(result: CellResult, array: str) -> bool:
    """Whether an array of this name belongs to a block of the result that this version does not know."""
    name, slash, inner = array.partition("/")
    foreign = name in result.blocks and name not in KNOWN
    return foreign and bool(slash) and re.fullmatch(BLOCK_NAME, inner) is not None


def problems(result: CellResult) -> Iterator[str]:
    """What keeps the known blocks of a result from being what they are called: `blocks.holes.low: Field required`."""
    for name, content in result.blocks.items():
        if name not in KNOWN:
            continue
        try:  # as JSON: there a list may be a tuple, and nothing else is converted
            KNOWN[name].record.model_validate_json(to_json(content), strict=True)
        except ValidationError as error:
            for found in error.errors(include_url=False, include_input=False):
                yield f"{'.'.join(map(str, ('blocks', name, *found['loc'])))}: {found['msg']}"


def wrong_values(result: CellResult, arrays: Arrays) -> Iterator[str]:
    """What is wrong with values in the arrays of the known blocks, whose form is right."""
    for name in result.blocks:
        if name in KNOWN and (wrong := KNOWN[name].wrong) is not None:
            yield from wrong(result.models, arrays)


def recomputed(result: CellResult, arrays: Arrays) -> dict[str, Any]:
    """The result's blocks, with those computed again that can be."""
    return {
        name: content
        if name not in KNOWN or (compute := KNOWN[name].recompute) is None
        else compute(result, arrays).model_dump(mode="json")
        for name, content in result.blocks.items()
    }


def unverified(names: Iterable[str]) -> Iterator[str]:
    """What is taken on trust of the blocks of these names."""
    for name in names:
        if name not in KNOWN:
            yield f"the block {name}, which this version of rph does not know: it is kept as it is"
        elif KNOWN[name].recompute is None:
            yield f"the block {name}: what it says is not computed again"
