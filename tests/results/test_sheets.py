"""A sheet in six formats: rounded for readers, exact for programs, and no text of it is taken for markup."""

import csv
import io
import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rph.results import sheets
from rph.results.sheets import Column, Sheet

SHEET = Sheet(
    "Three routers",
    (Column("router"), Column("accuracy", "percent"), Column("BCE", "number", 3), Column("queries", "count")),
    (("knn", 2 / 3, 0.64977, 12345), ("a|b_[bold]<i>&", None, -0.5, None)),
    ("one encoder",),
)


def printed(sheet):
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(sheets.to_rich(sheet))
    return console.export_text()


def test_the_terminal_shows_rounded_numbers_units_notes_and_texts_as_they_are():
    text = printed(SHEET)
    for part in (
        "Three routers",
        "accuracy, %",
        "66.67",
        "0.650",
        "12,345",
        "n/a",
        "a|b_[bold]<i>&",
        "one encoder",
    ):
        assert part in text


def test_markdown_by_hand():
    assert sheets.to_markdown(SHEET) == (
        "**Three routers**\n\n"
        "| router | accuracy, % | BCE | queries |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| knn | 66.67 | 0.650 | 12,345 |\n"
        "| a\\|b\\_\\[bold\\]\\<i\\>& | n/a | -0.500 | n/a |\n"
        "\n- one encoder\n"
    )


def test_latex_by_hand():
    sheet = Sheet("50 % of λ_1", SHEET.columns[:2], (("a&b", 0.5),))
    assert sheets.to_latex(sheet) == (
        "\\begin{table}\n\\centering\n\\caption{50 \\% of $\\lambda$\\_1}\n\\begin{tabular}{lr}\n\\toprule\n"
        "router & accuracy, \\% \\\\\n\\midrule\na\\&b & 50.00 \\\\\n\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def test_html_escapes_and_marks_numbers():
    html = sheets.to_html(SHEET)
    assert '<td class="number">66.67</td>' in html and "<td>a|b_[bold]&lt;i&gt;&amp;</td>" in html
    assert '<th scope="col">router</th>' in html and '<p class="note">one encoder</p>' in html


def test_csv_and_json_keep_every_digit_and_leave_the_unknown_empty():
    rows = list(csv.DictReader(io.StringIO(sheets.to_csv(SHEET))))
    assert float(rows[0]["accuracy"]) == 2 / 3 and rows[0]["queries"] == "12345"
    assert rows[1]["accuracy"] == "" and rows[1]["router"] == "a|b_[bold]<i>&"
    record = json.loads(json.dumps(sheets.to_json(SHEET)))
    assert record["rows"][0] == {"router": "knn", "accuracy": 2 / 3, "BCE": 0.64977, "queries": 12345}
    assert record["rows"][1]["accuracy"] is None
    assert record["columns"][1] == {"name": "accuracy", "kind": "percent"} and record["notes"] == [
        "one encoder"
    ]


def test_a_row_of_another_length_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="1 values for 2 columns"):
        Sheet("t", SHEET.columns[:2], (("knn",),))


class Cells(HTMLParser):
    """The texts of the `<td>`s."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "td":
            self.open = True
            self.found.append("")

    def handle_endtag(self, tag):
        self.open = self.open and tag != "td"

    def handle_data(self, data):
        if self.open:
            self.found[-1] += data


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_any_text_survives_csv_html_and_markdown(text):
    sheet = Sheet("t", (Column("name"), Column("share", "percent")), ((text, 0.25),))
    assert list(csv.reader(io.StringIO(sheets.to_csv(sheet))))[1] == [text, "0.25"]
    cells = Cells()
    cells.feed(sheets.to_html(sheet))
    assert cells.found == [text, "25.00"]
    line = sheets.to_markdown(sheet).splitlines()[4]
    assert line.startswith("| ") and line.endswith("| 25.00 |")
    unescaped = line.replace("\\\\", "").replace("\\|", "")
    assert unescaped.count("|") == 3  # three borders: no text opens a cell
