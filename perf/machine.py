"""The machine that numbers are measured on: what it is, how fast it multiplies and copies, and the floor of some work.

The floor of a run is what its matrix products alone take, or one pass over its memory, measured beside it: the
time of everything else is what could still be saved.
"""

from __future__ import annotations

import os
import platform
import timeit
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, NamedTuple

from rph.cli.options import passive_threads
from rph.distribution import OURS
from rph.lazy import torch
from rph.machine import cores

if TYPE_CHECKING:
    from collections.abc import Iterator

passive_threads()  # as every command of rph does before torch is imported

BATCH = 0.03  # seconds that a batch of calls must take, so that the clock's grain does not count
COPIED = 1 << 28  # bytes: far more than any cache holds
ROWS, DIM = 20_000, 384  # of the row gather
PACKAGES = (
    OURS, "torch", "numpy", "scipy", "scikit-learn", "pandas", "xgboost-cpu", "xgboost", "sentence-transformers",
)  # fmt: skip


# --- what it is -------------------------------------------------------------------------------------


def facts() -> dict[str, Any]:
    """Processor, cores that may be used, threads of this process, bytes of memory, load, versions."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # xgboost has another name on another system
    return {
        "cpu": processor(),
        "system": platform.platform(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# --- how fast it is ---------------------------------------------------------------------------------


class Product(NamedTuple):
    """[b, m, k] @ [b, k, n]; whether a factor lies transposed in memory, as a weight or the train rows do."""

    b: int
    m: int
    k: int
    n: int
    turned: tuple[bool, bool] = (False, False)
    dtype: str = "float32"

    @property
    def operations(self) -> int:
        return 2 * self.b * self.m * self.k * self.n

    def seconds(self, clock: Callable[[], float] = process_time) -> float:
        left, right = (
            self._factor(self.m, self.k, self.turned[0]),
            self._factor(self.k, self.n, self.turned[1]),
        )
        into = torch.empty(self.b, self.m, self.n, dtype=left.dtype)
        if self.b == 1:  # a batch of one is dispatched otherwise
            left, right, into = left[0], right[0], into[0]
        return least(lambda: torch.matmul(left, right, out=into), clock)

    def _factor(self, rows: int, columns: int, turned: bool) -> Any:
        shape = (self.b, columns, rows) if turned else (self.b, rows, columns)
        made = torch.rand(shape, dtype=getattr(torch, self.dtype))
        return made.mT if turned else made


PRODUCTS = {
    "neighbours: 256 queries, d = 384, 20,000 train rows": Product(1, 256, 384, 20_000, (False, True)),
    "clusters: 2,730 rows, d = 384, 64 centres": Product(1, 2730, 384, 64, (False, True)),
    "a head's first layer: batch 256, d = 384, width 256": Product(1, 256, 384, 256),
    "15 narrow heads: batch 64, 64 x 64": Product(15, 64, 64, 64),
    "2,048 x 2,048 x 2,048": Product(1, 2048, 2048, 2048),
}


def copy_seconds(clock: Callable[[], float] = process_time) -> float:
    """Seconds per byte read or written, of a copy that no cache holds."""
    source, into = torch.ones(COPIED // 4), torch.empty(COPIED // 4)
    return least(lambda: into.copy_(source), clock) / (2 * COPIED)


def gather_seconds(clock: Callable[[], float] = process_time) -> float:
    """Seconds per byte read or written, of rows taken in a random order into memory that is kept."""
    source, into, order = torch.ones(ROWS, DIM), torch.empty(ROWS, DIM), torch.randperm(ROWS)
    return least(lambda: torch.index_select(source, 0, order, out=into), clock) / (2 * 4 * ROWS * DIM)


def limits() -> list[dict[str, Any]]:
    """Rates at the shapes that matter: of one thread by its CPU-seconds, of all cores by the clock on the wall.

    On a busy machine the second is what is left of it, not what it has.
    """
    found = []
    for what, product in PRODUCTS.items():
        found.append((f"float32 product, {what}", "GFLOP/s", product.operations, product.seconds))
    found.append(("copy of 268 MB", "GB/s", 1, copy_seconds))
    found.append((f"row gather, {ROWS:,} x {DIM}", "GB/s", 1, gather_seconds))
    rates = []
    for what, unit, work, seconds in found:
        with threads(1):
            one = work / seconds(process_time) / 1e9
        with threads(cores()):
            together = work / seconds(perf_counter) / 1e9
        rates.append({"what": what, "unit": unit, "one_thread": one, "all_threads": together})
    return rates


def least(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of a call: of the best of three batches, after one to warm up."""
    timer = timeit.Timer(run, timer=clock)
    calls = 1
    while timer.timeit(calls) < BATCH:
        calls *= 2
    return min(timer.repeat(3, calls)) / calls


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- the floor of some work -------------------------------------------------------------------------


@dataclass(frozen=True)
class Floor:
    """Work that cannot be left out: matrix products, and bytes of memory read or written once."""

    products: Counter[Product]
    passed: int = 0

    @property
    def operations(self) -> int:
        """Multiplications and additions of the products."""
        return sum(count * product.operations for product, count in self.products.items())

    def seconds(self) -> float:
        """CPU-seconds on as many threads as the process has, measured now."""
        spent = sum(count * product.seconds() for product, count in self.products.items())
        return spent + (self.passed * copy_seconds() if self.passed else 0.0)


def products(run: Callable[[], object]) -> Floor:
    """The matrix products that torch does while `run` runs, backward passes included.

    Not seen: numpy's, and those inside fused kernels, as attention's.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: Counter[Product] = Counter()
    factors = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # where they begin among the arguments

    class Listening(TorchDispatchMode):  # here, because torch is imported when it is first needed
        def __torch_dispatch__(self, called: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = called.overloadpacket.__name__
            if name in factors:
                left, right = args[factors[name] : factors[name] + 2]
                seen[_product(left, right)] += 1
                return called(*args, **(kwargs or {}))
            with self:  # in inference mode a linear layer comes whole, with its product inside
                composed = called.decompose(*args, **(kwargs or {}))
            return called(*args, **(kwargs or {})) if composed is NotImplemented else composed

    with Listening():
        run()
    return Floor(seen)


def _product(left: Any, right: Any) -> Product:
    b = left.shape[0] if left.dim() == 3 else 1
    turned = tuple(factor.stride(-1) != 1 and factor.shape[-1] > 1 for factor in (left, right))
    dtype = str(left.dtype).removeprefix("torch.")
    return Product(b, *left.shape[-2:], right.shape[-1], turned, dtype)
