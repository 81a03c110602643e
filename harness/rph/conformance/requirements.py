"""What the checks of routers share: fitting, scoring, and requirements that say how they were broken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rph.api import Labelled, Queries, RouterSpec
from rph.arrays import level
from rph.conformance.suite import Violation
from rph.conformance.worlds import SEED, World
from rph.lazy import np
from rph.results import metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32, Router


def fit_router(spec: RouterSpec, world: World, *, seed: int = SEED, variant: Any = None) -> Router:
    router = spec.router()
    router.fit(world.train, world.val, variant=variant or spec.grid[0], seed=seed, device="cpu")
    return router


def scores_of(spec: RouterSpec, world: World, *, seed: int = SEED) -> Float32:
    return fit_router(spec, world, seed=seed).scores(world.test)


def require(condition: object, detail: str) -> None:
    if not condition:
        raise Violation(detail)


def require_finite(scores: Float32, world: World, where: str) -> None:
    require(isinstance(scores, np.ndarray), f"{where}: scores are a {type(scores).__name__}, not an array")
    shape = (len(world.test), world.train.Y.shape[1])
    require(scores.shape == shape, f"{where}: scores have the shape {scores.shape}, not {shape}")
    bad = int((~np.isfinite(scores)).sum())
    require(bad == 0, f"{where}: {bad} of {scores.size} scores are not finite")


def require_close(found: Float32, wanted: Float32, what: str, tolerance: float = 1e-6) -> None:
    """Equal up to float32 rounding: 1e-6, or 1e-6 of the largest score where that is above 1."""
    require(found.shape == wanted.shape, f"{what}: shapes {found.shape} and {wanted.shape}")
    if found.size == 0:
        return
    gap = np.abs(found.astype(np.float64) - wanted)
    allowed = tolerance * max(1.0, float(np.abs(wanted).max()))
    rows = int((~(gap <= allowed)).any(axis=1).sum())  # so written that NaN is a difference
    require(rows == 0, f"{what}: the scores of {rows} of {len(gap)} queries differ, by up to {gap.max():.2g}")


def require_equal(found: Float32, wanted: Float32, what: str) -> None:
    if not np.array_equal(found, wanted):
        require_close(found, wanted, what, tolerance=0)
        raise Violation(f"{what}: the scores are of types {found.dtype} and {wanted.dtype}, or not finite")


def routes_of(scores: Float32, world: World) -> NDArray[np.int64]:
    return metrics.route(scores, level(world.train.Y))


def expected_accuracy(scores: Float32, world: World) -> float:
    """Mean P(correct) of the routed models: accuracy without the luck of the labels."""
    return float(world.P[np.arange(len(world.P)), routes_of(scores, world)].mean())


def rows_of(queries: Queries, rows: Iterable[int]) -> Queries:
    rows = list(rows)
    return Queries(X=np.ascontiguousarray(queries.X[rows]), texts=[queries.texts[i] for i in rows])


def models_of(known: Labelled, order: list[int]) -> Labelled:
    """The same queries with the models in another order."""
    return replace(
        known,
        Y=np.ascontiguousarray(known.Y[:, order]),
        C=None if known.C is None else np.ascontiguousarray(known.C[:, order]),
        models=tuple(known.models[m] for m in order),
    )


def arrays_of(queries: Queries) -> list[Float32]:
    labels = [queries.Y, queries.C] if isinstance(queries, Labelled) else []
    return [array for array in (queries.X, *labels) if array is not None]


def contents_of(queries: Queries) -> tuple[object, ...]:
    return tuple(queries.texts), *(array.tobytes() for array in arrays_of(queries))


def require_probabilities(scores: Float32) -> None:
    low, high = float(scores.min()), float(scores.max())
    inside = low >= -metrics.ROUNDING and high <= 1 + metrics.ROUNDING
    require(inside, f"scores from {low:.4g} to {high:.4g} are no probabilities")
