"""Photos with what people say of them, the varied crops that training sees, and the photos that check it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from services.common.class_sets import MSRC
from services.common.images import ImageLimits, open_photo
from services.common.taxonomy import COMMON_LABELS
from services.segmentation.convert.torch_export import MEAN, STD
from services.segmentation.labels import membership
from services.segmentation.network import Network
from services.segmentation.sampling import Axis, half_pixel, resampled
from services.segmentation.training.scene import INPUT_EDGE_PX, OUTPUT_STRIDE, STEP_PX

__all__ = ["Batch", "Check", "Photo", "checks", "crops", "grouping", "normalised", "photos"]

_MSRC_INDICES: Final = (
    *("void", "building", "grass", "tree", "cow", "horse", "sheep", "sky", "mountain", "aeroplane", "water", "face"),
    *("car", "bicycle", "flower", "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat"),
)
"""Class of each pixel value of the MSRC v2 maps."""

_SCALES: Final = (0.65, 1.3)
"""Of a photo whose long side is ``INPUT_EDGE_PX``."""

_PASTED, _BLENDED = 0.1, 0.05
"""Shares of the crops that have a part of another in them, or another shining through."""


@dataclass(frozen=True)
class Photo:
    """Pixels (3, H, W) uint8 RGB, and people (h, w) int64: position in ``COMMON_LABELS``; -1 where nobody gave one."""

    pixels: Tensor
    people: Tensor


@dataclass(frozen=True)
class Batch:
    """Square crops: photos (N, 3, E, E) RGB 0..1, people (N, e, e) with e = (E - 1) / 4.

    The teacher sees all of a crop, the student all but the last row and column.
    """

    photos: Tensor
    people: Tensor


@dataclass(frozen=True)
class Check:
    """A photo (1, 3, H, W) normalised, as the service gives it to the network, and the teacher's labels (h, w)."""

    photo: Tensor
    labels: Tensor


def photos(names: Sequence[str], folder: Path, labels: Path | None, limits: ImageLimits) -> list[Photo]:
    """Read photos; ``labels`` is the folder of index PNGs of the MSRC photos."""
    found = []
    for name in names:
        pixels = open_photo((folder / name).read_bytes(), name, limits).proxy(INPUT_EDGE_PX, None)
        levels = torch.from_numpy((pixels * 255 + 0.5).astype(np.uint8)).permute(2, 0, 1).contiguous()
        path = labels / f"{Path(name).stem}.png" if labels else None
        found.append(Photo(levels, _people(path, limits)))
    return found


def _people(path: Path | None, limits: ImageLimits) -> Tensor:
    if path is None or not path.exists():
        return torch.full((1, 1), -1)
    indices = open_photo(path.read_bytes(), path.name, limits).pixels()[..., 0]
    table = np.array([-1 if name == "void" else COMMON_LABELS.index(MSRC[name]) for name in _MSRC_INDICES])
    people: NDArray[np.intp] = table[indices]
    return torch.from_numpy(people)


def crops(chosen: Sequence[Photo], edge_px: int, random: np.random.Generator) -> Batch:
    """Square crops at random scales, mirrored, with changed light, so that dusk and fog are seen too; some are mixed.

    A thousand photos are few: a teacher that is asked about pictures nobody took says more about what it does with
    those that somebody will take (Beyer et al. 2022, who blend; Yun et al. 2019 paste).
    """
    parts = [_crop(photo, edge_px, random) for photo in chosen]
    pixels, people = (torch.stack(column) for column in zip(*parts, strict=True))
    return _mixed(Batch(pixels, people), random)


def _mixed(batch: Batch, random: np.random.Generator) -> Batch:
    pixels, people = batch.photos.clone(), batch.people.clone()
    for n, kind in enumerate(random.random(len(pixels))):
        if kind < _PASTED:
            (top, left), (height, width) = random.uniform(0, 0.6, 2), random.uniform(0.3, 0.7, 2)
            coarse = people.shape[1]
            rows, columns = (
                slice(int(start * coarse), int((start + size) * coarse))
                for start, size in ((top, height), (left, width))
            )
            fine = [slice(part.start * OUTPUT_STRIDE, part.stop * OUTPUT_STRIDE) for part in (rows, columns)]
            pixels[n, :, fine[0], fine[1]] = batch.photos[n - 1, :, fine[0], fine[1]]
            people[n, rows, columns] = batch.people[n - 1, rows, columns]
        elif kind < _PASTED + _BLENDED:
            pixels[n] = pixels[n].lerp(batch.photos[n - 1], random.uniform(0.2, 0.5))
            people[n] = -1
    return Batch(pixels, people)


def _crop(photo: Photo, edge_px: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    height, width = photo.pixels.shape[1:]
    scale = random.uniform(*_SCALES) * INPUT_EDGE_PX / max(height, width)
    stretch = random.uniform(0.9, 1.1)
    share_y, share_x = min(1.0, edge_px * stretch / (height * scale)), min(1.0, edge_px / stretch / (width * scale))
    y, x = random.uniform(0, 1 - share_y), random.uniform(0, 1 - share_x)
    mirror = random.random() < 0.5
    at_y, at_x = (
        start + share * (torch.arange(edge_px) + 0.5) / edge_px for start, share in ((y, share_y), (x, share_x))
    )
    at_x = at_x.flip(0) if mirror else at_x
    pixels = _sampled(photo.pixels[None].float() / 255, at_y, at_x, "bilinear")[0]
    coarse = slice(OUTPUT_STRIDE // 2, None, OUTPUT_STRIDE)
    people = _sampled(photo.people[None, None].float(), at_y[coarse], at_x[coarse], "nearest")[0, 0]
    return _relit(pixels, random), people.long()


def _sampled(planes: Tensor, at_y: Tensor, at_x: Tensor, mode: str) -> Tensor:
    """Planes (1, C, H, W) at places that are given in shares of their sides."""
    grid = torch.stack(torch.meshgrid(2 * at_y - 1, 2 * at_x - 1, indexing="ij")[::-1], dim=-1)[None]
    return functional.grid_sample(planes, grid, mode=mode, padding_mode="border", align_corners=False)


def _relit(photo: Tensor, random: np.random.Generator) -> Tensor:
    """Gamma, gains of the channels, contrast and saturation; one photo in ten loses its colours."""
    gamma = float(np.exp(random.normal(0, 0.25)))
    gains = torch.tensor(np.exp(random.normal(0, 0.1, 3)), dtype=torch.float32).view(3, 1, 1)
    lit = photo.clamp_min(1e-4) ** gamma * gains
    grey = lit.mean(dim=0, keepdim=True)
    saturation = 0.0 if random.random() < 0.1 else random.uniform(0.6, 1.4)
    lit = grey + (lit - grey) * saturation
    mean = lit.mean()
    return (mean + (lit - mean) * random.uniform(0.7, 1.25)).clamp(0, 1)


def checks(photos: Sequence[Photo], teacher: Network, groups: Tensor) -> list[Check]:
    """What the teacher says of whole photos, in common labels, at a quarter of the size that they enter it with."""
    found = []
    for photo in photos:
        pixels: NDArray[np.float32] = photo.pixels.permute(1, 2, 0).div(255.0).numpy()
        height, width = pixels.shape[:2]
        size = [_side(edge, max(height, width)) for edge in (height, width)]
        logits = teacher.logits(pixels)
        input_width, input_height = teacher.input_size(width, height)
        grid = [edge // OUTPUT_STRIDE for edge in size]
        rows = Axis(logits.shape[1], input_height, teacher.align_corners).for_size(grid[0])
        columns = Axis(logits.shape[2], input_width, teacher.align_corners).for_size(grid[1])
        shares = torch.from_numpy(resampled(logits, rows, columns)).softmax(dim=0)
        labels = torch.einsum("kc,chw->khw", groups, shares).argmax(dim=0)
        image = resampled(pixels.transpose(2, 0, 1), half_pixel(height, size[0]), half_pixel(width, size[1]))
        found.append(Check(normalised(torch.from_numpy(image)[None]), labels))
    return found


def _side(edge: int, long_edge: int) -> int:
    return max(1, round(edge * INPUT_EDGE_PX / long_edge / STEP_PX)) * STEP_PX


def normalised(photos: Tensor) -> Tensor:
    """(N, 3, H, W) RGB 0..1 in the network's units and its memory order."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((photos - mean) / std).contiguous(memory_format=torch.channels_last)


def grouping(classes: Sequence[str]) -> Tensor:
    """(common labels, classes) of 0 and 1: sums class probabilities to those of common labels."""
    groups = membership(classes)
    table = torch.zeros(len(COMMON_LABELS), len(classes))
    table[torch.from_numpy(groups), torch.arange(len(classes))] = 1
    return table
