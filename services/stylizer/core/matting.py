"""The matting Laplacian (Levin, Lischinski, Weiss 2008, eq. 12), matrix-free (He et al. 2010) and assembled.

For every 3x3 window k inside the picture, with mean μ and covariance Σ of the guide I in it::

    energy_k(x) = min over a, b of  Σ_{i∈k} (x_i − a·I_i − b)² + ε |a|²
    a = (Σ + ε/9)⁻¹ cov(I, x)     b = mean x − a·μ
    (M x)_i = Σ_{k∋i} (x_i − a_k·I_i − b_k)        xᵀ M x = Σ_k energy_k(x)

Windows that would leave the picture are left out. Everything is float64: with ε = 1e-7, float32 variances of flat
regions are noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.covariance import PAIRS, dot, inverse

__all__ = ["EPSILON", "MattingLaplacian", "assembled_laplacian", "box_mean", "matting_energy"]

EPSILON = 1e-7
"""Levin's ε on values in 0..1, as the published method sets it; larger values let the output leave the affine model."""


def _box(x: Tensor) -> Tensor:
    """Sum over each 3x3 window inside: (..., H, W) to (..., H-2, W-2)."""
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


def box_mean(x: Tensor) -> Tensor:
    """Mean over each 3x3 window inside: (..., H, W) to (..., H-2, W-2)."""
    return _box(x) / 9


def _spread(x: Tensor) -> Tensor:
    """Adjoint of :func:`_box`: (..., H-2, W-2) to (..., H, W)."""
    return _box(functional.pad(x, (2, 2, 2, 2)))


class MattingLaplacian:
    """The matting Laplacian of a guide as an operator; 9 floats a pixel are kept.

    Args:
        I: (3, H, W) guide, RGB 0..1, H and W at least 3.
        epsilon: Levin's ε.
    """

    def __init__(self, I: Tensor, epsilon: float = EPSILON) -> None:
        self._I = I.double()
        self._mean = box_mean(self._I)
        cov = torch.stack([box_mean(self._I[i] * self._I[j]) - self._mean[i] * self._mean[j] for i, j in PAIRS])
        self._inverse = inverse(cov, epsilon / 9)
        ones = self._I.new_ones(cov.shape[1:])
        self._count = _spread(ones)

    def fit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Ridge fit of x on the guide in every window.

        Args:
            x: (C, H, W) float64.

        Returns:
            a: (C, 3, H-2, W-2) and b: (C, H-2, W-2).
        """
        mean_x = box_mean(x)
        products = box_mean(x[:, None] * self._I[None])
        cov = products - mean_x[:, None] * self._mean[None]
        a = torch.stack([dot(cov, row) for row in self._inverse], dim=1)
        b = mean_x - dot(a, self._mean)
        return a, b

    def apply(self, x: Tensor) -> Tensor:
        """The product M x for each channel: (C, H, W) float64 to the same shape."""
        a, b = self.fit(x)
        return self._count * x - dot(_spread(a), self._I) - _spread(b)


class _Energy(torch.autograd.Function):
    """xᵀ M x with the gradient 2 M x, so that the operator runs once for value and gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, laplacian: MattingLaplacian) -> Tensor:
        x64 = x.detach().double()
        product = laplacian.apply(x64)
        ctx.save_for_backward((2 * product).to(x.dtype))
        return (x64 * product).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].to(gradient.dtype), None


def matting_energy(x: Tensor, laplacian: MattingLaplacian) -> Tensor:
    """Σ over channels of xᵀ M x, differentiable in x: (C, H, W) of any float dtype, gives a float64 scalar."""
    energy: Tensor = _Energy.apply(x, laplacian)  # type: ignore[no-untyped-call]
    return energy


def assembled_laplacian(I: NDArray[np.floating[Any]], epsilon: float = EPSILON) -> sparse.csr_array:
    """The matting Laplacian as a sparse matrix, about 25 non-zeros a pixel; for tests and small pictures.

    Args:
        I: (H, W, 3) guide, RGB 0..1.
        epsilon: Levin's ε.

    Returns:
        (H·W, H·W) float64 matrix, pixels in row-major order.
    """
    height, width, _ = I.shape
    index = np.arange(height * width).reshape(height, width)
    windows = np.lib.stride_tricks.sliding_window_view(index, (3, 3)).reshape(-1, 9)
    colours = I.reshape(-1, 3).astype(np.float64)[windows]
    centred = colours - colours.mean(axis=1, keepdims=True)
    cov = np.einsum("kni,knj->kij", centred, centred) / 9 + np.eye(3) * epsilon / 9
    affinity = (1 + np.einsum("kni,kij,kmj->knm", centred, np.linalg.inv(cov), centred)) / 9
    values = np.eye(9)[None] - affinity
    rows = np.repeat(windows, 9, axis=1).ravel()
    columns = np.tile(windows, (1, 9)).ravel()
    return sparse.coo_array((values.ravel(), (rows, columns)), shape=(index.size, index.size)).tocsr()
