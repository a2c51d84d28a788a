"""A look as a 3-D lookup table: fitted to the colours of a photo, smooth where the photo has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg

from services.stylizer.core.errors import SolveCancelled

__all__ = ["DEFAULT_POINTS", "POINTS", "apply_lut", "fit_lut"]

POINTS: Final = (17, 33, 65)
"""Points a side that are offered: each lattice contains the one before."""

DEFAULT_POINTS: Final = 33

_SMOOTHNESS: Final = 1e-5
"""Weight of the squared second derivative beside the mean squared error, values and colours 0..1. On the looks of four
development pairs, 33 points: 1e-7 lowers the mean on the pixels of the fit by 0.2 to 0.5 ΔE00, on the same photo at 700
px by 0.1 to 0.3, where the maximum rises by up to 19; 1e-4 raises the mean by 0.2 to 0.5 on both."""

_REACH: Final = 0.25
"""Distance in colour, 0..1 a channel, over which a table without pixels returns to the affine map of the whole set."""

_AFFINE_RIDGE: Final = 1e-3
"""Weight that draws that affine map towards a shift in directions in which the colours hardly vary."""

_TOLERANCE: Final = 1e-3
"""Residual of conjugate gradients relative to the right-hand side; at 1e-4 the fit is the same to 0.002 ΔE00."""

_MAX_ITERATIONS: Final = 2000
"""Never reached on photos, which take 20 to 100; a bound for what nobody thought of."""

_Array = NDArray[np.float64]


def fit_lut(I: NDArray[Any], O: NDArray[Any], points: int, should_stop: Callable[[], bool]) -> _Array:
    """Fit a table to pairs of colours.

    Minimises over the table T, with W the trilinear weights, A·I + b the affine fit of all pairs and R = T − affine:

        mean |W T − O|²  +  s ∫ Σ_axis |∂²R/∂axis²|²  +  s / reach⁴ ∫ |R|²

    so that cells without pixels continue what their neighbours do, and far from every pixel the affine fit holds. The
    normal equations are solved by conjugate gradients for each channel, from the coarsest lattice of ``POINTS`` to the
    one asked for, preconditioned by the exact inverse of the smoothness terms, which the eigenvectors of the 1-D
    operator diagonalise.

    Args:
        I: (N, 3) colours of the photo, RGB 0..1.
        O: (N, 3) colours of the look, RGB; clipped to 0..1 as a rendered picture is.
        points: points a side, one of ``POINTS``.
        should_stop: polled at every iteration.

    Returns:
        (points, points, points, 3) float64, indexed by blue, green, red; RGB 0..1.

    Raises:
        SolveCancelled: ``should_stop`` said so.
    """
    I, O = np.asarray(I, np.float64), np.clip(np.asarray(O, np.float64), 0.0, 1.0)
    A, b = _affine_fit(I, O)
    residual = O - (I @ A.T + b)
    R = np.zeros((POINTS[0],) * 3 + (3,))
    for n in POINTS[: POINTS.index(points) + 1]:
        start = R if len(R) == n else _refined(R)
        R = _fit_residual(I, residual, n, start, should_stop)
    axis = np.linspace(0.0, 1.0, points)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    table: _Array = np.clip(R + np.stack([red, green, blue], axis=-1) @ A.T + b, 0.0, 1.0)
    return table


def apply_lut(table: _Array, I: NDArray[Any]) -> _Array:
    """Look colours up by trilinear interpolation.

    Args:
        table: (n, n, n, 3) indexed by blue, green, red.
        I: (N, 3) RGB; clipped to 0..1.

    Returns:
        (N, 3) RGB.
    """
    return np.asarray(_trilinear_weights(np.asarray(I, np.float64), len(table)) @ table.reshape(-1, 3))


def _affine_fit(I: _Array, O: _Array) -> tuple[_Array, _Array]:
    """Least squares for O ≈ A·I + b, A drawn a little towards the identity: (3, 3) and (3,)."""
    mean_I, mean_O = I.mean(axis=0), O.mean(axis=0)
    X, Y = I - mean_I, O - mean_O
    ridge = _AFFINE_RIDGE * np.eye(3)
    A = np.linalg.solve(X.T @ X / len(I) + ridge, X.T @ Y / len(I) + ridge).T
    return A, mean_O - A @ mean_I


def _trilinear_weights(I: _Array, n: int) -> sparse.csr_array[np.float64]:
    """(N, n³) with 8 weights a row; columns in the order red fastest, then green, then blue."""
    place = np.clip(I, 0.0, 1.0) * (n - 1)
    low = np.minimum(place.astype(np.intp), n - 2)
    part = place - low
    weights, columns = np.empty((len(I), 8)), np.empty((len(I), 8), np.intp)
    for corner in range(8):
        bits = np.array([corner & 1, corner >> 1 & 1, corner >> 2])
        weights[:, corner] = np.where(bits, part, 1 - part).prod(axis=1)
        columns[:, corner] = (low + bits) @ (1, n, n * n)
    rows = np.arange(0, 8 * len(I) + 1, 8)
    return sparse.csr_array((weights.ravel(), columns.ravel(), rows), shape=(len(I), n**3))


def _fit_residual(I: _Array, residual: _Array, n: int, start: _Array, should_stop: Callable[[], bool]) -> _Array:
    """The lattice R (n, n, n, 3) of :func:`fit_lut`, from the lattice ``start`` of the same shape."""
    spacing = 1 / (n - 1)
    smoothness, decay = _SMOOTHNESS / spacing, _SMOOTHNESS / _REACH**4 * spacing**3
    D = np.diff(np.eye(n), 2, axis=0)
    bending, one = sparse.csr_array(D.T @ D), sparse.eye_array(n, format="csr")
    along_axes = (
        sparse.kron(sparse.kron(bending, one), one)
        + sparse.kron(sparse.kron(one, bending), one)
        + sparse.kron(sparse.kron(one, one), bending)
    )
    W = _trilinear_weights(I, n)
    data: sparse.csr_array[np.float64] = sparse.csr_array(W.T @ W)
    data.data /= len(I)
    N: sparse.csr_array[np.float64] = sparse.csr_array(data + smoothness * along_axes + decay * sparse.eye_array(n**3))
    right = np.asarray(W.T @ residual) / len(I)

    values, vectors = np.linalg.eigh(D.T @ D)
    seen = data.diagonal()
    eigenvalues = smoothness * (values[:, None, None] + values[:, None] + values) + decay + np.median(seen[seen > 0])

    def precondition(v: _Array) -> _Array:
        return _rotated(_rotated(v.reshape(n, n, n), vectors.T) / eigenvalues, vectors).ravel()

    def poll(_: object) -> None:
        if should_stop():
            raise SolveCancelled

    P = LinearOperator((n**3, n**3), matvec=precondition, dtype=np.float64)
    R = np.empty((n**3, 3))
    for channel, first in enumerate(start.reshape(-1, 3).T):
        poll(None)
        R[:, channel], _ = cg(
            N, right[:, channel], x0=first, rtol=_TOLERANCE, maxiter=_MAX_ITERATIONS, M=P, callback=poll
        )
    return R.reshape(n, n, n, 3)


def _rotated(cube: _Array, Q: _Array) -> _Array:
    """A cube with the square matrix Q applied along each of its three axes."""
    for _ in range(3):
        cube = np.moveaxis(np.tensordot(cube, Q, axes=(0, 1)), -1, 2)  # the next axis comes to the front
    return cube


def _refined(lattice: _Array) -> _Array:
    """The trilinear interpolation of (n, n, n, 3) at 2n − 1 points a side."""
    for axis in range(3):
        old = np.moveaxis(lattice, axis, 0)
        new = np.empty((2 * len(old) - 1, *old.shape[1:]))
        new[::2], new[1::2] = old, (old[:-1] + old[1:]) / 2
        lattice = np.moveaxis(new, 0, axis)
    return lattice
