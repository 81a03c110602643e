"""Trains in the process that asked, one task after the other. Nothing can be stopped or lost but all of it.

On one thread, as the other executors do: the last bits of a sum depend on how many threads share it, and a result
should depend neither on the executor nor on a machine's cores. OMP_NUM_THREADS in the environment overrules that.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rph import ExecutorCard, ExecutorSpec, UsageError, hookimpl, machine
from rph.engine import trials
from rph.engine.inputs import Inputs

if TYPE_CHECKING:
    from rph.engine.executors import Lost, Task


class Local:
    slots = 1

    def __init__(self) -> None:
        self._inputs: dict[str, Inputs] = {}
        self._tasks: deque[Task] = deque()

    def share(self, name: str, inputs: Inputs) -> None:
        self._inputs[name] = inputs

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def wait(self, seconds: float) -> list[tuple[Task, trials.Outcomes | Lost]]:
        """Runs the next task to its end, however long that takes."""
        task = self._tasks.popleft()
        with _one_thread():
            batches = list(trials.run(task.router.spec, task.trials, self._inputs[task.inputs]))
        return [(task, [pair for batch in batches for pair in batch])]

    def close(self) -> None:
        self._tasks.clear()


@contextmanager
def _one_thread() -> Iterator[None]:
    if os.environ.get("OMP_NUM_THREADS"):
        yield
        return
    from threadpoolctl import threadpool_limits

    with machine.one_thread(), threadpool_limits(1):
        yield


def build(workers: int | None, limit: float | None, device: str) -> Local:
    if workers not in (None, 1):
        raise UsageError(f"--workers {workers}: the local executor is one", fix="use --executor processes")
    if limit is not None:
        raise UsageError(
            "--trial-limit: the local executor cannot stop a trial",
            why="it trains in the process that would have to stop it",
            fix="use --executor processes",
        )
    return Local()


@hookimpl
def register_executor() -> ExecutorSpec:
    return ExecutorSpec(card=ExecutorCard(name="local", title="in this process"), build=build)
