"""The development pairs as benchmarks read them, and the sheets that show what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.common.config import StylizerSettings
from services.common.images import ImageLimits, Photo, open_photo
from services.common.label_maps import decode_label_map
from services.common.models import embedded_models_dir, find_model
from services.stylizer.core.transfer import Regions
from services.stylizer.features import FeatureNetwork, load_features
from tests.benchmarks.machine import models_dir, pairs_dir

__all__ = ["BUILD", "LIMITS", "ROOT", "Pair", "feature_network", "levels", "pair_names", "tensor", "write_sheet"]

LIMITS = ImageLimits.of(StylizerSettings())
ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build/benchmarks"
"""Sheets and whatever else is not for the repository: the pairs' pictures are not ours to publish."""


@dataclass(frozen=True)
class Pair:
    """A pair of photos with the given masks and the published picture.

    Attributes:
        name: of its folder.
        content: the photos themselves.
        style: likewise.
        published: likewise.
        I: (3, H, W) content, RGB 0..1, long edge as asked for.
        S: (3, H', W') style, likewise.
        P: (3, H, W) published picture, likewise.
        content_regions: label map at I's size.
        style_regions: label map at S's size.
    """

    name: str
    content: Photo
    style: Photo
    published: Photo
    I: Tensor
    S: Tensor
    P: Tensor
    content_regions: Regions
    style_regions: Regions

    @classmethod
    def load(cls, name: str, edge_px: int) -> Pair:
        """From its folder, photos reduced to a long edge of ``edge_px``."""
        folder = pairs_dir() / name
        photos = [_photo(folder / f"{part}.png") for part in ("content", "style", "published")]
        I, S, P = (tensor(photo.proxy(edge_px, None)) for photo in photos)
        regions = (_regions(folder / "content_labels.png", I), _regions(folder / "style_labels.png", S))
        return cls(name, *photos, I, S, P, *regions)


def pair_names(wanted: Sequence[str] | None) -> list[str]:
    """The wanted pairs, or all there are."""
    return list(wanted or sorted(path.name for path in pairs_dir().iterdir()))


def feature_network(wanted: str = "auto") -> FeatureNetwork:
    """On the CPU: that of the models' folder, or the package's own if there is none or "builtin" is wanted."""
    model = find_model(models_dir(), "features", wanted, embedded_models_dir("features"))
    assert model is not None, "the package carries one"
    return load_features(model, torch.device("cpu"))


def tensor(pixels: NDArray[np.float32]) -> Tensor:
    """(H, W, 3) to (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def levels(O: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) RGB 0..1 to (H, W, 3) levels of 8 bits."""
    return (O.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def write_sheet(name: str, rows: Sequence[Sequence[NDArray[Any]]], folder: Path = BUILD) -> Path:
    """Pictures side by side as ``<folder>/<name>.png``; those larger than the first of the last row are cut."""
    height, width = rows[-1][0].shape[:2]
    sheet = np.zeros((len(rows) * height, max(map(len, rows)) * width, 3), np.uint8)
    for r, row in enumerate(rows):
        for c, pixels in enumerate(row):
            part = pixels[:height, :width]
            sheet[r * height : r * height + part.shape[0], c * width : c * width + part.shape[1]] = part
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(pyvips.Image.new_from_array(sheet).pngsave_buffer()))
    return path


def _photo(path: Path) -> Photo:
    return open_photo(path.read_bytes(), path.name, LIMITS)


def _regions(path: Path, proxy: Tensor) -> Regions:
    labels = decode_label_map(path.read_bytes(), {}, path.name, LIMITS).resized(proxy.shape[2], proxy.shape[1])
    names = [labels.names.get(index, "") for index in range(max(labels.names) + 1)]
    return Regions(torch.from_numpy(labels.indices.copy()), tuple(names))
