"""Measures how the time of routers grows, with the data and with the workers.

    python perf/growth.py [--rounds 3] [--only N d K workers]

N training queries, d embedding dimensions, K models: one grows while the others stay, and the time, in CPU-seconds of
one thread, is read as a power of it. Each time is the median of interleaved rounds, of one variant that is fitted and
scores 2,000 queries. Heads train two epochs: how many they need is the data's affair. So is how many iterations k-means
takes, therefore the exponent of the operations in the matrix products that were done stands beside that of the time.
Workers: the same sweep through `rph sweep` with one and with two of them, by the clock on the wall; on
a machine that does anything else meanwhile, that ratio says nothing.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import machine
import numpy as np
import torch
from peers import made_up, scored, warm_up
from rph_plugins.routers import elo, embedllm, kmeans, knn, mirt, mlp
from tables import Column, Report

from rph import Labelled
from rph.training.headrouter import Data
from rph.training.stacks import fit_heads

QUERIES = 2_000  # in val and in test
STAY = {"N": 10_000, "d": 384, "K": 16}
GROW = {"N": (5_000, 10_000, 20_000, 40_000), "d": (192, 384, 768, 1_536), "K": (8, 16, 32, 64)}
ROUTERS = "mlp,mirt,embedllm,kmeans"  # of the sweep: each trial takes seconds
SWEPT = 8_000  # its queries


def two_epochs(router: type, variant: Any, data: dict[str, Labelled]) -> None:
    head = router(variant).head(Data(data["train"], data["val"], "cpu"), 42)
    fit_heads([replace(head, training=replace(head.training, epochs=2, steps=0))])


JOBS: dict[str, Callable[[dict[str, Labelled]], object]] = {
    "knn, k = 40": partial(scored, knn, [knn.Config(40)]),
    "elo, 100 neighbours": partial(scored, elo, [elo.Config(100)]),
    "kmeans, 64 clusters": partial(scored, kmeans, [kmeans.Config(64)]),
    "mlp, 256, two epochs": partial(two_epochs, mlp.MlpRouter, mlp.Config((256,))),
    "mirt, two epochs": partial(two_epochs, mirt.MirtRouter, mirt.BASE),
    "embedllm, two epochs": partial(two_epochs, embedllm.EmbedLlmRouter, embedllm.BASE),
}


def grow(report: Report, axis: str, sizes: Sequence[int], rounds: int) -> None:
    stay = ", ".join(f"{name} = {value:,}" for name, value in STAY.items() if name != axis)
    table = report.table(
        f"Growth with {axis}; {stay}",
        Column("what"),
        *(Column(f"{axis} = {size:,}", "CPU-s", digits=3) for size in sizes),
        Column(f"exponent of {axis}"),
        Column("of its products"),
    )
    worlds = [world(**(STAY | {axis: size})) for size in sizes]
    seconds: dict[str, list[list[float]]] = {what: [[] for _ in sizes] for what in JOBS}
    for _ in range(rounds):
        for what, times in seconds.items():
            for data, each in zip(worlds, times, strict=True):
                start = time.process_time()
                JOBS[what](data)
                each.append(time.process_time() - start)
    for what, times in seconds.items():
        medians = [statistics.median(each) for each in times]
        work = [machine.products(partial(JOBS[what], data)).operations for data in worlds]
        table.add(what, *medians, exponent(sizes, medians), exponent(sizes, work))


def world(N: int, d: int, K: int) -> dict[str, Labelled]:
    return made_up({"train": N, "val": QUERIES, "test": QUERIES}, dim=d, models=K)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """p of the power law size^p that fits best, in the squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def speed_up(report: Report, n: int, routers: str) -> None:
    """One sweep into fresh stores, with one worker and with two; it must find the same. Embeddings are made before."""
    table = report.table(
        f"A sweep of {routers}, protocol quick, synthetic of {n:,} queries, by the clock on the wall",
        Column("workers"),
        Column("time", "s"),
        Column("speed-up"),
    )
    with tempfile.TemporaryDirectory() as home:
        bench, environment = f"synthetic:n={n}", os.environ | {"RPH_HOME": home}

        def rph(*arguments: str) -> str:
            command = [sys.executable, "-m", "rph", *arguments]
            return subprocess.run(
                command, check=True, env=environment, stdout=subprocess.PIPE, text=True
            ).stdout

        rph("embed", "--bench", bench, "--encoder", "lsa")
        grid = [
            "--routers",
            routers,
            "--encoders",
            "lsa",
            "--benches",
            bench,
            "--protocol",
            "quick",
            "--json",
        ]
        alone = found = None
        for workers in (1, 2):
            store = ["--store", f"{home}/store-{workers}"]
            start = time.perf_counter()
            said = rph("sweep", *grid, *store, "--executor", "processes", "--workers", str(workers))
            seconds = time.perf_counter() - start
            results = [
                {key: value for key, value in cell.items() if key != "seconds"} for cell in json.loads(said)
            ]
            alone, found = alone or seconds, found or results
            if results != found:
                sys.exit(f"{workers} workers found other results than one")
            table.add(workers, seconds, alone / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*GROW, "workers"], default=[*GROW, "workers"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    with Report(__file__) as report:
        for axis, sizes in GROW.items():
            if axis in options.only:
                grow(report, axis, sizes, options.rounds)
        if "workers" in options.only:
            speed_up(report, SWEPT, ROUTERS)


if __name__ == "__main__":
    main()
