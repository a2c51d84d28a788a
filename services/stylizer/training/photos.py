"""Photos for training: which ones, and the crops that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from services.common.images import ImageLimits, open_photo
from services.stylizer.core.warm_start import colour_statistics, monge_kantorovich

__all__ = ["Crops", "photo_files", "recoloured"]

_HELD_OUT_EVERY: Final = 8
"""Of the sorted photos every eighth is kept for the model card's figures."""

_SCALES: Final = (0.5, 1.1)


def photo_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The photos below a folder, sorted by path: those to train on, and those held out."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    return [f for n, f in enumerate(files) if n % _HELD_OUT_EVERY], files[::_HELD_OUT_EVERY]


class Crops:
    """Random square crops of photos, (3, edge, edge) RGB 0..1. Holds all photos in memory, 8 bits.

    Half of the varied ones are recoloured as the warm start of a transfer would, to the statistics of another photo: a
    trunk is to be right about such pictures too.
    """

    def __init__(self, files: Sequence[Path], edge_px: int, seed: int, limits: ImageLimits) -> None:
        self._photos: list[NDArray[np.uint8]] = [
            open_photo(file.read_bytes(), file.name, limits).pixels().astype(np.uint8) for file in files
        ]
        self._edge, self._random = edge_px, np.random.default_rng(seed)

    def crop(self) -> Tensor:
        """A crop of a random photo, at a random scale, mirrored or not."""
        photo = torch.from_numpy(self._photos[self._random.integers(len(self._photos))]).permute(2, 0, 1)[None] / 255
        height, width = photo.shape[2:]
        scale = max(self._random.uniform(*_SCALES), (self._edge + 1) / min(height, width))
        size = [round(height * scale), round(width * scale)]
        photo = functional.interpolate(photo, size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        top, left = (int(self._random.integers(edge - self._edge + 1)) for edge in size)
        crop = photo[:, top : top + self._edge, left : left + self._edge]
        return (crop.flip(2) if self._random.random() < 0.5 else crop).contiguous()

    def varied(self) -> Tensor:
        """A crop, or half of the time one that is recoloured."""
        crop = self.crop()
        return recoloured(crop, self.crop()) if self._random.random() < 0.5 else crop


def recoloured(I: Tensor, S: Tensor) -> Tensor:
    """The linear Monge-Kantorovich transfer of (3, H, W) to the colours of S, clipped."""
    source, goal = (colour_statistics(x.flatten(1), torch.ones(x[0].numel())) for x in (I, S))
    A, b = monge_kantorovich(source, goal)
    return (torch.einsum("ij,jhw->ihw", A.float(), I) + b.float()[:, None, None]).clamp(0, 1)
