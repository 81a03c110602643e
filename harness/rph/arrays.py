"""Numeric helpers that several routers share. Pure functions."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from rph.lazy import np, torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    Float32 = NDArray[np.float32]
    Floats = NDArray[np.floating[Any]]
    Float64 = NDArray[np.float64]

__all__ = ["level", "model_means", "observed_means", "to_device", "unit_rows"]

DRAWN = 20  # labels that weigh as much as the pool's mean level does in a model's own
ROWS = 8192  # rows handled at once where a temporary of the input's size would double the memory


def unit_rows(X: Float32) -> Float32:
    """X [N, d] with every row scaled to L2 norm 1; zero rows stay zero. X itself where all rows are so already."""
    norms = np.empty(len(X), np.float32)  # [N]
    for i in range(0, len(X), ROWS):
        norms[i : i + ROWS] = np.linalg.norm(X[i : i + ROWS], axis=1)
    if np.all((np.abs(norms - 1) < 1e-5) | (norms == 0)):
        return X
    out = np.empty(X.shape, np.float32)
    np.divide(X, np.where(norms > 0, norms, 1)[:, None], out=out)
    return out


def observed_means(Y: Floats) -> Float64:
    """Y [N, K] -> [K], each model's mean observed label; NaN where it was never observed."""
    seen = ~np.isnan(Y)
    counts = seen.sum(axis=0)
    sums = np.where(seen, Y, 0).sum(axis=0, dtype=np.float64)
    means: Float64 = np.divide(sums, counts, out=np.full(Y.shape[1], np.nan), where=counts > 0)
    return means


def level(Y: Floats) -> Float64:
    """Y [N, K] -> [K], how good each model is beside the others: what ties, starts and fallbacks go by.

    On a dense table the mean labels. Else a model may have been observed on the easy queries only, so that means do not
    compare: here query effects and model effects are fitted to the observed labels (least squares, of the solutions
    the one of minimal norm), and a model's level is its mean over all queries. One that was observed on n of the N
    queries is drawn to the pool's mean level, by n / (n + 20 (1 - n / N)), and counts by as much in that mean: a label or
    two make no best model. A complete column has its observed mean itself; a model that was never observed has NaN.
    """
    seen = ~np.isnan(Y)
    labelled = np.asarray(seen.any(axis=1))
    n, N = seen.sum(axis=0), int(labelled.sum())
    means = observed_means(Y)
    if (n == N).all() or N == 0:
        return means
    fitted = _effects(np.where(seen, Y, 0)[labelled].astype(np.float64), seen[labelled])
    known = n / (n + DRAWN * (1 - n / N))  # [K] 0 for no label, 1 for all
    middle = float(known @ fitted / known.sum())
    shrunk = middle + (fitted - middle) * known
    found: Float64 = np.where(n == N, means, np.where(n > 0, shrunk, np.nan))
    return found


def _effects(Y: Float64, seen: NDArray[np.bool_]) -> Float64:
    """Labels [N, K], 0 where not seen, every query seen -> [K]: model effects plus the mean query effect."""
    S = seen.astype(np.float64)
    models, queries = S.sum(axis=0), S.sum(axis=1)  # labels of each
    means = Y.sum(axis=1) / queries
    # The normal equations once the query effects are eliminated: a Laplacian of the models.
    laplacian = np.diag(models) - S.T @ (S / queries[:, None])
    of_model = np.linalg.pinv(laplacian, hermitian=True) @ (Y.sum(axis=0) - S.T @ means)  # [K]
    of_query = means - S @ of_model / queries  # [N]
    # What is added to all models of a group that no query joins to others may be taken from its queries: minimal norm.
    group = _groups(S.T @ S > 0)
    of_group = group[seen.argmax(axis=1)]  # [N]
    for each in np.unique(of_group):
        inside, asked = group == each, of_group == each
        shift = (of_query[asked].sum() - of_model[inside].sum()) / (inside.sum() + asked.sum())
        of_model[inside] += shift
        of_query[asked] -= shift
    effects: Float64 = of_model + of_query.mean()
    return effects


def _groups(joined: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Models [K, K] that some query joins -> [K], equal for those that queries join directly or through others."""
    reached = joined | np.eye(len(joined), dtype=bool)
    while True:
        further = reached.astype(np.float64) @ reached > 0
        if (further == reached).all():
            first: NDArray[np.int64] = reached.argmax(axis=1)
            return first
        reached = further


def model_means(Y: Float32) -> Float32:
    """Y [N, K] labels, NaN = not observed -> [K] levels p_m in [0, 1], finite: what a router starts from and falls back to.

    A model that was never observed gets the mean over the pool of the others (0.5 if none was observed): an
    uninformative prior.
    """
    levels = level(Y)
    known = ~np.isnan(levels)
    filled = np.where(known, levels, levels[known].mean() if known.any() else 0.5)
    result: Float32 = filled.clip(0, 1).astype(np.float32)
    return result


def to_device(array: NDArray[Any], device: str) -> Tensor:
    """The array as a tensor on `device`. On the CPU it shares the array's memory: do not write to it."""
    with warnings.catch_warnings():
        # Embeddings are memory-mapped read-only; torch warns that writing to them would be undefined.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ", category=UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def hash_texts(digest: Any, texts: Sequence[str]) -> None:
    """Feed texts to a digest so that no other texts feed it the same."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    digest.update(f"{len(encoded)}:{','.join(str(len(e)) for e in encoded)}:".encode())
    digest.update(b"".join(encoded))


def hash_array(digest: Any, array: Float32 | None) -> None:
    """Feed an array, or that there is none, to a digest: its shape and its values as float32."""
    if array is None:
        digest.update(b"none")
        return
    canonical = np.where(np.isnan(array), np.float32("nan"), array).astype("<f4")  # one bit pattern for NaN
    digest.update(str(canonical.shape).encode())
    digest.update(canonical.tobytes())
