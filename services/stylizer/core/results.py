"""Figures of a solve as plain values: free of torch, so that a process that computes nothing can carry them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CHECKPOINT_VERSION", "LOOK_VERSION", "LabelQuality", "Losses", "Quality"]

LOOK_VERSION: Final = 2
"""Version of the format of a serialised look, see :mod:`services.stylizer.core.look`."""

CHECKPOINT_VERSION: Final = 1
"""Version of the format of a serialised checkpoint, see :mod:`services.stylizer.core.checkpoint`."""


@dataclass(frozen=True)
class Losses:
    """The terms of the objective, each with its weight applied; ``smoothness`` is 0 where pixels are solved."""

    total: float
    content: float
    style: float
    affine: float
    smoothness: float
    gamut: float
    edges: float = 0.0
    flatness: float = 0.0


@dataclass(frozen=True)
class LabelQuality:
    """Quality of one label's region; fields as in :class:`Quality`."""

    label: str
    style_relative: float
    affine_per_pixel_e6: float
    clipped_share: float


@dataclass(frozen=True)
class Quality:
    """Quality of a picture against its content and style photo.

    Attributes:
        style_relative: masked-Gram style distance divided by the content photo's; below 1 is nearer to the style.
        content: 5 times the mean squared difference of the content features.
        affine_per_pixel_e6: matting-Laplacian energy per pixel, times 1e6.
        edges: SSIM of Sobel magnitudes of luma against the content photo, at most 1.
        flat_deviation: root mean square deviation that flat ground gained, in levels of 255.
        clipped_share: share of channel values at 0 or 255 after rounding to 8 bits.
        scored_edge_px: long edge of the scored pictures.
        labels: the same per label.
    """

    style_relative: float
    content: float
    affine_per_pixel_e6: float
    edges: float
    flat_deviation: float
    clipped_share: float
    scored_edge_px: int
    labels: tuple[LabelQuality, ...]
