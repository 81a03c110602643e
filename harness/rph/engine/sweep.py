"""Drives the cells of a run: hands their trials to an executor, keeps what comes back, and asks the protocol what is next.

Cells stand side by side: while one waits for its last trials, others train. The trials that a cell wants next and that
share work (one seed, a router that can fit many) are one task; others are a task each. A task that is lost with its
worker is tried again trial by trial, so that a variant which kills its worker costs no other; alone it has two tries.
This is the only place that writes the run store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from rph.api import Trial, variant_name
from rph.engine.executors import Executor, Lost, Task
from rph.engine.inputs import Inputs
from rph.engine.trials import Outcomes
from rph.errors import RphError
from rph.registry import Plugin
from rph.results.outcomes import Failed

TRIES = 2  # of a trial whose worker died
WAIT = 1.0  # seconds between looks at cells that another process holds


class Job(Protocol):
    """A cell as the driver sees it."""

    title: str
    plugin: Plugin
    inputs_name: str
    error: RphError | None  # set where it cannot be done

    @property
    def inputs(self) -> Inputs:
        """What its trials see; made at the first call."""
        ...

    def hold(self, seconds: float) -> Callable[[], None] | None:
        """Keep other processes out of the cell, and return what lets them in again; None where one stays in it."""
        ...

    def steps(self) -> Iterator[list[Trial]]:
        """Yields the trials it needs next, and goes on when all of them were recorded. RphError: it cannot be done."""
        ...

    def record(self, outcomes: Outcomes) -> None:
        """Keep finished trials."""
        ...


@dataclass(eq=False)
class _Active:
    """A cell at work."""

    job: Job
    steps: Iterator[list[Trial]]
    release: Callable[[], None]
    open: set[Trial] = field(default_factory=set)  # trials it waits for


@dataclass(eq=False)
class _Sent:
    """A task on its way."""

    active: _Active
    task: Task
    losses: int = 0  # how often its worker died


class Driver:
    """One run of many cells. `waiting` hears of cells that another process has."""

    def __init__(
        self,
        executor: Executor,
        *,
        waiting: Callable[[str], None],
    ) -> None:
        self.executor, self.waiting = executor, waiting
        self.ready: deque[_Sent] = deque()
        self.flying: dict[int, _Sent] = {}  # by the task's id
        self.active: set[_Active] = set()
        self.shared: set[str] = set()

    def run(self, jobs: Iterator[Job]) -> None:
        """All cells to their end. On an exception, Ctrl-C too, running trials are dropped and finished ones are kept."""
        elsewhere: deque[Job] = deque()
        try:
            while True:
                self._fill(jobs, elsewhere)
                if self.flying:
                    for task, outcome in self.executor.wait(WAIT):
                        self._back(self.flying.pop(id(task)), outcome)
                elif not elsewhere:
                    return
                elif self._start(elsewhere[0], WAIT):
                    elsewhere.popleft()
                else:
                    elsewhere.rotate()
        finally:
            self.executor.close()
            for active in self.active:
                active.release()

    def _fill(self, jobs: Iterator[Job], elsewhere: deque[Job]) -> None:
        """Give the executor work until it has enough."""
        while len(self.flying) < self.executor.slots:
            if self.ready:
                sent = self.ready.popleft()
                self.flying[id(sent.task)] = sent
                self.executor.submit(sent.task)
            elif (job := next(jobs, None)) is None:
                return
            elif not self._start(job, 0.0):
                self.waiting(job.title)
                elsewhere.append(job)

    def _start(self, job: Job, seconds: float) -> bool:
        """Begin with a cell, unless another process has it for so long."""
        release = job.hold(seconds)
        if release is None:
            return False
        active = _Active(job, job.steps(), release)
        self.active.add(active)
        self._advance(active)
        return True

    def _advance(self, active: _Active) -> None:
        """On to the trials that the cell wants next, or to its end."""
        job = active.job
        try:
            wanted = next(active.steps, None)
            if wanted is not None and job.inputs_name not in self.shared:
                self.executor.share(job.inputs_name, job.inputs)
                self.shared.add(job.inputs_name)
        except RphError as error:
            job.error = error
            wanted = None
        if wanted is None:
            active.release()
            self.active.remove(active)
            return
        active.open = set(wanted)
        for _, same_seed in groupby(wanted, key=lambda trial: trial.seed):
            group = tuple(same_seed)
            parts = [group] if job.plugin.spec.fit_many else [(trial,) for trial in group]
            self.ready.extend(_Sent(active, self._task(job, part)) for part in parts)

    def _task(self, job: Job, trials: tuple[Trial, ...]) -> Task:
        return Task(router=job.plugin, trials=trials, inputs=job.inputs_name)

    def _back(self, sent: _Sent, outcome: Outcomes | Lost) -> None:
        active, job = sent.active, sent.active.job
        if isinstance(outcome, Lost):
            trials = sent.task.trials
            if len(trials) > 1:
                self.ready.extendleft(_Sent(active, self._task(job, (t,))) for t in reversed(trials))
                return
            sent.losses += 1
            if not outcome.final and sent.losses < TRIES:
                self.ready.appendleft(sent)
                return
            (trial,) = trials
            why = " ".join(outcome.reason.split())
            reason = f"{job.plugin.name} {variant_name(trial.variant)} seed {trial.seed}: {why}"
            outcome = [(trial, Failed(reason=reason, traceback="", seconds=0.0))]
        job.record(outcome)
        active.open -= {trial for trial, _ in outcome}
        if not active.open:
            self._advance(active)
