"""What ``mode = paper`` is given: two photos and their masks, and how these follow the photos through the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.errors import ParameterError
from services.stylizer.core.vgg import LAYERS

__all__ = ["PaperPhotos", "layer_masks", "masks_through"]


@dataclass(frozen=True)
class PaperPhotos:
    """The photos of a transfer and their labels, matched: mask k of the style steers mask k of the content.

    Attributes:
        I: (3, H, W) content photo, RGB 0..1; H and W at least 3.
        S: (3, H', W') style photo, RGB 0..1.
        M_content: (L, H, W) masks, 0..1; None with ``M_style`` None: the whole photo steers the whole photo, by plain
            Gram matrices (Gatys et al. 2016). A mask of ones is not quite that, since it fades at the border, see
            :func:`masks_through`.
        M_style: (L, H', W') masks; none is empty, for that would drive its content region to grey.

    Raises:
        ParameterError: shapes do not belong together, a side is too short, or a style mask is empty.
    """

    I: Tensor
    S: Tensor
    M_content: Tensor | None = None
    M_style: Tensor | None = None

    def __post_init__(self) -> None:
        for name, photo in (("I", self.I), ("S", self.S)):
            if photo.ndim != 3 or photo.shape[0] != 3 or min(photo.shape[1:]) < 3:
                raise ParameterError(name, tuple(photo.shape), "must be (3, H, W) with H and W at least 3")
        if self.M_content is None or self.M_style is None:
            if self.M_content is not self.M_style:
                raise ParameterError("M_content, M_style", "only one of them", "give both or none")
            return
        labels = len(self.M_content)
        for name, M, photo in (("M_content", self.M_content, self.I), ("M_style", self.M_style, self.S)):
            wanted = (labels, *photo.shape[1:])
            if tuple(M.shape) != wanted or labels < 1:
                raise ParameterError(name, tuple(M.shape), f"must be {wanted}, at least one label")
        empty = [k for k, M in enumerate(self.M_style) if not M.any()]
        if empty:
            raise ParameterError("M_style", f"nothing but zeros in masks {empty}", "every label needs style pixels")


def masks_through(M: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Masks led through the network beside the photo.

    Every convolution averages them over 3x3 pixels, zeros outside counted; every pooling halves them by area to
    ``ceil(n / 2)``.

    Args:
        M: (L, H, W) masks, 0..1.
        layers: names of the wanted layers.

    Returns:
        For each wanted layer (L, H', W').
    """
    found: dict[str, Tensor] = {}
    for name in LAYERS[: max(LAYERS.index(layer) for layer in layers) + 1]:
        if name.endswith("_1") and name != LAYERS[0]:
            halved = [-(-edge // 2) for edge in M.shape[1:]]
            M = functional.interpolate(M[None], size=halved, mode="area")[0]
        M = functional.avg_pool2d(M[None], 3, 1, 1, count_include_pad=True)[0]
        if name in layers:
            found[name] = M
    return found


def layer_masks(features: Mapping[str, Tensor], M: Tensor | None) -> dict[str, Tensor]:
    """:func:`masks_through` at each layer of (1, C, H', W') features; one mask of ones where M is None."""
    if M is None:
        return {name: torch.ones_like(F[:, 0]) for name, F in features.items()}
    return masks_through(M, tuple(features))
