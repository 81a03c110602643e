"""What could not be run, and the exit code that follows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rph.errors import RphError, UsageError


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something that could not be run, or a trial of a cell that failed."""

    what: str  # the cell, benchmark or encoder
    error: RphError
    traceback: str = ""


def exit_code(failures: Sequence[Failure], *, anything: bool) -> int:
    """0 all well; 2 nothing was done because the input is wrong; 1 something failed."""
    if not failures:
        return 0
    only_input = all(isinstance(failure.error, UsageError) for failure in failures)
    return 2 if only_input and not anything else 1


@contextlib.contextmanager
def failing(failures: list[Failure], what: str, *, also_usage: bool = True) -> Iterator[None]:
    """An RphError in the block is recorded, and the run goes on with the next thing."""
    try:
        yield
    except RphError as error:
        if isinstance(error, UsageError) and not also_usage:
            raise
        failures.append(Failure(what=what, error=error))
