"""The block `data`: what `rph data check` finds in a result's benchmark, for a reader who has only the result."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue

from rph.data import checking
from rph.results.cell import CellResult, Record

BLOCK = "data"


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


def blocks(check: checking.Check) -> dict[str, dict[str, JsonValue]]:
    """The block, by its name; nothing, where nothing was found."""
    if not check.findings:
        return {}
    found = tuple(Finding.model_validate(one, from_attributes=True) for one in check.findings)
    return {BLOCK: Data(version=checking.VERSION, findings=found).model_dump(mode="json")}


def told(result: CellResult) -> list[str]:
    """The findings of a result in a few lines, as `checking.told`."""
    if BLOCK not in result.blocks:
        return []
    data = Data.model_validate(result.blocks[BLOCK])
    return checking.told([checking.Finding(**one.model_dump()) for one in data.findings])
