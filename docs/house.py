"""The picture of the house: the rooms of `harness/rph`, what each is for, and who imports whom, read from the source.

`python docs/house.py` writes docs/images/house.svg; tests/test_layers.py wants the committed picture to be what it draws.
"""

from __future__ import annotations

import ast
import math
import textwrap
from collections import Counter
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = ROOT / "harness" / "rph"
PICTURE = ROOT / "docs" / "images" / "house.svg"
# From the top: a room imports those below it. tests/test_layers.py holds the order.
ROOMS = (
    "cli",
    "study",
    "board",
    "deploy",
    "engine",
    "conformance",
    "encoding",
    "training",
    "results",
    "data",
)
ROOF = ("__init__", "testing", "__main__")

WIDTH, LEFT, RIGHT = 1040, 20, 760  # pixels: of the page, and of the boxes
LINE, PAD, GAP = 18, 12, 14
COLUMN = 112  # characters of a line of small type in a box
FONT = "font-family='system-ui, sans-serif'"


def rooms() -> dict[str, tuple[str, list[str]]]:
    """Room, from the top -> what it is for, and its modules; the roof is `rph`, the hall has no name of its own."""
    named = {}
    for room in ROOMS:
        doc = ast.get_docstring(ast.parse((CORE / room / "__init__.py").read_text("utf-8"))) or ""
        modules = [
            p.stem for p in (CORE / room).iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
        ]
        named[room] = (doc.partition("\n\n")[0], sorted(set(modules) - {"__init__"}))
    hall = sorted(p.stem for p in CORE.glob("*.py") if p.stem not in ROOF)
    return {
        "the roof": ("What others import by name: `rph` itself, and the fixtures for their tests.", ["rph", "rph.testing"]),
        **named,
        "the hall": ("What every room may import: records, plain arrays, errors, files. Arrows to it are left out.", hall),
    }  # fmt: skip


def imports() -> Counter[tuple[str, str]]:
    """(importing room, imported room) -> how many of its modules do, also inside functions and for types."""
    found: Counter[tuple[str, str]] = Counter()
    for room in ROOMS:
        for path in sorted((CORE / room).rglob("*.py")):
            found.update({(room, other) for other in _rooms_named_in(path)} - {(room, room)})
    return found


def _rooms_named_in(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {
        parts[1]
        for name in names
        if (parts := name.split("."))[0] == "rph" and parts[1:2] and parts[1] in ROOMS
    }


def drawn() -> str:
    """The picture, as SVG; readable on a light and on a dark page."""
    boxes, middles, y = [], {}, GAP
    for name, (purpose, modules) in rooms().items():
        lines = textwrap.wrap(" ".join(purpose.split()).replace("`", ""), COLUMN)
        names = textwrap.wrap("  ".join(modules), COLUMN)
        height = 2 * PAD + LINE * (1 + len(lines) + len(names)) - 4
        middles[name] = y + height / 2
        boxes.append(
            f"<rect x='{LEFT}' y='{y}' width='{RIGHT - LEFT}' height='{height}' rx='6' fill='#0072b2' fill-opacity='.08'"
            " stroke='#0072b2'/>"
        )
        rows = [(name, "600", "15", "1"), *((t, "400", "12.5", "1") for t in lines)]
        rows += [(t, "400", "12", ".65") for t in names]
        for i, (text, weight, size, strength) in enumerate(rows):
            boxes.append(
                f"<text x='{LEFT + PAD}' y='{y + PAD + LINE * (i + 1) - 6}' font-weight='{weight}' font-size='{size}'"
                f" fill='currentColor' fill-opacity='{strength}' xml:space='preserve'>{escape(text)}</text>"
            )
        y += height + GAP
    order = list(middles)
    arrows = []
    for (above, below), count in sorted(imports().items()):
        reach = 30 + 26 * (order.index(below) - order.index(above))
        start, end = middles[above] + 4, middles[below] - 4
        arrows.append(
            f"<path d='M{RIGHT} {start} C{RIGHT + reach} {start} {RIGHT + reach} {end} {RIGHT + 7} {end}' fill='none'"
            f" stroke='#d55e00' stroke-opacity='.55' stroke-width='{1 + math.log2(count) / 1.6:.2f}' marker-end='url(#tip)'>"
            f"<title>{above} imports {below}: {count} module(s)</title></path>"
        )
    tip = (
        "<marker id='tip' markerUnits='userSpaceOnUse' markerWidth='9' markerHeight='8' refX='3' refY='4' orient='auto'>"
        "<path d='M0 0 L9 4 L0 8 z' fill='#d55e00'/></marker>"
    )
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {y}' width='{WIDTH}' height='{y}' {FONT} color='#57606a'>",
            "<title>The rooms of rph and who imports whom: downwards only</title>",
            f"<defs>{tip}</defs>",
            *arrows,
            *boxes,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(drawn(), "utf-8")
