"""How long `rph leaderboard build` takes, how much memory, and how large its pages are, on result files made here.

    python perf/site.py [--routers 21] [--benchmarks 6] [--encoders 6] [--queries 36000] [--folder DIR]

Made-up results: five seeds, routers that agree on most queries. Targets: under 60 s and 2 GiB, and under 2 MB for what
a board's page loads. With --folder the files are kept, and a second run with the same numbers builds from them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tables import Column, Report

from rph import RouterCard, RoutingDataset, Split
from rph.distribution import OURS
from rph.machine import cores
from rph.results import cell, files
from rph.results.outcomes import Scored

SEEDS = (42, 1337, 2026, 7, 99)
POOL = 11  # models; the largest real pool has 112, which shows in a router's page alone
TARGETS = {"s": 60.0, "GiB": 2.0, "MB": 2.0}
FAMILIES = ("neighbours", "clusters", "ranking", "trees", "classifier")


def split(name: str, labels: np.ndarray, costs: np.ndarray) -> Split:
    n = len(labels)
    return Split(
        ids=[f"{name}{i}" for i in range(n)],
        queries=[""] * n,
        tasks=[""] * n,
        labels=labels,
        costs=costs,
    )


def write(folder: Path, bench: int, routers: int, encoders: int, queries: int) -> None:
    """The results of one made-up benchmark: measured once, then varied in what a board is a function of."""
    rng = np.random.default_rng(bench)
    skill = rng.uniform(0.4, 0.8, POOL)
    labels = (rng.random((queries, POOL)) < skill).astype(np.float32)
    costs = np.broadcast_to(rng.uniform(1e-5, 1e-2, POOL).astype(np.float32), labels.shape)
    few = slice(0, 500)
    dataset = RoutingDataset(
        name=f"bench-{bench}",
        models=tuple(f"vendor/model-{m}" for m in range(POOL)),
        train=split("train", labels[few], costs[few]),
        val=split("val", labels[few], costs[few]),
        test=split("test", labels, costs),
    )
    card = RouterCard(name="x", title="Made up", paper="arXiv:2606.07587", year=2026, family="trees", licence="MIT",
                      deterministic=False, calibrated=True, fidelity=("made up",) * 10)  # fmt: skip
    scores = rng.random((queries, POOL), np.float32)
    measured = cell.measure(
        dataset, Scored(val=scores[few], test=scores, seconds=1.0), calibrated=card.calibrated
    )
    reference = cell.reference(dataset)
    configurations = [
        cell.Configuration(variant_name=f"k={v},weights=uniform", seed=s, val_accuracy=0.6, test_accuracy=0.6)
        for s in SEEDS for v in range(7)
    ]  # fmt: skip
    common = rng.integers(0, POOL, queries)
    for router in range(routers):
        for encoder in range(encoders):
            own = rng.integers(0, POOL, (len(SEEDS), queries))
            routes = np.where(rng.random((len(SEEDS), queries)) < 0.3, own, common)
            kept = files.per_query(dataset, SEEDS, routes)
            each = [
                measured.model_copy(update={"test_accuracy": float(row.mean()), "cost": measured.cost})
                for row in kept.labels
            ]
            result = cell.CellResult(
                bench=dataset.name, subset="", bench_fingerprint=dataset.fingerprint, router=f"router-{router:02}",
                router_distribution=OURS, router_version="0.1.0",
                method=cell.Method(title=card.title, paper=card.paper, year=card.year, licence=card.licence,
                                      family=FAMILIES[router % len(FAMILIES)], calibrated=True, fidelity=card.fidelity),
                encoder=f"encoder-{encoder}", encoder_identity=f"encoder-{encoder}", protocol="paper",
                protocol_version=1, models=dataset.models, variant={"k": 1}, variant_name="k=1,weights=uniform",
                deterministic=False, seeds=SEEDS, test_accuracy_std=cell.accuracy_std(each, deterministic=False),
                val_accuracy=0.6, score_scale="native", selector_cost="train mean", reference=reference,
                per_seed=tuple(each), configurations=tuple(configurations), seconds=1.0, trials=35, failed_trials=(),
                times_test_was_scored=35, device="cpu", packages={}, **cell.summary(each, reference, dataset.models),
            )  # fmt: skip
            files.write(folder, result, kept)


def build(folder: Path, out: Path) -> tuple[float, float, int]:
    """Seconds, CPU-seconds and peak resident bytes of the command, a process of its own."""
    command = [
        str(Path(sys.executable).with_name("rph")),
        "leaderboard",
        "build",
        str(folder),
        "-o",
        str(out),
    ]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def loaded(page: Path) -> int:
    """Bytes that a page of the site loads: its own and those of the assets it names."""
    text = page.read_text()
    assets = [file for file in (page.parents[1] / "assets").iterdir() if f"assets/{file.name}" in text]
    return sum(file.stat().st_size for file in (page, *assets))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("routers", 21), ("benchmarks", 6), ("encoders", 6), ("queries", 36_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="keep the result files here")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = options.folder or temporary / "results"
        if not folder.exists():
            for bench in range(options.benchmarks):
                write(folder, bench, options.routers, options.encoders, options.queries)
        seconds, cpu, peak = build(folder, temporary / "site")
        pages = sorted((temporary / "site").rglob("*.html"))
        board = max(loaded(page) for page in pages if page.parent.name == "benchmarks")
        site = sum(file.stat().st_size for file in (temporary / "site").rglob("*") if file.is_file())
    cells = options.routers * options.benchmarks * options.encoders
    with Report(__file__) as report:
        table = report.table(
            f"rph leaderboard build: {cells:,} cells of {options.queries:,} queries, {cores()} cores",
            Column("what"),
            Column("unit"),
            Column("measured"),
            Column("at most", digits=0),
        )
        table.add("time, by the clock on the wall", "s", seconds, TARGETS["s"])
        table.add("time, of all cores", "s", cpu, None)
        table.add("peak RSS", "GiB", peak / 2**30, TARGETS["GiB"])
        table.add("the largest board with what it loads", "MB", board / 1e6, TARGETS["MB"])
        table.add("the site", "MB", site / 1e6, None)
        table.add("its pages", "", len(pages), None)


if __name__ == "__main__":
    main()
