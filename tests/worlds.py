"""Small labelled worlds for tests of routers, and what is changed in them."""

from dataclasses import replace

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


def logistic(n, K=4, d=8, seed=0, missing=0.0):
    """Queries on which each model's chance of being correct is logistic in the embedding, the same for every seed."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype("f4")
    W = 1.5 * np.random.default_rng(99).normal(size=(d, K))
    Y = (rng.random((n, K)) < 1 / (1 + np.exp(-X @ W))).astype("f4")
    Y[rng.random(Y.shape) < missing] = np.nan
    return labelled(X, Y)


def grouped(n=600, d=8, K=4, groups=6, missing=0.0, seed=0, specialists=False):
    """Queries of a few groups with words of their own; in each group the models have accuracies of their own.

    With `specialists` one model is good in a group, and the others are not. Groups are the same for every seed.
    """
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, n)
    X = (3 * np.random.default_rng(99).normal(size=(groups, d))[group] + rng.normal(size=(n, d))).astype("f4")
    if specialists:
        P = np.where(np.arange(K) == group[:, None] % K, 0.9, 0.25)
    else:
        P = np.random.default_rng(98).random((groups, K))[group]
    Y = (rng.random((n, K)) < P).astype("f4")
    Y[rng.random(Y.shape) < missing] = np.nan
    words = rng.integers(0, 8, (n, 6))
    texts = ["the " + " ".join(f"g{g}w{w}" for w in row) for g, row in zip(group, words, strict=True)]
    return labelled(X, Y, texts=texts)


def planted(n, seed, K=3, missing=0.0, noise=0.15, d=32):
    """Two clusters of queries at +e_1 and -e_1, each with its specialist: (queries, specialist [n]).

    Model 0 is right on the one, model 1 on the other, and the others guess: all means are one half.
    """
    rng = np.random.default_rng(seed)
    side = rng.integers(0, 2, n)
    X = noise * rng.standard_normal((n, d))
    X[:, 0] += 2 * side - 1
    P = np.full((n, K), 0.5)
    P[:, 0], P[:, 1] = np.where(side, 0.95, 0.05), np.where(side, 0.05, 0.95)
    Y = (rng.random((n, K)) < P).astype("f4")
    Y[rng.random((n, K)) < missing] = np.nan
    return labelled(X, Y), 1 - side


def unrelated(n, seed, p=(0.4, 0.5, 0.6, 0.7)):
    """Queries that tell nothing: on each of them model m is right with chance p[m]."""
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(n, 8)), rng.random((n, len(p))) < p
    return labelled(X, Y, texts=[" ".join(f"w{i}" for i in row) for row in rng.integers(0, 60, (n, 6))])


def labelled(X, Y, C=None, texts=None):
    X, Y = np.asarray(X, np.float32), np.asarray(Y, np.float32)
    texts = [""] * len(X) if texts is None else texts
    return Labelled(X=X, texts=texts, Y=Y, C=C, models=tuple(f"m{i}" for i in range(Y.shape[1])))


def some_queries(n=50, d=8, seed=1):
    return as_queries(np.random.default_rng(seed).standard_normal((n, d)))


def as_queries(X):
    return Queries(X=np.asarray(X, np.float32), texts=[""] * len(X))


# --- what is changed in them --------------------------------------------------------------------------


def part(of, start, end):
    """The queries from `start` to before `end`."""
    rows = slice(start, end)
    return labelled(of.X[rows], of.Y[rows], None if of.C is None else of.C[rows], of.texts[rows])


def splits(train, val, **how):
    """Train and val, of so many queries, of one `world`."""
    whole = world(train + val, **how)
    return part(whole, 0, train), part(whole, train, train + val)


def reordered(of, order):
    """The same queries, the models in another order."""
    Y, C = (None if cells is None else np.ascontiguousarray(cells[:, order]) for cells in (of.Y, of.C))
    return replace(of, Y=Y, C=C)


def always_right(of, model=2):
    """The same queries, on all of which the model was right."""
    Y = of.Y.copy()
    Y[:, model] = 1
    return replace(of, Y=Y)


def without_labels(of):
    """The same queries, on which nothing was observed."""
    return replace(of, Y=np.full_like(of.Y, np.nan))


def poisoned(of):
    """The same queries, with costs that must not be read: a number computed from them is NaN."""
    return replace(of, C=np.full_like(of.Y, np.nan))


def with_other_nans(of):
    """The same labels, with other bits in place of the missing ones."""
    Y = of.Y.copy()
    Y.view(np.uint32)[np.isnan(Y)] = 0xFFC12345  # a NaN all the same
    return replace(of, Y=Y)
