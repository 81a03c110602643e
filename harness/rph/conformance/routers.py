"""The conformance suite: what every router owes, as small named checks on small worlds made here.

One implementation, three faces: `rph check router NAME`, and in `rph.testing` a decorator and a fixture for pytest.

A check is a function over a RouterSpec that returns where the router conforms and raises where it does not; the first
line of its docstring says what it holds, its name with dashes is its id. It fits the default variant only, unless it
says otherwise. Every world is made anew from a seed, so that a router that writes to one spoils no other check.

Which checks a method cannot pass by design its card says, with the reason, in `expected_failures`: such a check must
then fail, or the result is `unexpected-pass`.

Letters: N queries, d embedding dimensions, K models.
"""

from __future__ import annotations

import difflib
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rph.api import RouterSpec
from rph.conformance import chance, contract, grid, hard_cases, learning
from rph.conformance.suite import Check, CheckResult, NotApplicable, Status, Violation
from rph.errors import RphError, UsageError

CHECKS = {  # by id, in the order in which they run
    check.id: check
    for kind in (chance, contract, grid, hard_cases, learning)
    for check in vars(kind).values()
    if isinstance(check, Check)
}


def run_checks(
    spec: RouterSpec,
    *,
    only: Iterable[str] | None = None,
    expected: Mapping[str, str] | None = None,
) -> Iterator[CheckResult]:
    """Run the checks on a router, all or `only` those ids, one result as each ends.

    `expected` names further failures to expect, id -> reason, besides those of the card. Raises at once where an
    id is unknown: UsageError for one given here, RphError for one of the card.
    """
    reasons = expected_failures(spec, expected)
    chosen = list(CHECKS.values() if only is None else find_checks(only))
    return (run_check(spec, check, expected=reasons.get(check.id)) for check in chosen)


def run_check(spec: RouterSpec, check: Check, *, expected: str | None = None) -> CheckResult:
    """Run one check; `expected` is why the router cannot pass it, None where it should. Whatever a router raises
    is a failure of the check.
    """
    start = time.perf_counter()
    status, detail = _verdict(spec, check)
    if expected is not None and status == "failed":
        status, detail = "expected-failure", f"{expected} ({detail})"
    elif expected is not None and status == "passed":
        status, detail = "unexpected-pass", f"it passes, but is expected to fail: {expected}"
    return CheckResult(
        router=spec.name,
        check=check.id,
        status=status,
        detail=" ".join(detail.split()),
        seconds=time.perf_counter() - start,
    )


def _verdict(spec: RouterSpec, check: Check) -> tuple[Status, str]:
    try:
        check(spec)
    except NotApplicable as reason:
        return "skipped", str(reason)
    except Violation as violation:
        return "failed", str(violation)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is its failure, also `sys.exit`
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "failed", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return "passed", ""


def find_checks(ids: Iterable[str]) -> list[Check]:
    """The checks of these ids. Raises UsageError for an unknown one."""
    wanted = list(ids)
    for unknown in (name for name in wanted if name not in CHECKS):
        close = difflib.get_close_matches(unknown, CHECKS, n=3)
        raise UsageError(
            f"there is no check {unknown!r}",
            why=f"did you mean {' or '.join(map(repr, close))}?" if close else "",
            fix=f"the checks are: {', '.join(CHECKS)}",
        )
    return [CHECKS[name] for name in wanted]


def expected_failures(spec: RouterSpec, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Check id -> why the router cannot pass it: those of its card, and `more`. All ids must be known."""
    for name, _ in spec.card.expected_failures:
        if name not in CHECKS:
            raise RphError(
                f"the card of router {spec.name!r} expects a failure of {name!r}, which is no check",
                why=f"the checks are: {', '.join(CHECKS)}",
                fix="correct its expected_failures",
            )
    find_checks(more or ())
    return {**dict(spec.card.expected_failures), **(more or {})}
