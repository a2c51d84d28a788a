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
"""Variance of the guide below which :func:`exact_affine` keeps to its prior."""


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


def exact_affine(O: Tensor, I: Tensor, prior: Tensor | None = None) -> Tensor:
    """Maps that give the output exactly: near the prior where the content is flat, its local fit where it is not.

    A minimises ``Σ (O_i − A·I_i − b)² + ε |A − A₀|²`` over the 3x3 window, with A₀ the window's mean prior and a ridge
    of 1e-3 in variance; so an enlarged rendering follows the photo's own edges and keeps its detail without
    amplifying its noise. b is what is then missing.

    Args:
        O: (3, H, W) output.
        I: (3, H, W) content, RGB 0..1.
        prior: (3, 3, H, W) what A is where the content does not tell; None is the identity.

    Returns:
        (3, 4, H, W) float64 with ``A·I + b = O``.
    """
    x, guide = O.double(), I.double()
    A0 = _identity(guide) if prior is None else _mean(prior.double().flatten(0, 1)).view(3, 3, *I.shape[1:])
    mean_x, mean_I = _mean(x), _mean(guide)
    cov_I = torch.stack([_mean((guide[i] * guide[j])[None])[0] - mean_I[i] * mean_I[j] for i, j in PAIRS])
    cov = torch.stack([_mean(channel * guide) - m * mean_I for channel, m in zip(x, mean_x, strict=True)])
    rows = [[PAIRS.index((min(i, j), max(i, j))) for j in range(3)] for i in range(3)]
    unexplained = cov - torch.stack([dot(A0, cov_I[row]) for row in rows], dim=1)
    A = A0 + torch.stack([dot(unexplained, row) for row in inverse(cov_I, _EXACT_RIDGE)], dim=1)
    return torch.cat([A, (x - dot(A, guide))[:, None]], dim=1)


def _identity(I: Tensor) -> Tensor:
    return torch.eye(3, dtype=I.dtype, device=I.device)[:, :, None, None].expand(3, 3, *I.shape[1:])


def applied(maps: Tensor, I: Tensor) -> Tensor:
    """The maps applied to the content, ``A·I + b``: (3, 4, H, W) and (3, H, W) give (3, H, W)."""
    return dot(maps[:, :3], I.to(maps.dtype)) + maps[:, 3]


def _mean(x: Tensor, whole: bool = False) -> Tensor:
    """Mean over the 3x3 window cut at the border (``whole``: over nine, zeros outside): (C, H, W) to the same shape."""
    return functional.avg_pool2d(x[None], 3, 1, 1, count_include_pad=whole)[0]
