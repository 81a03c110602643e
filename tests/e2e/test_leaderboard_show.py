"""`rph leaderboard show` as a user meets it: boards from result files, in every format, and what each mistake is told."""

import csv
import io
import json

import numpy as np
import pytest
from tests import entries, toys

N = 200
LABELS = (np.random.default_rng(0).random((N, 3)) < [0.7, 0.5, 0.2]).astype(float)


def result(router, model, **changes):
    return entries.entry(LABELS, np.full(N, model), router=router, **changes)


@pytest.fixture
def folder(tmp_path):
    """Three routers on one board, one of them on a second, and one that is not ranked."""
    return entries.write(
        tmp_path / "results",
        *(result(router, model) for model, router in enumerate(["good", "middling", "bad"])),
        result("good", 0, encoder="second"),
        result("hasty", 0, protocol="smoke"),
    )


def test_boards_then_all_of_them_then_what_is_not_ranked(rph, folder):
    code, output, _ = rph("leaderboard", "show", folder)
    assert code == 0
    titles = [
        "bench x encoder: 200 test queries, 3 models",
        "bench x second: ",
        "All benchmarks",
        "Not ranked",
    ]
    assert [output.index(title) for title in titles] == sorted(output.index(title) for title in titles)
    board = output[: output.index("bench x second")]
    order = ["oracle", "good", "best single: a", "middling", "random", "bad"]
    lines = [line for line in board.splitlines() if line.startswith("│")]
    assert [next(name for name in order if f" {name} " in line) for line in lines] == order
    assert "hasty" not in board and "protocol smoke: only paper is ranked" in output


def test_json_and_csv_carry_the_numbers_as_they_are(rph, folder):
    _, output, _ = rph("leaderboard", "show", folder, "--encoder", "encoder", "--format", "json")
    board, left_out = json.loads(output)
    rows = {row["router"]: row for row in board["rows"]}
    accuracy = LABELS.mean(axis=0)
    for model, router in enumerate(["good", "middling", "bad"]):
        row = rows[router]
        assert row["accuracy"] == pytest.approx(accuracy[model])
        assert row["low"] < accuracy[model] < row["high"]
        assert (row["#"], row["tier"], row["rank low"], row["rank high"]) == (model + 1,) * 4
    assert [row["router"] for row in left_out["rows"]] == ["hasty"]
    _, output, _ = rph("leaderboard", "show", folder, "--encoder", "second", "--format", "csv")
    (good,) = [row for row in csv.DictReader(io.StringIO(output)) if row["router"] == "good"]
    assert float(good["accuracy"]) == pytest.approx(accuracy[0])


@pytest.mark.parametrize(("format", "sign"), [("md", "| good |"), ("latex", r"\begin{tabular}")])
def test_text_for_a_paper_or_a_page(rph, folder, format, sign):
    code, output, _ = rph("leaderboard", "show", folder, "--bench", "bench", "--format", format)
    assert code == 0 and sign in output


def test_the_same_call_prints_the_same(rph, folder):
    assert rph("leaderboard", "show", folder) == rph("leaderboard", "show", folder)


def test_what_eval_wrote_is_shown(rph, tmp_path):
    bench = toys.write_bench(tmp_path / "bench")
    plugin = toys.write_plugin(tmp_path / "plugin.py")
    common = ["--plugin", plugin, "--bench", bench, "--encoder", "numbers"]
    code, evaluated, _ = rph(
        "eval", *common, "--router", "toy", "--router", "knn", "--out", tmp_path / "out", "--json"
    )
    assert code == 0
    code, output, _ = rph("leaderboard", "show", tmp_path / "out", "--format", "json")
    assert code == 0
    (board,) = json.loads(output)
    shown = {row["router"]: row["accuracy"] for row in board["rows"]}
    for cell in json.loads(evaluated):
        assert shown[cell["router"]] == pytest.approx(cell["test_accuracy_mean"])
    assert shown["oracle"] == pytest.approx(cell["oracle"]) and shown["random"] == pytest.approx(
        cell["random"]
    )
    assert "AIQ" in {column["name"] for column in board["columns"]}  # the toy benchmark has costs


def test_mistakes_are_explained(rph, folder, tmp_path):
    code, _, error = rph("leaderboard", "show", folder, "--encoder", "nope")
    assert code == 2 and "no result with the encoder 'nope'" in error and "encoder, second" in error
    code, _, error = rph("leaderboard", "show", folder, "--bench", "nope")
    assert code == 2 and "'nope'" in error and "bench" in error
    code, _, error = rph("leaderboard", "show", tmp_path / "nothing")
    assert code == 2 and "no result files" in error
    broken = folder / "bench" / "good" / "encoder.queries.npz"
    broken.write_bytes(b"broken")
    code, _, error = rph("leaderboard", "show", folder)
    assert code == 2 and str(broken) in error and "Traceback" not in error
