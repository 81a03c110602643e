"""Trains in worker processes of this machine: one per core with one thread each, or one per GPU.

Arrays are shared by memory map: the inputs of a (benchmark, encoder) are written once into a spool folder below
RPH_HOME, which goes when the sweep ends, and every worker maps the same pages. A worker that dies (a segfault, the
system's memory killer, kill -9) or takes longer than it may loses its task alone, and another takes its place: each
has a pipe of its own, so that a death in the middle of an answer leaves no lock behind and no half answer in the way.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import ExecutorCard, ExecutorSpec, Labelled, Queries, disk, hookimpl, machine
from rph.engine import executors, trials
from rph.engine.inputs import Inputs, Texts, with_shared_texts
from rph.lazy import np, torch

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from rph.engine.executors import Lost, Task

LOCK = "alive.lock"
READY = "ready"  # a worker's first word
GIGABYTE = 1 << 30


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: connection.Connection
    ready: bool = False
    task: Task | None = None
    ends: float = math.inf  # when its task has taken longer than it may; known when the worker is ready


class Processes:
    """`memory`: bytes that a worker may have; by default its share of the machine's."""

    def __init__(
        self, workers: int, limit: float | None, device: str = "cpu", memory: int | None = None
    ) -> None:
        from filelock import FileLock

        self.slots = workers + 1  # one more, so that no worker waits for the driver
        self._most, self._limit, self._device = workers, limit, device
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._memory = physical // workers if memory is None else memory
        spools = disk.home() / "spool"
        with disk.disk_errors("sharing arrays between workers", spools):
            spools.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{spools}.lock"):  # or another sweep finds a folder that is not locked yet
                _sweep_away_the_dead(spools)
                self.spool = Path(tempfile.mkdtemp(dir=spools))
                self._alive = FileLock(self.spool / LOCK)
                self._alive.acquire()
        os.environ.update(executors.THREADS)  # workers inherit it; the driver's libraries were loaded before
        self._workers: list[_Worker] = []
        self._waiting: deque[Task] = deque()

    def share(self, name: str, inputs: Inputs) -> None:
        with disk.disk_errors("sharing arrays between workers", self.spool):
            _write(with_shared_texts(inputs), self.spool / name)

    def submit(self, task: Task) -> None:
        self._waiting.append(task)
        self._hand_out()

    def wait(self, seconds: float) -> list[tuple[Task, trials.Outcomes | Lost]]:
        now = time.monotonic()
        until = min([now + seconds, *(worker.ends for worker in self._workers)])
        connection.wait([worker.pipe for worker in self._workers], max(0.0, until - now))
        heard = [(worker.task, self._hear(worker)) for worker in list(self._workers)]
        self._hand_out()
        return [(task, outcome) for task, outcome in heard if task is not None and outcome is not None]

    def close(self) -> None:
        self._waiting.clear()
        for worker in list(self._workers):
            self._drop(worker)
        self._alive.release()
        shutil.rmtree(self.spool, ignore_errors=True)

    def _hand_out(self) -> None:
        """Waiting tasks to free workers, and to new ones while there may be more."""
        while self._waiting:
            worker = next((each for each in self._workers if each.task is None), None)
            if worker is None:
                if len(self._workers) == self._most:
                    return
                worker = self._start()
            task = self._waiting[0]
            try:
                worker.pipe.send((executors.pack(task), str(self.spool / task.inputs)))
            except OSError:  # it died while it had nothing to do
                self._drop(worker)
                continue
            worker.task = self._waiting.popleft()
            self._start_clock(worker)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        resource_tracker.ensure_running()  # at its own start it would let SIGINT through again
        # Ctrl-C is the driver's. A worker inherits the mask, so that it is deaf while it starts, too.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            timed = self._limit is not None
            process = context.Process(
                target=_work, args=(theirs, str(self.spool), self._device, self._memory, timed)
            )
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()  # or its end would never be seen
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _start_clock(self, worker: _Worker) -> None:
        if worker.task is not None and worker.ready and self._limit is not None:
            worker.ends = time.monotonic() + self._limit * len(worker.task.trials)

    def _hear(self, worker: _Worker) -> trials.Outcomes | Lost | None:
        """What became of its task, or None as long as nothing did."""
        try:
            if worker.pipe.poll():
                said = worker.pipe.recv()
                if said == READY:
                    worker.ready = True
                    self._start_clock(worker)
                    return None
                task, worker.task, worker.ends = worker.task, None, math.inf
                assert task is not None
                if isinstance(said, executors.Lost):
                    return said
                return list(zip(task.trials, said, strict=True))
            if not worker.process.is_alive():  # a process that it started may keep its end of the pipe open
                raise EOFError
        except (EOFError, OSError):
            worker.process.join(1)  # its pipe goes before it does
            self._drop(worker)
            return executors.Lost(reason=f"its process died ({_cause(worker.process.exitcode)})")
        if time.monotonic() < worker.ends:
            return None
        self._drop(worker)
        assert worker.task is not None and self._limit is not None  # or it would never end
        return executors.overdue(worker.task, self._limit)

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def _cause(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    return f"signal {-exitcode}, {signal.strsignal(-exitcode)}"


def _sweep_away_the_dead(spools: Path) -> None:
    """Spool folders whose process was killed."""
    from filelock import FileLock, Timeout

    for folder in spools.iterdir():
        with contextlib.suppress(Timeout, OSError):
            lock = FileLock(folder / LOCK)
            lock.acquire(timeout=0)
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)


# --- arrays on disk ---------------------------------------------------------------------------------


def _write(inputs: Inputs, folder: Path) -> None:
    """The arrays of the inputs by name: where they lie in a file that is mapped already, or in a file of their own."""
    folder.mkdir(exist_ok=True)  # it may be there from a try that found no room
    where: dict[str, Any] = {}
    parts = {"train": inputs.train, "val": inputs.val, "test": inputs.test_queries}
    for name, part in parts.items():
        assert isinstance(part.texts, Texts)
        arrays: dict[str, Any] = {"X": part.X, "blob": part.texts.blob, "ends": part.texts.ends}
        if isinstance(part, Labelled):
            arrays |= {"Y": part.Y} if part.C is None else {"Y": part.Y, "C": part.C}
        for key, array in arrays.items():
            place = _mapped(array)
            if place is None:
                place = folder / f"{name}.{key}", 0
                # Not np.save: on a full disk it may leave half a file and say nothing.
                place[0].write_bytes(np.ascontiguousarray(array).data)
            where[f"{name}.{key}"] = {
                "file": str(place[0]),
                "offset": place[1],
                "shape": array.shape,
                "dtype": array.dtype.str,
            }
    said = {"where": where, "models": inputs.train.models, "device": inputs.device}
    (folder / "inputs.json").write_text(json.dumps(said))


def _mapped(array: Any) -> tuple[Path, int] | None:
    """Where an array that is a stretch of a mapped file lies in it, or None."""
    if not isinstance(array, np.memmap) or array.filename is None or not array.flags.c_contiguous:
        return None
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    return Path(array.filename), root.offset + array.ctypes.data - root.ctypes.data


@lru_cache(maxsize=2)  # cells of one (benchmark, encoder) follow one another
def _read(folder: str) -> Inputs:
    said = json.loads((Path(folder) / "inputs.json").read_text())
    models = tuple(said["models"])

    def array(name: str) -> Any:
        place = said["where"].get(name)
        if place is None:
            return None
        shape, dtype = tuple(place["shape"]), np.dtype(place["dtype"])
        if 0 in shape:
            return np.zeros(shape, dtype)  # nothing cannot be mapped
        return np.memmap(place["file"], dtype, mode="r", offset=place["offset"], shape=shape)

    def queries(name: str) -> Queries:
        return Queries(X=array(f"{name}.X"), texts=Texts(array(f"{name}.blob"), array(f"{name}.ends")))

    def labelled(name: str, part: Queries) -> Labelled:
        return Labelled(X=part.X, texts=part.texts, Y=array(f"{name}.Y"), C=array(f"{name}.C"), models=models)

    val = queries("val")
    return Inputs(
        train=labelled("train", queries("train")),
        val=labelled("val", val),
        val_queries=val,
        test_queries=queries("test"),
        device=said["device"],
    )


# --- in a worker ------------------------------------------------------------------------------------


def _work(pipe: connection.Connection, spool: str, device: str, memory: int, timed: bool) -> None:
    """A worker's life: tasks in, outcomes out, until the driver closes the pipe."""
    os.dup2(2, 1)  # what a router prints is not the command's output
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    if device == "cuda":
        torch.cuda.set_device(_free_gpu(Path(spool)))
    if timed:
        importlib.import_module("torch")  # or the first trial's seconds would be those of an import
    _limit_memory(memory)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the driver has closed it
        pipe.send(READY)
        while True:
            parcel, folder = pipe.recv()
            try:
                answer: Any = executors.perform(parcel, _read(folder))
            except Exception as error:  # noqa: BLE001 - a plugin that cannot be imported here, say
                answer = executors.Lost(reason=f"{type(error).__name__}: {error}")
            pipe.send(answer)


def _end_with_the_driver() -> None:
    if driver := multiprocessing.parent_process():
        driver.join()
        os._exit(1)


def _limit_memory(most: int) -> None:
    """Allocations that would go beyond `most` bytes fail: with MemoryError in one trial, not with the whole machine.

    Mapped files do not count. No limit where it would be hardly more than the worker has already.
    """
    if sys.platform != "linux":
        return  # elsewhere the limit says nothing of what is mapped
    said = re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if said and most >= int(said[1]) * 1024 + GIGABYTE and (hard == resource.RLIM_INFINITY or most < hard):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _free_gpu(spool: Path) -> int:
    """The first GPU that no other worker has; its lock goes with this process."""
    from filelock import FileLock, Timeout

    for gpu in range(torch.cuda.device_count()):
        lock = FileLock(spool / f"gpu{gpu}.lock")
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
            _held.append(lock)
            return gpu
    return 0


_held: list[Any] = []


def build(workers: int | None, limit: float | None, device: str) -> Processes:
    if workers is None:
        workers = torch.cuda.device_count() if device == "cuda" else machine.cores()
    return Processes(workers, limit, device)


@hookimpl
def register_executor() -> ExecutorSpec:
    card = ExecutorCard(name="processes", title="worker processes of this machine, a core or a GPU each")
    return ExecutorSpec(card=card, build=build)
