"""The conformance checks for a plugin's own pytest tests.

    from rph.testing import parametrize_with_router_checks

    @parametrize_with_router_checks([SPEC])
    def test_mine_conforms(spec, check):
        check(spec)

makes one test of each check, as scikit-learn's `parametrize_with_checks` does for estimators. The fixture
`check_router` runs the whole suite in one test, `check_encoder` and `check_benchmark` those of the other kinds;
`pytest_plugins = ["rph.testing"]` makes them available.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from rph.api import BenchmarkSpec, EncoderSpec, RouterSpec
from rph.conformance import benchmarks, encoders
from rph.conformance.routers import CHECKS, expected_failures, run_checks
from rph.conformance.suite import Check, NotApplicable
from rph.registry import installed

if TYPE_CHECKING:
    from rph.registry import Kind

__all__ = [
    "CheckBenchmark",
    "CheckEncoder",
    "CheckRouter",
    "check_benchmark",
    "check_encoder",
    "check_router",
    "parametrize_with_router_checks",
]


def parametrize_with_router_checks(
    routers: Sequence[str | RouterSpec], *, expected_failed_checks: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """Parametrise a test of two arguments, `spec` and `check`, over all checks of the routers; its body calls `check(spec)`.

    A router is a spec, or the name of an installed one. Test ids read `knn-no-network`. The checks that a router's card
    expects to fail, and those of `expected_failed_checks` (check id -> reason), must fail: strict xfail. A check
    that does not apply to the router skips.
    """
    parameters = []
    for spec in map(_spec_of, routers):
        reasons = expected_failures(spec, expected_failed_checks)
        for check in CHECKS.values():
            reason = reasons.get(check.id)
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
            parameters.append(pytest.param(spec, _skipping(check), id=f"{spec.name}-{check.id}", marks=marks))
    return pytest.mark.parametrize(("spec", "check"), parameters)


def _spec_of(plugin: Any, kind: Kind = "router") -> Any:
    """The spec itself, or that of the installed plugin with this name."""
    return installed().load(kind, plugin).spec if isinstance(plugin, str) else plugin


def _skipping(check: Check) -> Callable[[RouterSpec], None]:
    """The check, as pytest wants it: one that does not apply skips."""

    def run(spec: RouterSpec) -> None:
        try:
            check(spec)
        except NotApplicable as reason:
            pytest.skip(str(reason))

    return run


class CheckRouter(Protocol):
    """What the fixture `check_router` gives."""

    def __call__(
        self,
        router: str | RouterSpec,
        *,
        only: Iterable[str] | None = None,
        expected_failed_checks: Mapping[str, str] | None = None,
    ) -> None: ...


@pytest.fixture
def check_router() -> CheckRouter:
    """A function that runs the checks on one router, all or `only` some, and fails with all that went wrong."""

    def run(
        router: str | RouterSpec,
        *,
        only: Iterable[str] | None = None,
        expected_failed_checks: Mapping[str, str] | None = None,
    ) -> None:
        spec = _spec_of(router)
        results = run_checks(spec, only=only, expected=expected_failed_checks)
        wrong = [f"{r.check} ({r.status}): {r.detail}" for r in results if not r.ok]
        _fail_if(f"router {spec.name!r}", wrong)

    return run


class CheckEncoder(Protocol):
    """What the fixture `check_encoder` gives."""

    def __call__(self, encoder: str | EncoderSpec, **options: Any) -> None: ...


@pytest.fixture
def check_encoder() -> CheckEncoder:
    """A function that checks an encoder, built with `options`, and fails with all that is wrong.

    Vectors are float32, finite, of the card's dimension and length, the same every time and whatever the other texts.
    """

    def run(encoder: str | EncoderSpec, **options: Any) -> None:
        spec = _spec_of(encoder, "encoder")
        _fail_if(f"encoder {spec.name!r}", encoders.wrong_with_encoder(spec, **options))

    return run


class CheckBenchmark(Protocol):
    """What the fixture `check_benchmark` gives."""

    def __call__(self, benchmark: str | BenchmarkSpec, **options: Any) -> None: ...


@pytest.fixture
def check_benchmark() -> CheckBenchmark:
    """A function that loads a benchmark twice, with `options`, and fails with all that is wrong.

    It can be run (shapes, ids, labels, costs), its content is the same every time, and its card is true of it.
    """

    def run(benchmark: str | BenchmarkSpec, **options: Any) -> None:
        spec = _spec_of(benchmark, "benchmark")
        _fail_if(f"benchmark {spec.name!r}", benchmarks.wrong_with_benchmark(spec, **options))

    return run


def _fail_if(what: str, wrong: list[str]) -> None:
    if wrong:
        pytest.fail("\n  ".join([f"{what} does not conform:", *wrong]), pytrace=False)
