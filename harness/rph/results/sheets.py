"""A table of numbers, and its text in six formats. What stands in it is decided elsewhere.

Printed formats (rich, Markdown, LaTeX, HTML) round and write shares as percentages; CSV and JSON, which programs
read, carry every value as it is: a share of 0.5 as 0.5, and an unknown value as nothing at all.
"""

from __future__ import annotations

import csv
import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType

Value = str | float | int | None  # None: unknown, printed n/a
UNKNOWN = "n/a"


@dataclass(frozen=True)
class Column:
    """What the values of a column are, and how they are printed."""

    name: str
    kind: Literal["text", "percent", "number", "count"] = "text"  # percent: values are shares, 1.0 = 100 %
    digits: int = 2  # after the decimal point, of percent and number


@dataclass(frozen=True)
class Sheet:
    """One table with a title above it and notes below it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]  # as many values as there are columns
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: {len(row)} values for {len(self.columns)} columns: {row}")


def text(value: Value, column: Column) -> str:
    """One value as it is printed.

    >>> text(0.51234, Column("share", "percent", 1))
    '51.2'
    """
    if value is None:
        return UNKNOWN
    if isinstance(value, str):
        return value
    if column.kind == "percent":
        return f"{100 * value:z.{column.digits}f}"
    if column.kind == "count":
        return f"{value:,}"
    return f"{value:z.{column.digits}f}"  # z: never -0.00


def heading(column: Column) -> str:
    """The name of the column with its unit: `share, %`."""
    return f"{column.name}, %" if column.kind == "percent" else column.name


def _texts(sheet: Sheet) -> list[list[str]]:
    """Every value as printed, row by row."""
    return [
        [text(value, column) for value, column in zip(row, sheet.columns, strict=True)] for row in sheet.rows
    ]


def to_rich(sheet: Sheet) -> RenderableType:
    """For a terminal. Texts are taken as they are: no markup of theirs is obeyed."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in sheet.columns:
        table.add_column(
            Text(heading(column)), justify="left" if column.kind == "text" else "right", overflow="fold"
        )
    for row in _texts(sheet):
        table.add_row(*map(Text, row))
    title = Text(sheet.title, style="bold")  # outside the table, which may be narrower and would fold it
    return Group(title, table, *(Text(f"  {note}") for note in sheet.notes))


def to_markdown(sheet: Sheet) -> str:
    """A GitHub-flavoured table; the notes are a list below it."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = ["---" if column.kind == "text" else "---:" for column in sheet.columns]
    rows = [[_markdown(cell) for cell in row] for row in _texts(sheet)]
    lines = [f"**{_markdown(sheet.title)}**", ""]
    lines += [line([_markdown(heading(column)) for column in sheet.columns]), line(rule), *map(line, rows)]
    lines += ["", *(f"- {_markdown(note)}" for note in sheet.notes)] if sheet.notes else []
    return "\n".join(lines) + "\n"


def _markdown(cell: str) -> str:
    for special in "\\`*_[]<>|":  # the backslash first: the others bring their own
        cell = cell.replace(special, f"\\{special}")
    return " ".join(cell.split())


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "λ": r"$\lambda$", "Δ": r"$\Delta$", "×": r"$\times$", "|": r"\textbar{}",
}  # fmt: skip


def to_latex(sheet: Sheet) -> str:
    """A `table` environment for the package booktabs; the notes are a paragraph below it."""
    spec = "".join("l" if column.kind == "text" else "r" for column in sheet.columns)
    rows = [[_latex(cell) for cell in row] for row in _texts(sheet)]
    body = [" & ".join(row) + r" \\" for row in rows]
    head = " & ".join(_latex(heading(column)) for column in sheet.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(sheet.title)}}}",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        head + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if sheet.notes:
        lines += ["", rf"\footnotesize {' '.join(_latex(note) for note in sheet.notes)}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex(cell: str) -> str:
    return "".join(_LATEX.get(character, character) for character in cell)


def to_html(sheet: Sheet) -> str:
    """A `<table>` without styles: numbers have the class `number`, notes are `<p class="note">` below it."""

    def cell(tag: str, content: str, column: Column) -> str:
        kind = "" if column.kind == "text" else ' class="number"'
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{scope}{kind}>{html.escape(content)}</{tag}>"

    head = "".join(cell("th", heading(column), column) for column in sheet.columns)
    rows = [
        "".join(cell("td", content, column) for content, column in zip(row, sheet.columns, strict=True))
        for row in _texts(sheet)
    ]
    lines = ["<table>", f"<caption>{html.escape(sheet.title)}</caption>", f"<thead><tr>{head}</tr></thead>"]
    lines += ["<tbody>", *(f"<tr>{row}</tr>" for row in rows), "</tbody>", "</table>"]
    lines += [f'<p class="note">{html.escape(note)}</p>' for note in sheet.notes]
    return "\n".join(lines) + "\n"


def to_csv(sheet: Sheet) -> str:
    """A line of column names and one per row (RFC 4180, but lines end in one character); no title, no notes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in sheet.columns])
    writer.writerows(sheet.rows)  # None becomes an empty field
    return out.getvalue()


def to_json(sheet: Sheet) -> dict[str, Any]:
    """Ready for `json.dumps`: title, columns, rows as objects, notes."""
    names = [column.name for column in sheet.columns]
    return {
        "title": sheet.title,
        "columns": [{"name": column.name, "kind": column.kind} for column in sheet.columns],
        "rows": [dict(zip(names, row, strict=True)) for row in sheet.rows],
        "notes": list(sheet.notes),
    }
