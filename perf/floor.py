"""Measures what no code here can be faster than: float32 matrix products and memory, one thread and all.

    python perf/floor.py

One thread is read in CPU-seconds; all threads by the clock on the wall, which on a busy machine says what is left.
"""

from __future__ import annotations

import argparse

import machine
from tables import Column, Report


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with Report(__file__) as report:
        table = report.table(
            f"{machine.cores()} cores",
            Column("what"),
            Column("unit"),
            Column("one thread", digits=1),
            Column("all threads", digits=1),
        )
        for limit in machine.limits():
            table.add(*limit.values())


if __name__ == "__main__":
    main()
