"""The call: the protocol on every (benchmark, encoder, router) that was named. A cell that fails stops no other."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rph.api import (
    RouterSpec,
    RoutingDataset,
)
from rph.data import checking
from rph.engine import sweep
from rph.engine.cell import Cell, Pair, Reporter, Settings, routes_of
from rph.engine.executors import Executor
from rph.engine.failures import Failure, exit_code, failing
from rph.engine.inputs import Inputs
from rph.engine.resolve import benchmark_loader, build_encoder, usable, with_prices
from rph.engine.store import Store
from rph.registry import Registry
from rph.results.cell import CellResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rph.api import Float32


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished cell with the way to its stored scores, and to what its router saw."""

    result: CellResult
    dataset: RoutingDataset
    spec: RouterSpec
    inputs: Callable[[], Inputs]
    test_scores: Callable[[], list[Float32]]  # [N, K] per seed of the result, read from the store when called

    def routes(self) -> NDArray[np.int64]:
        """[S, N] the model that each seed's scores route each test query to."""
        return routes_of(self.dataset, self.test_scores())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a call of `evaluate` produced."""

    cells: list[Finished] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def results(self) -> list[CellResult]:
        return [cell.result for cell in self.cells]

    @property
    def exit_code(self) -> int:
        return exit_code(self.failures, anything=bool(self.results))


def evaluate(
    registry: Registry,
    store: Store,
    settings: Settings,
    report: Reporter,
    *,
    benches: Sequence[str],
    encoders: Sequence[str],
    routers: Sequence[str],
    executor: Executor,
) -> Outcome:
    """Run the protocol on every (benchmark, encoder, router). Unknown names are refused before anything runs."""
    outcome = Outcome()
    started: list[Cell] = []
    cells = plan(
        registry, store, settings, report, outcome, benches=benches, encoders=encoders, routers=routers
    )

    def remembered() -> Iterator[Cell]:
        for cell in cells:
            started.append(cell)
            yield cell

    def waiting(title: str) -> None:
        report.note(f"{title}: another rph is at it; waiting")

    sweep.Driver(executor, waiting=waiting).run(remembered())
    for cell in started:  # in the order of the call, not in that of their ends
        outcome.failures.extend(cell.failures())
        if cell.result is not None:
            outcome.cells.append(
                Finished(
                    result=cell.result,
                    dataset=cell.pair.dataset,
                    spec=cell.spec,
                    inputs=functools.partial(operator.attrgetter("inputs"), cell.pair),
                    test_scores=functools.partial(cell.test_scores, cell.result),
                )
            )
    for notice in store.notices:
        report.note(notice)
    return outcome


def plan(
    registry: Registry,
    store: Store,
    settings: Settings,
    report: Reporter,
    outcome: Outcome,
    *,
    benches: Sequence[str],
    encoders: Sequence[str],
    routers: Sequence[str],
) -> Iterator[Cell]:
    """The cells, one after the other; a benchmark is read when its first cell is asked for.

    Raises UsageError for unknown names at once; a plugin that is broken and a benchmark that cannot be read become
    failures of `outcome`.
    """
    failures = outcome.failures
    plugins = usable(registry, "router", routers, lambda name: registry.load("router", name), failures)
    built = usable(registry, "encoder", encoders, lambda name: build_encoder(registry, name), failures)
    loaders = usable(registry, "benchmark", benches, lambda name: benchmark_loader(registry, name), failures)

    def cells() -> Iterator[Cell]:
        for bench, load in loaders if plugins and built else ():
            dataset = None
            with failing(failures, f"benchmark {bench}"):
                dataset = with_prices(load(), settings.prices)
            if dataset is None:
                continue
            if dataset.subset:
                report.note(f"{dataset.name}: {dataset.subset}")
            for finding in checking.told(checking.checked(dataset).findings):
                report.note(f"{dataset.name}: {finding}")
            for _, encoder in built:
                pair = Pair(dataset, encoder, settings, report)
                yield from (Cell(pair, plugin, store) for _, plugin in plugins)

    return cells()
