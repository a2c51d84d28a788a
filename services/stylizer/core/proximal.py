"""The smoothing that the solve looks through: an approximate proximal step of the matting Laplacian.

``O ≈ (1 + μ M)⁻¹ T`` makes a picture more of a locally affine function of the guide, at little cost of what the picture
shows. As a variable T is far better conditioned than O: a step in T reaches O already smoothed by M itself.

The inverse is a Chebyshev iteration of a fixed length (Saad 2003, algorithm 12.1): a fixed polynomial in M, hence
linear and symmetric, so that the gradient is the same polynomial applied to what comes back. Conjugate gradients, which
the design first had, depend on T in a way that has no such adjoint.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from services.stylizer.core.matting import MattingLaplacian

__all__ = ["LARGEST_EIGENVALUE", "chebyshev_smooth", "smoothed"]

LARGEST_EIGENVALUE: Final = 9.0
"""Bound of M's spectrum: each pixel is in at most nine windows, and a window's fit never has more energy than zero."""


def chebyshev_smooth(T: Tensor, laplacian: MattingLaplacian, mu: float, steps: int) -> Tensor:
    """``steps`` Chebyshev steps for ``(1 + μ M) O = T``, from O = T.

    Args:
        T: (C, H, W), any float dtype; computed in float64.
        laplacian: of the guide.
        mu: μ, above 0.
        steps: applications of M.

    Returns:
        O, of T's shape and dtype.
    """
    low, high = 1.0, 1.0 + LARGEST_EIGENVALUE * mu
    centre, radius = (high + low) / 2, (high - low) / 2
    ratio = centre / radius
    O = T.detach().double()
    residual = laplacian.apply(O).mul_(-mu)
    direction = residual / centre
    rho = 1 / ratio
    for step in range(steps):
        O = O + direction
        if step == steps - 1:
            break
        residual = residual - direction - laplacian.apply(direction).mul_(mu)
        rho_next = 1 / (2 * ratio - rho)
        direction = direction.mul_(rho_next * rho).add_(residual, alpha=2 * rho_next / radius)
        rho = rho_next
    return O.to(T.dtype)


class _Smoothed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, T: Tensor, laplacian: MattingLaplacian, mu: float, steps: int) -> Tensor:
        ctx.arguments = (laplacian, mu, steps)
        return chebyshev_smooth(T, laplacian, mu, steps)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None]:
        return chebyshev_smooth(grad_outputs[0], *ctx.arguments), None, None, None


def smoothed(T: Tensor, laplacian: MattingLaplacian, mu: float, steps: int) -> Tensor:
    """:func:`chebyshev_smooth`, differentiable in T."""
    O: Tensor = _Smoothed.apply(T, laplacian, mu, steps)  # type: ignore[no-untyped-call]
    return O
