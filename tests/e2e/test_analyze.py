"""`rph analyze` and `rph compare` on result files, as a user meets them: no benchmark and no run store is there."""

import csv
import io
import json
from pathlib import Path

import pytest
from tests import entries, toys
from tests.entries import entry

ROOT = Path(__file__).parents[2]
Y = [[1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]]
TABLES = {
    "accuracy": "Tab. 1", "utility": "Tab. 2", "plane": "Fig. 1", "configurations": "Fig. 2", "encoders": "Fig. 3",
    "difficulty": "Tab. 3", "selection": "Fig. 4", "exchange": "Tab. 4", "knn": "Tab. 5",
}  # fmt: skip


@pytest.fixture
def results(tmp_path):
    """Two routers x two encoders on `small`, which has costs, and one cell on `other`, which has none."""
    cells = [
        entry(Y, routes, bench="small", router=router, encoder=encoder, costs=[3, 1, 2])
        for router, routes in (("knn", [0, 0, 0, 0, 0, 0]), ("elo", [1, 1, 1, 2, 1, 1]))
        for encoder in ("e1", "e2")
    ]
    return entries.write(tmp_path / "results", *cells, entry(Y, [0] * 6, bench="other", router="knn"))


@pytest.mark.parametrize("command", TABLES)
def test_each_table_in_each_format(rph, results, command):
    code, output, error = rph("analyze", command, results)
    assert (code, error) == (0, "")
    assert TABLES[command] in output and "small" in output
    code, output, _ = rph("analyze", command, results, "--format", "json")
    first = json.loads(output)[0]
    assert (
        code == 0
        and first["rows"]
        and list(first["rows"][0]) == [column["name"] for column in first["columns"]]
    )
    code, output, _ = rph("analyze", command, results, "--format", "csv")
    header, row = list(csv.reader(io.StringIO(output)))[:2]
    assert code == 0 and len(header) == len(row) == len(first["columns"])
    assert rph("analyze", command, results, "--format", "md")[1].startswith(f"**{first['title'][:5]}")
    assert rph("analyze", command, results, "--format", "latex")[1].startswith("\\begin{table}")


def test_the_numbers_are_those_of_the_files(rph, results):
    _, output, _ = rph("analyze", "accuracy", results, "--bench", "small", "--format", "csv")
    rows = list(csv.reader(io.StringIO(output)))
    assert rows[0] == ["router", "small", "± small", "average"]
    assert {row[0]: float(row[1]) for row in rows[1:3]} == {"knn": 0.5, "elo": 0.5}


def test_accuracy_per_task_in_each_format(rph, tmp_path):
    cell = entry(Y, [0] * 6, tasks=["x", "x", "x", "y", "y", "y"])
    folder = entries.write(tmp_path / "results", cell)
    starts = {"rich": "bench: what routers gain", "md": "**bench", "latex": "\\begin{table}"}
    for form, start in starts.items():
        code, output, error = rph("analyze", "tasks", folder, "--format", form)
        assert (code, error) == (0, "") and output.startswith(start)
    _, output, _ = rph("analyze", "tasks", folder, "--format", "json")
    assert [row["task name"] for row in json.loads(output)[1]["rows"]] == ["x", "y"]
    _, output, _ = rph("analyze", "tasks", folder, "--format", "csv")
    # Of x, a is right on one and b, which is the best single model, on two.
    assert "x,3,1.0,0.6666666666666666,b,0.6666666666666666,0.3333333333333333" in output.splitlines()


def test_results_without_tasks_have_no_table_of_them(rph, results):
    code, output, error = rph("analyze", "tasks", results)
    assert (code, output) == (2, "") and "no result has tasks" in error and "rph eval" in error


def test_results_of_rph_eval_are_read_as_they_are(rph, tmp_path):
    bench = toys.write_bench(tmp_path / "bench")
    plugin = toys.write_plugin(tmp_path / "plugin.py")
    out = tmp_path / "out"
    arguments = [
        "--plugin",
        plugin,
        "--bench",
        bench,
        "--encoder",
        "numbers",
        "--router",
        "toy",
        "--router",
        "knn",
    ]
    assert rph("eval", *arguments, "--protocol", "quick", "--out", out)[0] == 0
    for command in set(TABLES) - {"encoders"}:
        code, output, error = rph("analyze", command, out)
        assert (code, error) == (0, "") and "toy, protocol quick" in output, command


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--bench", "nine30k"], "no result on 'nine30k'"),
        (["--format", "pdf"], "'pdf' is not one of"),
    ],
)
def test_a_wrong_call_is_told_what_is_there(rph, results, arguments, what):
    code, output, error = rph("analyze", "accuracy", results, *arguments)
    assert (code, output) == (2, "") and what in error


def test_a_folder_without_results_is_a_wrong_call(rph, tmp_path):
    code, _, error = rph("analyze", "accuracy", tmp_path)
    assert code == 2 and "no result files" in error and "rph eval" in error


def test_a_benchmark_without_costs_has_no_utility_table(rph, results):
    code, _, error = rph("analyze", "utility", results, "--bench", "other")
    assert code == 2 and "other: no costs" in error and "--price" in error
    _, output, _ = rph("analyze", "utility", results, "--format", "json")
    assert [sheet["title"].split(":")[0] for sheet in json.loads(output)] == ["small"]


def test_a_damaged_result_is_named(rph, results):
    (results / "small" / "knn" / "e1.json").write_text("{}")
    code, _, error = rph("analyze", "exchange", results)
    assert code == 2 and "e1.json is no result file" in error


def test_compare_says_why_nothing_can_be_set_beside_the_paper(rph, results, monkeypatch):
    monkeypatch.chdir(ROOT)  # where the paper's tables are
    code, output, error = rph("compare", "--to", "paper", results)
    assert (code, output) == (
        2,
        "",
    ) and "small is not set beside the paper: it is in none of its tables" in error


def test_compare_reads_the_tables_of_a_folder(rph, tmp_path, results):
    code, _, error = rph("compare", "--to", tmp_path / "nowhere", results)
    assert code == 2 and "table8_benchmarks.csv cannot be read" in error
