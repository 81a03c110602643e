"""The tables of the performance scripts: printed as Markdown, and kept as numbers.

    with Report(__file__) as report:
        table = report.table("one cell", Column("way"), Column("median", "CPU-s"), Column("x floor"))
        table.add("knn", 2.49, 1.16)

A row is printed as it comes. Where RPH_PERF names a folder, `<script>.json` there then holds the tables, the
machine, its limits as they were just after (`machine.limits`), the date and the exact command.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import machine

Cell = str | int | float | None  # None: there is none, which is not 0


@dataclass(frozen=True)
class Column:
    name: str
    unit: str = ""  # empty for words, counts and ratios
    digits: int = 2  # printed after the point; the number itself is kept whole

    @property
    def head(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def shown(self, cell: Cell) -> str:
        if isinstance(cell, float):
            return f"{cell:,.{self.digits}f}"
        return "" if cell is None else str(cell)


@dataclass
class Table:
    title: str
    columns: Sequence[Column]
    rows: list[Sequence[Cell]] = field(default_factory=list)

    @property
    def opening(self) -> str:
        cells = " | ".join(column.head for column in self.columns)
        return f"{self.title}\n\n| {cells} |\n|{'---|' * len(self.columns)}"

    def line(self, row: Sequence[Cell]) -> str:
        cells = (column.shown(cell) for column, cell in zip(self.columns, row, strict=True))
        return f"| {' | '.join(cells)} |"

    def add(self, *row: Cell) -> None:
        """Print a row and keep it: a cell for each column."""
        if not self.rows:
            print(f"\n{self.opening}")
        print(self.line(row), flush=True)
        self.rows.append(row)

    @property
    def markdown(self) -> str:
        return "\n".join([self.opening, *map(self.line, self.rows)])

    @classmethod
    def read(cls, kept: dict[str, Any]) -> Table:
        return cls(kept["title"], [Column(**column) for column in kept["columns"]], kept["rows"])


def ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """How many times the base, round by round: rounds of one time share what else the machine did then."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


class Report:
    """The tables of one script. Nothing is kept of a script that failed: half a table would pass for a whole one."""

    def __init__(self, script: str) -> None:
        self.name = Path(script).stem
        self.tables: list[Table] = []
        self.started = datetime.datetime.now(datetime.UTC)

    def table(self, title: str, *columns: Column) -> Table:
        self.tables.append(Table(title, columns))
        return self.tables[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and "RPH_PERF" in os.environ:
            self._keep(Path(os.environ["RPH_PERF"]))

    def _keep(self, folder: Path) -> None:
        record = {
            "script": self.name,
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "date": self.started.isoformat(timespec="seconds"),
            "machine": machine.facts(),
            "limits": machine.limits(),
            "tables": [asdict(table) for table in self.tables],
        }
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            record, indent=1, allow_nan=False
        )  # a NaN is no number: it is for the script to leave out
        (folder / f"{self.name}.json").write_text(text + "\n")
