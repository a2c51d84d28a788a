"""The guided filter with a colour guide (He, Sun, Tang 2013), split so that it can be evaluated at any size."""

from __future__ import annotations

import torch
from torch import Tensor

from services.stylizer.core.covariance import PAIRS, dot, inverse

__all__ = ["guided_coefficients"]


def _box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over the (2r+1)² window, cut at the border: (..., H, W) to the same shape, by running sums."""
    for dim in (-2, -1):
        size = x.shape[dim]
        centre = torch.arange(size, device=x.device)
        low, high = (centre - radius).clamp_min(0), (centre + radius + 1).clamp_max(size)
        shape = [1] * x.ndim
        shape[dim] = size
        sums = torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), x.cumsum(dim)], dim=dim)
        x = (sums.index_select(dim, high) - sums.index_select(dim, low)) / (high - low).view(shape)
    return x


def guided_coefficients(I: Tensor, p: Tensor, radius: int = 8, epsilon: float = 1e-4) -> Tensor:
    """Coefficients of the guided filter: the filtered mask is ``a·I + b`` at any size of I.

    Args:
        I: (3, H, W) guide, RGB 0..1.
        p: (L, H, W) masks to be filtered, 0..1.
        radius: half window in pixels; the width of the feather.
        epsilon: variance of the guide below which an edge is not followed.

    Returns:
        (L, 4, H, W) of I's dtype: a (3) and b (1). Upsampled bilinearly they give the fast guided filter
        (He & Sun 2015). Computed in float64.
    """
    guide, masks = I.double(), p.double()
    mean_I = _box_mean(guide, radius)
    mean_p = _box_mean(masks, radius)
    cov_I = torch.stack([_box_mean(guide[i] * guide[j], radius) - mean_I[i] * mean_I[j] for i, j in PAIRS])
    cov_Ip = torch.stack([_box_mean(guide[i] * masks, radius) - mean_I[i] * mean_p for i in range(3)], dim=1)
    a = torch.stack([dot(cov_Ip, row) for row in inverse(cov_I, epsilon)], dim=1)  # (L, 3, H, W)
    b = mean_p - dot(a, mean_I)
    coefficients = torch.cat([a, b[:, None]], dim=1)
    return _box_mean(coefficients, radius).to(I.dtype)
