"""Peak memory of `rph eval` beside the size of its embedding matrix. Target: under 3x at N = 150k, d = 768, float32.

Each router is run as a process of its own (protocol smoke) on the synthetic benchmark with a made-up encoder, so
that embeddings of any size cost nothing to make. Peak resident memory counts the pages of the memory-mapped
matrix that were read, and everything else: interpreter, libraries, benchmark, router.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import Column, Report

TARGET = 3.0  # times the matrix
ENCODER = '''
import numpy as np
import rph

D = {d}


class MadeUp:
    """A random unit vector per text, from its hash."""

    def identity(self):
        return "made-up"

    def fit(self, train_texts):
        raise AssertionError

    def encode(self, texts, *, device):
        rng = np.random.default_rng(len(texts[0]))
        X = rng.standard_normal((len(texts), D), dtype=np.float32)
        return X / np.linalg.norm(X, axis=1, keepdims=True)


@rph.hookimpl
def register_encoder():
    card = rph.EncoderCard(name="made-up", title="made up", hf_id="", revision="", dim=D, pooling="none",
                           normalise=True, prefix="", max_tokens=None, dtype="float32", licence="MIT", citation="")
    return rph.EncoderSpec(card=card, build=MadeUp)
'''


def peak(command: list[str], environment: dict[str, str]) -> tuple[int, float]:
    """Run a command; its peak resident bytes and seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {command}")
    return usage.ru_maxrss * 1024, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=150_000)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--routers", nargs="+", default=["knn", "elo", "mlp", "kmeans"])
    arguments = parser.parse_args()
    matrix = 4 * arguments.n * arguments.d
    with Report(__file__) as report, tempfile.TemporaryDirectory() as folder:
        table = report.table(
            f"N = {arguments.n:,}, d = {arguments.d}: the embedding matrix is {matrix / 1e6:.0f} MB",
            Column("run"),
            Column("peak RSS", "MB", 0),
            Column("x the matrix"),
            Column("at most", digits=0),
            Column("time", "s", 0),
        )
        plugin = Path(folder) / "made_up.py"
        plugin.write_text(ENCODER.format(d=arguments.d))
        environment = os.environ | {"RPH_HOME": f"{folder}/home"}
        common = ["--bench", f"synthetic:n={arguments.n}", "--encoder", "made-up", "--plugin", str(plugin)]
        runs = {"rph embed": ["embed", *common]}
        for router in arguments.routers:
            runs[f"rph eval --router {router}"] = ["eval", *common, "--router", router, "--protocol", "smoke"]
        for name, command in runs.items():
            resident, seconds = peak([sys.executable, "-m", "rph", *command], environment)
            table.add(f"`{name}`", resident / 1e6, resident / matrix, TARGET, seconds)


if __name__ == "__main__":
    main()
