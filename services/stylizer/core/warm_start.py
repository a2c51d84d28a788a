"""Linear Monge-Kantorovich colour transfer (Pitié & Kokaram 2007), the closed-form start of the solve."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["colour_statistics", "monge_kantorovich"]

_RIDGE = 1e-4
"""Variance added to both covariances, so that flat regions (a clear sky) neither divide by zero nor amplify noise."""


def colour_statistics(pixels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and covariance of colours.

    Args:
        pixels: (3, N) RGB, 0..1.
        weights: (N,) at least one above 0.

    Returns:
        mean (3,) and covariance (3, 3), float64.
    """
    x, w = pixels.double(), weights.double()
    w = w / w.sum()
    mean = x @ w
    centred = x - mean[:, None]
    return mean, (centred * w) @ centred.T


def _square_root(S: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(S)
    root: Tensor = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    return root


def monge_kantorovich(
    content: tuple[Tensor, Tensor], style: tuple[Tensor, Tensor], ridge: float = _RIDGE
) -> tuple[Tensor, Tensor]:
    """The affine map of least displacement that takes one Gaussian of colours into another.

    Args:
        content: mean and covariance of the colours to be moved.
        style: mean and covariance of the goal.
        ridge: variance added to both covariances.

    Returns:
        A (3, 3), symmetric positive definite, and b (3,), float64: ``O = A·I + b``.
    """
    (mean_c, cov_c), (mean_s, cov_s) = content, style
    eye = torch.eye(3, dtype=cov_c.dtype, device=cov_c.device) * ridge
    root = _square_root(cov_c + eye)
    inverse = torch.linalg.inv(root)
    A = inverse @ _square_root(root @ (cov_s + eye) @ root) @ inverse
    return A, mean_s - A @ mean_c
