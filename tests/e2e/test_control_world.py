"""On the control world the answer is known: no router beats Bayes, and a sound one learns most of what can be learned."""

import numpy as np
import pytest
from rph_plugins.executors.local import Local
from tests.e2e.test_real_data import Quiet

from rph.arrays import observed_means
from rph.engine import evaluate, resolve
from rph.engine.cell import Cell, Pair, Settings, Trial, dataclasses
from rph.engine.store import Store
from rph.protocol import PRESETS
from rph.registry import installed
from rph.results import metrics


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """knn (paper) and mlp (smoke) on 20,000 queries: the results, the dataset, and each router's test scores."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RPH_HOME", str(home))
        registry, store = installed(), Store(home / "store")
        found = {}
        for router, preset in (("knn", "paper"), ("mlp", "smoke")):
            settings = Settings(preset=PRESETS[preset], device="cpu")
            outcome = evaluate.evaluate(
                registry,
                store,
                settings,
                Quiet(),
                benches=["synthetic:n=20000"],
                encoders=["lsa"],
                routers=[router],
                executor=Local(),
            )
            (result,) = outcome.results
            dataset = resolve.benchmark_loader(registry, "synthetic:n=20000")()
            pair = Pair(dataset, resolve.build_encoder(registry, "lsa"), settings, Quiet())
            cell = Cell(pair, registry.load("router", router), store)
            (variant,) = [v for v in cell.spec.grid if dataclasses.asdict(v) == result.variant]
            found[router] = result, store.get(cell.identify(Trial(variant=variant, seed=42))).test
        return dataset, found


@pytest.mark.parametrize("router", ["knn", "mlp"])
def test_bayes_is_above_every_router_beyond_noise(world, router):
    dataset, found = world
    test, prior = dataset.test, observed_means(dataset.train.labels)
    rows = np.arange(len(test))
    bayes, mine = metrics.route(test.p_correct, prior), metrics.route(found[router][1], prior)
    assert found[router][0].reference.bayes == pytest.approx(test.labels[rows, bayes].mean())
    assert test.labels[rows, bayes].mean() > test.labels[rows, mine].mean()
    # A router this close to Bayes is told from it by what its routes are worth in expectation: free of the luck
    # of the labels, only the choice of queries is left as noise.
    difference = test.p_correct[rows, bayes] - test.p_correct[rows, mine]
    assert difference.mean() > 5 * difference.std() / np.sqrt(len(difference))


def test_most_of_the_learnable_gap_is_closed_where_train_is_large(world):
    _, found = world
    assert all(result.learnable_gap_closed > 0.7 for result, _ in found.values())


def test_the_rows_stand_in_the_order_that_the_world_implies(world):
    _, found = world
    reference = found["knn"][0].reference
    assert reference.random < reference.best_single < reference.bayes < reference.oracle
    assert reference.bayes == pytest.approx(reference.bayes_expected, abs=0.02)  # 6,000 draws: s.e. .005
