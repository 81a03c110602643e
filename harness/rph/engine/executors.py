"""What a sweep hands to whoever runs its trainings, and gets back: tasks, outcomes, and losses.

An executor trains; it never touches the run store. It is given the inputs of a (benchmark, encoder) once, and tasks
that name them. A task comes back with the outcome of each of its trials, or as lost: its worker died or was stopped.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rph import disk
from rph.api import Trial
from rph.engine import trials
from rph.engine.inputs import Inputs
from rph.engine.keys import Software, software
from rph.errors import RphError
from rph.registry import Kind, Plugin, installed
from rph.results.outcomes import Failed, Scored

ROUTER: Kind = "router"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Trials of one cell and one seed, which a worker trains together where the router can share work."""

    router: Plugin
    trials: tuple[Trial, ...]
    inputs: str  # the name under which `share` was given them


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A task that did not come back: nothing of it is known."""

    reason: str
    final: bool = False  # to try it again would only lose it again: it took longer than it may


class Executor(Protocol):
    """Runs tasks. Not thread-safe; `close` ends it and drops what is running."""

    @property
    def slots(self) -> int:
        """How many tasks it wants to have in hand."""
        ...

    def share(self, name: str, inputs: Inputs) -> None:
        """Make inputs known under a name, before the first task that uses them."""
        ...

    def submit(self, task: Task) -> None:
        """Run it when there is room."""
        ...

    def wait(self, seconds: float) -> list[tuple[Task, trials.Outcomes | Lost]]:
        """What has come back since the last call; waits for at most so long, and may return nothing."""
        ...

    def close(self) -> None:
        """End all workers at once. May be called again."""
        ...


# --- for executors whose workers are other processes ------------------------------------------------

# The environment of a worker that has one core. Threads that wait must sleep: spinning ones take the cores of others.
THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def overdue(task: Task, limit: float) -> Lost:
    """A task that took longer than `limit` seconds for each of its trials."""
    return Lost(reason=f"took longer than {limit * len(task.trials):g} s (--trial-limit)", final=True)


@dataclass(frozen=True)
class Parcel:
    """A task as it travels: names and numbers, which the other side looks up."""

    router: str
    file: tuple[Path, bytes] | None  # of a plugin that is a local file, and what is in it
    software: Software  # of the router, as the driver has it
    trials: tuple[tuple[int, int], ...]  # (place in the router's grid, seed)


def pack(task: Task) -> Parcel:
    target = task.router.source.target
    grid = task.router.spec.grid
    return Parcel(
        router=task.router.name,
        file=(target, _content(target)) if isinstance(target, Path) else None,
        software=software(task.router),
        trials=tuple((grid.index(trial.variant), trial.seed) for trial in task.trials),
    )


@functools.cache
def _content(file: Path) -> bytes:
    return file.read_bytes()


def perform(parcel: Parcel, inputs: Inputs) -> list[Scored | Failed]:
    """Train a parcel's trials in this process: their outcomes, in its order."""
    router = _router(parcel.router, parcel.file)
    if others := parcel.software.differences(software(router)):
        raise RphError(
            f"{parcel.router}: {platform.node()} has another {' and '.join(others)} than the sweep began with"
        )
    spec = router.spec
    asked = [Trial(variant=spec.grid[place], seed=seed) for place, seed in parcel.trials]
    found = {trial: outcome for batch in trials.run(spec, asked, inputs) for trial, outcome in batch}
    return [found[trial] for trial in asked]


@functools.cache
def _router(name: str, file: tuple[Path, bytes] | None) -> Plugin:
    registry = installed()
    if file is not None:
        registry.add_file(_here(*file))
    return registry.load(ROUTER, name)


def _here(file: Path, content: bytes) -> Path:
    """The file, or a copy below RPH_HOME where this machine has none, or one with something else in it."""
    if file.is_file() and file.read_bytes() == content:
        return file
    copy = disk.home() / "plugins" / hashlib.sha256(content).hexdigest()[:16] / file.name
    with disk.new_file(copy, "copying a plugin file") as new:
        new.write_bytes(content)
    return copy
