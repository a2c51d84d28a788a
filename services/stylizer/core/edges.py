"""Whether edges are where they were: SSIM (Wang et al. 2004) of Sobel magnitudes, as a score and as a penalty."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.field import luma
from services.stylizer.core.window_means import window_means

__all__ = ["EdgeReference"]

_WINDOW: Final = 11
_C1: Final = 0.01**2
_C2: Final = 0.03**2


class EdgeReference:
    """Edges of the content photo, for pictures to be compared with.

    Sobel magnitude of luma (BT.601, gamma-encoded; border pixels repeated), divided by its own mean; SSIM in 11x11 box
    windows that lie inside, or in one window of the whole picture where it is smaller.

    Args:
        I: (3, H, W) content photo, RGB 0..1; its dtype is that of the computation.
        floor: added under the root of the magnitude, so that it has a gradient on flat ground; 0 for a score.
    """

    def __init__(self, I: Tensor, floor: float = 0.0) -> None:
        self._floor = floor
        self._window = [min(_WINDOW, size) for size in I.shape[1:]]
        self._y = self._edges(I)
        self._mean_y, square_y = self._means(torch.stack([self._y, self._y.square()]))
        self._var_y = square_y - self._mean_y.square()

    def similarity(self, O: Tensor) -> Tensor:
        """At most 1, for the same edges; differentiable: (3, H, W) of the content's size and dtype, gives a scalar."""
        x = self._edges(O)
        mean_x, square_x, product = self._means(torch.stack([x, x.square(), x * self._y]))
        var_x, cov = square_x - mean_x.square(), product - mean_x * self._mean_y
        luminance = (2 * mean_x * self._mean_y + _C1) / (mean_x.square() + self._mean_y.square() + _C1)
        ssim: Tensor = luminance * (2 * cov + _C2) / (var_x + self._var_y + _C2)
        return ssim.mean()

    def _edges(self, picture: Tensor) -> Tensor:
        magnitude = _sobel(luma(picture), self._floor)
        return magnitude / magnitude.mean().clamp_min(1e-12)

    def _means(self, planes: Tensor) -> Tensor:
        return window_means(planes, *self._window)


def _sobel(Y: Tensor, floor: float) -> Tensor:
    padded = functional.pad(Y[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    gx = across[:-2] + 2 * across[1:-1] + across[2:]
    gy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    magnitude: Tensor = (gx.square() + gy.square() + floor).sqrt()
    return magnitude
