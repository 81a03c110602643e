"""Trains in worker processes of this machine: one per core with one thread each, or one per GPU.

Arrays are shared by memory map: the inputs of a (benchmark, encoder) are written once into a spool folder below
RPH_HOME, which goes when the sweep ends, and every worker maps the same pages. A worker that dies (a segfault, the
system's memory killer, kill -9) or takes longer than it may loses its task alone, and another takes its place.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import ExecutorCard, ExecutorSpec, Labelled, Queries, disk, executors, hookimpl, trials
from rph.lazy import np, torch

if TYPE_CHECKING:
    from rph.executors import Lost, Parcel, Task

# Threads that wait must sleep: spinning ones take the cores of other workers.
THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
LOCK = "alive.lock"


class Processes:
    def __init__(self, workers: int, limit: float | None) -> None:
        from filelock import FileLock
        from pebble import ProcessPool

        self.slots = workers + 1  # one more, so that no worker waits for the driver
        self.limit = limit
        spools = disk.home() / "spool"
        with disk.disk_errors("sharing arrays between workers", spools):
            spools.mkdir(parents=True, exist_ok=True)
            _sweep_away_the_dead(spools)
            self.spool = Path(tempfile.mkdtemp(dir=spools))
            self._alive = FileLock(self.spool / LOCK)
            self._alive.acquire()
        os.environ.update({name: os.environ.get(name, value) for name, value in THREADS.items()})
        self._pool: Any = ProcessPool(
            max_workers=workers,
            context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=[str(self.spool)],
        )
        self._tasks: dict[Any, Task] = {}  # future -> task

    def share(self, name: str, inputs: trials.Inputs) -> None:
        with disk.disk_errors("sharing arrays between workers", self.spool):
            _write(executors.with_shared_texts(inputs), self.spool / name)

    def submit(self, task: Task) -> None:
        limit = None if self.limit is None else self.limit * len(task.trials)
        arguments = [executors.pack(task), str(self.spool / task.inputs)]
        future = self._pool.schedule(_perform, args=arguments, timeout=limit)
        self._tasks[future] = task

    def wait(self, seconds: float) -> list[tuple[Task, trials.Outcomes | Lost]]:
        done, _ = concurrent.futures.wait(
            self._tasks, timeout=seconds, return_when=concurrent.futures.FIRST_COMPLETED
        )
        return [(task, self._outcome(task, future)) for future in done if (task := self._tasks.pop(future))]

    def _outcome(self, task: Task, future: Any) -> trials.Outcomes | Lost:
        from pebble import ProcessExpired

        try:
            return list(zip(task.trials, future.result(), strict=True))
        except concurrent.futures.TimeoutError:
            limit = (self.limit or 0) * len(task.trials)
            return executors.Lost(reason=f"took longer than {limit:g} s (--trial-limit)", final=True)
        except ProcessExpired as death:
            return executors.Lost(reason=f"its process died (exit code {death.exitcode})")
        except Exception as error:  # noqa: BLE001 - of the transport: an outcome that cannot be pickled, say
            return executors.Lost(reason=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()
        self._alive.release()
        shutil.rmtree(self.spool, ignore_errors=True)


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


def _write(inputs: trials.Inputs, folder: Path) -> None:
    """The arrays of the inputs by name: where they lie in a file that is mapped already, or in a file of their own."""
    folder.mkdir()
    where: dict[str, Any] = {}
    parts = {"train": inputs.train, "val": inputs.val, "test": inputs.test_queries}
    for name, part in parts.items():
        assert isinstance(part.texts, executors.Texts)
        arrays: dict[str, Any] = {"X": part.X, "blob": part.texts.blob, "ends": part.texts.ends}
        if isinstance(part, Labelled):
            arrays |= {"Y": part.Y} if part.C is None else {"Y": part.Y, "C": part.C}
        for key, array in arrays.items():
            place = _mapped(array)
            if place is None:
                path = folder / f"{name}.{key}.npy"
                np.save(path, array)
                place = {"file": str(path)}
            where[f"{name}.{key}"] = place
    said = {"where": where, "models": inputs.train.models, "device": inputs.device}
    (folder / "inputs.json").write_text(json.dumps(said))


def _mapped(array: Any) -> dict[str, Any] | None:
    """File, offset and shape of an array that is a stretch of a mapped file, or None."""
    if not isinstance(array, np.memmap) or array.filename is None or not array.flags.c_contiguous:
        return None
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    shift = array.ctypes.data - root.ctypes.data
    return {
        "file": str(array.filename),
        "offset": root.offset + shift,
        "shape": array.shape,
        "dtype": array.dtype.str,
    }


@lru_cache(maxsize=2)  # cells of one (benchmark, encoder) follow one another
def _read(folder: str) -> trials.Inputs:
    said = json.loads((Path(folder) / "inputs.json").read_text())
    models = tuple(said["models"])

    def array(name: str) -> Any:
        place = said["where"].get(name)
        if place is None or "offset" not in place:
            return None if place is None else np.load(place["file"], mmap_mode="r")
        shape, offset = tuple(place["shape"]), place["offset"]
        return np.memmap(place["file"], np.dtype(place["dtype"]), mode="r", offset=offset, shape=shape)

    def queries(name: str) -> Queries:
        return Queries(
            X=array(f"{name}.X"), texts=executors.Texts(array(f"{name}.blob"), array(f"{name}.ends"))
        )

    def labelled(name: str, part: Queries) -> Labelled:
        return Labelled(X=part.X, texts=part.texts, Y=array(f"{name}.Y"), C=array(f"{name}.C"), models=models)

    val = queries("val")
    return trials.Inputs(
        train=labelled("train", queries("train")),
        val=labelled("val", val),
        val_queries=val,
        test_queries=queries("test"),
        device=said["device"],
    )


# --- in a worker ------------------------------------------------------------------------------------


def _begin(spool: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(_free_gpu(Path(spool)))


def _end_with_the_driver() -> None:
    if driver := multiprocessing.parent_process():
        driver.join()
        os._exit(1)


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


def _perform(parcel: Parcel, folder: str) -> list[Any]:
    return executors.perform(parcel, _read(folder))


def build(workers: int | None, limit: float | None, device: str) -> Processes:
    if workers is None:
        workers = torch.cuda.device_count() if device == "cuda" else len(os.sched_getaffinity(0))
    return Processes(workers, limit)


@hookimpl
def register_executor() -> ExecutorSpec:
    card = ExecutorCard(name="processes", title="worker processes of this machine, a core or a GPU each")
    return ExecutorSpec(card=card, build=build)
