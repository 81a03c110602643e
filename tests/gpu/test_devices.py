"""Every router on the GPU gives what it gives on the CPU, but for the order of sums; memory that is short is no failure."""

import numpy as np
import pytest
import torch
from rph_plugins.executors.local import Local
from tests.e2e.test_real_data import Quiet

from rph import Labelled, Queries
from rph.api import Trial
from rph.engine import cell, evaluate, trials
from rph.engine.inputs import Inputs
from rph.engine.store import Store
from rph.protocol import PRESETS
from rph.registry import installed
from rph.results.outcomes import Scored

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
WITHOUT_TRAINING = {"knn", "kmeans", "elo", "linucb", "avengers-pro", "tag-router", "rorf", "optllm"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("RPH_HOME", str(home))
        yield home


@pytest.mark.parametrize("router", installed().names("router"))
def test_a_router_on_the_gpu_routes_as_on_the_cpu(home, router):
    found = {}
    for device in ("cpu", "cuda"):
        outcome = evaluate.evaluate(
            installed(),
            Store(home / "store"),
            cell.Settings(preset=PRESETS["smoke"], device=device),
            Quiet(),
            benches=["synthetic:n=3000"],
            encoders=["lsa"],
            routers=[router],
            executor=Local(),
        )
        assert outcome.failures == []
        (found[device],) = outcome.cells
    cpu, gpu = found["cpu"], found["cuda"]
    # A gradient step carries a rounding on; a choice between models that are as good as equal may then fall otherwise.
    agree, accuracy = (0.99, 0.003) if router in WITHOUT_TRAINING else (0.85, 0.02)
    assert (cpu.routes() == gpu.routes()).mean() > agree
    assert gpu.result.test_accuracy_mean == pytest.approx(cpu.result.test_accuracy_mean, abs=accuracy)


def test_a_stack_that_the_gpu_cannot_hold_is_trained_in_parts(home):
    """A fraction of the memory: fifteen heads at once do not fit, a few do."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4000, 768)).astype(np.float32)
    Y = rng.integers(0, 2, (4000, 8)).astype(np.float32)
    labelled = Labelled(X=X, texts=[""] * 4000, Y=Y, C=None, models=tuple("abcdefgh"))
    queries = Queries(X=X, texts=[""] * 4000)
    inputs = Inputs(train=labelled, val=labelled, val_queries=queries, test_queries=queries, device="cuda")
    plugin = installed().load("router", "equi")
    wanted = [Trial(variant=variant, seed=42) for variant in plugin.spec.grid[:6]]
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2e9 / total))
    try:
        outcomes = [pair for batch in trials.run(plugin.spec, wanted, inputs) for pair in batch]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [trial for trial, _ in outcomes] == wanted
    assert all(isinstance(outcome, Scored) for _, outcome in outcomes)
