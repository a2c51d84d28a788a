"""A strip of a photo through the affine maps of a proxy: a compiled kernel for the CPU, and the same in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Samples", "strip_by_kernel", "strip_by_torch"]


@dataclass(frozen=True)
class Samples:
    """Where the pixels of one axis lie between those of the proxy: half-pixel centres, clamped at the border.

    As ``grid_sample`` with ``align_corners=False`` and ``padding_mode="border"``.

    Attributes:
        low: (N,) int32, the proxy pixel before.
        high: (N,) int32, the one after.
        share: (N,) float32, weight of the one after, 0..1.
    """

    low: NDArray[np.int32]
    high: NDArray[np.int32]
    share: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: int, proxy_pixels: int) -> Samples:
        """Those of an axis of ``pixels`` over ``proxy_pixels``."""
        centres = (np.arange(pixels, dtype=np.float64) + 0.5) * proxy_pixels / pixels - 0.5
        centres = centres.clip(0, proxy_pixels - 1)
        low = centres.astype(np.int32)
        high = np.minimum(low + 1, proxy_pixels - 1).astype(np.int32)
        return cls(low, high, (centres - low).astype(np.float32))

    def part(self, start: int, stop: int) -> Samples:
        """Those of the pixels ``start .. stop``."""
        return Samples(self.low[start:stop], self.high[start:stop], self.share[start:stop])


def strip_by_kernel(
    change: NDArray[np.float32],
    source: NDArray[Any],
    rows: Samples,
    columns: Samples,
    scale: float,
    peak: float,
    thresholds: NDArray[np.float32],
    flat_only: bool,
    result: NDArray[Any],
) -> None:
    """Render a strip on the CPU.

    A value of the result is ``⌊clamp(scale·V + A·V + b, 0, peak) + threshold⌋``, where V are the source's levels of
    the pixel and [A | b] is ``change`` between the four nearest proxy pixels. All in float32; every row on its own,
    so that neither strips nor threads show in the bits.

    Args:
        change: (h, w, 12), rows of [A | b], from source levels to result levels, C-contiguous.
        source: (R, W, 3) uint8 or uint16, C-contiguous.
        rows: of the strip's R rows.
        columns: of the W columns.
        scale: result levels per source level.
        peak: the result's highest level.
        thresholds: (n, m, 3) float32, repeated from the strip's first row and column on; n and m are powers of two.
        flat_only: 0.5 is the threshold of pixels that differ from the one to their left or right.
        result: (R, W, 3) uint8 or uint16, C-contiguous, written.
    """
    _kernel(
        *(change, source, rows.low, rows.high, rows.share, columns.low, columns.high, columns.share),
        *(np.float32(scale), np.float32(peak), thresholds, flat_only, result),
    )


def strip_by_torch(
    change: Tensor,
    source: NDArray[Any],
    rows: Samples,
    columns: Samples,
    scale: float,
    peak: float,
    thresholds: NDArray[np.float32],
    flat_only: bool,
    result: NDArray[Any],
) -> None:
    """Render a strip on the device of ``change``; arguments and bits as :func:`strip_by_kernel`.

    Operations and their order are the kernel's. About 200 bytes a pixel are alive at once.
    """
    device = change.device

    def there(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    planes = change.permute(2, 0, 1)
    top, bottom = planes[:, there(rows.low)], planes[:, there(rows.high)]
    lines = top + there(rows.share)[:, None] * (bottom - top)
    left, right = lines[:, :, there(columns.low)], lines[:, :, there(columns.high)]
    maps = (left + there(columns.share) * (right - left)).view(3, 4, *source.shape[:2])
    V = there(source.astype(np.float32)).permute(2, 0, 1)
    moved = maps[:, 0] * V[0] + maps[:, 1] * V[1] + maps[:, 2] * V[2] + maps[:, 3]
    O = (V * scale + moved).clamp(0, peak)
    height, width, _ = source.shape
    down, across = np.arange(height) % thresholds.shape[0], np.arange(width) % thresholds.shape[1]
    added = there(thresholds[down[:, None], across])
    if flat_only:
        added = torch.where(there(_is_flat(source))[:, :, None], added, 0.5)
    levels = O + added.permute(2, 0, 1)
    result[:] = levels.permute(1, 2, 0).to(torch.int32).cpu().numpy()


def _is_flat(source: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels that have the colour of both neighbours in their row, as far as there are any: (R, W)."""
    same = (source[:, 1:] == source[:, :-1]).all(axis=2)
    flat = np.ones(source.shape[:2], bool)
    flat[:, 1:] &= same
    flat[:, :-1] &= same
    return flat


@njit(cache=True, parallel=True, fastmath=False)
def _kernel(  # type: ignore[no-untyped-def]
    change, source, row_low, row_high, row_share, low, high, share, scale, peak, thresholds, flat_only, result
):
    for y in prange(source.shape[0]):
        line = np.empty(change.shape[1:], np.float32)
        above, below, down = change[row_low[y]], change[row_high[y]], row_share[y]
        for x in range(change.shape[1]):
            for k in range(12):
                line[x, k] = above[x, k] + down * (below[x, k] - above[x, k])
        threshold, last = thresholds[y & (thresholds.shape[0] - 1)], thresholds.shape[1] - 1
        end = source.shape[1] - 1
        for x in range(source.shape[1]):
            before, after, is_dithered = max(x - 1, 0), min(x + 1, end), True
            if flat_only:
                for k in range(3):
                    v = source[y, x, k]
                    if source[y, before, k] != v or source[y, after, k] != v:
                        is_dithered = False
            left, right, across = line[low[x]], line[high[x]], share[x]
            r, g, b = np.float32(source[y, x, 0]), np.float32(source[y, x, 1]), np.float32(source[y, x, 2])
            for k in range(3):
                j = 4 * k
                a_r = left[j] + across * (right[j] - left[j])
                a_g = left[j + 1] + across * (right[j + 1] - left[j + 1])
                a_b = left[j + 2] + across * (right[j + 2] - left[j + 2])
                offset = left[j + 3] + across * (right[j + 3] - left[j + 3])
                moved = a_r * r + a_g * g + a_b * b + offset
                level = np.float32(source[y, x, k]) * scale + moved
                level = min(max(level, np.float32(0)), peak)
                result[y, x, k] = int(level + (threshold[x & last, k] if is_dithered else np.float32(0.5)))
