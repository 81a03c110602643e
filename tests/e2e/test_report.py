"""`rph report` and `rph analyze figures` on the results that stand in the repository."""

import csv
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.entries import entry, write

from rph.distribution import install

RESULTS = Path(__file__).parents[2] / "leaderboard" / "results"
LABELS = [[1, 0], [1, 0], [1, 1], [0, 1]]


@pytest.fixture
def small(tmp_path):
    costs = [0.001, 0.003]
    return write(
        tmp_path / "results",
        entry(LABELS, [0, 0, 0, 1], router="r", costs=costs),
        entry(LABELS, [1] * 4, router="s", costs=costs),
    )


def test_the_report_of_the_stored_results_names_every_router_and_benchmark(rph, tmp_path):
    out = tmp_path / "deep" / "report.html"
    code, output, _ = rph("report", RESULTS, "--bench", "routerdc7", "-o", out)
    assert (code, output.strip()) == (0, str(out))
    text = out.read_text()
    routers = {path.parent.name for path in RESULTS.glob("routerdc7/*/*.json")}
    assert len(routers) >= 21 and all(f"<td>{router}</td>" in text for router in routers)
    assert text.count("<svg") == text.count("<figure") >= 5
    assert "61.93" in text  # mirt, as in the README


def test_markdown_latex_and_csv_hold_the_same_tables(rph, small, tmp_path):
    assert rph("report", small, "--format", "md", "-o", tmp_path / "t.md")[0] == 0
    assert rph("report", small, "--format", "latex", "-o", tmp_path / "t.tex")[0] == 0
    assert rph("report", small, "--format", "csv", "-o", tmp_path / "csv")[0] == 0
    files = sorted((tmp_path / "csv").iterdir())
    markdown, latex = (tmp_path / "t.md").read_text(), (tmp_path / "t.tex").read_text()
    assert len(files) == markdown.count("\n| --") == latex.count(r"\begin{tabular}") > 10
    rows = list(csv.DictReader(files[0].open()))
    assert {row["router"]: row["accuracy"] for row in rows}["r"] == "1.0"
    assert r"\toprule" in latex and "100.00" in latex


@pytest.mark.parametrize("form", ["svg", "pdf", "png"])
def test_figures_are_files_and_what_cannot_be_drawn_is_said(rph, small, tmp_path, form):
    code, output, error = rph("analyze", "figures", small, "-o", tmp_path / "figures", "--format", form)
    assert code == 0
    files = sorted(map(str, (tmp_path / "figures").iterdir()))
    assert sorted(output.split()) == files and len(files) == 6
    assert "no fig3-encoders: " in error and "two encoders" in error
    if form == "svg":
        for file in files:
            assert ElementTree.parse(file).getroot().tag.endswith("svg")


def test_mistakes_are_told_in_a_line(rph, small, tmp_path):
    assert rph("report", tmp_path / "nowhere")[0] == 2
    code, _, error = rph("report", small, "--bench", "other")
    assert code == 2 and "other" in error
    assert rph("report", small, "--format", "docx")[0] == 2
    code, _, error = rph("report", small, "--format", "md", "-o", tmp_path)
    assert code == 2 and "is a folder" in error
    code, _, error = rph("report", small, "--format", "md", "-o", tmp_path / ("x" * 300))
    assert code == 1 and "cannot be written" in error
    code, _, error = rph("analyze", "figures", small, "-o", small / "bench" / "r" / "encoder.json")
    assert code == 1 and "cannot be written" in error


def test_without_the_extra_it_says_what_to_install(rph, small, monkeypatch):
    monkeypatch.delitem(sys.modules, "rph.study.figures", raising=False)
    monkeypatch.delattr("rph.study.figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for command in (("report",), ("analyze", "figures")):
        code, _, error = rph(*command, small)
        assert code == 2 and install("report") in error


def test_tables_need_no_plotting_library(rph, small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert rph("report", small, "--format", "md", "-o", tmp_path / "t.md")[0] == 0
