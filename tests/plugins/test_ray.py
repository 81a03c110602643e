"""Parts of the executor `ray` that need neither Ray nor a cluster; tests/e2e/test_ray.py runs it."""

import pickle
import re
import sys

import numpy as np
import pytest
from tests import toys

from rph import Labelled, Queries, RphError, Trial
from rph.distribution import install
from rph.engine import executors
from rph.engine.inputs import Inputs
from rph.registry import installed


@pytest.fixture
def plugin():
    return installed().load("executor", "ray")


def inputs(folder, n=4000):
    """Inputs whose embeddings are stretches of a mapped file, as they come from the cache."""
    np.save(folder / "X.npy", np.random.default_rng(0).normal(size=(2 * n, 8)).astype(np.float32))
    X = np.load(folder / "X.npy", mmap_mode="r")
    texts = [f"number {i}" for i in range(n)]
    Y = np.ones((n, 3), np.float32)
    train = Labelled(X=X[:n], texts=texts, Y=Y, C=Y + 1, models=toys.MODELS)
    val = Labelled(X=X[n:], texts=texts, Y=Y + 1, C=None, models=toys.MODELS)
    queries = Queries(X=val.X, texts=texts)
    return Inputs(train=train, val=val, val_queries=queries, test_queries=queries, device="cpu")


def test_without_ray_it_says_what_to_install(plugin, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RphError, match=re.escape(install("ray"))):
        plugin.spec.build(None, None, "cpu")


def test_no_array_of_the_inputs_is_copied_into_a_worker(plugin, tmp_path):
    given = inputs(tmp_path)
    outside = []  # what Ray lays into its store, where workers map it
    inside = pickle.dumps(
        plugin.module._plain(given), protocol=5, buffer_callback=lambda buffer: outside.append(buffer.raw())
    )
    assert len(inside) < 2000
    # Each once. Of train X, Y, C and two arrays of texts; val has no C; test has no Y either.
    assert len(outside) == 5 + 4 + 3
    back = pickle.loads(inside, buffers=outside)
    for part in ("train", "val", "val_queries", "test_queries"):
        ours, theirs = getattr(given, part), getattr(back, part)
        assert np.array_equal(ours.X, theirs.X) and list(ours.texts) == list(theirs.texts)


def test_a_plugin_file_travels_with_its_content(tmp_path, rph_home):
    registry, file = installed(), toys.write_plugin(tmp_path / "mine.py")
    registry.add_file(file)
    router = registry.load("router", "toy")
    trial = Trial(variant=router.spec.grid[1], seed=3)
    parcel = executors.pack(executors.Task(router=router, trials=(trial,), inputs="x"))
    file.write_text("raise SystemExit('edited')")
    found = executors.perform(parcel, inputs(tmp_path))
    file.unlink()
    executors._router.cache_clear()
    (again,) = executors.perform(parcel, inputs(tmp_path))
    assert np.array_equal(found[0].test, again.test)
    (copy,) = rph_home.glob("plugins/*/*")
    assert copy.name == "mine.py" and "class Toy" in copy.read_text()
