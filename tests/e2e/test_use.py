"""From a measured cell to a routed query, through the command line."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests import exported, tiny_models, toys

from rph.deploy import routing

LARGE = float(toys.tables()["train"]["correct/large"].mean())


@pytest.fixture
def cell(tmp_path):
    """Arguments that name the cell."""
    bench = toys.write_bench(tmp_path / "bench")
    plugin = toys.write_plugin(tmp_path / "plugin.py")
    names = ["--bench", bench, "--encoder", "numbers", "--router", "knn", "--protocol", "smoke"]
    return ["--plugin", plugin, *names, "--device", "cpu"]


@pytest.fixture
def router(rph, cell, tmp_path):
    """Arguments that name the exported router."""
    assert rph("eval", *cell)[0] == 0
    out = tmp_path / "out"
    code, output, error = rph("export", *cell, "-o", out)
    assert code == 0 and output.startswith(f"{out}: knn k=100") and not error
    return ["--router", out, "--plugin", tmp_path / "plugin.py"]


def test_export_before_eval_gives_the_command_that_is_missing_and_it_works(rph, cell, tmp_path):
    code, _, error = rph("export", *cell, "-o", tmp_path / "out")
    assert code == 2 and "is not finished" in error and "1 of 1 trials" in error
    command = error.split("`")[1].split()
    assert command[:2] == ["rph", "eval"]
    assert rph(*command[1:])[0] == 0
    code, output, error = rph("export", *cell, "-o", tmp_path / "out", "--json")
    assert code == 0, error
    manifest = json.loads(output)
    assert manifest["check"]["bit_for_bit"] is True
    assert manifest["bytes"] == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())


def test_export_all_and_unknown_names_are_usage_errors(rph, cell, tmp_path):
    rph("eval", *cell)
    assert rph("export", *["all" if a == "knn" else a for a in cell], "-o", tmp_path / "o")[0] == 2
    code, _, error = rph("export", *["knnn" if a == "knn" else a for a in cell], "-o", tmp_path / "o")
    assert code == 2 and "knn" in error
    assert rph("export", *["best" if a == "smoke" else a for a in cell], "-o", tmp_path / "o")[0] == 2


def test_prices_that_were_given_to_eval_are_exported(rph, cell, tmp_path):
    bench = toys.write_bench(tmp_path / "priceless", toys.tables(costs=False))
    cell = [bench if a == tmp_path / "bench" else a for a in cell]
    prices = [a for m, p in zip(toys.MODELS, (1, 2, 10), strict=True) for a in ("--price", f"{m}={p}")]
    assert rph("eval", *cell, *prices)[0] == 0
    code, output, _ = rph("export", *cell, *prices, "-o", tmp_path / "out", "--json")
    assert code == 0 and json.loads(output)["costs"] == [1.0, 2.0, 10.0]


def test_a_task_keeps_queries_to_the_models_that_were_run_on_it(rph, tmp_path):
    bench = toys.write_bench(tmp_path / "bench", exported.blocked())
    plugin = ["--plugin", toys.write_plugin(tmp_path / "plugin.py")]
    cell = [*plugin, "--bench", bench, "--encoder", "numbers", "--router", "knn", "--protocol", "smoke"]
    assert rph("eval", *cell)[0] == 0
    told = "may go to a model that was never run on its task: of the val routes 50.0% do"
    code, output, error = rph("export", *cell, "-o", tmp_path / "out", "--json")
    assert code == 0 and told in error and json.loads(output)["leaves_pool"] == 0.5
    route = ["route", *plugin, "--router", tmp_path / "out", "number 5"]
    code, output, error = rph(*route, "--json")
    assert code == 0 and json.loads(output)[0]["model"] == "large" and told in error
    code, output, error = rph(*route, "--task", "odd")
    assert code == 0 and output.startswith("small\t") and told not in error
    code, _, error = rph(*route, "--task", "od")
    assert code == 2 and "knows no task 'od'" in error and "did you mean 'odd'?" in error


def test_models_without_a_price_are_named_where_price_counts(rph, tmp_path):
    bench = toys.write_bench(tmp_path / "bench", toys.tables(costs=False))
    plugin = ["--plugin", toys.write_plugin(tmp_path / "plugin.py")]
    cell = [*plugin, "--bench", bench, "--encoder", "numbers", "--router", "knn", "--protocol", "smoke"]
    cell += ["--price", "small=1", "--price", "middle=2"]
    assert rph("eval", *cell)[0] == 0
    code, _, error = rph("export", *cell, "-o", tmp_path / "out")
    assert code == 0 and "no price is known of large: above lambda 0 they are not chosen" in error
    route = ["route", *plugin, "--router", tmp_path / "out", "number 4"]
    code, output, error = rph(*route)
    assert code == 0 and output.startswith("large\t") and "no price" not in error
    code, output, error = rph(*route, "--lam", "0.1")
    assert code == 0 and output.startswith("small\t") and "no price is known of large" in error


def stdin_of(content):
    return io.TextIOWrapper(
        io.BytesIO(content), encoding="ascii"
    )  # what a terminal under LC_ALL=C says of itself


def test_route_takes_queries_from_arguments_a_file_or_stdin(rph, router, tmp_path, monkeypatch):
    code, output, _ = rph("route", *router, "number 4", "number 7", "--lam", "0.5", "--json")
    rows = json.loads(output)
    assert code == 0 and [row["query"] for row in rows] == ["number 4", "number 7"]
    for row in rows:
        assert row["model"] == "small" and row["cost"] == pytest.approx(0.001)
        assert row["scores"] == pytest.approx(exported.MEANS | {"large": LARGE}) and row["seconds"] > 0
    (tmp_path / "queries.txt").write_text("number 4\n\nnumber 7\n")
    monkeypatch.setattr("sys.stdin", stdin_of(b"number 4\n\nnumber 7\n"))
    for arguments in (["--file", tmp_path / "queries.txt"], []):
        code, output, _ = rph("route", *router, *arguments)
        shown = [line.split("\t") for line in output.splitlines()]
        assert code == 0
        assert shown == [["large", f"{LARGE:.4f}", "$0.010000", f"number {i}"] for i in (4, 7)]


def test_a_file_is_the_same_queries_from_stdin(rph, tmp_path, monkeypatch, router):
    lines = "\ufeffnumber 4\r\nnumber 5\rand on\n \nn\u00famber 6\u2028too\tlong\r\n"
    monkeypatch.setattr(
        routing.LoadedRouter, "scores", lambda self, queries: np.zeros((len(queries), 3), np.float32)
    )
    (tmp_path / "queries.txt").write_bytes(lines.encode())
    for arguments in (["--file", tmp_path / "queries.txt"], []):
        monkeypatch.setattr("sys.stdin", stdin_of(lines.encode()))
        code, output, _ = rph("route", *router, *arguments, "--json")
        assert code == 0
        assert [row["query"] for row in json.loads(output)] == [
            "number 4",
            "number 5\rand on",
            "n\u00famber 6\u2028too\tlong",
        ]
        monkeypatch.setattr("sys.stdin", stdin_of(lines.encode()))
        _, output, _ = rph("route", *router, *arguments)
        # Each query is a row of four columns, whatever white space it has.
        assert [row.split("\t")[3:] for row in output.split("\n")[:-1]] == [
            ["number 4"],
            ["number 5 and on"],
            ["n\u00famber 6 too long"],
        ]


def test_what_is_no_utf_8_is_told_with_its_line(rph, router, tmp_path, monkeypatch):
    content = b"\xef\xbb\xbfnumber 4\nnumber 5\nn\xfamber 6\n"
    (tmp_path / "queries.txt").write_bytes(content)
    monkeypatch.setattr("sys.stdin", stdin_of(content))
    for arguments in (["--file", tmp_path / "queries.txt"], []):
        code, _, error = rph("route", *router, *arguments)
        assert code == 2 and "is no UTF-8 text" in error and "line 3:" in error and "fix:" in error


def test_route_says_what_it_lacks(rph, router, tmp_path, monkeypatch):
    for nothing in (stdin_of(b""), None):
        monkeypatch.setattr("sys.stdin", nothing)
        code, _, error = rph("route", *router)
        assert code == 2 and "query" in error
    assert rph("route", *router, "number 4", "--file", tmp_path / "queries.txt")[0] == 2
    code, _, error = rph("route", *router, "--file", tmp_path / "queries.txt")
    assert code == 2 and "queries.txt cannot be read" in error
    code, _, error = rph("route", *router, "number 4", "--lam", "2")
    assert code == 2 and "not in [0, 1]" in error
    code, _, error = rph("route", "--router", tmp_path / "bench", "number 4")
    assert code == 2 and "holds no exported router" in error


def test_a_folder_that_cannot_be_used_is_a_usage_error(rph, cell, router, tmp_path):
    long = "x" * 300
    code, _, error = rph("route", "--router", long, "number 4")
    assert code == 2 and "cannot be read" in error
    code, _, error = rph("export", *cell, "-o", long)
    assert code == 2 and f"{long} cannot be written" in error and "fix:" in error
    code, _, error = rph(
        "export", *cell, "-o", tmp_path / ("x" * 250)
    )  # long enough for its temporary neighbour
    assert code == 1 and "cannot be written" in error
    if sys.platform == "linux":
        code, _, error = rph("export", *cell, "-o", "/proc/x")
        assert code == 1 and "/proc/x cannot be written" in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_without_room_for_the_output_is_told_plainly(router):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for arguments in (["list", "routers"], ["route", *router, "number 4"], ["--help"]):
        command = [sys.executable, "-m", "rph", *map(str, arguments)]
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, env=environment
            )
        assert done.returncode == 1 and "error: no room for the output" in done.stderr
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_changed_file_is_refused(rph, router):
    path = router[1] / "router.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, _, error = rph("route", *router, "number 4")
    assert code == 1 and "was changed" in error
    assert rph("serve", router[1])[0] == 1


def test_weights_in_a_folder_of_the_users_are_given_again(rph, tmp_path):
    """An identity is the content of the files: the folder may move, and another model is refused."""
    toys.write_bench(tmp_path / "bench")
    for name in ("a", "b"):
        tiny_models.make(tmp_path / name, "bert", 384)
    with (tmp_path / "b" / "tokenizer_config.json").open("a") as file:
        file.write("\n")
    encoder = f"minilm:path={tmp_path / 'a'}"
    cell = ["--bench", tmp_path / "bench", "--encoder", encoder, "--router", "knn", "--protocol", "smoke"]
    assert rph("eval", *cell)[0] == 0
    out = tmp_path / "out"
    assert rph("export", *cell, "-o", out)[0] == 0
    (tmp_path / "a").rename(tmp_path / "c")
    route = ["route", "--router", out, "number 4"]
    assert rph(*route, "--encoder", f"minilm:path={tmp_path / 'c'}")[0] == 0
    code, _, error = rph(*route, "--encoder", f"minilm:path={tmp_path / 'b'}")
    assert code == 2 and "its identity here is 'files sha256:" in error
