"""A small benchmark, a plugin file with a toy encoder and toy routers, and a card: for tests of the harness itself."""

import inspect

import numpy as np
import pandas as pd
import yaml
from tests import moments

from rph import EncoderCard

MODELS = ("small", "middle", "large")
SIZES = {"train": 60, "val": 24, "test": 30}


def tables(costs=True, seed=0):
    """Split name -> DataFrame in routing-table/1 form: 'small' is right on even queries, 'large' mostly."""
    rng = np.random.default_rng(seed)
    frames, start = {}, 0
    for name, n in SIZES.items():
        numbers = np.arange(start, start + n)
        start += n
        frame = pd.DataFrame(
            {"id": [f"q{i}" for i in numbers], "query": [f"number {i}" for i in numbers], "task": "count"}
        )
        frame["correct/small"] = (numbers % 2 == 0).astype(float)
        frame["correct/middle"] = (numbers % 3 == 0).astype(float)
        frame["correct/large"] = (rng.random(n) < 0.7).astype(float)
        if costs:
            frame["cost/small"], frame["cost/middle"], frame["cost/large"] = 0.001, 0.002, 0.01
        frames[name] = frame
    return frames


def write_bench(folder, frames=None, **changes):
    """Write a routing-table/1 folder; `changes` replace or (None) remove keys of bench.yaml."""
    frames = tables() if frames is None else frames
    folder.mkdir(parents=True)
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet")
    has_costs = any(column.startswith("cost/") for column in frames["train"])
    meta = {
        "format": "routing-table/1",
        "name": "toy",
        "models": list(MODELS),
        "costs": "usd" if has_costs else None,
        "splits": {name: f"{name}.parquet" for name in frames},
    }
    meta |= changes
    dropped = {key for key, value in changes.items() if value is None and key != "costs"}
    meta = {key: value for key, value in meta.items() if key not in dropped}
    (folder / "bench.yaml").write_text(yaml.safe_dump(meta))
    return folder


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def embedding(self, what, done, total):
        pass

    def trial(self, cell, done, total):
        pass


def encoder_card(name, **fields):
    """The card of an encoder of a test's own; `fields` are those that matter there."""
    usual = {"title": "a test's encoder", "hf_id": "", "revision": "", "prefix": "", "max_tokens": None}
    usual |= {"dtype": "float32", "licence": "MIT", "citation": ""}
    return EncoderCard(name=name, **usual | fields)


# TOY_LOG names a file that every training and every encoded text is written to, one line each; TOY_GATE the gate
# (tests/moments.py) that each training then has to pass. The faults after "raise" end or hold the whole process.
PLUGIN = '''
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import rph

PATIENCE = PATIENCE_HERE


def log(line):
    if "TOY_LOG" in os.environ:
        with open(os.environ["TOY_LOG"], "a") as file:
            file.write(line + "\\n")


PASS_GATE_HERE

class Numbers:
    """The number in the text: its remainders modulo 2 and 3, one-hot."""

    def identity(self):
        return "numbers"

    def fit(self, train_texts):
        raise AssertionError("not a fitted encoder")

    def encode(self, texts, *, device):
        for text in texts:
            log("encode " + text)
        numbers = np.array([int(text.split()[1]) for text in texts])
        return np.concatenate([np.eye(2)[numbers % 2], np.eye(3)[numbers % 3]], axis=1).astype(np.float32)


@rph.hookimpl
def register_encoder():
    return rph.EncoderSpec(
        card=rph.EncoderCard(
            name="numbers", title="a toy", hf_id="", revision="", dim=5, pooling="none", normalise=False,
            prefix="", max_tokens=None, dtype="float32", licence="MIT", citation="none",
        ),
        build=Numbers,
    )


@dataclass(frozen=True)
class Config:
    noise: float = 0.0
    fault: str = ""


class Toy:
    """Least squares on the embedding, plus noise of the seed."""

    def fit(self, train, val, *, variant, seed, device):
        work = f"fit {variant.noise:g} {variant.fault} {seed}"
        log(work)
        if "TOY_GATE" in os.environ:
            pass_gate(os.environ["TOY_GATE"], work)
        if variant.fault == "raise":
            raise RuntimeError("this variant is broken\\nin two lines")
        if variant.fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if variant.fault == "_exit":
            os._exit(3)
        if variant.fault == "exit":
            sys.exit("enough")
        if variant.fault == "hang":
            time.sleep(3600)
        if variant.fault == "eat":
            eaten = []
            while True:
                eaten.append(np.empty(1 << 30, np.uint8))  # it is never touched: only its address counts
        self.fault = variant.fault
        Y = np.where(np.isnan(train.Y), 0.5, train.Y)
        self.weights = np.linalg.lstsq(train.X, Y, rcond=None)[0].astype(np.float32)
        rng = np.random.default_rng(seed)
        self.weights += variant.noise * rng.normal(size=self.weights.shape).astype(np.float32)

    def scores(self, queries):
        scores = queries.X @ self.weights
        if self.fault == "nan":
            scores[0, 0] = np.nan
        if self.fault == "shape":
            scores = scores[:, :-1]
        return scores

    def state(self):
        return {"weights": self.weights}


class Together:
    def __init__(self, train, val, trials, device):
        log(f"together {len(trials)}")
        self.toys = [Toy() for _ in trials]
        for toy, trial in zip(self.toys, trials):
            toy.fit(train, val, variant=trial.variant, seed=trial.seed, device=device)

    def scores(self, queries):
        return [toy.scores(queries) for toy in self.toys]


GRID = GRID_HERE


@rph.hookimpl
def register_router():
    return rph.RouterSpec(
        card=rph.RouterCard(
            name="toy", title="a toy", paper="none", year=2026, family="toy", licence="MIT",
            deterministic=False, calibrated=False,
        ),
        grid=GRID,
        router=Toy,
        fit_many=FIT_MANY_HERE,
    )
'''
# Seven variants that route val in seven ways: the protocol takes those that route alike for one.
GRID = "tuple(Config(noise=noise) for noise in (0.0, 0.25, -0.5, 0.35, 0.7, 1.05, 2.0))"


def write_plugin(path, grid=GRID, together=False):
    """Write the plugin file; `grid` is the source of the toy router's grid, `together` gives it a `fit_many`."""
    source = PLUGIN.replace("GRID_HERE", grid).replace("FIT_MANY_HERE", "Together" if together else "None")
    gate = inspect.getsource(moments.pass_gate)
    source = source.replace("PATIENCE_HERE", str(moments.PATIENCE)).replace("PASS_GATE_HERE", gate)
    path.write_text(source)
    return path
