"""Labels' probabilities as surfaces over the photo, evaluated as large as a map needs them, in bands of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.segmentation.refine.guided import guided_plane
from services.segmentation.sampling import Positions, half_pixel, resampled
from services.segmentation.views import Probabilities

__all__ = ["GuidedSurfaces", "PlainSurfaces", "Surfaces", "bands_of", "totals_and_winners"]

_BAND_PIXELS = 1 << 20  # a band's planes take 4 MB each, so that a map of 24 MP needs no plane of its own size
_TINY = np.float32(1e-6)


class Surfaces(Protocol):
    """Values of 0..1 for each label; they sum to about 1 and are to be divided by their sum."""

    labels: int
    width: int
    height: int

    def band(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Evaluate the rows ``start`` to ``stop`` of every label in turn: (stop - start, width)."""

    def plane(self, label: int, start: int, stop: int) -> NDArray[np.float32]:
        """Evaluate the same rows of one label."""


class PlainSurfaces:
    """Probabilities interpolated."""

    def __init__(self, probabilities: Probabilities, width: int, height: int) -> None:
        self._planes = probabilities.planes
        self._rows, self._columns = probabilities.rows.for_size(height), probabilities.columns.for_size(width)
        self.labels, self.width, self.height = len(self._planes), width, height

    def plane(self, label: int, start: int, stop: int) -> NDArray[np.float32]:
        """Evaluate rows of one label."""
        rows = self._rows.part(start, stop)
        return np.asarray(resampled(self._planes[label : label + 1], rows, self._columns)[0])

    def band(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Evaluate rows of every label."""
        return (self.plane(label, start, stop) for label in range(self.labels))


class GuidedSurfaces:
    """Fits of a guided filter, (labels, 4, h, w), evaluated on a guide, (H, W, 3), interpolated if it is too small."""

    def __init__(self, fits: NDArray[np.float32], guide: NDArray[np.float32], width: int, height: int) -> None:
        self._fits, self._guide = fits, guide
        self._rows, self._columns = half_pixel(fits.shape[2], height), half_pixel(fits.shape[3], width)
        self._guide_rows, self._guide_columns = half_pixel(guide.shape[0], height), half_pixel(guide.shape[1], width)
        self.labels, self.width, self.height = len(fits), width, height

    def plane(self, label: int, start: int, stop: int) -> NDArray[np.float32]:
        """Evaluate rows of one label."""
        return self._on(self._guide_part(start, stop), label, self._rows.part(start, stop))

    def band(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Evaluate rows of every label."""
        guide, rows = self._guide_part(start, stop), self._rows.part(start, stop)
        return (self._on(guide, label, rows) for label in range(self.labels))

    def _on(self, guide: NDArray[np.float32], label: int, rows: Positions) -> NDArray[np.float32]:
        return guided_plane(self._fits[label], guide, rows, self._columns)

    def _guide_part(self, start: int, stop: int) -> NDArray[np.float32]:
        if self._guide.shape[:2] == (self.height, self.width):
            return np.ascontiguousarray(self._guide[start:stop])
        rows = self._guide_rows.part(start, stop)
        first, last = int(rows.lower.min()), int(rows.upper.max()) + 1
        part = self._guide[first:last].transpose(2, 0, 1)
        near = Positions(rows.lower - first, rows.upper - first, rows.share)
        return np.ascontiguousarray(resampled(part, near, self._guide_columns).transpose(1, 2, 0))


def bands_of(surfaces: Surfaces) -> Iterator[tuple[int, int]]:
    """Rows from top to bottom, ``start`` and ``stop``, that hold about a million pixels each."""
    step = max(1, _BAND_PIXELS // surfaces.width)
    return ((start, min(start + step, surfaces.height)) for start in range(0, surfaces.height, step))


def totals_and_winners(surfaces: Surfaces) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Sum of all labels' values, (H, W) float32, at least 1e-6, and the label with the largest, (H, W) uint8."""
    totals = np.empty((surfaces.height, surfaces.width), np.float32)
    winners = np.empty((surfaces.height, surfaces.width), np.uint8)
    for start, stop in bands_of(surfaces):
        best = total = None
        winner = winners[start:stop]
        for label, plane in enumerate(surfaces.band(start, stop)):
            if best is None or total is None:
                best, total = plane, plane.copy()
                winner[:] = 0
                continue
            np.copyto(winner, np.uint8(label), where=plane > best)
            np.maximum(best, plane, out=best)
            total += plane
        if total is not None:
            np.maximum(total, _TINY, out=totals[start:stop])
    return totals, winners
