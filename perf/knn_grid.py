"""Measures knn's whole grid beside the plain matrix product and top-k(512) that it contains.

    python perf/knn_grid.py [--rounds 5]

One process, one thread, made-up data of a RouterBench-like size; what is compared is interleaved round by
round and read in CPU-seconds, because wall time on a shared machine says little.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; set it to measure with more

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rph_plugins.routers.knn import GRID, KnnRouter, fit_many
from tables import Column, Report, ratio

from rph import Labelled, Queries, Trial
from rph.training.neighbours import BLOCK

TRAIN, QUERIES, DIM, MODELS, LARGEST = 20_000, 10_000, 384, 11, 512
TARGET = 1.5  # the grid may cost this many times the floor


def data() -> tuple[Labelled, Queries]:
    rng = np.random.default_rng(0)

    def unit(n: int) -> np.ndarray:
        X = rng.standard_normal((n, DIM), np.float32)
        return X / np.linalg.norm(X, axis=1, keepdims=True)

    train = Labelled(
        X=unit(TRAIN),
        texts=[""] * TRAIN,
        Y=rng.integers(0, 2, (TRAIN, MODELS)).astype(np.float32),
        C=None,
        models=tuple(f"m{i}" for i in range(MODELS)),
    )
    return train, Queries(X=unit(QUERIES), texts=[""] * QUERIES)


def floor(train: Labelled, queries: Queries) -> None:
    """The plain product and top-k, in blocks of the same size, into reused memory, and nothing after."""
    X, Q = torch.from_numpy(train.X), torch.from_numpy(queries.X)
    cosines = torch.empty(BLOCK, TRAIN)
    for start in range(0, QUERIES, BLOCK):
        part = Q[start : start + BLOCK]
        torch.mm(part, X.T, out=cosines[: len(part)])
        torch.topk(cosines[: len(part)], LARGEST)


def whole_grid(train: Labelled, queries: Queries) -> None:
    fit_many(train, train, [Trial(variant=variant, seed=42) for variant in GRID], "cpu").scores(queries)


def one_by_one(train: Labelled, queries: Queries) -> None:
    for variant in GRID:
        router = KnnRouter()
        router.fit(train, train, variant=variant, seed=42, device="cpu")
        router.scores(queries)


def measure(jobs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU-seconds of each job in each round, interleaved; every job is run once before, to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for round_ in range(rounds + 1):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            if round_ > 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default 5)")
    options = parser.parse_args()

    train, queries = data()
    grid = f"knn, grid of {len(GRID)}, fit_many"
    seconds = measure(
        {
            f"product + top-k({LARGEST})": lambda: floor(train, queries),
            grid: lambda: whole_grid(train, queries),
            f"knn, {len(GRID)} single runs": lambda: one_by_one(train, queries),
        },
        options.rounds,
    )
    base = next(iter(seconds.values()))
    with Report(__file__) as report:
        table = report.table(
            f"{TRAIN:,} train, {QUERIES:,} queries, d = {DIM}, K = {MODELS}; block of {BLOCK}",
            Column("what"),
            Column("median", "CPU-s"),
            Column("min", "CPU-s"),
            Column("max", "CPU-s"),
            Column("x floor"),
            Column("at most"),
        )
        for name, values in seconds.items():
            most = TARGET if name == grid else None
            spread = statistics.median(values), min(values), max(values)
            table.add(name, *spread, ratio(values, base), most)


if __name__ == "__main__":
    main()
