"""What a trial ends as: scored, or failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rph.api import Float32


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A finished trial: its scores on the val and the test queries."""

    val: Float32  # [N_val, K]
    test: Float32  # [N_test, K]
    seconds: float
    costs: Float32 | None = (
        None  # [N_test, K] the router's own predictions in US dollars per call, NaN = none
    )
    note: str = ""  # what the user should know of how it was trained; not kept


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A trial that raised, or whose scores broke the contract."""

    reason: str  # one line
    traceback: str
    seconds: float
