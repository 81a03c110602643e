"""`rph sweep`: the same numbers from worker processes as from one, and from a sweep that was killed as from one that was not."""

import contextlib
import itertools
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
from rph_plugins.executors import processes
from tests import moments, toys

from rph.engine.store import Store

FAULTS = ("", "raise", "segfault", "_exit", "hang", "eat", "")
PROCESSES = ("--executor", "processes", "--workers", "2")
TRIALS = 27  # of the toy router by the paper's protocol: 7 variants, then 5 of them with 4 more seeds
ELO = 15  # of the router elo


def grid(faults):
    return f"({','.join(f'Config(noise={i / 10}, fault={fault!r})' for i, fault in enumerate(faults))},)"


@pytest.fixture(autouse=True)
def started():
    """The processes of a test, which end with it."""
    Sweep.started = []
    yield
    moments.end(Sweep.started)


class Sweep:
    """`rph sweep` on the toy benchmark as a process, in a folder of its own, with a log of what was trained and a gate
    that each training of the toy router has to pass."""

    def __init__(self, folder, routers="toy", more=PROCESSES, plugin=None):
        folder.mkdir(exist_ok=True)
        self.home, self.log, self.gate = folder / "home", folder / "log", moments.Gate(folder / "gate")
        self.log.touch()
        bench = folder / "bench"
        if not bench.exists():
            toys.write_bench(bench)
        plugin = plugin or toys.write_plugin(folder / "plugin.py")
        self.arguments = [
            "--plugin",
            plugin,
            "--routers",
            routers,
            "--encoders",
            "numbers",
            "--benches",
            bench,
        ]
        self.more = more
        self.environment = os.environ | {
            "RPH_HOME": str(self.home),
            "TOY_LOG": str(self.log),
            "TOY_GATE": str(self.gate.folder),
        }

    def start(self, *more, program=("-m", "rph"), **options):
        # A shell starts background jobs with SIGINT ignored, and what they start inherits that, but no handler.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        command = [sys.executable, *program, "sweep", "--json", *self.arguments, *self.more, *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        try:
            process = subprocess.Popen(
                command, env=self.environment, start_new_session=True, **pipes, **options
            )
        finally:
            signal.signal(signal.SIGINT, before)
        self.started.append(process)
        return process

    def finish(self, *more, code=0, **options):
        """Run it to its end: the results, and what was said."""
        process = self.start(*more, **options)
        output, error = process.communicate(timeout=moments.PATIENCE)
        assert process.returncode == code, error
        return json.loads(output), error

    def fits(self):
        return Counter(line for line in self.log.read_text().splitlines() if line.startswith("fit"))

    def rows(self):
        """Key -> (status, sha256 of the scores, attempts) of all trials in the store."""
        path = self.home / "store" / "trials.sqlite"
        query = "SELECT key, status, sha256, attempts FROM trials"
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database,
        ):
            return {key: tuple(rest) for key, *rest in database.execute(query)}
        return {}  # there is no store yet

    def processes(self, of=""):
        """All that run for this sweep, whoever their parent is now: driver, workers, what they started."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                mine = f"RPH_HOME={self.home}\0".encode() in (folder / "environ").read_bytes()
                if mine and of.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found

    def workers(self):
        return self.processes("spawn_main")

    def ended(self):
        """Wait for the end of all; nobody asks the workers of a driver that was killed to end."""
        moments.until(lambda: not self.processes(), "all processes of the sweep end")

    def both(self, process):
        """The two workers and their trainings, once both stand at the gate."""
        waiting = self.gate.waiting
        moments.until(lambda: len(waiting()) == 2, "both workers train", process)
        return waiting()

    def spools(self):
        return list((self.home / "spool").glob("*"))

    def sound(self):
        """Everything is in its place, and nothing was left behind."""
        self.ended()
        store = Store(self.home / "store")
        problems = store.problems()
        store.close()
        return not problems and not self.spools() and not list((self.home / "store").rglob("*.npz.*"))


def without_times(cells):
    """What must be equal: everything but the seconds."""
    return [{key: value for key, value in cell.items() if key != "seconds"} for cell in cells]


# --- the same results -------------------------------------------------------------------------------


def test_worker_processes_give_what_one_process_gives_bit_for_bit_and_again_nothing_is_trained(tmp_path):
    one = Sweep(tmp_path / "one", "toy,elo", more=["--executor", "local"])
    many = Sweep(tmp_path / "many", "toy,elo", plugin=tmp_path / "one" / "plugin.py")
    (expected, _), (results, _) = one.finish(), many.finish()
    assert without_times(results) == without_times(expected) and len(results) == 2
    assert many.rows() == one.rows() and len(many.rows()) == TRIALS + 15
    assert many.fits() == one.fits() and set(many.fits().values()) == {1}
    assert many.sound()
    assert many.finish()[0] == results
    assert many.rows() == one.rows() and many.fits() == one.fits()


def test_built_in_routers_give_the_same_bits_in_worker_processes(tmp_path):
    found = []
    for name, more in (("one", ["--executor", "local"]), ("many", PROCESSES)):
        sweep = Sweep(tmp_path / name, more=more)
        sweep.environment.pop("OMP_NUM_THREADS", None)  # as many as there are cores, if nobody sets a limit
        routers = "knn,mlp,model-spider,rorf"
        sweep.arguments = ["--routers", routers, "--encoders", "lsa", "--benches", "synthetic:n=400"]
        results, _ = sweep.finish("--protocol", "quick")
        found.append((without_times(results), sweep.rows()))
    assert found[0] == found[1]
    assert [cell["router"] for cell in found[0][0]] == ["knn", "mlp", "model-spider", "rorf"]


def test_a_group_that_trains_together_gives_the_same_in_a_worker(tmp_path):
    plugin = toys.write_plugin(tmp_path / "plugin.py", together=True)
    one = Sweep(tmp_path / "one", more=["--executor", "local"], plugin=plugin)
    many = Sweep(tmp_path / "many", plugin=plugin)
    assert without_times(one.finish()[0]) == without_times(many.finish()[0])
    assert one.rows() == many.rows() and "together 7" in many.log.read_text()


# --- faults of a router -----------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_variants_that_end_or_hold_their_worker_fail_alone(rph, toy, tmp_path, monkeypatch, together):
    toys.write_plugin(tmp_path / "sweep" / "plugin.py", grid(FAULTS), together=together)
    limit = ["--trial-limit", moments.LIMIT]

    def sweep(*more):
        code, output, error = rph(
            "sweep", "--json", *toy.arguments, "--routers", "toy,elo", *PROCESSES, *limit, *more
        )
        assert code == 1
        return json.loads(output), error

    def hung():
        return toy.fits()["fit 0.4 hang 42"] and len(toy.rows()) == len(FAULTS) - 1 + ELO

    monkeypatch.setattr(processes, "time", moments.Clock(hung))
    (cell, elo), error = sweep()
    reasons = {
        reason.split("fault=")[1].split()[0]: reason.split(": ", 1)[1] for reason in cell["failed_trials"]
    }
    assert list(reasons) == list(FAULTS[1:-1])
    assert reasons["raise"] == "RuntimeError: this variant is broken in two lines"
    assert reasons["segfault"] == "its process died (signal 11, Segmentation fault)"
    assert reasons["_exit"] == "its process died (exit code 3)"
    assert reasons["hang"] == "took longer than 3600 s (--trial-limit)"
    assert reasons["eat"].startswith("MemoryError: Unable to allocate 1.00 GiB")
    assert all(reason in error for reason in reasons.values())
    assert "2 cell(s) finished, 5 failure(s)" in error and "--retry-failed tries it again" in error
    assert cell["variant"]["fault"] == "" and cell["trials"] == 2 + 2 * 4
    assert elo["failed_trials"] == [] and elo["trials"] == 15
    tries = toy.fits()
    assert tries["fit 0.4 hang 42"] == 1 and tries["fit 0 _exit 42"] == 0
    assert toy.sound()

    # It is told again in the same words and not run again, until that is asked for.
    rows = toy.rows()
    again, told = sweep()
    assert without_times(again) == without_times([cell, elo])
    assert all(reason in told for reason in reasons.values())
    assert toy.rows() == rows and toy.fits() == tries


# --- faults of the machine --------------------------------------------------------------------------


def test_workers_killed_in_the_middle_cost_no_result(tmp_path):
    expected, _ = Sweep(tmp_path / "whole").finish()
    sweep = Sweep(tmp_path / "killed", plugin=tmp_path / "whole" / "plugin.py")
    sweep.gate.close()
    process = sweep.start()
    chance = random.Random(20260607)
    for _ in range(3):
        both = sweep.both(process).items()
        sweep.gate.kill(
            chance.choice([worker for worker, fit in both if sweep.fits()[fit] == 1])
        )  # none twice
        for worker in sweep.both(process):
            sweep.gate.let(worker)
    sweep.gate.open()
    output, error = process.communicate(timeout=moments.PATIENCE)
    assert process.returncode == 0, error
    assert without_times(json.loads(output)) == without_times(expected)
    assert len(sweep.fits()) == TRIALS and sum(sweep.fits().values()) == TRIALS + 3
    assert {attempts for *_, attempts in sweep.rows().values()} == {1}
    assert sweep.sound()


def test_killed_at_twenty_random_moments_a_sweep_ends_as_if_nothing_had_happened(tmp_path):
    plugin = toys.write_plugin(tmp_path / "plugin.py", grid([""] * 15))
    whole = Sweep(tmp_path / "whole", "toy,elo", plugin=plugin)
    expected, _ = whole.finish()
    sweep = Sweep(tmp_path / "killed", "toy,elo", plugin=plugin)
    chance = random.Random(20260607)
    finished = {}
    for _ in range(20):
        process = sweep.start(program=("-c", moments.DYING, str(chance.randrange(1, 85))))
        assert process.wait(moments.PATIENCE) == -signal.SIGKILL
        sweep.ended()  # the workers end with the driver
        process.communicate()
        now = sweep.rows()
        assert finished.items() <= now.items()  # nothing finished is lost or done again
        finished = now
    assert len(finished) > 7, "the kills came too soon to meet more than the first trials"
    results, _ = sweep.finish()
    assert without_times(results) == without_times(expected)
    assert sweep.rows() == whole.rows() and {attempts for *_, attempts in sweep.rows().values()} == {1}
    assert sweep.sound()


def test_a_worker_in_the_middle_of_a_long_training_ends_with_its_driver(tmp_path):
    plugin = toys.write_plugin(tmp_path / "plugin.py", grid(["hang"]))
    sweep = Sweep(tmp_path / "sweep", plugin=plugin)
    process = sweep.start()
    moments.until(sweep.fits, "the training that hangs begins", process)
    process.kill()
    process.wait()
    sweep.ended()
    process.communicate()


@pytest.mark.parametrize("moment", ["starting", "training"])
def test_ctrl_c_ends_driver_and_workers_soon_and_keeps_what_is_finished(tmp_path, moment):
    sweep = Sweep(tmp_path / "sweep")
    sweep.gate.close()  # no training ends by itself: who would wait for one would wait for ever
    process = sweep.start()
    if moment == "starting":
        moments.until(lambda: len(sweep.workers()) == 2, "two workers start", process)
    else:
        sweep.gate.let_through(3, process)
        moments.until(lambda: len(sweep.rows()) == 3, "three trials are stored", process)
        sweep.both(process)
    os.killpg(process.pid, signal.SIGINT)
    output, error = process.communicate(timeout=moments.PATIENCE)
    assert process.returncode == 1 and output == ""
    assert "stopped by Ctrl-C" in error and "continues" in error and "Traceback" not in error
    assert sweep.sound()
    finished = sweep.rows()
    assert len(finished) == (0 if moment == "starting" else 3)
    sweep.gate.open()
    ((cell,), _) = sweep.finish()
    assert cell["trials"] == TRIALS and finished.items() <= sweep.rows().items()


def test_two_sweeps_on_one_store_share_the_work_and_agree(tmp_path):
    sweep = Sweep(tmp_path / "sweep", "toy,elo,kmeans")
    sweep.gate.close()
    running = [sweep.start(), sweep.start()]
    # One is held at its first trials, and the other goes on to the cells that are free.
    moments.until(lambda: len(sweep.rows()) >= ELO, "the second sweep finishes a cell beside the first")
    sweep.gate.open()
    results = []
    for process in running:
        output, error = process.communicate(timeout=moments.PATIENCE)
        assert process.returncode == 0, error
        results.append(json.loads(output))
    assert without_times(results[0]) == without_times(results[1]) and len(results[0]) == 3
    assert set(sweep.fits().values()) == {1} and len(sweep.fits()) == TRIALS
    assert {attempts for *_, attempts in sweep.rows().values()} == {1}
    assert sweep.sound()


@pytest.mark.parametrize(
    ("more", "doing"),
    [(PROCESSES, "sharing arrays between workers"), (["--executor", "local"], "storing a trial's scores")],
)
def test_a_full_disk_is_told_and_nothing_half_written_counts(tmp_path, more, doing):
    sweep = Sweep(tmp_path / "sweep", more=more)
    sweep.arguments = ["--routers", "elo", "--encoders", "lsa", "--benches", "synthetic:n=6000"]
    embed = [sys.executable, "-m", "rph", "embed", "--encoder", "lsa", "--bench", "synthetic:n=6000"]
    subprocess.run(embed, env=sweep.environment, check=True, capture_output=True)

    def narrow():  # a file may not be larger than this, which the run store never is
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    process = sweep.start("--protocol", "smoke", preexec_fn=narrow)
    _, error = process.communicate(timeout=moments.PATIENCE)
    assert process.returncode == 1, error
    assert "no room to write" in error and doing in error and "Traceback" not in error
    assert sweep.rows() == {} and sweep.sound()
    ((cell,), _) = sweep.finish("--protocol", "smoke")
    assert cell["trials"] == 1 and sweep.sound()


def test_folders_that_cannot_be_written_are_told(tmp_path):
    sweep = Sweep(tmp_path / "sweep")
    sweep.finish("--protocol", "smoke")
    rows = sweep.rows()
    assert (
        sweep.sound()
    )  # it also closes the store's log, which could go on being written in a folder that cannot
    for folder in (sweep.home / "spool", sweep.home / "store", tmp_path / "out"):
        folder.mkdir(exist_ok=True)
        mode = folder.stat().st_mode
        folder.chmod(0o500)
        try:
            if os.access(folder, os.W_OK):
                pytest.skip("this user may write everywhere")
            process = sweep.start("--protocol", "quick", "--out", tmp_path / "out")
            _, error = process.communicate(timeout=moments.PATIENCE)
            assert process.returncode == 1, error
            assert "cannot be" in error and "fix: make" in error and "Traceback" not in error
        finally:
            folder.chmod(mode)
    sweep.finish("--protocol", "quick", "--out", tmp_path / "out")
    assert rows.items() <= sweep.rows().items() and sweep.sound()


# --- options, called in this process ----------------------------------------------------------------


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A sweep whose arguments, store and log are used in this process."""
    resource_tracker.ensure_running()  # it stays as long as this process: it must not count as one of the sweep's
    sweep = Sweep(tmp_path / "sweep", more=["--executor", "local"])
    for name in ("RPH_HOME", "TOY_LOG", "TOY_GATE"):
        monkeypatch.setenv(name, sweep.environment[name])
    return sweep


def test_only_what_is_new_is_run_and_the_plan_tells_it_before(rph, toy):
    def plan(routers):
        code, output, _ = rph("sweep", "--json", "--dry-run", *toy.arguments, "--routers", routers, *toy.more)
        assert code == 0
        return [
            (cell["router"], cell["trials"], cell["done"], cell["seconds"]) for cell in json.loads(output)
        ]

    assert plan("toy") == [("toy", TRIALS, 0, None)]  # nothing is known of a router that was never run
    assert toy.rows() == {} and toy.fits() == {}
    assert rph("sweep", *toy.arguments, *toy.more)[0] == 0
    first = toy.rows()
    assert plan("toy,elo") == [("toy", TRIALS, TRIALS, 0.0), ("elo", 15, 0, None)]
    code, output, _ = rph("sweep", *toy.arguments, "--routers", "toy,elo", *toy.more)
    assert code == 0 and "elo" in output
    assert first.items() <= toy.rows().items() and len(toy.rows()) == len(first) + 15
    assert set(toy.fits().values()) == {1}
    code, output, _ = rph("sweep", "--dry-run", *toy.arguments, "--force", *toy.more)
    assert code == 0 and f"{TRIALS} trials to train at most" in output


def test_force_trains_again_what_is_finished(rph, toy):
    for more in ([], ["--force"], []):
        assert rph("sweep", *toy.arguments, *toy.more, "--protocol", "smoke", *more)[0] == 0
    assert list(toy.fits().values()) == [2]
    assert [attempts for *_, attempts in toy.rows().values()] == [2]


def test_a_failed_trial_is_run_again_only_when_that_is_asked_for(rph, toy, tmp_path):
    toys.write_plugin(tmp_path / "sweep" / "plugin.py", grid(["", "raise", ""]))
    fit = "fit 0.1 raise 42"
    for more, runs in (([], 1), ([], 1), (["--retry-failed"], 2)):
        code, output, error = rph("sweep", *toy.arguments, *toy.more, *more)
        assert code == 1 and "gap closed" in output  # the ranked table
        assert "toy noise=0.1,fault=raise seed 42: RuntimeError: this variant is broken in two lines" in error
        assert "1 cell(s) finished, 1 failure(s)" in error
        assert toy.fits()[fit] == runs
    assert sum(toy.fits().values()) == 2 * 5 + 2


def test_a_grid_can_stand_in_a_file_and_the_command_line_comes_first(rph, toy, tmp_path):
    config, bench = tmp_path / "grid.yaml", toy.arguments[-1]
    options = [*toy.arguments[:2], *toy.more, "--json", "--protocol", "smoke", "--config", config]
    config.write_text(f"routers: [toy, elo]\nencoders: numbers\nbenches:\n  - {bench}\n")

    def routers(*more):
        code, output, error = rph("sweep", *options, *more)
        assert code == 0, error
        return [cell["router"] for cell in json.loads(output)]

    assert routers() == ["toy", "elo"]
    assert routers("--routers", "elo, knn") == ["elo", "knn"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("routers: [toy]\nroutres: [elo]\n", "unknown: routres"),
        ("- toy\n", "no mapping"),
        ("routers: [toy\n", "cannot be read"),
        (b"\xff\xfe\xfa", "cannot be read"),
        ("routers: [toy]\n", "a sweep of which encoders?"),
        ("routers: 5\nencoders: numbers\nbenches: synthetic\n", "router '5' is not installed"),
        ("", "a sweep of which routers?"),
        (None, "cannot be read"),
    ],
)
def test_a_grid_that_is_none_is_refused(rph, toy, tmp_path, content, message):
    config = tmp_path / "grid.yaml"
    if content is not None:
        config.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, error = rph("sweep", *toy.arguments[:2], "--config", config)
    assert code == 2 and message in error


def test_an_unknown_name_leaves_no_spool_behind(rph, toy):
    code, _, error = rph("sweep", *toy.arguments, "--routers", "tyo", *PROCESSES)
    assert code == 2 and "did you mean 'toy'" in error
    assert toy.spools() == []


@pytest.mark.parametrize("more", [["--workers", "2"], ["--trial-limit", "5"], ["--executor", "proceses"]])
def test_what_an_executor_cannot_do_is_refused(rph, toy, more):
    code, _, error = rph("sweep", *toy.arguments, *toy.more, *more)
    assert code == 2 and ("--executor processes" in error or "did you mean 'processes'" in error)


@pytest.mark.parametrize("more", [["--executor", "local"], [*PROCESSES, "--trial-limit", "3600"]])
def test_a_clock_that_runs_back_changes_nothing_but_when_trials_were_finished(
    rph, toy, tmp_path, monkeypatch, more
):
    expected, _ = Sweep(tmp_path / "other", more=["--executor", "local"]).finish()
    assert rph("sweep", *toy.arguments, *more, "--protocol", "smoke")[0] == 0
    hours = itertools.count()
    monkeypatch.setattr(time, "time", lambda now=time.time: now() - 3600 * next(hours))
    code, output, error = rph("sweep", "--json", *toy.arguments, *more)
    assert code == 0, error
    assert without_times(json.loads(output)) == without_times(expected)
    assert {attempts for *_, attempts in toy.rows().values()} == {1}
    assert set(toy.fits().values()) == {1} and len(toy.fits()) == TRIALS
