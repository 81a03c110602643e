"""What a board says of worlds with holes, held against the truth: the labels of the same worlds without them.

With RPH_TEST_FULL=1 of a hundred worlds of each kind, else of a few.
"""

import dataclasses
import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from rph_plugins.benchmarks.synthetic import HOLES, load
from tests import entries

from rph.board import ranking
from rph.engine.inputs import inputs_of
from rph.holes import chosen, policy
from rph.registry import installed
from rph.results import metrics, missing

SEEDS = range(100 if "RPH_TEST_FULL" in os.environ else 6)
N = 2000  # queries of a world, of which 600 are test
SIGN = {"better": 1, "worse": -1}  # any other verdict is withheld
ROUNDING = 1e-6


def knn_routes(dataset):
    """[N] where kNN on the words of a query sends it."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(dtype=np.float32).fit(dataset.train.queries)
    X = {name: words.transform(split.queries).toarray() for name, split in dataset.splits()}
    inputs = inputs_of(dataset, SimpleNamespace(**X), "cpu")
    spec = installed().load("router", "knn").spec
    router = spec.router()
    router.fit(inputs.train, inputs.val, variant=spec.grid[0], seed=0, device="cpu")
    return metrics.route(router.scores(inputs.test_queries), dataset.level, dataset.mask("test").pool)


def rows_of(dataset):
    """The rows of a board of kNN and of each model's constant route, by name."""
    n, pool = len(dataset.test), dataset.mask("test").pool
    routes = {name: policy(m, dataset.level, pool, n) for m, name in enumerate(dataset.models)}
    found = [
        entries.entry(
            dataset.test.labels, route, router=name, bench="world", train=dataset.train.labels,
            models=dataset.models, tasks=dataset.test.tasks, train_tasks=dataset.train.tasks, holes=dataset.holes,
        )
        for name, route in {"knn": knn_routes(dataset), **routes}.items()
    ]  # fmt: skip
    (board,) = ranking.boards(found, resamples=1000)
    return {row.entry.result.router: row for row in board.rows}


def judged(kind):
    """Of each world and row: whether it is kNN, the row, and the true accuracies of its choices and of best single's."""
    for seed in SEEDS:
        truth = load(n=N, seed=seed).test.labels
        dataset = load(n=N, seed=seed, holes=kind)
        floor = chosen(truth, metrics.floor_route(dataset)).mean()
        for name, row in rows_of(dataset).items():
            (route,) = row.entry.queries.routes.astype(int)
            yield name == "knn", row, chosen(truth, route).mean(), floor


@pytest.mark.parametrize("kind", HOLES)
def test_signs_are_right_or_withheld_and_bounds_and_intervals_hold_the_truth(kind):
    rows, right, told, held = Counter(), Counter(), Counter(), Counter()  # of kNN, of constants
    for knn, row, accuracy, floor in judged(kind):
        said, gain = missing.of(row.entry.result), accuracy - floor
        sign = SIGN.get(row.against, 0)
        rows[knn] += 1
        told[knn] += sign != 0
        right[knn] += sign == 0 or sign * gain > 0
        held[knn] += within(row.gain, gain)
        if kind != "planned":  # what was not asked is in no bounds
            assert within((said.gain.low, said.gain.high), gain)
            assert within((said.accuracy.low, said.accuracy.high), accuracy)
        if kind == "block":  # nobody chooses what is not there: nothing is left open
            assert said.gain.low == said.gain.high
    for each in (True, False):
        assert right[each] >= 0.95 * rows[each]
        assert held[each] >= 0.90 * rows[each]
        assert told[each] > 0


def within(ends, value):
    return ends[0] - ROUNDING <= value <= ends[1] + ROUNDING


def test_the_worst_model_without_half_of_its_wrong_answers_is_never_best_single():
    for seed in range(100):
        dense = load(n=N, seed=seed)
        worst = int(dense.level.argmin())
        labels = dense.train.labels.copy()
        wrong = np.flatnonzero(labels[:, worst] == 0)
        labels[np.random.default_rng(seed).permutation(wrong)[: len(wrong) // 2], worst] = np.nan
        thinned = dataclasses.replace(dense, train=dataclasses.replace(dense.train, labels=labels))
        assert thinned.best_single != worst
