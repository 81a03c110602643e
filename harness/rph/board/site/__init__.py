"""The leaderboard as a static site: a pure function of result files, readable from a folder without any server.

`views` says what stands on a page, `plots` draws, `templates` and `assets` hold the form; `build` writes it all.
Nothing is loaded over a network and nothing is fetched by a script, so that a page opened as a file works.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import __version__, disk
from rph.board import ranking
from rph.board.sheets import board_sheet, overall_sheet
from rph.board.site import views
from rph.distribution import install
from rph.errors import UsageError
from rph.results import metrics, sheets
from rph.results.files import Entry

if TYPE_CHECKING:
    from jinja2 import Environment

GENERATOR = "rph leaderboard build"  # stands in index.html, and so marks a folder as one that may be replaced
ASSETS = ("site.css", "theme.js", "tables.js", "plots.js")


def build(entries: Sequence[Entry], out: Path) -> views.Site:
    """Write the site of these results into the folder `out`, whole or not at all; returns what stands on it.

    A site that is there already is replaced. Raises UsageError where `out` holds anything else, where no result is
    ranked, where results contradict each other, or where the extra `site` is not installed.
    """
    _check_replaceable(out)
    try:
        from rph.board.site import plots
    except ModuleNotFoundError as error:
        raise UsageError(
            "the site cannot be built",
            why=f"{error.name} is not installed",
            fix=install("site"),
        ) from error
    boards = ranking.boards(entries)
    site = views.site(entries, boards, ranking.overall(entries))
    with disk.new_folder(out, "writing the site") as folder:
        for name in ASSETS:
            _write(folder / "assets" / name, (Path(__file__).parent / "assets" / name).read_text("utf-8"))
        _write(folder / "assets" / "bokeh.min.js", plots.library())
        _write_pages(folder, site)
        for benchmark in site.benchmarks:
            for board in benchmark.boards:
                _write(folder / benchmark.csv(board), sheets.to_csv(board_sheet(board)))
        _write(folder / "results.csv", sheets.to_csv(views.results_sheet(site)))
        _write(folder / "overall.csv", sheets.to_csv(overall_sheet(site.overall, boards)))
        if out.exists():
            shutil.rmtree(out)
    return site


def _check_replaceable(out: Path) -> None:
    """Raise UsageError unless `out` is absent, empty, or a site that was built before."""
    index = out / "index.html"
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not index.is_file() or GENERATOR not in index.read_text("utf-8", errors="replace")[:2000]:
        raise UsageError(
            f"{out} is not replaced",
            why="it holds something other than a site of this command",
            fix="give -o a new folder",
        )


def _write_pages(folder: Path, site: views.Site) -> None:
    from rph.board.site import plots

    env = _environment()

    def page(path: str, template: str, **values: Any) -> None:
        text = env.get_template(template).render(site=site, path=path, root="../" * path.count("/"), **values)
        _write(folder / path, text)

    page("index.html", "index.html")
    page("results.html", "results.html")
    page("methods.html", "methods.html")
    for benchmark in site.benchmarks:
        drawn = [plots.plot(board, f"plot{i}-") for i, board in enumerate(benchmark.boards)]
        page(benchmark.path, "benchmark.html", benchmark=benchmark, plots=drawn)
    for router in site.routers:
        page(router.path, "router.html", router=router)


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("rph.board.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        line_comment_prefix="##",
    )
    env.policies["json.dumps_kwargs"] = {"sort_keys": False}  # Bokeh defines an object where it first stands
    env.filters |= views.FORMATS
    env.globals |= {
        "generator": GENERATOR,
        "version": __version__,
        "terms": views.TERMS,
        "collapse": metrics.COLLAPSED,
    }
    return env


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
