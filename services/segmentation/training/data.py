"""Photos with what the teacher and people say of them, and the varied crops that training sees."""

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
from services.segmentation.sampling import half_pixel, of_logits, resampled

__all__ = ["EDGE_PX", "Batch", "Example", "batch_of", "examples", "grouping", "whole"]

EDGE_PX: Final = 320
"""Long edge at which photos enter the network."""

_GRID_EDGE: Final = 80
"""Long edge of the kept targets: the network's output at 320 px."""

_MSRC_INDICES: Final = (
    *("void", "building", "grass", "tree", "cow", "horse", "sheep", "sky", "mountain", "aeroplane", "water", "face"),
    *("car", "bicycle", "flower", "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat"),
)
"""Class of each pixel value of the MSRC v2 maps."""


@dataclass(frozen=True)
class Example:
    """A photo and its targets, all at aspect ratio of the photo.

    Attributes:
        photo: (3, H, W) uint8 RGB.
        classes: (C, h, w) float16, the teacher's probabilities of its own classes.
        people: (h, w) int64, position in ``COMMON_LABELS`` that a person gave; -1 where nobody did.
    """

    photo: Tensor
    classes: Tensor
    people: Tensor


@dataclass(frozen=True)
class Batch:
    """Crops of one size: photos (N, 3, H, W) normalised, class probabilities (N, C, H/4, W/4), people (N, H/4, W/4)."""

    photos: Tensor
    classes: Tensor
    people: Tensor


def examples(
    names: Sequence[str], photos: Path, labels: Path | None, teacher: Network, limits: ImageLimits
) -> list[Example]:
    """Ask the teacher about each photo; ``labels`` is the folder of index PNGs of the MSRC photos."""
    found = []
    for name in names:
        photo = open_photo((photos / name).read_bytes(), name, limits)
        pixels = photo.proxy(teacher.input_edge_px, None)
        height, width = pixels.shape[:2]
        size = [max(1, round(edge * _GRID_EDGE / max(height, width))) for edge in (height, width)]
        logits = teacher.logits(pixels)
        input_width, input_height = teacher.input_size(width, height)
        rows = of_logits(logits.shape[1], input_height, size[0], teacher.align_corners)
        columns = of_logits(logits.shape[2], input_width, size[1], teacher.align_corners)
        small = torch.from_numpy(resampled(logits, rows, columns))
        people = _people(labels / f"{Path(name).stem}.png" if labels else None, size, limits)
        levels = torch.from_numpy((pixels * 255 + 0.5).astype(np.uint8)).permute(2, 0, 1).contiguous()
        found.append(Example(levels, small.softmax(dim=0).half(), people))
    return found


def _people(path: Path | None, size: Sequence[int], limits: ImageLimits) -> Tensor:
    if path is None or not path.exists():
        return torch.full(tuple(size), -1)
    indices = open_photo(path.read_bytes(), path.name, limits).pixels()[..., 0]
    rows = ((np.arange(size[0]) + 0.5) * indices.shape[0] / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * indices.shape[1] / size[1]).astype(np.intp)
    table = np.array([-1 if name == "void" else COMMON_LABELS.index(MSRC[name]) for name in _MSRC_INDICES])
    people: NDArray[np.intp] = table[indices[rows[:, None], columns]]
    return torch.from_numpy(people)


def batch_of(chosen: Sequence[Example], edge_px: int, random: np.random.Generator) -> Batch:
    """Square crops at random scales, mirrored, with changed light, so that dusk and fog are seen too."""
    parts = [_crop(example, edge_px, random) for example in chosen]
    photos, classes, people = (torch.stack(column) for column in zip(*parts, strict=True))
    return Batch(photos.contiguous(memory_format=torch.channels_last), classes, people)


def _crop(example: Example, edge_px: int, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    height, width = example.photo.shape[1:]
    # The crop's place in shares of the photo: between a tight detail and the whole short edge, squeezed a little.
    side = min(height, width) * random.uniform(0.55, 1.0)
    stretch = random.uniform(0.85, 1.18)
    share_y, share_x = min(1.0, side / height), min(1.0, side * stretch / width)
    if random.random() < 0.35:  # the whole photo, squashed into the square
        share_y = share_x = 1.0
    y, x = random.uniform(0, 1 - share_y), random.uniform(0, 1 - share_x)
    mirror = bool(random.random() < 0.5)
    photo = _window(example.photo[None].float() / 255, y, x, share_y, share_x, edge_px, mirror, "bilinear")[0]
    grid = edge_px // 4
    classes = _window(example.classes[None].float(), y, x, share_y, share_x, grid, mirror, "bilinear")[0]
    people = _window(example.people[None, None].float(), y, x, share_y, share_x, grid, mirror, "nearest")[0, 0]
    return _normalised(_relit(photo, random)), classes, people.long()


def _window(
    planes: Tensor, y: float, x: float, share_y: float, share_x: float, edge: int, mirror: bool, mode: str
) -> Tensor:
    """A window given in shares of the picture, resampled to a square: (1, C, H, W) to (1, C, edge, edge)."""
    at_y = 2 * (y + share_y * (torch.arange(edge) + 0.5) / edge) - 1
    at_x = 2 * (x + share_x * (torch.arange(edge) + 0.5) / edge) - 1
    at_x = at_x.flip(0) if mirror else at_x
    grid = torch.stack(torch.meshgrid(at_y, at_x, indexing="ij")[::-1], dim=-1)[None]
    return functional.grid_sample(planes, grid, mode=mode, padding_mode="border", align_corners=False)


def _relit(photo: Tensor, random: np.random.Generator) -> Tensor:
    """Gamma, gains of the channels, contrast and saturation; one photo in ten loses its colours."""
    gamma = float(np.exp(random.normal(0, 0.3)))
    gains = torch.tensor(np.exp(random.normal(0, 0.12, 3)), dtype=torch.float32).view(3, 1, 1)
    lit = photo.clamp_min(1e-4) ** gamma * gains
    grey = lit.mean(dim=0, keepdim=True)
    saturation = 0.0 if random.random() < 0.1 else random.uniform(0.5, 1.4)
    lit = grey + (lit - grey) * saturation
    mean = lit.mean()
    return (mean + (lit - mean) * random.uniform(0.6, 1.25)).clamp(0, 1)


def whole(example: Example) -> tuple[Tensor, Tensor]:
    """The photo as the service will give it to the network, (1, 3, H, W) normalised, and the teacher's classes."""
    height, width = example.photo.shape[1:]
    size = [max(8, round(edge * EDGE_PX / max(height, width) / 8) * 8) for edge in (height, width)]
    pixels = (example.photo.float() / 255).numpy()
    photo = resampled(pixels, half_pixel(height, size[0]), half_pixel(width, size[1]))
    return _normalised(torch.from_numpy(photo))[None], example.classes


def _normalised(photo: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (photo - mean) / std


def grouping(classes: Sequence[str]) -> Tensor:
    """(common labels, classes) of 0 and 1: sums class probabilities to those of common labels."""
    groups = membership(classes)
    table = torch.zeros(len(COMMON_LABELS), len(classes))
    table[torch.from_numpy(groups), torch.arange(len(classes))] = 1
    return table
