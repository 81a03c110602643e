"""Beside the paper stands only what is the same quantity; the rest is named. And its tables are all readable."""

import csv
import importlib.metadata
from pathlib import Path

import pytest
from tests.entries import entry

from rph import UsageError
from rph.distribution import OURS
from rph.study import paper

REFERENCE = Path(__file__).parents[2] / "leaderboard" / "reference"
Y = [[1, 0], [1, 1], [1, 0], [0, 1]]
COSTS = [3, 1]

TABLES = {
    "table8_benchmarks.csv": "benchmark,train,val,test,models,cost\nr2,4,4,4,2,yes\n",
    "names.csv": "paper,router\nkNN,knn\nknn,knn\nElo,elo\nelo_router,elo\nLost,lost\n",
    "table1_accuracy.csv": "router,r2,r2_std\nkNN,70.5,0.1\nElo,,\nLost,50.0,0.1\n",
    "table11_utility_r2.csv": "router,u0.0,u0.0_std,u0.5,u0.5_std\nknn,0.705,0.1,0.3,0.1\n",
    "table3_hard_easy.csv": "benchmark,f_hard,hard_spread,hard_gap,easy_gap,gap_ratio,explained_percent\n"
    "r2,0.138,0.219,0.671,0.020,34.0,75.5\n",
    "table4_exchange.csv": "benchmark,disagree_min,disagree_max,accuracy_gap,abs_delta,abs_signed_delta,ratio\n"
    "r2,0.15,0.44,0.003,0.162,0.010,17\n",
    "table5_knn_vs_trained.csv": "benchmark,knn_bce,trained_minus_knn_bce_min,trained_minus_knn_bce_max,"
    "knn_hard_accuracy,median_trained_minus_knn_hard_accuracy\nr2,0.482,0.077,0.194,0.328,0.018\n",
}


@pytest.fixture
def tables(tmp_path):
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def knn(**changes):
    return entry(Y, [0, 0, 0, 0], router="knn", costs=COSTS, **{"bench": "r2"} | changes)


def elo(**changes):
    return entry(Y, [1, 1, 1, 1], router="elo", costs=COSTS, **{"bench": "r2"} | changes)


def test_differences_by_hand(tables):
    found, left_out = paper.comparisons([knn(), elo()], tables)
    assert left_out == []
    accuracy, utility, hard, exchange, against = found
    (row,) = accuracy.rows  # the paper has no number of elo
    assert (row.what, row.ours, row.paper) == ("knn", 0.75, pytest.approx(0.705))
    assert row.difference == pytest.approx(0.045)
    assert "No number of ours: lost." in accuracy.notes and "No number of the paper's: elo." in accuracy.notes
    assert accuracy.title == "r2: test accuracy, beside the paper's Tab. 1"
    assert {row.what: row.paper for row in utility.rows} == {"knn, λ = 0": 0.705, "knn, λ = 0.5": 0.3}
    assert {row.what: row.ours for row in utility.rows}["knn, λ = 0.5"] == pytest.approx(0.25)
    # Hard: 0, 2 and 3, on each of which one model is right; the two routers are right on 2 and 1 of them.
    assert next((row.what, row.paper) for row in hard.rows) == ("hard queries", 0.138)
    assert {row.what: row.ours for row in hard.rows} == pytest.approx(
        {"hard queries": 0.75, "spread of hard accuracy": 1 / 3, "hard gap": 0.5, "easy gap": 0.0,
         "gap explained by hard": 1.0}
    )  # fmt: skip
    assert {row.what: row.paper for row in hard.rows}["gap explained by hard"] == pytest.approx(0.755)
    assert {row.what: row.ours for row in exchange.rows} == pytest.approx(
        {"least disagreement": 1.0, "most disagreement": 1.0, "median accuracy gap": 0.25, "median |ΔY|": 0.75,
         "median |ΔY signed|": 0.25}
    )  # fmt: skip
    assert {row.what: (row.ours, row.paper) for row in against.rows} == {
        "hard accuracy of knn": (pytest.approx(2 / 3), 0.328),
        "median difference": (pytest.approx(-1 / 3), 0.018),
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"subset": "four rows"}, "a subset of the benchmark"),
        ({"bench": "synthetic"}, "in none of its tables"),
        ({"protocol": "quick"}, "protocol quick"),
        ({"train": [[1, 0]]}, "train 1, there 4"),
    ],
)
def test_what_is_not_the_papers_quantity_is_named_and_not_compared(tables, changes, why):
    found, (left_out,) = paper.comparisons([knn(**changes)], tables)
    assert found == [] and why in left_out
    with pytest.raises(UsageError, match="nothing here can be set beside the paper") as error:
        paper.compare([knn(**changes)], tables)
    assert why in error.value.why
    sheets = paper.compare([knn(), elo(), knn(bench="synthetic")], tables)
    assert "synthetic is not set beside the paper: it is in none of its tables of results" in sheets[-1].notes


def test_one_router_that_is_not_knn_still_has_its_accuracy_set_beside(tables):
    sheets = paper.compare([knn()], tables)
    assert [sheet.title.split(": ")[1].split(",")[0] for sheet in sheets] == [
        "test accuracy", "realised utility", "hard and easy queries", "hard queries",
    ]  # fmt: skip


def test_a_missing_or_damaged_table_is_named(tables):
    (tables / "table1_accuracy.csv").write_text("router,r2\nkNN,much\n")
    with pytest.raises(UsageError, match=r"table1_accuracy.csv: 'much' is no number"):
        paper.compare([knn()], tables)
    (tables / "table1_accuracy.csv").write_text("router,r2\nNobody,1.0\n")
    with pytest.raises(UsageError, match="no router is known for 'Nobody'"):
        paper.compare([knn()], tables)
    (tables / "names.csv").unlink()
    with pytest.raises(UsageError, match=r"names.csv cannot be read") as error:
        paper.compare([knn()], tables)
    assert "--to" in error.value.fix


def test_the_names_of_the_real_tables_lead_to_the_21_routers():
    with (REFERENCE / "names.csv").open() as file:
        names = {row["paper"]: row["router"] for row in csv.DictReader(file)}
    points = importlib.metadata.entry_points(group="rph")
    ours = {
        p.name.removeprefix("router-") for p in points if p.name.startswith("router-") and p.dist.name == OURS
    }
    assert set(names.values()) == ours and len(ours) == 21
    for name in ("table1_accuracy.csv", *(name for name, _ in paper.UTILITY.values())):
        with (REFERENCE / name).open() as file:
            assert {row["router"] for row in csv.DictReader(file)} <= set(names), name


@pytest.mark.parametrize("bench", paper.UTILITY)
def test_every_real_table_is_read_as_shares(bench, monkeypatch):
    monkeypatch.setattr(
        paper, "_why_not", lambda group, published: ""
    )  # four rows are not the full benchmark
    cells = [knn(bench=bench), elo(bench=bench)]
    found, _ = paper.comparisons(cells, REFERENCE)
    assert [one.title.split("Tab. ")[1] for one in found] == [
        "1",
        paper.UTILITY[bench][0][5:].split("_")[0],
        "3",
        "4",
        "5",
    ]
    rows = [row for one in found for row in one.rows]
    assert all(-0.2 < row.paper < 1 for row in rows)
    accuracy, utility = ({row.what: row.paper for row in one.rows} for one in found[:2])
    assert 0.65 < accuracy["knn"] < 0.9
    assert utility["knn, λ = 0.2"] == pytest.approx(accuracy["knn"] * 0.75, abs=0.06)
