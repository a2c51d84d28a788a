"""The matting Laplacian's product in one pass over the picture, compiled for the CPU.

For a row of windows: vertical sums of I, x, I·I and x·I, the ridge fit (a, b) of x on I in every window, and the
spread of the fits over the three rows that each touches. Nothing but the result leaves the cache; covariances and their
inverses are made anew every time, which costs less than reading them from memory.

A strip of rows is one thread's, a tile of columns keeps the small arrays in the cache; both read two rows or columns of
their neighbours again, so no pixel's arithmetic depends on where a strip ends, and the bits are the same for every
number of threads. No sum runs over more than a row of a tile.

All arithmetic is float64, whatever the arrays hold: with ε = 1e-7 the variances of flat regions are noise in float32.
Windows of all-but-singular covariance amplify the last bit, so multiplications and additions are not contracted.

The loops stand as they do so that the compiler uses vector instructions: rows are copied into small arrays whose
strides and lengths are constants, which leaves it few pairs of pointers to test for overlap and no remainders.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, njit, prange, set_num_threads
from numpy.typing import NDArray

__all__ = ["combine", "tiles"]

_TILE = 120
"""Columns of a tile: what the loops need for so many stays in the second-level cache, most of it in the first."""

_WINDOWS = _TILE + 4  # windows that touch them (two more), to a whole number of vectors
_STRIDE = _TILE + 8  # columns under those windows, to a whole number of cache lines
_NINTH = 1 / 9


@njit(cache=True, nogil=True)
def _copy(source: Any, target: Any) -> None:
    for k in range(source.size):
        target[k] = source[k]


@njit(inline="always")
def _column_sums(rows: Any, sums: Any) -> None:
    """Sums over three rows: I (rows 0..2), I·I (3..8), then x and x·I of each channel (9..20)."""
    for k in range(_STRIDE):
        r0, r1, r2 = rows[0, k], rows[1, k], rows[2, k]
        g0, g1, g2 = rows[3, k], rows[4, k], rows[5, k]
        b0, b1, b2 = rows[6, k], rows[7, k], rows[8, k]
        sums[0, k] = r0 + r1 + r2
        sums[1, k] = g0 + g1 + g2
        sums[2, k] = b0 + b1 + b2
        sums[3, k] = r0 * r0 + r1 * r1 + r2 * r2
        sums[4, k] = r0 * g0 + r1 * g1 + r2 * g2
        sums[5, k] = r0 * b0 + r1 * b1 + r2 * b2
        sums[6, k] = g0 * g0 + g1 * g1 + g2 * g2
        sums[7, k] = g0 * b0 + g1 * b1 + g2 * b2
        sums[8, k] = b0 * b0 + b1 * b1 + b2 * b2
        for c in range(3):
            x0, x1, x2 = rows[9 + 3 * c, k], rows[10 + 3 * c, k], rows[11 + 3 * c, k]
            sums[9 + 4 * c, k] = x0 + x1 + x2
            sums[10 + 4 * c, k] = x0 * r0 + x1 * r1 + x2 * r2
            sums[11 + 4 * c, k] = x0 * g0 + x1 * g1 + x2 * g2
            sums[12 + 4 * c, k] = x0 * b0 + x1 * b1 + x2 * b2


@njit(inline="always")
def _inverses(sums: Any, ridge: float, inverse: Any) -> None:
    """(Σ + ridge)⁻¹ / 9 of the window that begins at each column, as ``covariance.inverse`` has it."""
    for k in range(_WINDOWS):
        r = (sums[0, k] + sums[0, k + 1] + sums[0, k + 2]) * _NINTH
        g = (sums[1, k] + sums[1, k + 1] + sums[1, k + 2]) * _NINTH
        b = (sums[2, k] + sums[2, k + 1] + sums[2, k + 2]) * _NINTH
        rr = (sums[3, k] + sums[3, k + 1] + sums[3, k + 2]) * _NINTH - r * r + ridge
        rg = (sums[4, k] + sums[4, k + 1] + sums[4, k + 2]) * _NINTH - r * g
        rb = (sums[5, k] + sums[5, k + 1] + sums[5, k + 2]) * _NINTH - r * b
        gg = (sums[6, k] + sums[6, k + 1] + sums[6, k + 2]) * _NINTH - g * g + ridge
        gb = (sums[7, k] + sums[7, k + 1] + sums[7, k + 2]) * _NINTH - g * b
        bb = (sums[8, k] + sums[8, k + 1] + sums[8, k + 2]) * _NINTH - b * b + ridge
        c_rr = gg * bb - gb * gb
        c_rg = gb * rb - rg * bb
        c_rb = rg * gb - gg * rb
        scale = _NINTH / (rr * c_rr + rg * c_rg + rb * c_rb)
        inverse[0, k] = c_rr * scale
        inverse[1, k] = c_rg * scale
        inverse[2, k] = c_rb * scale
        inverse[3, k] = (rr * bb - rb * rb) * scale
        inverse[4, k] = (rb * rg - rr * gb) * scale
        inverse[5, k] = (rr * gg - rg * rg) * scale


@njit(inline="always")
def _fits(sums: Any, inverse: Any, fit: Any) -> None:
    """The ridge fit a (3), b of each channel in the window that begins at each column."""
    for k in range(_WINDOWS):
        r = (sums[0, k] + sums[0, k + 1] + sums[0, k + 2]) * _NINTH
        g = (sums[1, k] + sums[1, k + 1] + sums[1, k + 2]) * _NINTH
        b = (sums[2, k] + sums[2, k + 1] + sums[2, k + 2]) * _NINTH
        rr, rg, rb = inverse[0, k], inverse[1, k], inverse[2, k]
        gg, gb, bb = inverse[3, k], inverse[4, k], inverse[5, k]
        for c in range(3):
            x = sums[9 + 4 * c, k] + sums[9 + 4 * c, k + 1] + sums[9 + 4 * c, k + 2]
            v_r = sums[10 + 4 * c, k] + sums[10 + 4 * c, k + 1] + sums[10 + 4 * c, k + 2] - x * r
            v_g = sums[11 + 4 * c, k] + sums[11 + 4 * c, k + 1] + sums[11 + 4 * c, k + 2] - x * g
            v_b = sums[12 + 4 * c, k] + sums[12 + 4 * c, k + 1] + sums[12 + 4 * c, k + 2] - x * b
            a_r = rr * v_r + rg * v_g + rb * v_b
            a_g = rg * v_r + gg * v_g + gb * v_b
            a_b = rb * v_r + gb * v_g + bb * v_b
            fit[4 * c, k] = a_r
            fit[4 * c + 1, k] = a_g
            fit[4 * c + 2, k] = a_b
            fit[4 * c + 3, k] = x * _NINTH - (a_r * r + a_g * g + a_b * b)


@njit(inline="always")
def _product(c: int, windows: float, rows: Any, across: Any, fit: Any, spread: Any) -> None:
    """A row of M x of channel c into ``spread[24]``.

    ``spread[:12]`` holds the last two rows of fits added along the row, ``spread[12:24]`` the last one.
    """
    for k in range(_TILE):
        s_r = fit[4 * c, k] + fit[4 * c, k + 1] + fit[4 * c, k + 2]
        s_g = fit[4 * c + 1, k] + fit[4 * c + 1, k + 1] + fit[4 * c + 1, k + 2]
        s_b = fit[4 * c + 2, k] + fit[4 * c + 2, k + 1] + fit[4 * c + 2, k + 2]
        s_1 = fit[4 * c + 3, k] + fit[4 * c + 3, k + 1] + fit[4 * c + 3, k + 2]
        a_r = spread[4 * c, k] + s_r
        a_g = spread[4 * c + 1, k] + s_g
        a_b = spread[4 * c + 2, k] + s_b
        b = spread[4 * c + 3, k] + s_1
        spread[4 * c, k] = spread[12 + 4 * c, k] + s_r
        spread[4 * c + 1, k] = spread[13 + 4 * c, k] + s_g
        spread[4 * c + 2, k] = spread[14 + 4 * c, k] + s_b
        spread[4 * c + 3, k] = spread[15 + 4 * c, k] + s_1
        spread[12 + 4 * c, k] = s_r
        spread[13 + 4 * c, k] = s_g
        spread[14 + 4 * c, k] = s_b
        spread[15 + 4 * c, k] = s_1
        explained = a_r * rows[0, k + 2] + a_g * rows[3, k + 2] + a_b * rows[6, k + 2] + b
        spread[24, k] = windows * across[0, k] * rows[9 + 3 * c, k + 2] - explained


@njit(cache=True, nogil=True, error_model="numpy")
def _strip(I: Any, ridge: float, x: Any, T: Any, out: Any, weights: Any, dots: Any, top: int, bottom: int) -> None:
    _, height, width = x.shape
    w_x, w_M, w_T, w_out = weights
    rows = np.empty((18, _STRIDE))  # of I, then of x: three of each channel
    sums = np.empty((21, _STRIDE))
    inverse = np.empty((6, _STRIDE))
    fit = np.empty((12, _STRIDE))
    spread = np.empty((25, _STRIDE))
    across = np.empty((1, _STRIDE))  # windows over a pixel, along its row
    others = np.empty((2, _STRIDE))  # rows of T and out
    first = max(top - 2, 0)  # row of windows
    for tile in range(tiles(width)):
        left = tile * _TILE
        n = min(_TILE, width - left)
        # Column k of the small arrays is the picture's column left − 2 + k; inside it are k0 to k1.
        k0, k1 = max(0, 2 - left), min(n + 4, width - left + 2)
        j0, j1 = left - 2 + k0, left - 2 + k1
        rows[:] = 0.0
        spread[:] = 0.0
        across[:] = 0.0
        others[:] = 0.0
        for k in range(n):
            across[0, k] = min(left + k + 1, 3, width - left - k, width - 2)
        for incoming in range(first, bottom + 2):
            y = incoming - 2  # of the windows, and of the pixels that they complete
            for c in range(6):
                for k in range(_STRIDE):
                    rows[3 * c, k] = rows[3 * c + 1, k]
                    rows[3 * c + 1, k] = rows[3 * c + 2, k]
            if incoming < height:
                for c in range(3):
                    _copy(I[c, incoming, j0:j1], rows[3 * c + 2, k0:k1])
                    _copy(x[c, incoming, j0:j1], rows[3 * c + 11, k0:k1])
            if y < first:
                continue
            if y < height - 2:
                _column_sums(rows, sums)
                _inverses(sums, ridge, inverse)
                _fits(sums, inverse, fit)
                if k0 > 0:  # windows that would leave the picture
                    fit[:, :k0] = 0.0
                if k1 < n + 4:
                    fit[:, k1 - 2 : n + 2] = 0.0
            else:
                fit[:] = 0.0
            windows = float(min(y + 1, 3, height - y, height - 2))
            for c in range(3):
                _product(c, windows, rows, across, fit, spread)
                if y < top:
                    continue
                if w_T != 0.0 or w_out != 0.0:
                    _copy(T[c, y, left : left + n], others[0, :n])
                    _copy(out[c, y, left : left + n], others[1, :n])
                for k in range(_TILE):
                    own = w_x * rows[9 + 3 * c, k + 2] + w_M * spread[24, k]
                    spread[24, k] = own + (w_T * others[0, k] + w_out * others[1, k])
                _copy(spread[24, :n], out[c, y, left : left + n])
                if dots.size > 0:
                    d0 = d1 = d2 = d3 = 0.0
                    for k in range(0, _TILE, 4):  # beyond the picture x is 0
                        d0 += spread[24, k] * rows[9 + 3 * c, k + 2]
                        d1 += spread[24, k + 1] * rows[9 + 3 * c, k + 3]
                        d2 += spread[24, k + 2] * rows[9 + 3 * c, k + 4]
                        d3 += spread[24, k + 3] * rows[9 + 3 * c, k + 5]
                    dots[c, y, tile] = d0 + d1 + d2 + d3


@njit(cache=True, nogil=True, parallel=True)
def _combine(I: Any, ridge: float, x: Any, T: Any, out: Any, weights: Any, dots: Any, strips: int) -> None:
    height = x.shape[1]
    for s in prange(strips):
        _strip(I, ridge, x, T, out, weights, dots, s * height // strips, (s + 1) * height // strips)


@njit(cache=True, nogil=True)
def tiles(width: int) -> int:
    """Number of tiles across a picture."""
    return (width + _TILE - 1) // _TILE


def combine(
    I: NDArray[Any],
    epsilon: float,
    x: NDArray[Any],
    T: NDArray[Any],
    out: NDArray[Any],
    weights: tuple[float, float, float, float],
    dots: NDArray[np.float64],
    threads: int,
) -> None:
    """``out = w_x x + w_M M x + w_T T + w_out out`` for three channels; M is the matting Laplacian of I.

    The arrays are C-contiguous, float32 or float64.

    Args:
        I: (3, H, W) guide, H and W at least 3.
        epsilon: Levin's ε.
        x: (3, H, W); shares no memory with ``out``.
        T: (3, H, W); read only if ``w_T`` or ``w_out`` is not 0.
        out: (3, H, W), takes the result; read only if ``w_T`` or ``w_out`` is not 0.
        weights: w_x, w_M, w_T, w_out.
        dots: (3, H, tiles(W)), takes the sums of x times the result; or of size 0.
        threads: at most so many work; the result does not depend on it.
    """
    strips = max(1, min(threads, config.NUMBA_NUM_THREADS, x.shape[1]))  # type: ignore[attr-defined]
    set_num_threads(strips)
    _combine(I, epsilon / 9, x, T, out, weights, dots, strips)
