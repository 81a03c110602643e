"""The small worlds that routers are checked on: queries whose P(correct) is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rph.api import Labelled, Queries
from rph.arrays import unit_rows
from rph.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32
    from rph.arrays import Floats

SEED = 42
NAN = float("nan")
WORDS = ("algebra", "poem", "compiler", "river", "verdict", "enzyme")  # typical of a topic, numbered


@dataclass(frozen=True, kw_only=True)
class World:
    """Queries whose P(correct) is known."""

    train: Labelled
    val: Labelled
    test: Queries
    P: Float32  # [N, K] P(correct) of the test queries


def _world(
    X: Floats,
    P: Floats,
    topics: NDArray[np.int64],
    sizes: tuple[int, int],
    rng: Any,
) -> World:
    """Splits after `sizes` train and val rows. Labels are one draw of P [N, K]; texts have words of the topic [N]."""
    Y = (rng.random(P.shape) < P).astype(np.float32)
    K = P.shape[1]
    dollars = 0.001 * np.arange(1, K + 1)[rng.permutation(K)]  # each model's price
    C = (dollars * rng.uniform(0.5, 1.5, P.shape)).astype(np.float32)
    words = [f"{WORDS[t % len(WORDS)]}{i}" for t in range(topics.max() + 1) for i in range(8)]
    drawn = rng.integers(0, 8, (len(X), 6))
    texts = [
        " ".join([words[8 * t + i] for i in row]) + " please" for t, row in zip(topics, drawn, strict=True)
    ]
    X32, models = X.astype(np.float32), tuple(f"model-{m}" for m in range(K))

    def part(start: int, end: int) -> Labelled:
        rows = slice(start, end)
        return Labelled(
            X=X32[rows].copy(), texts=texts[rows], Y=Y[rows].copy(), C=C[rows].copy(), models=models
        )

    end = sum(sizes)
    return World(
        train=part(0, sizes[0]),
        val=part(sizes[0], end),
        test=Queries(X=X32[end:].copy(), texts=texts[end:]),
        P=P[end:].astype(np.float32),
    )


def smooth_world(
    train: int = 240,
    val: int = 80,
    test: int = 120,
    *,
    K: int = 5,
    d: int = 6,
    slope: float = 3.0,
    draw: int = 0,
) -> World:
    """P of each model is a logistic function of the embedding, which has length 1 like that of most encoders."""
    rng = np.random.default_rng([SEED, 1, draw])
    X = unit_rows(rng.standard_normal((train + val + test, d)).astype(np.float32))
    logit = slope * X @ rng.standard_normal((d, K)) + 0.5 * rng.standard_normal(K)
    topics = X[:, :3].argmax(axis=1)
    return _world(X, 1 / (1 + np.exp(-logit)), topics, (train, val), rng)


def calibration_world() -> World:
    """Large enough to tell whether probabilities are calibrated. Of 40 draws, the one in which train is closest to test:
    the mean labels on train are within .002 of the mean P on test, so that the luck of the labels is not held against a router.
    """
    return smooth_world(3000, 500, 2000, K=3, d=4, slope=2.0, draw=2)


def cluster_world(train: int = 800, val: int = 200, test: int = 400, *, groups: int = 4, d: int = 8) -> World:
    """Separate clusters of queries, each with a specialist: P is .9 for it and .25 for the others."""
    rng = np.random.default_rng([SEED, 2])
    topics = rng.integers(0, groups, train + val + test)
    X = 3 * np.eye(groups, d)[topics] + 0.4 * rng.standard_normal((len(topics), d))
    specialist = np.arange(groups)[
        rng.permutation(groups)
    ]  # of each cluster: no model's place is its cluster's
    P = np.where(np.arange(groups) == specialist[topics][:, None], 0.9, 0.25)
    P[:, specialist[0]] += 0.05  # one model is the best on average
    return _world(X, P, topics, (train, val), rng)


def unrelated_world(p: Sequence[float], train: int = 800, val: int = 200, test: int = 2000) -> World:
    """Labels that have nothing to do with the query: model m has P = p[m] everywhere."""
    rng = np.random.default_rng([SEED, 3])
    X = rng.standard_normal((train + val + test, 6))
    topics = rng.integers(0, 3, len(X))
    return _world(X, np.tile(p, (len(X), 1)), topics, (train, val), rng)


def with_missing(known: Labelled, share: float) -> Labelled:
    """The queries with a share of their labels not observed."""
    Y = known.Y.copy()
    Y[np.random.default_rng([SEED, 4]).random(Y.shape) < share] = NAN
    return replace(known, Y=Y)


def with_column(known: Labelled, model: int, label: float) -> Labelled:
    """The queries with one label for all of a model's."""
    Y = known.Y.copy()
    Y[:, model] = label
    return replace(known, Y=Y)
