"""The block `data`: what `rph data check` finds in a result's benchmark, for a reader who has only the result."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rph.api import RoutingDataset
from rph.data import checking
from rph.results.cell import CellResult, Record

NAME = "data"


class Finding(Record):
    """As in `rph.data.checking`, which says what the kinds are."""

    kind: str
    what: str
    count: Annotated[int, Field(ge=1)]
    examples: Annotated[tuple[str, ...], Field(min_length=1)]
    fix: str


class Data(Record):
    """At least one finding: a result whose benchmark has none has no such block."""

    version: int  # of the checks
    findings: Annotated[tuple[Finding, ...], Field(min_length=1)]


def make(dataset: RoutingDataset, arrays: object) -> Data | None:
    """The block of a benchmark; None where nothing was found."""
    return record(checking.checked(dataset))


def record(check: checking.Check) -> Data | None:
    """What was found as a block; None where nothing was."""
    if not check.findings:
        return None
    found = tuple(Finding.model_validate(one, from_attributes=True) for one in check.findings)
    return Data(version=checking.VERSION, findings=found)


def told(result: CellResult) -> list[str]:
    """The findings of a result in a few lines, as `checking.told`."""
    if NAME not in result.blocks:
        return []
    data = Data.model_validate(result.blocks[NAME])
    return checking.told([checking.Finding(**one.model_dump()) for one in data.findings])
