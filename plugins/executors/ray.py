"""Trains on a Ray cluster: the one that RAY_ADDRESS names, or else one of this machine, started for the sweep.

The inputs of a (benchmark, encoder) are put into Ray's object store once; each node fetches them once, and its workers
read the same pages. A task has one core and one thread, or a share of a GPU. Ray never runs a task again by itself:
what is lost with its worker or its node comes back as lost, and the driver decides.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rph import ExecutorCard, ExecutorSpec, Labelled, Queries, RphError, hookimpl, machine
from rph.distribution import OURS, install
from rph.engine import executors
from rph.engine.inputs import with_shared_texts
from rph.lazy import np, torch

if TYPE_CHECKING:
    from rph.engine import trials
    from rph.engine.executors import Lost, Parcel, Task
    from rph.engine.inputs import Inputs

ADDRESS = "RAY_ADDRESS"
RECOUNT = 5.0  # seconds between looks at the size of the cluster, which nodes may join and leave
CONNECT = 10.0  # seconds to reach its head


@dataclass(eq=False)
class _Running:
    task: Task
    answers: Any  # a generator of references: first that it has begun, then its outcomes
    ends: float = math.inf  # when it has taken longer than it may; known when it has begun


class Ray:
    def __init__(self, workers: int | None, limit: float | None, device: str) -> None:
        self._ray = _imported()
        self._ours = not self._ray.is_initialized()  # a caller's connection stays as it is
        if self._ours:
            _connect(self._ray, workers)
        self._inputs: dict[str, Any] = {}  # name -> reference into the object store
        self._running: list[_Running] = []
        self._workers, self._limit = workers, limit
        self._kind = "GPU" if device == "cuda" else "CPU"
        self._size, self._counted = 0, -math.inf
        gpus = self._count() if device == "cuda" else 0
        if device == "cuda" and not gpus:
            self.close()
            raise RphError("the Ray cluster has no GPU", fix="use --device cpu, or start its GPU nodes first")
        self._perform = self._ray.remote(_perform).options(
            num_returns="streaming",
            num_cpus=1,
            num_gpus=1 / math.ceil((workers or gpus) / gpus) if gpus else 0,
            max_retries=0,  # the driver's business
            runtime_env={"env_vars": _environment()},
        )

    @property
    def slots(self) -> int:
        if self._workers is not None:
            return self._workers
        return self._count() + 1  # one more, so that no worker waits for the driver

    def _count(self) -> int:
        """The cores or GPUs of the cluster as it is now."""
        if time.monotonic() > self._counted + RECOUNT:
            self._size = int(self._ray.cluster_resources().get(self._kind, 0))
            self._counted = time.monotonic()
        return self._size

    def share(self, name: str, inputs: Inputs) -> None:
        try:
            self._inputs[name] = self._ray.put(_plain(inputs))
        except self._ray.exceptions.RayError as error:
            raise RphError(
                "the inputs of a cell do not fit into Ray's object store",
                why=str(error),
                fix="free some disk, where Ray puts what memory does not hold, then run the same command",
            ) from error

    def submit(self, task: Task) -> None:
        answers = self._perform.remote(executors.pack(task), self._inputs[task.inputs])
        self._running.append(_Running(task, answers))

    def wait(self, seconds: float) -> list[tuple[Task, trials.Outcomes | Lost]]:
        now = time.monotonic()
        until = min([now + seconds, *(each.ends for each in self._running)])
        by_answers = {each.answers: each for each in self._running}
        self._ray.wait(list(by_answers), timeout=max(0.0, until - now))
        ready, _ = self._ray.wait(list(by_answers), num_returns=len(by_answers), timeout=0)
        back = []
        for running in self._running:
            outcome = self._hear(running) if running.answers in ready else self._overdue(running)
            if outcome is not None:
                back.append((running, outcome))
        for running, _ in back:
            self._running.remove(running)
        return [(running.task, outcome) for running, outcome in back]

    def _hear(self, running: _Running) -> trials.Outcomes | Lost | None:
        """Its next answer: None where it says that it has begun."""
        trials_ = running.task.trials
        try:
            answer = self._ray.get(next(running.answers))
        except self._ray.exceptions.RayTaskError as error:  # raised by our code there, not by a trial
            return executors.Lost(reason=f"{type(error.cause).__name__}: {error.cause}")
        except self._ray.exceptions.LocalRayletDiedError as error:
            raise RphError(
                "Ray on this machine died",
                why="without it nothing can be run or heard of",
                fix="the same command continues where this one stopped",
            ) from error
        except self._ray.exceptions.RayError as error:
            return executors.Lost(reason=f"its worker or node died ({type(error).__name__})")
        if answer is not None:
            return list(zip(trials_, answer, strict=True))
        if self._limit is not None:
            running.ends = time.monotonic() + self._limit * len(trials_)
        return None

    def _overdue(self, running: _Running) -> Lost | None:
        if time.monotonic() < running.ends:
            return None
        self._ray.cancel(running.answers, force=True)
        return executors.overdue(running.task, self._limit or 0.0)

    def close(self) -> None:
        for running in self._running:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(running.answers, force=True)
        self._running.clear()
        self._inputs.clear()
        if self._ours:
            self._ray.shutdown()  # ends the cluster, too, where `_connect` started it
            self._ours = False


def _imported() -> Any:
    # Ray prints the deaths of workers and nodes on stdout, which is for results. The driver tells of them.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError as error:
        raise RphError("the executor 'ray' cannot be used", why=str(error), fix=install("ray")) from error
    return ray


def _connect(ray: Any, workers: int | None) -> None:
    address = os.environ.get(ADDRESS) or "local"
    quiet = {
        "log_to_driver": False,
        "logging_level": "ERROR",
    }  # what a router prints is not this command's output
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would be sent to Ray's makers
        ray.init(address="local", num_cpus=workers or machine.cores(), include_dashboard=False, **quiet)
        return
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes, and then end this process
            socket.create_connection((host, int(port)), CONNECT).close()
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise RphError(
            f"no connection to a Ray cluster at {ADDRESS}={address}",
            why=str(error),
            fix="`ray status` here must find it, with RAY_AUTH_MODE=token where it wants a token (docs/scaling.md)",
        ) from error


def _environment() -> dict[str, str]:
    """Of a worker: what its node has, and besides which plugins may be imported, as the driver has it."""
    allowed = {name: os.environ[name] for name in ("RPH_PLUGINS",) if name in os.environ}
    return executors.THREADS | allowed


def _plain(inputs: Inputs) -> Inputs:
    """The inputs over plain arrays, which workers map: of a subclass, such as memmap, each would get a copy."""
    shared = with_shared_texts(inputs)
    val, test = _plain_labelled(shared.val), shared.test_queries
    return replace(
        shared,
        train=_plain_labelled(shared.train),
        val=val,
        val_queries=Queries(X=val.X, texts=val.texts),
        test_queries=replace(test, X=np.asarray(test.X)),
    )


def _plain_labelled(part: Labelled) -> Labelled:
    costs = None if part.C is None else np.asarray(part.C)
    return replace(part, X=np.asarray(part.X), Y=np.asarray(part.Y), C=costs)


# --- in a worker ------------------------------------------------------------------------------------


def _perform(parcel: Parcel, inputs: Inputs) -> Iterator[list[Any] | None]:
    torch.get_num_threads()  # imports it: the first trial's seconds are not those of an import
    yield None
    yield executors.perform(parcel, inputs)


def build(workers: int | None, limit: float | None, device: str) -> Ray:
    return Ray(workers, limit, device)


@hookimpl
def register_executor() -> ExecutorSpec:
    card = ExecutorCard(
        name="ray", title="a Ray cluster: RAY_ADDRESS, or else this machine", needs=f"{OURS}[ray]"
    )
    return ExecutorSpec(card=card, build=build)
