"""Processes killed, interrupted and started twice: nothing finished is lost or done again, and the result is the same."""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter

import pytest
from tests import moments, toys

ROUTERS = ["--router", "toy", "--router", "knn", "--router", "kmeans", "--router", "mlp", "--router", "elo"]


@pytest.fixture(autouse=True)
def started():
    """The processes of a test, which end with it."""
    Runs.started = []
    yield
    moments.end(Runs.started)


class Runs:
    """`rph eval` on the toy benchmark as a process, in a folder of its own, with a log of what was trained and a gate
    that each training of the toy router has to pass."""

    def __init__(self, folder, routers=ROUTERS):
        folder.mkdir(exist_ok=True)
        self.log, self.gate = folder / "log", moments.Gate(folder / "gate")
        self.log.touch()
        bench = folder / "bench"
        if not bench.exists():
            toys.write_bench(bench)
        plugin = toys.write_plugin(folder / "plugin.py")
        self.arguments = ["eval", "--json", "--plugin", plugin, "--bench", bench]
        self.arguments += ["--encoder", "numbers", *routers]
        self.home = folder / "home"
        self.environment = os.environ | {
            "RPH_HOME": str(self.home),
            "TOY_LOG": str(self.log),
            "TOY_GATE": str(self.gate.folder),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, program=("-m", "rph"), stderr=subprocess.PIPE):
        # A shell starts background jobs with SIGINT ignored, and what they start inherits that, but no handler.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        command = [sys.executable, *program, *self.arguments]
        try:
            process = subprocess.Popen(
                command, env=self.environment, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        finally:
            signal.signal(signal.SIGINT, before)
        self.started.append(process)
        return process

    def finish(self):
        process = self.start()
        output, error = process.communicate(timeout=moments.PATIENCE)
        assert process.returncode == 0, error
        return json.loads(output)

    def lines(self):
        return self.log.read_text().splitlines()

    def finished(self):
        """Keys of the trials that are done."""
        import sqlite3

        path = self.home / "store" / "trials.sqlite"
        if not path.exists():
            return set()
        with sqlite3.connect(path) as database:
            try:
                return {row[0] for row in database.execute("SELECT key FROM trials WHERE status = 'done'")}
            except sqlite3.OperationalError:  # killed before the table was made
                return set()

    def attempts(self):
        import sqlite3

        with sqlite3.connect(self.home / "store" / "trials.sqlite") as database:
            return {row[0] for row in database.execute("SELECT attempts FROM trials")}


def without_times(cells):
    """What must be equal: everything but the seconds, and the folder of the plugin file."""
    return {(cell["router"], key): value for cell in cells for key, value in cell.items() if key != "seconds"}


def test_killed_at_ten_random_moments_the_run_ends_as_if_nothing_had_happened(tmp_path):
    expected = Runs(tmp_path / "whole").finish()
    runs = Runs(tmp_path / "killed")
    chance = random.Random(20260607)
    done_before = 0
    for _ in range(10):
        process = runs.start(program=("-c", moments.DYING, str(chance.randrange(1, 160))))
        _, error = process.communicate(timeout=moments.PATIENCE)
        assert process.returncode == -signal.SIGKILL, error
        now = runs.finished()
        assert len(now) >= done_before  # nothing finished is lost
        done_before = len(now)
    assert done_before >= 27, "the kills came too soon to meet other routers than the first"
    assert without_times(runs.finish()) == without_times(expected)
    assert runs.attempts() == {1}  # no finished trial was trained again


def test_a_second_run_trains_nothing(tmp_path):
    runs = Runs(tmp_path / "runs", ROUTERS[:2])
    first = runs.finish()
    lines = runs.lines()
    assert runs.finish() == first
    assert runs.lines() == lines


def test_ctrl_c_stops_cleanly_says_so_and_the_same_command_continues(tmp_path):
    runs = Runs(tmp_path / "runs", ROUTERS[:2])
    runs.gate.close()
    process = runs.start()
    runs.gate.let_through(3, process)
    runs.gate.next(process)  # the fourth begins
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=moments.PATIENCE)
    assert process.returncode == 1 and output == ""
    assert "stopped by Ctrl-C" in error and "continues" in error and "Traceback" not in error
    assert len(runs.finished()) == 3
    runs.gate.open()
    (cell,) = runs.finish()
    fits = Counter(line for line in runs.lines() if line.startswith("fit"))
    assert len(fits) == 27 and sorted(fits.values())[-2:] == [1, 2]  # only the interrupted one twice
    assert cell["trials"] == 27


@pytest.mark.parametrize("routers", [ROUTERS[:2]])
def test_two_processes_on_one_store_share_the_work_and_agree(tmp_path, routers):
    runs = Runs(tmp_path / "runs", routers)
    runs.gate.close()
    said = [tmp_path / "first", tmp_path / "second"]
    processes = []
    for path in said:
        with path.open("w") as file:
            processes.append(runs.start(stderr=file))
    moments.until(
        lambda: any("another rph is at it; waiting" in path.read_text() for path in said),
        "one process trains, the other finds it at work",
    )
    runs.gate.open()
    results = []
    for process, path in zip(processes, said, strict=True):
        output, _ = process.communicate(timeout=moments.PATIENCE)
        assert process.returncode == 0, path.read_text()
        results.append(json.loads(output))
    assert without_times(results[0]) == without_times(results[1])
    counts = Counter(runs.lines())
    assert set(counts.values()) == {1}  # every text encoded once, every trial trained once
    assert len(counts) == 27 + sum(toys.SIZES.values())
