"""A penalty for colours that the style does not have in the region they appear in.

Gram matrices allow a stray hue wherever two channels' errors cancel; the published pictures show such patches too. Each
label's style colours are taken as a Gaussian; a colour costs nothing up to :data:`RADIUS` standard deviations from its
mean, then the square of the relative excess. Ours, not part of the paper's objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

__all__ = ["RADIUS", "Palette"]

RADIUS: Final = 3.0
"""Mahalanobis distance up to which a colour is free: 97 % of a Gaussian's mass lies inside."""

_RIDGE: Final = 4e-4
"""Variance added to the style's colours, (5/255)²: a flat style region still leaves some room."""


class Palette:
    """Per-pixel Gaussians of the style's colours.

    Args:
        statistics: mean (3,) and covariance (3, 3) of the style's colours for each label.
        indices: (H, W) which of them applies at each pixel.
    """

    def __init__(self, statistics: Sequence[tuple[Tensor, Tensor]], indices: Tensor) -> None:
        means = torch.stack([mean for mean, _ in statistics])
        covariances = torch.stack([cov for _, cov in statistics])
        eye = torch.eye(3, dtype=covariances.dtype, device=covariances.device)
        # With Σ = L Lᵀ, the distance is |L⁻¹ (O − μ)|.
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariances + _RIDGE * eye))
        flat = indices.flatten().long()
        self._whitening = whitening[flat].permute(1, 2, 0).float().contiguous()
        self._offset = torch.einsum("lij,lj->li", whitening, means)[flat].T.float().contiguous()

    def penalty(self, O: Tensor) -> Tensor:
        """Mean over pixels of ``relu(d / RADIUS − 1)²``, differentiable: (3, H, W) gives a scalar."""
        white = (self._whitening * O.flatten(1)[None]).sum(dim=1) - self._offset
        distance = (white.square().sum(dim=0) + 1e-12).sqrt()
        return torch.relu(distance / RADIUS - 1).square().mean()
