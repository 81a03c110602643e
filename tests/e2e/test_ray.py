"""The executor `ray`: the numbers of one process, whatever of the cluster dies meanwhile."""

import contextlib
import importlib
import importlib.util
import json
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests import moments, toys

from rph import Labelled, Queries, Trial
from rph.engine import inputs
from rph.engine.executors import Task
from rph.registry import installed

if importlib.util.find_spec("ray") is None:
    pytest.skip("needs the extra `ray`", allow_module_level=True)
if sys.platform != "linux":
    pytest.skip("a cluster of several nodes on one machine is for Linux", allow_module_level=True)

TRIALS, ELO = 27, 15  # of the toy router and of elo by the paper's protocol


class Toys:
    """A benchmark and a plugin for all tests, a log of what was trained, and a gate for all trainings."""

    def __init__(self, folder):
        self.folder, self.log, self.gate = folder, folder / "log", moments.Gate(folder / "gate")
        self.bench = toys.write_bench(folder / "bench")
        self.plugin = toys.write_plugin(folder / "plugin.py")
        self.log.touch()

    def arguments(self, executor, plugin=None):
        names = ["--routers", "toy,elo", "--encoders", "numbers", "--benches", self.bench]
        return ["sweep", "--json", "--plugin", plugin or self.plugin, *names, "--executor", executor]

    def fits(self):
        return Counter(line for line in self.log.read_text().splitlines() if line.startswith("fit"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    toy = Toys(tmp_path_factory.mktemp("toys"))
    with pytest.MonkeyPatch.context() as patch:
        # Nodes and their workers inherit this; Ray reads its own part when it is imported first.
        patch.setenv("TOY_LOG", str(toy.log))
        patch.setenv("TOY_GATE", str(toy.gate.folder))
        patch.setenv("RPH_HOME", str(toy.folder / "nodes"))
        patch.setenv("RAY_AUTH_MODE", "token")  # a cluster listens on all interfaces
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(
            "RAY_DEDUP_LOGS_SKIP_REGEX", "."
        )  # as the executor does where it is the first to import Ray
        patch.delenv("RAY_ADDRESS", raising=False)
        yield toy


@pytest.fixture(scope="module")
def expected(toy):
    """What one process finds: the results, and the store's rows."""
    environment = os.environ | {"RPH_HOME": str(toy.folder / "one")}
    command = [sys.executable, "-m", "rph", *toy.arguments("local")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return without_times(json.loads(run.stdout)), rows(toy.folder / "one")


@pytest.fixture(scope="module")
def cluster(toy):
    """Two nodes with two cores and one. The first says that it has a GPU, too, which nothing uses."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    cluster.add_node(num_cpus=1, num_gpus=0)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def on_cluster(cluster, toy, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    toy.log.write_text("")
    return cluster


def without_times(cells):
    return [{key: value for key, value in cell.items() if key != "seconds"} for cell in cells]


def rows(home):
    """Trial -> hash of its scores, in the run store; empty where there is none yet."""
    path = home / "store" / "trials.sqlite"
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database,
    ):
        return dict(database.execute("SELECT key, sha256 FROM trials"))
    return {}


def working(cluster):
    """Processes of the cluster that train now."""
    nodes = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in nodes and b"ray::_perform" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def nobody_works(cluster):
    """Ray says of a process that it works until a little after its answer has come."""
    moments.until(lambda: not working(cluster), "no process of the cluster trains")


@contextlib.contextmanager
def behind_the_gate(toy, act):
    """Hold all trainings of the block, act beside it, and then open the gate; what goes wrong there fails the test."""

    def then_open():
        try:
            act()
        finally:
            toy.gate.open()

    toy.gate.close()
    with ThreadPoolExecutor(1) as beside:
        acted = beside.submit(then_open)
        yield
    acted.result()


def test_a_cluster_of_this_machine_is_started_gives_the_same_bits_and_ends(rph, toy, expected, rph_home):
    code, output, error = rph(*toy.arguments("ray"), "--workers", "2")
    assert code == 0, error
    assert (without_times(json.loads(output)), rows(rph_home)) == expected
    assert not importlib.import_module("ray").is_initialized()


def test_a_cluster_that_does_not_answer_is_told_at_once(rph, toy, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        code, _, error = rph(*toy.arguments("ray"))
    assert code == 1 and f"no connection to a Ray cluster at RAY_ADDRESS={address}" in error


def test_a_cluster_of_two_nodes_gives_the_same_bits(rph, toy, expected, on_cluster, rph_home):
    code, output, error = rph(*toy.arguments("ray"))
    assert code == 0, error
    assert (without_times(json.loads(output)), rows(rph_home)) == expected
    assert set(toy.fits().values()) == {1} and sum(toy.fits().values()) == TRIALS
    nobody_works(on_cluster)


def test_a_node_killed_in_the_middle_costs_no_result(rph, toy, expected, on_cluster, rph_home):
    there = moments.Gate(toy.folder / "gate of the node")
    there.close()  # for good: on this node no training ever ends
    log = toy.folder / "log of the node"
    node = on_cluster.add_node(num_cpus=1, env_vars={"TOY_LOG": str(log), "TOY_GATE": str(there.folder)})

    def kill():
        there.next()
        on_cluster.remove_node(node, allow_graceful=False)

    with behind_the_gate(toy, kill):
        code, output, error = rph(*toy.arguments("ray"))
    assert code == 0, error
    assert (without_times(json.loads(output)), rows(rph_home)) == expected
    (lost,) = log.read_text().splitlines()
    assert sum(toy.fits().values()) == TRIALS and toy.fits()[lost] == 1


def test_a_worker_killed_in_the_middle_costs_no_result(rph, toy, expected, on_cluster, rph_home):
    def kill():
        toy.gate.let_through(5)
        toy.gate.kill(toy.gate.next())

    with behind_the_gate(toy, kill):
        code, output, error = rph(*toy.arguments("ray"))
    assert code == 0, error
    assert (without_times(json.loads(output)), rows(rph_home)) == expected
    assert len(toy.fits()) == TRIALS and sum(toy.fits().values()) == TRIALS + 1


def test_variants_that_end_or_hold_their_worker_fail_alone(
    rph, toy, on_cluster, tmp_path, rph_home, monkeypatch
):
    def hung():
        return toy.fits()["fit 0.1 hang 42"] and len(rows(rph_home)) == 4 + ELO

    monkeypatch.setattr(installed().load("executor", "ray").module, "time", moments.Clock(hung))
    grid = "(Config(), Config(0.1, 'hang'), Config(0.2, '_exit'), Config(0.3, 'raise'), Config(0.4))"
    plugin = toys.write_plugin(tmp_path / "plugin.py", grid)
    code, output, error = rph(*toy.arguments("ray", plugin), "--trial-limit", str(moments.LIMIT))
    assert code == 1, error
    cell, elo = json.loads(output)
    hang, end, broken = (reason.split(": ", 1)[1] for reason in cell["failed_trials"])
    assert hang == "took longer than 3600 s (--trial-limit)"
    assert end == "its worker or node died (WorkerCrashedError)"
    assert broken.startswith("RuntimeError")
    assert hang in error and cell["trials"] == 2 * 5 and elo["failed_trials"] == []
    assert toy.fits()["fit 0.1 hang 42"] == 1 and toy.fits()["fit 0.2 _exit 42"] == 2
    nobody_works(on_cluster)


def test_a_gpu_is_shared_by_as_many_tasks_as_were_asked_for(toy, on_cluster):
    """Called as a sweep calls it, with a plugin file that workers do not find."""
    registry, file = installed(), toys.write_plugin(toy.folder / "gone.py")
    registry.add_file(file)
    router = registry.load("router", "toy")
    tasks = [
        Task(router=router, trials=(Trial(variant=variant, seed=0),), inputs="x")
        for variant in router.spec.grid[:2]
    ]
    X = np.eye(20, 5, dtype=np.float32)
    labelled = Labelled(X=X, texts=[""] * 20, Y=X[:, :3], C=None, models=toys.MODELS)
    queries = Queries(X=X, texts=labelled.texts)
    toy.gate.close()
    executor = registry.load("executor", "ray").spec.build(2, None, "cuda")
    try:
        assert executor.slots == 2
        executor.share(
            "x",
            inputs.Inputs(
                train=labelled, val=labelled, val_queries=queries, test_queries=queries, device="cpu"
            ),
        )
        for task in tasks:
            executor.submit(task)
        file.unlink()
        moments.until(lambda: len(toy.gate.waiting()) == 2, "both tasks train at once")
        assert len(working(on_cluster)) == 2
        toy.gate.open()
        back = []
        while len(back) < len(tasks):
            back += executor.wait(1.0)
    finally:
        executor.close()
        toy.gate.open()
    assert {id(task) for task, _ in back} == set(map(id, tasks))
    assert all(outcome[0][1].test.shape == (20, 3) for _, outcome in back)
    executor.close()  # may be called again
