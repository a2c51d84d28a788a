"""Gaussian filtering of values at points of a space of several dimensions, on the permutohedral lattice.

Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010. Splatting, blurring and
slicing are each a sparse matrix, so the filter is ``S · B · Sᵀ``; vertices are found by sorting instead of hashing.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["Permutohedral"]

_KEY_BITS = 12  # five coordinates fit 60 bits


class Permutohedral:
    """Filters with ``exp(-|f - g|² / 2)`` between points, up to a common factor.

    Args:
        features: (N, d) positions, at most five dimensions, each already divided by its standard deviation; within
            about ±300.

    The lattice is an approximation: filtered values that are divided by the filtered ones are within some hundredths
    of the exact ones.
    """

    def __init__(self, features: NDArray[np.float64]) -> None:
        keys, weights = _simplices(features)
        vertices, where = np.unique(keys.ravel(), return_inverse=True)
        points, corners = keys.shape
        starts = np.arange(0, points * corners + 1, corners)
        self._splat = sparse.csr_array(
            (weights.astype(np.float32).ravel(), where.ravel(), starts), shape=(points, len(vertices))
        )
        self._gather = self._splat.T.tocsr()
        self._blurs = [_blur(vertices, step) for step in _steps(features.shape[1])]

    def filtered(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter (N, channels); the result's scale is common to all points but not the exact kernel's."""
        spread = reduce(lambda x, blur: blur @ x, self._blurs, self._gather @ values)
        result: NDArray[np.float32] = self._splat @ spread
        return result


def _simplices(features: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The d+1 lattice points around each feature, packed into integers, and the barycentric weights: (N, d+1) both."""
    points, d = features.shape
    # Chosen so that blurring with (1/2, 1, 1/2) along each axis has standard deviation 1.
    scaled = features * (np.sqrt(2 / 3) * (d + 1)) / np.sqrt(np.arange(1, d + 1) * np.arange(2, d + 2))
    tails = np.concatenate([np.cumsum(scaled[:, ::-1], axis=1)[:, ::-1], np.zeros((points, 1))], axis=1)
    elevated = tails.copy()  # into the plane whose coordinates sum to 0
    elevated[:, 1:] -= np.arange(1, d + 1) * scaled
    base = np.round(elevated / (d + 1)).astype(np.int64) * (d + 1)
    excess = base.sum(axis=1) // (d + 1)
    order = np.argsort(-(elevated - base), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(d + 1), order.shape), axis=1)
    rank += excess[:, None]  # back onto the plane
    low, high = rank < 0, rank > d
    base += (d + 1) * (low.astype(np.int64) - high)
    rank += (d + 1) * (low.astype(np.int64) - high)

    offset = (elevated - base) / (d + 1)
    by_rank = np.empty_like(offset)
    np.put_along_axis(by_rank, rank, offset, axis=1)  # descending
    weights = np.empty_like(offset)
    weights[:, 0] = 1 + by_rank[:, d] - by_rank[:, 0]
    weights[:, 1:] = (by_rank[:, :d] - by_rank[:, 1:])[:, ::-1]
    corner = np.arange(d + 1)[None, :, None]
    vertices = base[:, None, :] + corner - (d + 1) * (rank[:, None, :] > d - corner)
    half = 1 << (_KEY_BITS - 1)
    if np.abs(vertices).max(initial=0) >= half - (d + 1):
        raise ValueError(f"features reach beyond the lattice of ±{half}; divide them by larger standard deviations")
    packing = 1 << (_KEY_BITS * np.arange(d, dtype=np.int64))
    return ((vertices[..., :d] + half) * packing).sum(axis=2), weights


def _steps(d: int) -> list[int]:
    """What is added to a packed vertex to reach its neighbour along each of the d+1 axes."""
    packing = [1 << (_KEY_BITS * i) for i in range(d)]
    return [(d + 1) * packing[axis] - sum(packing) if axis < d else -sum(packing) for axis in range(d + 1)]


def _blur(vertices: NDArray[np.int64], step: int) -> sparse.csr_array:
    count = len(vertices)
    blur = sparse.eye_array(count, dtype=np.float32, format="csr")
    for neighbours in (vertices + step, vertices - step):
        found = np.minimum(np.searchsorted(vertices, neighbours), count - 1)
        rows = np.flatnonzero(vertices[found] == neighbours)
        half = np.full(len(rows), 0.5, np.float32)
        blur = blur + sparse.csr_array((half, (rows, found[rows])), shape=(count, count))
    return blur.tocsr()
