"""Train BCE: of the chosen variant on its own training queries, left out where the router looks them up."""

import numpy as np
import pytest
from rph_plugins.executors.local import Local
from tests.e2e.test_real_data import Quiet

from rph.engine import evaluate
from rph.engine.cell import Settings
from rph.engine.store import Store
from rph.protocol import PRESETS
from rph.registry import installed
from rph.results import probabilities
from rph.study.insample import train_bce


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RPH_HOME", str(home))
        first, second = (
            evaluate.evaluate(
                installed(),
                Store(home / "store"),
                Settings(preset=PRESETS["smoke"], device="cpu"),
                Quiet(),
                benches=["synthetic:n=800"],
                encoders=["lsa"],
                routers=["knn", "kmeans", "elo", "mlp"],
                executor=Local(),
            )
            for _ in range(2)
        )
        assert first.failures == second.failures == []
        for one, again in zip(first.cells, second.cells, strict=True):
            assert one.result.model_dump_json() == again.result.model_dump_json()
            np.testing.assert_array_equal(one.routes(), again.routes())
        yield second.cells  # their results come from the store, as JSON: a variant's tuples are lists there


def test_routers_that_search_leave_each_training_query_out_and_others_are_scored_in_sample(cells):
    found = {one.router: one for one in train_bce(cells)}
    assert {name: one.left_out for name, one in found.items()} == {
        "knn": True,
        "kmeans": False,
        "elo": True,
        "mlp": False,
    }
    for cell in cells:
        one = found[cell.result.router]
        assert one.test == cell.result.per_seed[0].bce
        if cell.result.router == "mlp":
            continue  # it may learn queries by heart
        assert one.train == pytest.approx(one.test, abs=0.05)


def test_the_number_is_the_bce_of_the_routers_own_probabilities(cells):
    (knn,) = [cell for cell in cells if cell.result.router == "knn"]
    inputs, router = knn.inputs(), knn.spec.router()
    router.fit(inputs.train, inputs.val, variant=knn.spec.grid[0], seed=42, device="cpu")
    (one,) = train_bce([knn])
    assert one.train == probabilities.bce(router.left_out_scores(), inputs.train.Y)
    in_sample = probabilities.bce(router.scores(inputs.train), inputs.train.Y)
    assert in_sample < one.train  # it finds itself among its 100 neighbours
