"""Photos with what people say of them, the varied views that training sees, and the photos that check it."""

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
from services.segmentation.sampling import half_pixel, resampled
from services.segmentation.training.scene import INPUT_EDGE_PX, OUTPUT_STRIDE

__all__ = ["Batch", "Check", "Photo", "checks", "grouping", "normalised", "photos", "views"]

_MSRC_INDICES: Final = (
    *("void", "building", "grass", "tree", "cow", "horse", "sheep", "sky", "mountain", "aeroplane", "water", "face"),
    *("car", "bicycle", "flower", "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat"),
)
"""Class of each pixel value of the MSRC v2 maps."""

_SHOWN: Final = 0.75
"""Least share of a photo's sides that a view shows."""

_PASTED, _BLENDED = 0.15, 0.05
"""Shares of the views that have a part of another in them, or another shining through."""


@dataclass(frozen=True)
class Photo:
    """Pixels (3, H, W) uint8 RGB, and people (h, w) int64: position in ``COMMON_LABELS``; -1 where nobody gave one."""

    pixels: Tensor
    people: Tensor


@dataclass(frozen=True)
class Batch:
    """Views: photos (N, 3, H, W) RGB 0..1, people (N, h, w) of the pixels 0, 4, 8 ... of both sides."""

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


def views(chosen: Sequence[Photo], height: int, width: int, random: np.random.Generator) -> Batch:
    """Nearly whole photos, mirrored, with changed light, so that dusk and fog are seen too; some are mixed.

    A thousand photos are few: a teacher that is asked about pictures nobody took says more about what it does with
    those that somebody will take (Beyer et al. 2022, who blend; Yun et al. 2019 paste).
    """
    parts = [_view(photo, height, width, random) for photo in chosen]
    pixels, people = (torch.stack(column) for column in zip(*parts, strict=True))
    return _mixed(Batch(pixels, people), random)


def _mixed(batch: Batch, random: np.random.Generator) -> Batch:
    pixels, people = batch.photos.clone(), batch.people.clone()
    for n, kind in enumerate(random.random(len(pixels))):
        if kind < _PASTED:
            (top, left), (height, width) = random.uniform(0, 0.6, 2), random.uniform(0.3, 0.7, 2)
            rows, columns = (
                slice(int(start * samples), int((start + size) * samples))
                for start, size, samples in zip((top, left), (height, width), people.shape[1:], strict=True)
            )
            fine = [slice(part.start * OUTPUT_STRIDE, part.stop * OUTPUT_STRIDE) for part in (rows, columns)]
            pixels[n, :, fine[0], fine[1]] = batch.photos[n - 1, :, fine[0], fine[1]]
            people[n, rows, columns] = batch.people[n - 1, rows, columns]
        elif kind < _PASTED + _BLENDED:
            pixels[n] = pixels[n].lerp(batch.photos[n - 1], random.uniform(0.2, 0.5))
            people[n] = -1
    return Batch(pixels, people)


def _view(photo: Photo, height: int, width: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    share_y, share_x = np.clip(random.uniform(_SHOWN, 1) * np.exp(random.uniform(-0.1, 0.1, 2)), None, 1)
    y, x = random.uniform(0, 1 - share_y), random.uniform(0, 1 - share_x)
    at_y, at_x = (
        start + share * (torch.arange(edge) + 0.5) / edge
        for start, share, edge in ((y, share_y, height), (x, share_x, width))
    )
    at_x = at_x.flip(0) if random.random() < 0.5 else at_x
    pixels = _sampled(photo.pixels[None].float() / 255, at_y, at_x, "bilinear")[0]
    people = _sampled(photo.people[None, None].float(), at_y[::OUTPUT_STRIDE], at_x[::OUTPUT_STRIDE], "nearest")[0, 0]
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
    """What the teacher says of whole photos, in common labels, where it gives its scores: a quarter of the size."""
    found = []
    for photo in photos:
        pixels: NDArray[np.float32] = photo.pixels.permute(1, 2, 0).div(255.0).numpy()
        height, width = pixels.shape[:2]
        shares = torch.from_numpy(teacher.logits(pixels)).softmax(dim=0)
        labels = torch.einsum("kc,chw->khw", groups, shares).argmax(dim=0)
        new_width, new_height = teacher.input_size(width, height)
        image = resampled(pixels.transpose(2, 0, 1), half_pixel(height, new_height), half_pixel(width, new_width))
        found.append(Check(normalised(torch.from_numpy(image)[None]), labels))
    return found


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
