"""The cross-bilateral smoothing of local affine maps that ends the published method (Luan et al. 2017, supplement)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from services.stylizer.core.errors import SolveCancelled

__all__ = ["RADIUS", "SIGMA_COLOUR", "SIGMA_SPACE", "bilateral_smoothed"]

RADIUS: Final = 15
"""Half window of the cross-bilateral smoothing, in pixels."""

SIGMA_SPACE: Final = 5.0
"""Its standard deviation in pixels."""

SIGMA_COLOUR: Final = 0.01
"""Its standard deviation in Euclidean distance of RGB 0..1: 2.55 levels of 255, so that no edge is crossed."""

_LEAST_EXPONENT: Final = 25.0
"""Pixels whose weight is under exp(-25) of the centre's are left out: all 961 together weigh under 2e-8."""

_STRIP_ROWS: Final = 16
"""Rows between two looks at ``should_stop``: about 0.1 s at 700 px on two cores."""


def bilateral_smoothed(
    maps: Tensor,
    I: Tensor,
    should_stop: Callable[[], bool] = lambda: False,
    radius: int = RADIUS,
    sigma_space: float = SIGMA_SPACE,
    sigma_colour: float = SIGMA_COLOUR,
) -> Tensor:
    """Cross-bilateral filter of the twelve coefficients, guided by the content's colours.

    The mean over q in the (2r+1)² window around p, cut at the border, of the maps at q with the weights
    ``exp(−|p − q|² / 2σ_space² − |I_p − I_q|² / 2σ_colour²)``. Every pixel is summed on its own in a fixed order, so
    that the bits do not depend on the number of threads.

    Args:
        maps: (3, 4, H, W).
        I: (3, H, W) content, RGB 0..1.
        should_stop: polled before each strip.
        radius: half window in pixels.
        sigma_space: in pixels.
        sigma_colour: in Euclidean distance of RGB 0..1.

    Returns:
        (3, 4, H, W) of the maps' dtype; computed in float64 on the CPU, in the maps' dtype on another device.

    Raises:
        SolveCancelled: ``should_stop`` said so.
    """
    reach = np.arange(radius + 1) ** 2 / (2 * sigma_space**2)
    near = reach[:, None] + reach[None, :]
    per_colour = 1 / (2 * sigma_colour**2)
    if maps.is_cuda:
        return _smoothed_by_torch(maps, I, should_stop, near, per_colour)
    height, width = I.shape[1:]
    planes = maps.detach().double().reshape(12, height, width).permute(1, 2, 0).contiguous().numpy()
    guide = I.detach().double().permute(1, 2, 0).contiguous().numpy()
    result = np.empty_like(planes)
    for first in range(0, height, _STRIP_ROWS):
        if should_stop():
            raise SolveCancelled
        _smooth_rows(planes, guide, near, per_colour, first, min(first + _STRIP_ROWS, height), result)
    return torch.from_numpy(result).permute(2, 0, 1).reshape(maps.shape).to(maps.dtype)


def _smoothed_by_torch(
    maps: Tensor, I: Tensor, should_stop: Callable[[], bool], near: NDArray[np.float64], per_colour: float
) -> Tensor:
    guide, radius = I.to(maps.dtype), len(near) - 1
    planes = maps.detach().flatten(0, 1)
    total, weights = torch.zeros_like(planes), torch.zeros_like(guide[0])
    height, width = weights.shape
    for dy in range(-min(radius, height - 1), min(radius, height - 1) + 1):
        if should_stop():
            raise SolveCancelled
        for dx in range(-min(radius, width - 1), min(radius, width - 1) + 1):
            here = (..., slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0)))
            there = (..., slice(max(dy, 0), height - max(-dy, 0)), slice(max(dx, 0), width - max(-dx, 0)))
            exponent = (guide[there] - guide[here]).square().sum(dim=0) * per_colour + near[abs(dy), abs(dx)]
            w = torch.exp(-exponent)
            total[here] += w * planes[there]
            weights[here] += w
    return (total / weights).view(maps.shape)


@njit(cache=True, parallel=True, fastmath=False)
def _smooth_rows(planes, guide, near, per_colour, first, last, result):  # type: ignore[no-untyped-def]  # pragma: no cover
    height, width, count = planes.shape
    radius = near.shape[0] - 1
    for y in prange(first, last):
        total = np.zeros(count)
        for x in range(width):
            total[:] = 0
            weights = 0.0
            r, g, b = guide[y, x]
            for v in range(max(y - radius, 0), min(y + radius + 1, height)):
                for u in range(max(x - radius, 0), min(x + radius + 1, width)):
                    colour = (guide[v, u, 0] - r) ** 2 + (guide[v, u, 1] - g) ** 2 + (guide[v, u, 2] - b) ** 2
                    exponent = near[abs(v - y), abs(u - x)] + colour * per_colour
                    if exponent < _LEAST_EXPONENT:
                        w = math.exp(-exponent)
                        weights += w
                        for k in range(count):
                            total[k] += w * planes[v, u, k]
            for k in range(count):
                result[y, x, k] = total[k] / weights
