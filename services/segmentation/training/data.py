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
from services.segmentation.labels import membership
from services.segmentation.sampling import half_pixel, resampled
from services.segmentation.training.scene import INPUT_EDGE_PX, OUTPUT_STRIDE, STEP_PX
from services.segmentation.training.teacher import Teacher

__all__ = [
    "DEVIATION",
    "MEAN",
    "Batch",
    "Check",
    "Photo",
    "checks",
    "grouping",
    "known",
    "normalised",
    "photos",
    "views",
]

MEAN, DEVIATION = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""Of RGB 0..1, as the trunk was trained on ImageNet."""

_MSRC_INDICES: Final = (
    *("void", "building", "grass", "tree", "cow", "horse", "sheep", "sky", "mountain", "aeroplane", "water", "face"),
    *("car", "bicycle", "flower", "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat"),
)
"""Class of each pixel value of the MSRC v2 maps."""

_WHOLE, _LEAST_SHARE = 0.4, 0.45
"""Share of the views that show all of a photo, and the least share of its sides that the others show."""

_RELIT: Final = 0.6
"""Share of the views whose light is changed."""

_UNKNOWN: Final = ("interior", "object")
_MOST_UNKNOWN: Final = 0.9
"""Share of a photo of our choice that the teacher may call by the labels it has for what it does not know."""


@dataclass(frozen=True)
class Photo:
    """Pixels (3, H, W) uint8 RGB, and people (h, w) int64: position in ``COMMON_LABELS``; -1 where nobody gave one."""

    pixels: Tensor
    people: Tensor


@dataclass(frozen=True)
class Batch:
    """Views of one size: photos (N, 3, H, W) RGB 0..1, people (N, (H-1)/4+1, (W-1)/4+1), of each fourth pixel."""

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


def views(chosen: Sequence[Photo], size: tuple[int, int], random: np.random.Generator) -> Batch:
    """Views (height, width) of photos: all of one or a part, mirrored, in changed light, for dusk and fog are to come.

    Whole photos are what the network is asked about, and a teacher says of the middle of a photo what it says of the
    whole on 85 % of the pixels only.
    """
    parts = [_view(photo, size, random) for photo in chosen]
    pixels, people = (torch.stack(column) for column in zip(*parts, strict=True))
    return Batch(pixels, people)


def _view(photo: Photo, size: tuple[int, int], random: np.random.Generator) -> tuple[Tensor, Tensor]:
    height, width = photo.pixels.shape[1:]
    aspect = size[0] / size[1] * random.uniform(0.92, 1.08)
    share = 1.0 if random.random() < _WHOLE else random.uniform(_LEAST_SHARE, 1.0)
    rows = min(height, width * aspect) * share
    shares = rows / height, rows / aspect / width
    at_y, at_x = (
        random.uniform(0, max(0.0, 1 - share)) + share * (torch.arange(edge) + 0.5) / edge
        for share, edge in zip(shares, size, strict=True)
    )
    at_x = at_x.flip(0) if random.random() < 0.5 else at_x
    pixels = _sampled(photo.pixels[None].float() / 255, at_y, at_x, "bilinear")[0]
    coarse = slice(None, None, OUTPUT_STRIDE)
    people = _sampled(photo.people[None, None].float(), at_y[coarse], at_x[coarse], "nearest")[0, 0]
    return _relit(pixels, random) if random.random() < _RELIT else pixels, people.long()


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


def checks(photos: Sequence[Photo], teacher: Teacher, groups: Tensor) -> list[Check]:
    """What the teacher says of whole photos, in common labels, at the size that they enter the network with."""
    found = []
    for photo in photos:
        pixels: NDArray[np.float32] = photo.pixels.div(255.0).numpy()
        height, width = pixels.shape[1:]
        rows, columns = (_side(edge, max(height, width)) for edge in (height, width))
        image = torch.from_numpy(resampled(pixels, half_pixel(height, rows), half_pixel(width, columns)))[None]
        shares = teacher(image)["head"][0].softmax(dim=0)
        found.append(Check(normalised(image), torch.einsum("kc,chw->khw", groups, shares).argmax(dim=0)))
    return found


def known(photos: Sequence[Photo], teacher: Teacher, groups: Tensor) -> list[Photo]:
    """The photos in which the teacher sees a place: all but a tenth being indoors or things, it does not know them."""
    unknown = torch.tensor([COMMON_LABELS.index(label) for label in _UNKNOWN])
    shares = (torch.isin(check.labels, unknown).float().mean() for check in checks(photos, teacher, groups))
    return [photo for photo, share in zip(photos, shares, strict=True) if share <= _MOST_UNKNOWN]


def _side(edge: int, long_edge: int) -> int:
    return max(1, round(edge * (INPUT_EDGE_PX - 1) / long_edge / STEP_PX)) * STEP_PX + 1


def normalised(photos: Tensor) -> Tensor:
    """(N, 3, H, W) RGB 0..1 in the network's units, -1..1, and its memory order."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return ((photos - mean) / deviation).contiguous(memory_format=torch.channels_last)


def grouping(classes: Sequence[str]) -> Tensor:
    """(common labels, classes) of 0 and 1: sums class probabilities to those of common labels."""
    groups = membership(classes)
    table = torch.zeros(len(COMMON_LABELS), len(classes))
    table[torch.from_numpy(groups), torch.arange(len(classes))] = 1
    return table
