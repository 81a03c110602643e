"""How long `rph --help` and `rph list routers` take, beside a bare interpreter, in one run. Target: under 0.4 s."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tables import Column, Report

TARGET = 0.4  # seconds
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "rph --help": [str(Path(sys.executable).with_name("rph")), "--help"],
    "rph list routers": [str(Path(sys.executable).with_name("rph")), "list", "routers"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    # With it every start compiles our modules anew, which no user's second start does.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for turn in range(arguments.rounds + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
            if turn:  # the first round only warms the file cache
                seconds[name].append(time.perf_counter() - start)
    with Report(__file__) as report:
        table = report.table(
            "medians of starts, by the clock on the wall",
            Column("command"),
            Column("median", "s", 3),
            Column("min", "s", 3),
            Column("max", "s", 3),
            Column("at most", "s", 1),
        )
        for name, times in seconds.items():
            target = TARGET if name.startswith("rph") else None
            table.add(f"`{name}`", statistics.median(times), min(times), max(times), target)


if __name__ == "__main__":
    main()
