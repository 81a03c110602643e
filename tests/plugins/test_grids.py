"""Grids of the methods without gradients: no variant is another one's copy, and none routes all to one model."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from tests.worlds import labelled

from rph import Queries, Trial
from rph.registry import installed
from rph.training import clusters


def some(n, seed, d=160, K=6):
    """Queries of more dimensions than linucb's components, of which twelve decide, as their words tell."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)).astype("f4")
    X[:, :12] *= 3
    W = np.random.default_rng(99).normal(size=(12, K))
    texts = [" ".join(f"w{j}at{at}" for j, at in enumerate(row)) for row in np.floor(X[:, :12]).astype(int)]
    logits = X[:, :12] @ W / 4 + np.linspace(-0.5, 0.5, K)  # some models are better than others
    return labelled(X, rng.random((n, K)) < 1 / (1 + np.exp(-logits)), texts=texts)


@pytest.mark.parametrize("name", ["knn", "kmeans", "avengers-pro", "elo", "rorf", "linucb", "tag-router"])
def test_no_two_variants_route_alike_and_none_sends_all_to_one_model(name, monkeypatch):
    monkeypatch.setattr(clusters, "ROWS_PER_CLUSTER", 2)  # so that 600 clusters are not cut
    spec, train, test = installed().load("router", name).spec, some(1500, 0), some(500, 1)
    grid = spec.variants(len(train.models))
    if name == "rorf":
        grid = tuple(replace(variant, trees=3) for variant in grid)
    group = spec.fit_many(train, train, [Trial(variant=v, seed=42) for v in grid], "cpu")
    routes = [s.argmax(axis=1) for s in group.scores(Queries(X=test.X, texts=test.texts))]
    alike = [
        (grid[a], grid[b]) for a, b in combinations(range(len(grid)), 2) if (routes[a] == routes[b]).all()
    ]
    assert not alike
    assert not [v for v, chosen in zip(grid, routes, strict=True) if len(set(chosen)) == 1]
