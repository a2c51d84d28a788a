"""The loops of the guided filter, compiled for the CPU; they leave the interpreter free.

Compiled code is kept beside the package (see docs/operations.md), so only the first start of an installation waits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["affine_plane", "box_mean", "ridge_fits"]


@njit(cache=True, nogil=True)
def box_mean(planes: Any, radius: int) -> Any:
    """Mean over the (2r+1)² window, cut at the border: (P, H, W) float32 to the same, by running sums in float64."""
    count, height, width = planes.shape
    means = np.empty((count, height, width), np.float32)
    for p in range(count):
        columns = np.zeros(width, np.float64)
        for y in range(min(radius, height)):
            for x in range(width):
                columns[x] += planes[p, y, x]
        for y in range(height):
            if y + radius < height:
                for x in range(width):
                    columns[x] += planes[p, y + radius, x]
            if y - radius - 1 >= 0:
                for x in range(width):
                    columns[x] -= planes[p, y - radius - 1, x]
            rows = min(y + radius, height - 1) - max(y - radius, 0) + 1
            total = 0.0
            for x in range(min(radius, width)):
                total += columns[x]
            for x in range(width):
                if x + radius < width:
                    total += columns[x + radius]
                if x - radius - 1 >= 0:
                    total -= columns[x - radius - 1]
                means[p, y, x] = total / (rows * (min(x + radius, width - 1) - max(x - radius, 0) + 1))
    return means


@njit(cache=True, nogil=True)
def ridge_fits(guide: Any, products: Any, mask: Any, crossed: Any, epsilon: float) -> Any:
    """Fit each window's mask by an affine function of its guide: (4, H, W), three slopes and the constant.

    Takes window means, float32: of the guide's channels (3, H, W), of their products rr rg rb gg gb bb (6, H, W), of
    the mask (H, W), and of the mask times each channel (3, H, W). He, Sun, Tang 2013, equations 19 and 20.
    """
    _, height, width = guide.shape
    fits = np.empty((4, height, width), np.float32)
    for y in range(height):
        for x in range(width):
            r, g, b = np.float64(guide[0, y, x]), np.float64(guide[1, y, x]), np.float64(guide[2, y, x])
            rr = products[0, y, x] - r * r + epsilon
            rg = products[1, y, x] - r * g
            rb = products[2, y, x] - r * b
            gg = products[3, y, x] - g * g + epsilon
            gb = products[4, y, x] - g * b
            bb = products[5, y, x] - b * b + epsilon
            c_rr, c_rg, c_rb = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
            c_gg, c_gb, c_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
            scale = 1.0 / (rr * c_rr + rg * c_rg + rb * c_rb)
            m = np.float64(mask[y, x])
            mr, mg, mb = crossed[0, y, x] - r * m, crossed[1, y, x] - g * m, crossed[2, y, x] - b * m
            a_r = (c_rr * mr + c_rg * mg + c_rb * mb) * scale
            a_g = (c_rg * mr + c_gg * mg + c_gb * mb) * scale
            a_b = (c_rb * mr + c_gb * mg + c_bb * mb) * scale
            fits[0, y, x], fits[1, y, x], fits[2, y, x] = a_r, a_g, a_b
            fits[3, y, x] = m - a_r * r - a_g * g - a_b * b
    return fits


@njit(cache=True, nogil=True)
def affine_plane(
    fits: Any, guide: Any, low_y: Any, high_y: Any, share_y: Any, low_x: Any, high_x: Any, share_x: Any
) -> Any:
    """Interpolate fits (4, h, w) to the size of a guide (H, W, 3) and evaluate them: (H, W) float32, cut to 0..1."""
    height, width, _ = guide.shape
    small = fits.shape[2]
    plane = np.empty((height, width), np.float32)
    row = np.empty((small, 4), np.float32)
    for y in range(height):
        t = share_y[y]
        for c in range(4):
            for x in range(small):
                low = fits[c, low_y[y], x]
                row[x, c] = low + (fits[c, high_y[y], x] - low) * t
        for x in range(width):
            left, right, s = low_x[x], high_x[x], share_x[x]
            a_r = row[left, 0] + (row[right, 0] - row[left, 0]) * s
            a_g = row[left, 1] + (row[right, 1] - row[left, 1]) * s
            a_b = row[left, 2] + (row[right, 2] - row[left, 2]) * s
            b = row[left, 3] + (row[right, 3] - row[left, 3]) * s
            value = a_r * guide[y, x, 0] + a_g * guide[y, x, 1] + a_b * guide[y, x, 2] + b
            plane[y, x] = min(max(value, np.float32(0)), np.float32(1))
    return plane
