"""The report: whole, self-contained, and no name in a result file becomes markup or a command."""

import re
from html.parser import HTMLParser

import pytest
from tests.entries import entry

from rph.board import ranking
from rph.results import sheets
from rph.study import figures, panels
from rph.study import report as htmlreport

LABELS = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
COSTS = [0.001, 0.003, 0.002]
HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Every element with its attributes, the text, and whether every element was closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def report(*entries):
    boards = ranking.boards(entries, resamples=200)
    return htmlreport.page(entries, boards, list(figures.draw(entries, boards)))


@pytest.fixture(scope="module")
def two():
    return (
        entry(LABELS, [[0, 0, 0, 1], [0, 0, 0, 0]], router="r", costs=COSTS, subset="4 rows of 8"),
        entry(LABELS, [1] * 4, router="s", costs=COSTS, deterministic=True, subset="4 rows of 8"),
    )


@pytest.fixture(scope="module")
def page(two):
    return Page(report(*two))


def test_every_element_is_closed_and_no_identifier_is_given_twice(page):
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 100


def test_every_reference_stays_in_the_page(page):
    ids = {attributes.get("id") for _, attributes in page.elements}
    targets = [
        target
        for _, attributes in page.elements
        for name, value in attributes.items()
        for target in (
            [value] if name in ("href", "src", "xlink:href") else re.findall(r"url\((.*?)\)", value or "")
        )
    ]
    assert targets and all(target.startswith("#") and target[1:] in ids for target in targets)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}


def test_figures_take_the_colours_of_the_page(page):
    styles = [
        attributes[name]
        for _, attributes in page.elements
        for name in ("style", "fill", "stroke")
        if name in attributes
    ]
    assert any("var(--ink)" in style for style in styles) and any("var(--blue)" in style for style in styles)
    assert not any(color in style for style in styles for color in (panels.INK, panels.BLUE, panels.RED))


def test_methods_say_where_every_number_comes_from(page, two):
    words = " ".join(page.text.split())
    for said in (
        "Protocol paper, version 1: up to 15 variant(s) are trained with seed 42",
        "seeds 1337, 2026, 7, 99 too",
        f"fingerprint {two[0].result.bench_fingerprint}",
        "4 train, 4 val and 4 test queries, 3 models, costs",
        "encoder: encoder@hand",
        "2 result(s): routers of routing-plateau-harness 0.1.0 on cpu with routing-plateau-harness 0.1.0.",
        "bench is a subset: 4 rows of 8",
        "rph eval --bench bench --encoder encoder --router s --out results",
        "Expected calibration error",
    ):
        assert said in words


def test_provenance_has_a_row_per_cell(two):
    sheet = htmlreport.provenance([one.result for one in two])
    column = {column.name: i for i, column in enumerate(sheet.columns)}
    assert [row[column["router"]] for row in sheet.rows] == ["r", "s"]
    assert [row[column["seeds"]] for row in sheet.rows] == ["42, 1337", "42"]
    assert [row[column["trials"]] for row in sheet.rows] == [2, 1]
    assert {row[column["packages"]] for row in sheet.rows} == {"routing-plateau-harness 0.1.0"}


def test_every_figure_stands_in_one_section(two):
    boards = ranking.boards(two, resamples=200)
    sections = htmlreport.tables(two, boards)
    for drawing in figures.draw(two, boards):
        assert sum(drawing.name.startswith(section.figures) for section in sections if section.figures) == 1


def test_what_the_results_do_not_allow_is_said():
    only = entry(LABELS, [0] * 4, router="r")
    missing = {
        section.title: section.missing for section in htmlreport.tables([only], ranking.boards([only]))
    }
    assert "no costs" in missing["Does utility separate the routers?"]
    assert "two encoders" in missing["How much does the encoder matter?"]
    assert "two routers" in missing["Do routers exchange errors?"]
    assert not missing["How flat is the top?"]
    text = report(only)
    assert "nothing to compare" in text and "no costs" in text


def test_unranked_results_are_named_with_the_reason():
    words = Page(report(entry(LABELS, [0] * 4, router="r", protocol="quick"))).text
    assert "No result is ranked" in words and "only paper is ranked" in words
    assert "--protocol quick" in words and "up to 3 variant(s)" in words


def test_hostile_names_are_text():
    hostile = [
        entry(
            LABELS, [0, 0, 0, 1], router=HOSTILE, bench=HOSTILE, encoder=HOSTILE, costs=COSTS, subset=HOSTILE,
            variant_name=HOSTILE, device=HOSTILE, models=(HOSTILE, "b", "c"), packages={HOSTILE: HOSTILE},
        )
    ]  # fmt: skip
    found = Page(report(*hostile))
    assert "script" not in {tag for tag, _ in found.elements} and found.open == []
    assert found.text.count(HOSTILE) > 5 and "49" not in found.text.split("Methods")[1]


def test_commands_quote_what_a_shell_would_obey():
    (command,) = htmlreport.commands([entry(LABELS, [0] * 4, bench="b; rm -rf ~", router="$(id)").result])
    assert command.lines == (
        "rph eval --bench 'b; rm -rf ~' --encoder encoder --router '$(id)' --out results",
    )


def test_the_same_results_give_the_same_report(two):
    assert report(*two) == report(*two)


def test_text_holds_every_table(two):
    sections = htmlreport.tables(two, ranking.boards(two, resamples=200))
    titles = [sheet.title for section in sections for sheet in section.sheets]
    text = htmlreport.text(sections, sheets.to_latex)
    assert text.count(r"\begin{table}") == len(titles) > 10
