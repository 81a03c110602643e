"""What a check is, and what it says of a plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rph.api import RouterSpec
from rph.errors import RphError
from rph.registry import FAILURES
from rph.training.stacks import briefly

Status = Literal["passed", "failed", "expected-failure", "unexpected-pass", "skipped"]


class Violation(AssertionError):
    """A check found that the router does not conform."""


class NotApplicable(Exception):
    """A check says nothing about this router."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that routers owe. Calling it raises where `spec` does not conform."""

    id: str
    holds: str  # in one line
    function: Callable[[RouterSpec], None]
    learns: bool = (
        False  # it asks how far training gets: heads train as in a sweep, and not for their epochs only
    )

    def __call__(self, spec: RouterSpec) -> None:
        if self.learns:
            self.function(spec)
            return
        with briefly():
            self.function(spec)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one check said of one router."""

    router: str
    check: str  # its id
    status: Status
    detail: str  # why, in one line; "" where it passed
    seconds: float

    @property
    def ok(self) -> bool:
        """Nothing to repair: neither a failure nor a pass where the card announces a failure."""
        return self.status not in ("failed", "unexpected-pass")


def owed(function: Callable[[RouterSpec], None]) -> Check:
    """The check that a function makes: its id is the function's name with dashes, what it holds the first line of the docstring."""
    name = function.__name__.replace("_", "-")
    return Check(id=name, holds=(function.__doc__ or "").partition("\n")[0], function=function)


def owed_once_trained(function: Callable[[RouterSpec], None]) -> Check:
    """As `owed`, for a check of what was learnt."""
    return replace(owed(function), learns=True)


def with_errors(problems: Iterator[str]) -> Iterator[str]:
    """The problems, and as the last one whatever the plugin raises while they are looked for."""
    try:
        yield from problems
    except RphError as error:
        yield " ".join(str(error).split())
    except FAILURES as error:
        yield f"{type(error).__name__}: {error}"
