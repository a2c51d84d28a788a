"""Resampling along each axis: bilinear, with positions that say where pixel centres are, and by the mean of an area."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["Axis", "Positions", "area_mean", "fitted_size", "half_pixel", "resampled"]


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


@dataclass(frozen=True)
class Axis:
    """How the samples of a network's output lie along a side of the picture.

    With ``align_corners`` the first and last of ``size`` samples lie on the centres of the first and last of
    ``input_size`` pixels (TensorFlow's DeepLab); otherwise output and input cover the same area.
    """

    size: int
    input_size: int
    align_corners: bool

    def centres(self) -> NDArray[np.float64]:
        """Where the samples lie, as shares of the picture's side: 0 and 1 are its borders."""
        samples = np.arange(self.size, dtype=np.float64)
        if self.align_corners:
            return (samples * (self.input_size - 1) / max(1, self.size - 1) + 0.5) / self.input_size
        return (samples + 0.5) / self.size

    def at(self, places: NDArray[np.float64]) -> Positions:
        """Positions among the samples of places that are given as shares of the side."""
        if self.align_corners:
            pixel = places * self.input_size - 0.5
            return Positions.at(pixel * (self.size - 1) / max(1, self.input_size - 1), self.size)
        return Positions.at(places * self.size - 0.5, self.size)

    def for_size(self, new_size: int) -> Positions:
        """Positions for a map of ``new_size`` pixels."""
        return self.at((np.arange(new_size) + 0.5) / new_size)


def fitted_size(width: int, height: int, edge_px: int) -> tuple[int, int]:
    """Size (width, height) of a picture whose long edge is at most ``edge_px``: its aspect ratio, never enlarged."""
    scale = min(1.0, edge_px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def area_mean(picture: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Shrink (H, W, C) to ``height`` times ``width``: each pixel is the mean of the area that it covers."""
    old_height, old_width, channels = picture.shape
    if (old_width, old_height) == (width, height):
        return picture
    tall = _areas(old_height, height) @ picture.reshape(old_height, -1)
    wide = np.ascontiguousarray(tall.reshape(height, old_width, channels).swapaxes(0, 1)).reshape(old_width, -1)
    mean = (_areas(old_width, width) @ wide).reshape(width, height, channels).swapaxes(0, 1)
    return np.ascontiguousarray(mean, np.float32)


def _areas(size: int, new_size: int) -> sparse.csr_array:
    """Share of each of ``size`` samples in each of ``new_size`` intervals; rows sum to 1."""
    borders = np.arange(new_size + 1) * (size / new_size)
    first, last = np.floor(borders[:-1]).astype(int), np.ceil(borders[1:] - 1e-9).astype(int)
    counts = last - first
    rows = np.repeat(np.arange(new_size), counts)
    columns = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[rows]
    shares = np.minimum(columns + 1, borders[rows + 1]) - np.maximum(columns, borders[rows])
    weights = (shares * (new_size / size)).astype(np.float32)
    return sparse.csr_array((weights, (rows, columns)), shape=(new_size, size))


def resampled(planes: NDArray[np.float32], rows: Positions, columns: Positions) -> NDArray[np.float32]:
    """Interpolate (planes, H, W) at the positions."""
    return _along_rows(_along_columns(planes, columns), rows)


def _along_columns(planes: NDArray[np.float32], at: Positions) -> NDArray[np.float32]:
    low, high = planes[:, :, at.lower], planes[:, :, at.upper]
    return np.asarray(low + (high - low) * at.share, np.float32)


def _along_rows(planes: NDArray[np.float32], at: Positions) -> NDArray[np.float32]:
    low, high = planes[:, at.lower], planes[:, at.upper]
    return np.asarray(low + (high - low) * at.share[:, None], np.float32)
