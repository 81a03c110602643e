"""Measures how the time of routers grows with the number of training queries N: the exponent of a power law.

    python perf/growth.py [--rounds 3]

CPU-seconds of one thread, at four N, the median of interleaved rounds. Heads train two epochs of one configuration
(how many epochs a head needs is the data's affair); neighbours and clusters are fitted and score N / 2 queries.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from peers import made_up, scored, warm_up
from rph_plugins.routers import elo, kmeans, knn, mlp

from rph import Labelled
from rph.headrouter import Data
from rph.heads import fit_heads

SIZES = (5_000, 10_000, 20_000, 40_000)


def two_epochs(world: dict[str, Labelled]) -> None:
    head = mlp.MlpRouter(mlp.Config((256,))).head(Data(world["train"], world["val"], "cpu"), 42)
    fit_heads([replace(head, training=replace(head.training, epochs=2))])


JOBS: dict[str, Callable[[dict[str, Labelled]], object]] = {
    "knn, grid of 15": partial(scored, knn, knn.GRID),
    "elo, grid of 15": partial(scored, elo, elo.GRID),
    "kmeans, 64 clusters": partial(scored, kmeans, (kmeans.Config(64),)),
    "mlp, 256, two epochs": two_epochs,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warm_up()
    worlds = {n: made_up({"train": n, "val": n // 10, "test": n // 2}) for n in SIZES}
    seconds: dict[tuple[str, int], list[float]] = {(name, n): [] for name in JOBS for n in SIZES}
    for _ in range(rounds):
        for (name, n), values in seconds.items():
            start = time.process_time()
            JOBS[name](worlds[n])
            values.append(time.process_time() - start)
    print("| what | " + " | ".join(f"N = {n:,}" for n in SIZES) + " | exponent of N |")
    print("|---|" + "---|" * (len(SIZES) + 1))
    for name in JOBS:
        medians = [statistics.median(seconds[name, n]) for n in SIZES]
        exponent = np.polyfit(np.log(SIZES), np.log(medians), 1)[0]
        print(f"| {name} | " + " | ".join(f"{m:.2f}" for m in medians) + f" | {exponent:.2f} |")


if __name__ == "__main__":
    main()
