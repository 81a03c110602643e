"""Trains in the process that asked, one task after the other. Nothing can be stopped or lost but all of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rph import ExecutorCard, ExecutorSpec, UsageError, hookimpl, trials

if TYPE_CHECKING:
    from rph.executors import Lost, Task


class Local:
    slots = 1

    def __init__(self) -> None:
        self._inputs: dict[str, trials.Inputs] = {}
        self._tasks: deque[Task] = deque()

    def share(self, name: str, inputs: trials.Inputs) -> None:
        self._inputs[name] = inputs

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def wait(self, seconds: float) -> list[tuple[Task, trials.Outcomes | Lost]]:
        """Runs the next task to its end, however long that takes."""
        task = self._tasks.popleft()
        batches = trials.run(task.router.spec, task.trials, self._inputs[task.inputs])
        return [(task, [pair for batch in batches for pair in batch])]

    def close(self) -> None:
        self._tasks.clear()


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
