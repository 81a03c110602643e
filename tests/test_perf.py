"""The performance scripts: what they print is what they keep, the floor is what was multiplied, and all of them start."""

import importlib
import json
import os
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

PERF = Path(__file__).parents[1] / "perf"


@pytest.fixture(scope="module")
def perf():
    """Import a module of `perf/`, as its scripts do; afterwards no other test can meet it under its short name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PERF)
        for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TOKENIZERS_PARALLELISM"):
            patch.setenv(
                name, os.environ.get(name, "")
            )  # the scripts set what is not set, for their whole process
        before = set(sys.modules)
        yield importlib.import_module
        for name in set(sys.modules) - before:
            if str(PERF) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


LIMITS = [{"what": "copy", "unit": "GB/s", "one_thread": 20.0, "all_threads": 30.5}]


@pytest.fixture
def kept(perf, monkeypatch, capsys, tmp_path):
    """A report of one table of two rows: `perf.tables`, the record that it leaves, and what it printed."""
    tables = perf("tables")
    monkeypatch.setattr(tables.machine, "limits", lambda: LIMITS)
    monkeypatch.setenv("RPH_PERF", str(tmp_path / "new" / "results"))
    with tables.Report("/somewhere/grid.py") as report:
        Column = tables.Column
        table = report.table("one cell", Column("way"), Column("median", "CPU-s", 1), Column("x floor"))
        table.add("ours", 1234.56, 1.5)
        table.add("theirs", 7, None)
    record = json.loads((tmp_path / "new" / "results" / "grid.json").read_text())
    return tables, record, capsys.readouterr().out


PRINTED = """\
one cell

| way | median, CPU-s | x floor |
|---|---|---|
| ours | 1,234.6 | 1.50 |
| theirs | 7 |  |"""


def test_a_report_prints_markdown_and_keeps_whole_numbers_units_machine_and_command(kept):
    _, record, printed = kept
    assert printed == f"\n{PRINTED}\n"
    (table,) = record["tables"]
    assert table["rows"] == [["ours", 1234.56, 1.5], ["theirs", 7, None]]
    assert [(c["name"], c["unit"]) for c in table["columns"]] == [
        ("way", ""),
        ("median", "CPU-s"),
        ("x floor", ""),
    ]
    assert record["script"] == "grid" and record["limits"] == LIMITS
    assert record["command"].startswith("python ") and record["date"].endswith("+00:00")
    machine = record["machine"]
    assert machine["cpu"] and machine["cores"] >= 1 and machine["memory_bytes"] > 1 << 28
    assert machine["threads"] == torch.get_num_threads() and machine["versions"]["torch"] == torch.__version__


def test_what_was_kept_reads_back_as_what_was_printed_and_is_gathered_with_its_limits(kept, perf):
    tables, record, _ = kept
    assert tables.Table.read(record["tables"][0]).markdown == PRINTED
    page = perf("run").gathered([record, record | {"script": "other", "tables": []}])
    assert f"## grid\n\n{PRINTED}\n\n## other\n" in page
    assert "| copy | GB/s | 20.0 | 20.0 |" in page
    assert f"| grid | `{record['command']}` | {record['date']} |" in page


def test_nothing_is_kept_of_a_script_that_failed_of_a_nan_or_without_a_folder(perf, monkeypatch, tmp_path):
    tables = perf("tables")
    monkeypatch.setattr(tables.machine, "limits", lambda: LIMITS)
    with tables.Report("quiet") as report:
        report.table("t", tables.Column("a")).add(1.0)
    monkeypatch.setenv("RPH_PERF", str(tmp_path))
    with pytest.raises(ZeroDivisionError), tables.Report("failed") as report:
        report.table("t", tables.Column("a")).add(1 / 0)
    with pytest.raises(ValueError, match="JSON"), tables.Report("nan") as report:
        report.table("t", tables.Column("a")).add(float("nan"))
    with pytest.raises(ValueError, match="shorter"), tables.Report("short") as report:
        report.table("t", tables.Column("a"), tables.Column("b")).add(1)
    assert not list(tmp_path.iterdir())


def test_the_ratio_is_the_median_of_the_rounds_own(perf):
    assert perf("tables").ratio([2.0, 9.0, 8.0], [1.0, 3.0, 8.0]) == 2.0  # of 2, 3 and 1


# --- floors -----------------------------------------------------------------------------------------


def test_the_products_of_a_run_are_all_seen_backward_ones_too(perf):
    machine = perf("machine")
    X, W = torch.ones(5, 3), torch.ones(3, 2, requires_grad=True)
    stack = torch.ones(4, 2, 6, dtype=torch.float64)

    def run():
        (X @ W).sum().backward()  # the gradient of W is X^T [3, 5] times that of the outputs [5, 2]
        torch.addmm(torch.ones(5), X, torch.ones(5, 3).T)
        torch.bmm(stack, stack.mT)

    found = machine.products(run).products
    assert Counter({(p.b, p.m, p.k, p.n, p.dtype): count for p, count in found.items()}) == {
        (1, 5, 3, 2, "float32"): 1,
        (1, 3, 5, 2, "float32"): 1,
        (1, 5, 3, 5, "float32"): 1,
        (4, 2, 6, 2, "float64"): 1,
    }
    assert machine.Floor(found).operations == 2 * (5 * 3 * 2 + 3 * 5 * 2 + 5 * 3 * 5 + 4 * 2 * 6 * 2)
    turned = {p.n: p.turned for p in found if p.m == 5}
    assert turned == {2: (False, False), 5: (False, True)}


def test_products_inside_a_layer_in_inference_mode_are_seen(perf):
    @torch.inference_mode()
    def run():
        return torch.nn.functional.linear(torch.ones(5, 3), torch.eye(3)[:2])

    machine = perf("machine")
    assert machine.products(run).products == {machine.Product(1, 5, 3, 2, (False, True)): 1}
    assert machine.products(lambda: torch.ones(2) + 1).products == {}


def test_a_floor_is_the_time_of_its_products_and_of_one_pass_over_its_bytes(perf, monkeypatch):
    machine = perf("machine")
    monkeypatch.setattr(machine, "least", lambda run, clock: run() is None or 2.0)  # every call takes 2 s
    product = machine.Product(3, 2, 4, 5, (True, False))
    assert machine.Floor(Counter({product: 7})).seconds() == 14.0
    # A copy reads and writes 2^28 bytes in 2 s; so a quarter as many are passed in half a second.
    assert machine.Floor(Counter(), passed=1 << 27).seconds() == 0.5


def test_a_product_is_timed_by_the_clock_it_is_given(perf):
    machine = perf("machine")
    ticks = iter(range(1000))  # each batch of calls takes a second
    assert machine.Product(1, 2, 3, 4, (False, True)).seconds(lambda: next(ticks)) == 1.0


# --- scripts ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def growth(perf):
    return perf("growth")


@given(st.floats(-3, 3), st.floats(0.01, 100))
def test_the_exponent_of_a_power_law_is_its_power(growth, power, scale):
    sizes = (5.0, 10.0, 20.0, 40.0)
    assert growth.exponent(sizes, [scale * size**power for size in sizes]) == pytest.approx(power, abs=1e-9)


def scripts():
    return sorted({path.stem for path in PERF.glob("*.py")} - {"machine", "tables"})


def test_every_script_of_a_run_makes_its_tables_with_the_one_module_that_keeps_them(perf):
    for script in perf("run").SCRIPTS:
        source = (PERF / f"{script}.py").read_text()
        assert "with Report(__file__) as report" in source and "|---" not in source, script


@pytest.mark.parametrize("script", scripts())
def test_every_script_says_what_it_is_for(perf, script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(PERF / f"{script}.py"), run_name="__main__")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {script}.py")


def test_an_unknown_script_is_a_wrong_call(perf, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "floor", "speed"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(PERF / "run.py"), run_name="__main__")
    assert exit_.value.code == 2 and "there is no speed" in capsys.readouterr().err
