"""A set of results as one HTML file that needs nothing else, or as the tables of a paper.

Everything is a pure function of result files: the same files give the same report, byte for byte.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from rph import __version__
from rph.board import ranking, sets
from rph.board.sheets import board_sheet, overall_sheet, unranked_sheet
from rph.board.site.views import TERMS
from rph.errors import UsageError
from rph.protocol import PRESETS
from rph.results import blocks, sheets
from rph.results.sheets import Column, Sheet
from rph.study import bottleneck, plateau, utility

if TYPE_CHECKING:
    from rph.board.ranking import Board
    from rph.results.cell import CellResult
    from rph.results.files import Entry
    from rph.study.figures import Drawing

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"

Analyse = Callable[[Sequence["Entry"]], list[Sheet]]

# What a reader asks, the tables that answer it, and the figures that do, by the beginnings of their names.
ANALYSES: tuple[tuple[str, Analyse, tuple[str, ...]], ...] = (
    ("How flat is the top?", plateau.accuracy_sheets, ()),
    ("What does accuracy cost?", utility.plane_sheets, ("fig1-", "frontier-")),
    ("Does utility separate the routers?", utility.utility_sheets, ()),
    ("How many configurations come near the best?", plateau.configuration_sheets, ("fig2-",)),
    ("How much does the encoder matter?", plateau.encoder_sheets, ("fig3-",)),
    ("Where is the gap to the oracle?", bottleneck.difficulty_sheets, ()),
    ("Which models are chosen?", bottleneck.selection_sheets, ("fig4-",)),
    ("Do routers exchange errors?", bottleneck.exchange_sheets, ("agreement-",)),
    ("Are others better than kNN?", bottleneck.knn_sheets, ()),
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """Tables under one heading, or why there are none; and the beginnings of the names of its figures."""

    title: str
    sheets: tuple[Sheet, ...] = ()
    missing: str = ""
    figures: tuple[str, ...] = ()


def tables(entries: Sequence[Entry], boards: Sequence[Board]) -> list[Section]:
    """The ranked boards, then every analysis. `boards` are those of the entries."""
    sections = [_ranks(entries, boards)]
    for title, analyse, figures in ANALYSES:
        try:
            section = Section(title=title, sheets=tuple(analyse(entries)), figures=figures)
        except UsageError as error:  # these results do not hold what it needs
            section = Section(title=title, missing=f"Not here: {error.what} ({error.why}).", figures=figures)
        sections.append(section)
    return sections


def _ranks(entries: Sequence[Entry], boards: Sequence[Board]) -> Section:
    found = [board_sheet(board) for board in boards]
    if len(boards) > 1:
        found.append(overall_sheet(ranking.overall(entries), boards))
    if left_out := ranking.unranked(entries):
        found.append(unranked_sheet(left_out))
    missing = "" if boards else "No result is ranked: the table says why."
    return Section(title="Ranks", sheets=tuple(found), missing=missing, figures=("accuracy-",))


def text(sections: Sequence[Section], write: Callable[[Sheet], str]) -> str:
    """All tables, each in the form of sheets.to_markdown or sheets.to_latex."""
    return "\n".join(write(sheet) for section in sections for sheet in section.sheets)


def page(entries: Sequence[Entry], boards: Sequence[Board], drawings: Sequence[Drawing]) -> str:
    """The report as HTML with everything inside: tables, figures, methods, definitions."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = [entry.result for entry in entries]
    return env.get_template("report.html").render(
        version=__version__,
        groups=sets.groups(entries),
        results=results,
        sections=tables(entries, boards),
        to_html=sheets.to_html,
        drawings=[(drawing, inline(drawing, f"f{i}-")) for i, drawing in enumerate(drawings)],
        protocols=_protocols(results),
        encoders=sorted({(result.encoder, _identity(result)) for result in results}),
        software=_software(results),
        provenance=provenance(results),
        methods={result.router: result.method for result in sorted(results, key=lambda r: r.router)},
        commands=commands(results),
        terms=TERMS,
    )


def inline(drawing: Drawing, prefix: str) -> str:
    """The figure as an SVG element to stand in a page: in the page's colours, with ids that no other figure has.

    Empty where there is no figure.
    """
    if drawing.figure is None:
        return ""
    from rph.study import figures

    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(figures.svg(drawing.figure))
    for child in root.findall(f"{{{SVG}}}metadata"):
        root.remove(child)
    for parent in root.iter(f"{{{SVG}}}defs"):
        for style in parent.findall(f"{{{SVG}}}style"):  # it would hold for the whole page
            parent.remove(style)
    colors = {
        getattr(figures, name): f"var(--{name.lower()})" for name in ("INK", "PAGE", "BLUE", "RED", "GREEN")
    }
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                value = prefix + value
            elif value.startswith("#") and name in ("href", f"{{{XLINK}}}href"):
                value = f"#{prefix}{value[1:]}"
            else:
                value = value.replace("url(#", f"url(#{prefix}")
                for color, variable in colors.items():
                    value = value.replace(color, variable)
            element.set(name, value)
    for name in ("width", "height"):
        del root.attrib[name]  # the page sizes it; the viewBox keeps its shape
    root.attrib |= {
        "role": "img",
        "aria-label": drawing.caption,
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    return ElementTree.tostring(root, encoding="unicode")


# --- how the numbers came about ---------------------------------------------------------------------


def _protocols(results: Sequence[CellResult]) -> list[str]:
    """A sentence per protocol that the results name."""
    sentences = []
    for name, version in sorted({(result.protocol, result.protocol_version) for result in results}):
        preset = PRESETS.get(name)
        if preset is None:
            sentences.append(f"Protocol {name}, version {version}: not one of rph {__version__}.")
            continue
        first, *others = preset.seeds
        sentence = f"Protocol {name}, version {version}: up to {preset.variants} variant(s) are trained with seed {first}"
        if others:
            sentence += (
                f" and ranked by validation accuracy; the best {preset.finalists} are trained with the seeds "
                f"{', '.join(map(str, others))} too, and the best mean validation accuracy decides"
            )
        sentences.append(f"{sentence}. Test accuracy is the mean over the seeds of the variant so chosen.")
    return sentences


def provenance(results: Sequence[CellResult]) -> Sheet:
    """Where each number comes from: one row per cell."""
    rows = [
        (
            r.bench, r.bench_fingerprint[:12], r.encoder, r.router, f"{r.router_distribution} {r.router_version}",
            f"{r.protocol} v{r.protocol_version}", ", ".join(map(str, r.seeds)), r.variant_name, r.trials,
            len(r.failed_trials), r.times_test_was_scored, r.seconds, r.device, _packages(r),
        )
        for r in results
    ]  # fmt: skip
    names = ("benchmark", "fingerprint", "encoder", "router", "version", "protocol", "seeds", "variant")
    return Sheet(
        "Every cell",
        (
            *map(Column, names), Column("trials", "count"), Column("failed", "count"),
            Column("times test was scored", "count"), Column("seconds", "number", 1), Column("device"),
            Column("packages"),
        ),
        tuple(rows),
        ("Seconds are those of all finished trials: training and scoring.",),
    )  # fmt: skip


def _software(results: Sequence[CellResult]) -> list[str]:
    """A sentence per setting in which results were computed."""
    found = Counter(
        f"routers of {r.router_distribution} {r.router_version} on {r.device} with {_packages(r)}"
        for r in results
    )
    return [f"{number} result(s): {setting}." for setting, number in found.most_common()]


def _packages(result: CellResult) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(result.packages.items()))


class Command(NamedTuple):
    """What computes the cells of one benchmark, encoder and protocol again."""

    bench: str
    encoder: str
    lines: tuple[str, ...]  # one per router


def commands(results: Sequence[CellResult]) -> list[Command]:
    """A command line per cell. A result names its benchmark but not the folder or the options it was read with."""
    found: dict[tuple[str, str], list[str]] = {}
    for r in results:
        words = ["rph", "eval", "--bench", r.bench, "--encoder", r.encoder, "--router", r.router]
        if r.protocol != "paper":
            words += ["--protocol", r.protocol]
        found.setdefault((r.bench, r.encoder), []).append(shlex.join([*words, "--out", "results"]))
    return [Command(bench, encoder, tuple(lines)) for (bench, encoder), lines in found.items()]


def _identity(result: CellResult) -> str:
    """An encoder's weights, and what it learned of the benchmark."""
    block = result.blocks.get(blocks.ENCODING)
    return result.encoder_identity if block is None else f"{result.encoder_identity}; {block['learned']}"
