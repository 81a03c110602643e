"""The pages that are made of the code: a hook of MkDocs, named in mkdocs.yml.

A page for every built-in router, encoder and benchmark, of its module's docstring, its card, its grid and what the
leaderboard's results say of it; the reference of the public names; and the repository's pages that lie outside docs/.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import rph
from rph import arrays, registry, testing
from rph.api import RouterSpec
from rph.board.ranking import Board, Row, boards
from rph.registry import Kind, Plugin
from rph.results.files import find, read
from rph.training import clusters, headrouter, heads, neighbours, states

ROOT = Path(__file__).parents[1]
RESULTS = "leaderboard/results"
OUTSIDE = {"CHANGELOG.md": "changelog.md", "leaderboard/reference/README.md": "paper-tables.md"}
SPECIAL = str.maketrans({character: f"&#{ord(character)};" for character in r"\*_[]<>|&~^"})
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


# --- the hook ---------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> None:
    """In `nav` a folder stands for the pages that are made in it."""
    config.nav = [_unfolded(item) for item in config.nav or []]


def _unfolded(item: Any) -> Any:
    if isinstance(item, dict):
        return {title: _unfolded(value) for title, value in item.items()}
    if isinstance(item, list):
        return [_unfolded(value) for value in item]
    return [uri for uri in pages() if uri.startswith(item)] if item.endswith("/") else item


def on_files(files: Files, config: MkDocsConfig) -> None:
    for uri, content in pages().items():
        files.append(File.generated(config, uri, content=content))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links that are right in the repository become right on the site, where pages from outside docs/ lie elsewhere."""
    uri = page.file.src_uri
    here = next((path for path, name in OUTSIDE.items() if name == uri), f"docs/{uri}")

    def moved(link: re.Match[str]) -> str:
        path = os.path.normpath(os.path.join(os.path.dirname(here), link[1]))
        target = OUTSIDE.get(path, path.removeprefix("docs/"))
        return f"]({os.path.relpath(target, os.path.dirname(uri) or '.')}"

    return LINK.sub(moved, markdown)


@cache
def pages() -> dict[str, str]:
    """Path under docs/ -> Markdown, in the order of the navigation."""
    ranked = boards([read(path) for path in find(ROOT / RESULTS)])
    made = dict(_router_pages(_built_in("router"), ranked))
    made |= _card_pages("encoders", _built_in("encoder"), ("dim", "pooling", "max_tokens", "licence"))
    made |= _card_pages("benchmarks", _built_in("benchmark"), ("splits", "costs", "licence"))
    made |= {"api/index.md": _api(rph.__all__), "api/testing.md": _testing(), "api/toolbox.md": _toolbox()}
    return made | {uri: (ROOT / path).read_text("utf-8") for path, uri in OUTSIDE.items()}


def _built_in(kind: Kind) -> list[Plugin]:
    found = registry.installed()
    names = [s.name for s in found.sources() if s.kind == kind and s.distribution == registry.OURS]
    return [found.load(kind, name) for name in names]


# --- routers ----------------------------------------------------------------------------------------


def _router_pages(plugins: Sequence[Plugin], ranked: Sequence[Board]) -> Iterator[tuple[str, str]]:
    heads = ["router", "method", "family", "paper", *(f"{_board_name(b)}, %" for b in ranked)]
    rows = []
    for plugin in plugins:
        card = plugin.spec.card
        scores = [f"{100 * r.accuracy:.2f}" if (r := _row(b, card.name)) else "-" for b in ranked]
        rows.append([_link(card.name), _text(card.title), _text(card.family), _cited(card.paper), *scores])
    notes = [f"- {_board_name(b)} is a subset: {_text(b.subset)}." for b in ranked if b.subset]
    intro = (
        "# Routers\n\nThe methods of the study, one file each in `plugins/routers/`. A page says what a method does, how this form "
        "of it differs from the original, and how it did. The last columns are mean test accuracies on the leaderboard's boards: "
        f"`rph leaderboard show {RESULTS}` prints them with their uncertainty, without which no order of them should be read."
    )
    yield "routers/index.md", _joined(intro, _table(heads, rows), *notes)
    for plugin in plugins:
        yield f"routers/{plugin.name}.md", _router_page(plugin, ranked)


def _router_page(plugin: Plugin, ranked: Sequence[Board]) -> str:
    spec, card = plugin.spec, plugin.spec.card
    failures = [f"- `{check}`: {_text(why)}" for check, why in card.expected_failures]
    return _joined(
        f"# {card.name}",
        _cited(card.title),
        _facts(card, skip=("name", "title", "fidelity", "expected_failures")),
        "## Method and objective",
        _prose(plugin),
        "## Variants",
        _grid(spec),
        "## How it differs from the original",
        "\n".join(f"- {_cited(note)}" for note in card.fidelity) or "The card names no deviation.",
        "## Conformance",
        f"Checks of `rph check router {card.name}` that the method cannot pass by design:"
        if failures
        else f"`rph check router {card.name}` expects no check to fail.",
        "\n".join(failures),
        "## Results",
        _results(card.name, ranked),
    )


def _grid(spec: RouterSpec) -> str:
    """Every variant, the default first; what all have in common is said once."""
    names = [f.name for f in fields(spec.grid[0])]
    varying = [name for name in names if len({getattr(v, name) for v in spec.grid}) > 1]
    fixed = [f"`{name}={getattr(spec.grid[0], name)}`" for name in names if name not in varying]
    rows = [
        [str(i) if i > 1 else "1, the default", *(f"`{getattr(v, name)}`" for name in varying)]
        for i, v in enumerate(spec.grid, 1)
    ]
    common = f"The same in all: {', '.join(fixed)}." if fixed else ""
    return _joined(_table(["#", *varying], rows), common)


def _results(router: str, ranked: Sequence[Board]) -> str:
    heads = ["benchmark x encoder", "rank", "accuracy, %", "over the best single, points", "chosen variant"]
    rows = []
    for board in ranked:
        if (row := _row(board, router)) is None:
            continue
        gain = "-" if row.gain is None else f"{100 * row.gain[0]:+.2f} to {100 * row.gain[1]:+.2f}"
        low, high = row.interval
        rows.append(
            [
                _board_name(board),
                f"{row.rank} of {len(board.rows)}; {row.ranks[0]} to {row.ranks[1]}",
                f"{100 * row.accuracy:.2f}; {100 * low:.2f} to {100 * high:.2f}",
                gain,
                ", ".join(f"`{setting}`" for setting in row.entry.result.variant_name.split(",")),
            ]
        )
    if not rows:
        return "No ranked result yet."
    explained = (
        f"Computed from `{RESULTS}` as by `rph leaderboard show {RESULTS}`. After the semicolon, and of the gain, "
        "stand 95 % intervals: [how they are made](../metrics.md)."
    )
    return _joined(_table(heads, rows), explained)


def _row(board: Board, router: str) -> Row | None:
    return next((row for row in board.rows if row.entry.result.router == router), None)


def _board_name(board: Board) -> str:
    return f"{board.bench} x {board.encoder}"


# --- encoders and benchmarks ------------------------------------------------------------------------


def _card_pages(folder: str, plugins: Sequence[Plugin], columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    heads = ["name", "title", *(name.replace("_", " ") for name in columns)]
    rows = [
        [_link(p.name), _text(p.spec.card.title), *(_value(getattr(p.spec.card, name)) for name in columns)]
        for p in plugins
    ]
    intro = f"# {folder.capitalize()}\n\nOne file each in `plugins/{folder}/`. [How they compare, and their files](../data.md)."
    yield f"{folder}/index.md", _joined(intro, _table(heads, rows))
    for plugin in plugins:
        yield f"{folder}/{plugin.name}.md", _card_page(plugin)


def _card_page(plugin: Plugin) -> str:
    card = plugin.spec.card
    options = getattr(plugin.spec, "options", {})  # of benchmarks
    files = [
        [
            f"`{f.path}`",
            f"`{f.repo}`",
            f"`{f.revision}`",
            _value(f.size),
            f"`{f.sha256}`" if f.sha256 else "-",
        ]
        for f in card.files
    ]
    return _joined(
        f"# {card.name}",
        _cited(card.title),
        _prose(plugin),
        "## Card",
        _facts(card, skip=("name", "title", "files", "notes")),
        _section("Options", [f"- `{name}`: {_text(what)}" for name, what in options.items()]),
        _section("Notes", [f"- {_cited(note)}" for note in card.notes]),
        _section(
            "Files", [_table(["path", "repository", "revision", "bytes", "sha256"], files)] if files else []
        ),
    )


# --- the reference ----------------------------------------------------------------------------------


def _api(names: Iterable[str]) -> str:
    intro = (
        "# rph\n\nAll that a plugin imports, and what stays as [stability](../stability.md) says. N queries, d dimensions of an "
        "embedding, K models; labels are in [0, 1], NaN where not observed; costs are US dollars per call, NaN where unknown."
    )
    returned = (
        "## What `load` returns\n\n::: rph.deploy.routing.LoadedRouter\n\n::: rph.deploy.routing.Routed"
    )
    return _joined(intro, *(f"::: rph.{name}" for name in names if name != "__version__"), returned)


def _testing() -> str:
    return _joined("# rph.testing", *(f"::: rph.testing.{name}" for name in testing.__all__))


def _toolbox() -> str:
    intro = (
        "# rph.training, rph.arrays\n\nThe toolbox that the built-in routers are written with, for routers that train a head, cluster "
        "queries or look up neighbours. [What is promised of it](../stability.md#the-toolbox) is less than of `rph`. In shapes, N, B "
        "and V are queries, d dimensions of an embedding, h those of a hidden layer, O outputs, K models, C clusters, G heads of a stack."
    )
    parts = []
    for module in (heads, headrouter, clusters, neighbours, states, arrays):
        parts += [f"## {module.__name__}", _paragraphs(module.__doc__ or "")]
        parts += [
            f"::: {module.__name__}.{name}\n    options: {{heading_level: 3}}" for name in module.__all__
        ]
    return _joined(intro, *parts)


# --- Markdown ---------------------------------------------------------------------------------------


def _joined(*blocks: str) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def _section(title: str, lines: Sequence[str]) -> str:
    """A section; nothing where it has no lines."""
    return "\n".join([f"## {title}\n", *lines]) if lines else ""


def _text(plain: str) -> str:
    """Plain text that Markdown leaves as it is, but for its `code`."""
    parts = re.split(r"(`[^`]+`)", plain)
    return "".join(part if i % 2 else part.translate(SPECIAL) for i, part in enumerate(parts))


def _prose(plugin: Plugin) -> str:
    path = (plugin.module.__name__.replace("rph_plugins", "plugins", 1)).replace(".", "/")
    return _joined(_paragraphs(plugin.module.__doc__ or ""), f"Source: `{path}.py`.")


def _paragraphs(docstring: str) -> str:
    """A module's docstring; its indented lines are formulas, which Markdown shows as code."""
    lines = docstring.strip().split("\n")
    return "\n".join(line if line.startswith("    ") else _cited(line) for line in lines)


def _facts(card: Any, skip: Sequence[str]) -> str:
    names = [f.name for f in fields(card) if f.name not in skip]
    return _table(["card", ""], [[name.replace("_", " "), _value(getattr(card, name))] for name in names])


def _value(value: Any) -> str:
    match value:
        case None | () | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if value >= 10_000 else str(value)  # a year has no comma
        case dict():
            return ", ".join(f"{name} {_value(each)}" for name, each in value.items())
        case tuple():
            return ", ".join(map(_text, value))
    return _cited(str(value))


def _cited(plain: str) -> str:
    """Plain text, with a link where it names an arXiv paper."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", _text(plain))


def _link(name: str) -> str:
    return f"[{name}]({name}.md)"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
