"""What this machine has, and how much of it is used."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from rph.lazy import torch


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Train on one CPU thread: a head is the same on every machine, and a minibatch is too small to share.

    Measured on two idle cores, 14k x 384: two threads take 1.3 to 1.9 times as long for heads up to 256 wide
    and 0.7 to 0.9 of the time at 1024; with one core busy elsewhere they lose everywhere.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
