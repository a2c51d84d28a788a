"""Whether flat ground stayed flat: variance that a picture has where the content photo has none, score and penalty.

The matting energy looks at 3x3 pixels. A stroke that the style's Gram matrices paint into a clear sky, ten pixels wide,
is nearly constant in each of them; in a window of its own width it is not.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.window_means import window_means

__all__ = ["FlatGround"]

_WINDOWS_PER_EDGE: Final = 128
"""The window reaches so far to each side: 9x9 at a long edge of 512 px, so that it is the same part of the photo at
every size."""

_FLAT_VARIANCE: Final = 1e-4
"""Of the three channels together, in 0..1: a deviation of 1.5 levels of 8 bits, where the sky of the demo's JPEG has
1.0 in the median. A window with that much counts a quarter, one with ten times as much a hundredth."""


class FlatGround:
    """Where the content photo is flat, for pictures to be compared with.

    In each window inside, ``w · relu(var O − var I)`` with ``w = (τ / (τ + var I))²``; variances are summed over the
    channels.

    Args:
        I: (3, H, W) content photo, RGB 0..1; its dtype is that of the computation.
    """

    def __init__(self, I: Tensor) -> None:
        side = 2 * max(1, round(max(I.shape[1:]) / _WINDOWS_PER_EDGE)) + 1
        self._window = [min(side, size) for size in I.shape[1:]]
        self._variance = self._variances(I)
        self._weight = (_FLAT_VARIANCE / (_FLAT_VARIANCE + self._variance)).square()

    def excess(self, O: Tensor) -> Tensor:
        """Mean of the weighted excess, a scalar; 0 for the content photo; differentiable in O, (3, H, W)."""
        mean: Tensor = (self._weight * (self._variances(O) - self._variance).relu()).mean()
        return mean

    def deviation(self, O: Tensor) -> float:
        """Root of the mean excess variance of a channel where the photo is flat, in levels of 255."""
        of_a_channel = self.excess(O) / self._weight.mean().clamp_min(1e-12) / 3
        return 255 * float(of_a_channel.sqrt())

    def _variances(self, picture: Tensor) -> Tensor:
        means = window_means(torch.cat([picture, picture.square().sum(dim=0, keepdim=True)]), *self._window)
        variances: Tensor = (means[3] - means[:3].square().sum(dim=0)).clamp_min(0)
        return variances
