"""Numeric helpers that several routers share. Pure functions."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from rph.lazy import np, torch

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    Float32 = NDArray[np.float32]
    Floats = NDArray[np.floating[Any]]
    Float64 = NDArray[np.float64]

__all__ = ["model_means", "observed_means", "to_device", "unit_rows"]

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


def model_means(Y: Float32) -> Float32:
    """Y [N, K] labels, NaN = not observed -> [K] observed means p_m, finite.

    A model that was never observed gets the mean over the pool of the others (0.5 if none was observed): an
    uninformative prior.
    """
    means = observed_means(Y)
    known = ~np.isnan(means)
    result: Float32 = np.where(known, means, means[known].mean() if known.any() else 0.5).astype(np.float32)
    return result


def to_device(array: NDArray[Any], device: str) -> Tensor:
    """The array as a tensor on `device`. On the CPU it shares the array's memory: do not write to it."""
    with warnings.catch_warnings():
        # Embeddings are memory-mapped read-only; torch warns that writing to them would be undefined.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ", category=UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)
