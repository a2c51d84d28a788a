"""A penalty for colours that the style does not have in the region they appear in.

Gram matrices allow a stray hue wherever two channels' errors cancel; the published pictures show such patches too. Each
label's style colours are a set of cells of the RGB cube; a colour costs nothing within :data:`TOLERANCE` of that set,
then the square of the excess distance. Ours, not part of the paper's objective (docs/adr/0004-palette-penalty.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

__all__ = ["TOLERANCE", "Palette"]

TOLERANCE: Final = 0.06
"""Distance in RGB, 0..1, up to which a colour is free: two cells."""

_CELLS: Final = 32
_BATCHES: Final = 4
_LEAST_SHARE: Final = 1e-4
"""Share of a region's pixels that a cell must hold to count as one of its colours: single odd pixels do not."""


class Palette:
    """Distance of every colour from the style's colours, looked up for each pixel's label.

    Args:
        colours: for each label, (3, N) RGB pixels, 0..1, of the style.
        indices: (H, W) which label applies at each pixel.
    """

    def __init__(self, colours: Sequence[Tensor], indices: Tensor) -> None:
        volumes = [_distances(pixels) for pixels in colours]
        # One volume, the labels stacked along red: a pixel reads within its own label's slab.
        self._volume = torch.cat(volumes).to(indices.device)[None, None]
        self._slab = indices.flatten().float() * _CELLS
        self._depth = len(volumes) * _CELLS

    def penalty(self, O: Tensor) -> Tensor:
        """Mean over pixels of ``relu(distance − TOLERANCE)²``, differentiable: (3, H, W) gives a scalar."""
        red, green, blue = O.flatten(1).clamp(0, 1) * (_CELLS - 1)
        depth = (red + self._slab) / (self._depth - 1)
        points = torch.stack([blue / (_CELLS - 1), green / (_CELLS - 1), depth], dim=-1) * 2 - 1
        # grid_sample runs its batches side by side, the points of one batch one after the other.
        batches = functional.pad(points, (0, 0, 0, -len(points) % _BATCHES)).view(_BATCHES, 1, 1, -1, 3)
        volume = self._volume.expand(_BATCHES, -1, -1, -1, -1)
        distance = functional.grid_sample(volume, batches, align_corners=True).flatten()[: len(points)]
        return torch.relu(distance - TOLERANCE).square().mean()


def _distances(pixels: Tensor) -> Tensor:
    """Distance in RGB of each cell's centre from the nearest occupied one: (cells, cells, cells), red first."""
    cells = (pixels.clamp(0, 1) * (_CELLS - 1)).round().long()
    flat = (cells[0] * _CELLS + cells[1]) * _CELLS + cells[2]
    counts = torch.bincount(flat.cpu(), minlength=_CELLS**3).numpy()
    occupied = counts >= max(1.0, _LEAST_SHARE * counts.sum())
    if not occupied.any():
        occupied = counts > 0
    distance = distance_transform_edt(~occupied.reshape(_CELLS, _CELLS, _CELLS)) / (_CELLS - 1)
    return torch.from_numpy(distance.astype(np.float32))
