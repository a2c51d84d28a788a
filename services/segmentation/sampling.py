"""Bilinear resampling along each axis, with positions that say where pixel centres are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Positions", "bands", "half_pixel", "of_logits", "resampled"]

_BAND_BYTES = 32 << 20  # keeps the interpolated labels of a 24 MP photo out of memory


@dataclass(frozen=True)
class Positions:
    """For each output sample, its two neighbours in the input and the share of the upper one."""

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    share: NDArray[np.float32]

    @classmethod
    def at(cls, coordinates: NDArray[np.float64], size: int) -> Positions:
        """Interpolate at input coordinates (0 = centre of the first sample); those outside take the border's value."""
        inside = np.clip(coordinates, 0, size - 1)
        lower = np.floor(inside).astype(np.intp)
        return cls(lower, np.minimum(lower + 1, size - 1), (inside - lower).astype(np.float32))

    def part(self, start: int, stop: int) -> Positions:
        """Take the output samples ``start`` to ``stop``."""
        return Positions(self.lower[start:stop], self.upper[start:stop], self.share[start:stop])


def half_pixel(size: int, new_size: int) -> Positions:
    """Positions for resizing a picture: both cover the same area."""
    return Positions.at((np.arange(new_size) + 0.5) * size / new_size - 0.5, size)


def of_logits(size: int, input_size: int, new_size: int, align_corners: bool) -> Positions:
    """Positions in a network's output of ``size``, whose input had ``input_size``, for a map of ``new_size``.

    With ``align_corners`` the first and last output samples lie on the centres of the first and last input pixels
    (TensorFlow's DeepLab); otherwise output and input cover the same area.
    """
    pixel = (np.arange(new_size) + 0.5) * input_size / new_size - 0.5
    if align_corners:
        return Positions.at(pixel * (size - 1) / max(1, input_size - 1), size)
    return Positions.at((pixel + 0.5) * size / input_size - 0.5, size)


def resampled(planes: NDArray[np.float32], rows: Positions, columns: Positions) -> NDArray[np.float32]:
    """Interpolate (planes, H, W) at the positions."""
    return _along_rows(_along_columns(planes, columns), rows)


def bands(planes: NDArray[np.float32], rows: Positions, columns: Positions) -> Iterator[NDArray[np.float32]]:
    """Interpolate like ``resampled``, in bands of whole rows from top to bottom that each take little memory."""
    wide = _along_columns(planes, columns)
    step = max(1, _BAND_BYTES // (wide[:, :1].size * wide.itemsize))
    for start in range(0, len(rows.share), step):
        yield _along_rows(wide, rows.part(start, start + step))


def _along_columns(planes: NDArray[np.float32], at: Positions) -> NDArray[np.float32]:
    low, high = planes[:, :, at.lower], planes[:, :, at.upper]
    return np.asarray(low + (high - low) * at.share, np.float32)


def _along_rows(planes: NDArray[np.float32], at: Positions) -> NDArray[np.float32]:
    low, high = planes[:, at.lower], planes[:, at.upper]
    return np.asarray(low + (high - low) * at.share[:, None], np.float32)
