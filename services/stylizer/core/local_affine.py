"""Local affine maps from content to output: at every pixel the rows of [A | b] so that ``O = A·I + b`` on RGB 0..1.

The published method ends with them (Luan et al. 2017, supplement); a rendering at another size interpolates them.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.covariance import PAIRS, dot, inverse
from services.stylizer.core.matting import EPSILON

__all__ = ["applied", "exact_affine", "local_affine"]

_EXACT_RIDGE: Final = 1e-3
"""Variance of the guide below which :func:`exact_affine` keeps the content's own contrast."""


def local_affine(O: Tensor, I: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Ridge fit of the output on the content in the 3x3 window around every pixel.

    Minimises ``Σ (O_i − A·I_i − b)² + ε |A|²`` over the window, which is cut at the border. Singular windows leave
    black dots in the published pictures; the ridge gives a flat window its mean.

    Args:
        O: (3, H, W) output.
        I: (3, H, W) content, RGB 0..1.
        epsilon: weight of |A|², above 0.

    Returns:
        (3, 4, H, W) float64.
    """
    x, guide = O.double(), I.double()
    count = 9 * _mean(torch.ones_like(guide[:1]), whole=True)[0]
    mean_x, mean_I = _mean(x), _mean(guide)
    cov_I = torch.stack([_mean((guide[i] * guide[j])[None])[0] - mean_I[i] * mean_I[j] for i, j in PAIRS])
    cov = torch.stack([_mean(channel * guide) - m * mean_I for channel, m in zip(x, mean_x, strict=True)])
    A = torch.stack([dot(cov, row) for row in inverse(cov_I, epsilon / count)], dim=1)
    return torch.cat([A, (mean_x - dot(A, mean_I))[:, None]], dim=1)


def exact_affine(O: Tensor, I: Tensor) -> Tensor:
    """Maps that give the output exactly: near the identity where the content is flat, its local fit where it is not.

    A is 1 plus the ridge fit of ``O − I`` on I over 3x3 windows, with a ridge of 1e-3 in variance, so that an
    enlarged rendering keeps the photo's own detail without amplifying its noise; b is what is then missing.

    Args:
        O: (3, H, W) output.
        I: (3, H, W) content, RGB 0..1.

    Returns:
        (3, 4, H, W) float64 with ``A·I + b = O``.
    """
    A = local_affine(O.double() - I.double(), I, 9 * _EXACT_RIDGE)[:, :3]
    A = A + torch.eye(3, dtype=A.dtype, device=A.device)[:, :, None, None]
    return torch.cat([A, (O.double() - dot(A, I.double()))[:, None]], dim=1)


def applied(maps: Tensor, I: Tensor) -> Tensor:
    """The maps applied to the content, ``A·I + b``: (3, 4, H, W) and (3, H, W) give (3, H, W)."""
    return dot(maps[:, :3], I.to(maps.dtype)) + maps[:, 3]


def _mean(x: Tensor, whole: bool = False) -> Tensor:
    """Mean over the 3x3 window cut at the border (``whole``: over nine, zeros outside): (C, H, W) to the same shape."""
    return functional.avg_pool2d(x[None], 3, 1, 1, count_include_pad=whole)[0]
