"""Measures the intervals of a large board: 21 routers, 36,000 test queries, 10,000 resamples.

    python perf/bootstrap.py [--rounds N]

Made-up labels, five seeds for all but four routers, beside two columns for the floor and the oracle; once with every
label and once with a tenth missing. Wall time and CPU-seconds of the resampling and of the verdicts; and how far
float32 sums of labels that are no whole numbers stray from float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from tables import Column, Report

from rph.machine import cores
from rph.results import uncertainty

ROUTERS, DETERMINISTIC, SEEDS, QUERIES = 21, 4, 5, 36_000
TARGET = 5.0  # CPU-seconds: wall time on a shared machine says little


def board(missing: float) -> dict[str, np.ndarray]:
    """Routers that agree on most queries, as real ones do."""
    rng = np.random.default_rng(0)
    common = rng.random(QUERIES) < 0.6
    outcomes = {"floor": common[None].astype(np.float32), "oracle": np.ones((1, QUERIES), np.float32)}
    for r in range(ROUTERS):
        shape = (1 if r < DETERMINISTIC else SEEDS, QUERIES)
        labels = np.where(rng.random(shape) < 0.2, rng.random(shape) < 0.6, common).astype(np.float32)
        labels[rng.random(shape) < missing] = np.nan
        outcomes[f"router {r}"] = labels
    return outcomes


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def strays() -> float:
    """The largest difference between resampled means in float32 and in float64, of labels in [0, 1]."""
    labels = np.random.default_rng(1).random((20, QUERIES), np.float32)
    outcomes = {str(r): row[None] for r, row in enumerate(labels)}
    found = uncertainty.resample(outcomes, resamples=uncertainty.BLOCK)
    exact = np.empty_like(found)
    rng = np.random.default_rng([uncertainty.SEED, 0])  # of the first block
    for row in exact:
        row[:] = labels.astype(np.float64)[:, rng.integers(0, QUERIES, QUERIES)].mean(axis=1)
    return float(np.abs(found - exact).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default 3)")
    options = parser.parse_args()

    with Report(__file__) as report:
        table = report.table(
            f"{ROUTERS} routers, {QUERIES:,} queries, {uncertainty.RESAMPLES:,} resamples, {cores()} cores; medians",
            Column("labels missing"),
            Column("resampling", "s"),
            Column("resampling", "CPU-s"),
            Column("verdicts", "s"),
            Column("verdicts", "CPU-s"),
            Column("both", "CPU-s"),
            Column("at most", "CPU-s", 0),
        )
        for missing in (0.0, 0.1):
            outcomes = board(missing)
            observed = np.array([np.nanmean(labels, axis=1).mean() for labels in outcomes.values()])
            rounds = []
            for _ in range(options.rounds):
                resampled, *first = timed(lambda outcomes=outcomes: uncertainty.resample(outcomes))
                _, *second = timed(lambda o=observed, r=resampled: uncertainty.verdicts(o, r))
                rounds.append((*first, *second, first[1] + second[1]))
            medians = map(statistics.median, zip(*rounds, strict=True))
            table.add(missing, *medians, None if missing else TARGET)
        precision = report.table(
            "Resampled means of labels that are no whole numbers, float32 beside float64",
            Column("largest difference", digits=9),
            Column("accuracies as close count as equal", digits=9),
        )
        precision.add(strays(), uncertainty.EQUAL)


if __name__ == "__main__":
    main()
