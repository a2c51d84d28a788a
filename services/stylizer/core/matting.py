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

__all__ = ["EPSILON", "MattingLaplacian", "assembled_laplacian", "matting_energy"]

EPSILON = 1e-7
"""Levin's ε on values in 0..1, as the published method sets it; larger values let the output leave the affine model."""


def _box(x: Tensor) -> Tensor:
    """Sum over each 3x3 window inside: (..., H, W) to (..., H-2, W-2)."""
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


def _spread(x: Tensor) -> Tensor:
    """Adjoint of :func:`_box`: (..., H-2, W-2) to (..., H, W)."""
    height, width = x.shape[-2:]
    rows = x.new_zeros((*x.shape[:-1], width + 2))
    for shift in range(3):
        rows[..., shift : shift + width] += x
    out = x.new_zeros((*x.shape[:-2], height + 2, width + 2))
    for shift in range(3):
        out[..., shift : shift + height, :] += rows
    return out


class MattingLaplacian:
    """The matting Laplacian of a guide as an operator; 9 floats a pixel are kept.

    Args:
        I: (3, H, W) guide, RGB 0..1, H and W at least 3.
        epsilon: Levin's ε.
    """

    def __init__(self, I: Tensor, epsilon: float = EPSILON) -> None:
        self._I = I.double()
        self._mean = _box(self._I) / 9
        pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
        cov = torch.stack([_box(self._I[i] * self._I[j]) / 9 - self._mean[i] * self._mean[j] for i, j in pairs])
        rr, rg, rb, gg, gb, bb = cov
        rr, gg, bb = rr + epsilon / 9, gg + epsilon / 9, bb + epsilon / 9
        cofactors = torch.stack(
            [
                gg * bb - gb * gb,
                gb * rb - rg * bb,
                rg * gb - gg * rb,
                rr * bb - rb * rb,
                rb * rg - rr * gb,
                rr * gg - rg * rg,
            ]
        )
        determinant = rr * cofactors[0] + rg * cofactors[1] + rb * cofactors[2]
        i_rr, i_rg, i_rb, i_gg, i_gb, i_bb = cofactors / determinant
        self._inverse = torch.stack([i_rr, i_rg, i_rb, i_rg, i_gg, i_gb, i_rb, i_gb, i_bb]).view(3, 3, *rr.shape)
        ones = self._I.new_ones(rr.shape)
        self._count = _spread(ones)

    def fit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Ridge fit of x on the guide in every window.

        Args:
            x: (C, H, W) float64.

        Returns:
            a: (C, 3, H-2, W-2) and b: (C, H-2, W-2).
        """
        mean_x = _box(x) / 9
        products = _box(x[:, None] * self._I[None]) / 9
        cov = products - mean_x[:, None] * self._mean[None]
        a = torch.einsum("ijhw,cjhw->cihw", self._inverse, cov)
        b = mean_x - (a * self._mean[None]).sum(dim=1)
        return a, b

    def apply(self, x: Tensor) -> Tensor:
        """The product M x for each channel: (C, H, W) float64 to the same shape."""
        a, b = self.fit(x)
        return self._count * x - (_spread(a) * self._I[None]).sum(dim=1) - _spread(b)


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
