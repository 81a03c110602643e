"""Small labelled worlds for tests of routers."""

import numpy as np

from rph import Labelled, Queries


def world(n=300, K=4, d=8, seed=0, missing=0.0):
    """Train queries whose labels depend on the embedding; a share of the labels is missing."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)).astype(np.float32)
    p = 1 / (1 + np.exp(-2 * X @ rng.standard_normal((d, K)) / np.sqrt(d)))
    Y = (rng.random((n, K)) < p).astype(np.float32)
    Y[rng.random((n, K)) < missing] = np.nan
    return labelled(X, Y)


def labelled(X, Y, C=None):
    X, Y = np.asarray(X, np.float32), np.asarray(Y, np.float32)
    return Labelled(X=X, texts=[""] * len(X), Y=Y, C=C, models=tuple(f"m{i}" for i in range(Y.shape[1])))


def some_queries(n=50, d=8, seed=1):
    return as_queries(np.random.default_rng(seed).standard_normal((n, d)))


def as_queries(X):
    return Queries(X=np.asarray(X, np.float32), texts=[""] * len(X))
