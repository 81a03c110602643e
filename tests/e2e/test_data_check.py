"""`rph data check` as a user meets it: what is said, as text and as JSON, and the exit codes."""

import json

import pytest
from tests import toys

from rph.data import checking

# Of routing-table/1 folders: the median correlation within tasks, and kind -> count.
REAL = {
    "carrot-ollb2": (0.5697, {"near-leak": 246, "block": 14}),
    "carrot-ollb2-asis": (0.1864, {"misaligned": 13, "near-leak": 246, "block": 14}),
    "llmrouter9": (0.4734, {"near-leak": 9}),
    "mmlupro": (0.5593, {"near-leak": 23}),
    "routerdc-draws": (0.7243, {"near-leak": 15}),
    "routerdc7": (0.6350, {"near-leak": 40}),
    "zeroeval": (0.6050, {"block": 30}),
    "routerbench": (0.4224, {"near-leak": 32, "repeated-text": 2}),
}


@pytest.fixture
def leaking(tmp_path):
    frames = toys.tables()
    frames["test"].loc[:4, "query"] = frames["train"].loc[:4, "query"].str.upper()
    return toys.write_bench(tmp_path / "bench", frames)


def test_a_clean_table_has_no_finding(rph, tmp_path):
    code, output, error = rph("data", "check", toys.write_bench(tmp_path / "bench"))
    assert (code, error) == (0, "")
    first, correlation, last = output.splitlines()
    assert first == "benchmark         toy: 114 queries, 3 models" and last == "found             nothing"
    assert correlation.startswith("correlation       of a model with the rest, within tasks: median ")


def test_a_leak_is_told_with_what_to_do_and_makes_the_exit_code_1(rph, leaking):
    code, output, error = rph("data", "check", leaking)
    assert code == 1
    assert (
        "leak              queries whose text is also in an earlier split, under another id: 5, the" in output
    )
    assert "test 'q84' is train 'q0'" in output and "and test 'q85' is train 'q1'" in output
    assert "fix: keep a text in one split" in output
    assert error.startswith("error: toy must not be evaluated on as it is: leak") and "fix:" in error


def test_as_json_every_finding_has_its_kind_and_every_model_its_correlation(rph, leaking):
    code, output, _ = rph("data", "check", leaking, "--json")
    found = json.loads(output)
    assert code == 1 and found.keys() == {"table", "median", "findings", "correlations"}
    assert found["table"] == str(leaking) and found["correlations"].keys() == set(toys.MODELS)
    (finding,) = found["findings"]
    assert finding.keys() == {"kind", "what", "count", "examples", "fix"}
    assert (finding["kind"], finding["count"], len(finding["examples"])) == ("leak", 5, 3)


@pytest.mark.parametrize(
    ("column", "value", "said"), [("correct/small", 2.0, "outside [0, 1]"), ("id", "q0", "repeated")]
)
def test_a_table_that_cannot_be_run_is_told_with_exit_code_2(rph, tmp_path, column, value, said):
    frames = toys.tables()
    frames["train"].loc[1, column] = value
    bench = toys.write_bench(tmp_path / "bench", frames)
    code, output, error = rph("data", "check", bench)
    assert (code, output) == (2, "") and said in error and "fix:" in error
    code, output, error = rph("data", "check", bench, "--json")
    assert code == 2 and said in error
    (finding,) = json.loads(output)["findings"]
    assert finding["kind"] == "invalid" and said in finding["what"] and finding["fix"]


def test_a_benchmark_by_name_is_checked_with_its_options(rph):
    code, output, _ = rph("data", "check", "synthetic:n=200,k=5", "--json")
    assert code == 0 and json.loads(output)["findings"] == []
    code, output, error = rph("data", "check", "syntetic")
    assert (code, output) == (2, "") and "did you mean 'synthetic'" in error


@pytest.mark.real_data
@pytest.mark.parametrize("table", REAL)
def test_what_is_found_in_the_real_tables(rph, real_data, table):
    bench = f"routerbench:shots=5,path={real_data / table}" if table == "routerbench" else real_data / table
    code, output, _ = rph("data", "check", bench, "--json")
    found = json.loads(output)
    median, counts = REAL[table]
    assert found["median"] == pytest.approx(median, abs=1e-4)
    assert {one["kind"]: one["count"] for one in found["findings"]} == counts
    assert code == (1 if counts.keys() & set(checking.WRONG) else 0)
    assert (code == 1) == (table == "carrot-ollb2-asis")
