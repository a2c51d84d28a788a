"""The matting Laplacian (Levin, Lischinski, Weiss 2008, eq. 12), matrix-free (He et al. 2010) and assembled.

For every 3x3 window k inside the picture, with mean μ and covariance Σ of the guide I in it::

    energy_k(x) = min over a, b of  Σ_{i∈k} (x_i − a·I_i − b)² + ε |a|²
    a = (Σ + ε/9)⁻¹ cov(I, x)     b = mean x − a·μ
    (M x)_i = Σ_{k∋i} (x_i − a_k·I_i − b_k)        xᵀ M x = Σ_k energy_k(x)

Windows that would leave the picture are left out. Everything is float64: with ε = 1e-7, float32 variances of flat
regions are noise.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.covariance import PAIRS, dot, inverse
from services.stylizer.core.matting_kernels import combine, tiles

__all__ = [
    "EPSILON",
    "LARGEST_EIGENVALUE",
    "MattingLaplacian",
    "assembled_laplacian",
    "box_mean",
    "matting_energy",
    "smoothed",
]

EPSILON = 1e-7
"""Levin's ε on values in 0..1, as the published method sets it; larger values let the output leave the affine model."""

LARGEST_EIGENVALUE: Final = 9.0
"""Bound on the eigenvalues of every matting Laplacian with 3x3 windows."""

_TINY: Final = 1e-300
"""Keeps 0 / 0 out of conjugate gradients that have arrived."""


def _box(x: Tensor) -> Tensor:
    """Sum over each 3x3 window inside: (..., H, W) to (..., H-2, W-2)."""
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


def box_mean(x: Tensor) -> Tensor:
    """Mean over each 3x3 window inside: (..., H, W) to (..., H-2, W-2)."""
    return _box(x) / 9


def _spread(x: Tensor) -> Tensor:
    """Adjoint of :func:`_box`: (C, H-2, W-2) or (N, C, H-2, W-2) to (..., H, W)."""
    return functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2)), 3, 1, divisor_override=1)


class MattingLaplacian:
    """The matting Laplacian of a guide, one symmetric matrix for every channel, as an operator.

    Its eigenvalues lie in 0 .. :data:`LARGEST_EIGENVALUE`: the energy of a window is what a ridge fit leaves of |x_k|²,
    hence between 0 and |x_k|², and every pixel is in at most 9 windows.

    Only the guide is kept, 3 floats a pixel. On the CPU the windows' covariances are made anew in every product, see
    ``matting_kernels``; there the same argument gives the same bits with any number of threads, of which at most
    ``torch.get_num_threads()`` work. On other devices the products are torch expressions, and 17 doubles more are kept.

    Arguments may be of any float dtype and results have the same; the arithmetic is float64.

    Args:
        I: (3, H, W) guide, RGB 0..1, H and W at least 3.
        epsilon: Levin's ε, above 0.

    Raises:
        ValueError: if I or ε is none of these; from the methods, if an argument's height or width is not the guide's.
    """

    def __init__(self, I: Tensor, epsilon: float = EPSILON) -> None:
        if I.ndim != 3 or I.shape[0] != 3 or min(I.shape[1:]) < 3:
            raise ValueError(f"I: shape {tuple(I.shape)}, must be (3, H, W) with H and W at least 3")
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon: {epsilon}, must be above 0")
        self._I = _plain(I.detach().clone())
        self._epsilon = epsilon

    def fit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Ridge fit of x on the guide in every window.

        Args:
            x: (C, H, W).

        Returns:
            a: (C, 3, H-2, W-2) and b: (C, H-2, W-2), float64.
        """
        means = functional.avg_pool2d(x.double()[:, None] * self._extended, 3, 1)
        mean_x = means[:, 3]
        cov = torch.addcmul(means[:, :3], means[:, 3:], self._mean, value=-1)
        a = dot(cov[:, :, None].expand(-1, -1, 3, -1, -1), self._inverse)
        return a, _less_dot(mean_x, a, self._mean)

    def apply(self, x: Tensor) -> Tensor:
        """The product M x for each channel: (C, H, W) to the same shape."""
        product, _ = self._combine(self._prepared(x), (0.0, 1.0))
        return product[: len(x)].to(x.dtype)

    def apply_unfused(self, x: Tensor) -> Tensor:
        """The same product as torch expressions, for devices without the compiled loops and as their reference.

        As few operators as can be, since on a card each is a launch that costs more than its arithmetic.
        """
        exact = x.double()
        a, b = self.fit(exact)
        spread = _spread(torch.cat([a, b[:, None]], dim=1))
        product = _less_dot(torch.addcmul(spread[:, 3].neg(), self._count, exact), spread[:, :3], self._extended[:3])
        return product.to(x.dtype)

    def energy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Σ over channels of xᵀ M x, a float64 scalar, and its gradient 2 M x, in one pass."""
        gradient, dots = self._combine(self._prepared(x), (0.0, 2.0), dots=True)
        return dots.sum() / 2, gradient[: len(x)].to(x.dtype)

    def smooth(self, T: Tensor, mu: float, steps: int) -> Tensor:
        """Nearly (1 + μ M)⁻¹ T by conjugate gradients, each channel for itself, begun at T.

        Nearer to the solution than as many steps of :meth:`chebyshev_smooth`, but not linear in T, so not self-adjoint.

        Args:
            T: (C, H, W).
            mu: μ, at least 0.
            steps: at least 1; products with M, less one.

        Returns:
            (C, H, W); the iterates are float64.
        """
        _check_smoothing(mu, steps)
        x = self._prepared(T).double()
        r, _ = self._combine(x, (0.0, -mu))
        d, rr = r.clone(), _dots(r, r)
        x = x.clone()
        for _ in range(steps):
            q, dq = self._combine(d, (1.0, mu), dots=True)
            alpha = (rr / dq.clamp_min(_TINY)).view(-1, 1, 1)
            x.addcmul_(alpha, d)
            r.addcmul_(-alpha, q)
            before, rr = rr, _dots(r, r)
            d.mul_((rr / before.clamp_min(_TINY)).view(-1, 1, 1)).add_(r)
        return x[: len(T)].to(T.dtype)

    def chebyshev_smooth(self, T: Tensor, mu: float, steps: int) -> Tensor:
        """Nearly (1 + μ M)⁻¹ T by a fixed polynomial in M, hence linear in T and self-adjoint; constants stay.

        The Chebyshev iteration (Saad, Iterative Methods for Sparse Linear Systems, algorithm 12.1) for eigenvalues in
        1 .. 1 + 9 μ, begun at T. Written with three terms, so that T and two iterates are all that a step reads.

        Args:
            T: (C, H, W).
            mu: μ, at least 0.
            steps: at least 1; products with M, the polynomial's degree.

        Returns:
            (C, H, W); the iterates are kept in T's dtype.
        """
        _check_smoothing(mu, steps)
        if mu == 0:
            return T.detach().clone()
        goal = self._prepared(T)
        delta = LARGEST_EIGENVALUE / 2 * mu
        theta = 1 + delta
        rho = delta / theta
        x, _ = self._combine(goal, (1.0, -mu / theta))
        before = goal.clone()
        for _ in range(steps - 1):
            rho, rho_before = 1 / (2 * theta / delta - rho), rho
            move, pull = rho * rho_before, 2 * rho / delta
            after, _ = self._combine(x, (1 + move - pull, -mu * pull), (goal, pull), (before, -move))
            before, x = x, after
        return x[: len(T)].to(T.dtype)

    @cached_property
    def _extended(self) -> Tensor:
        """The guide and a channel of ones: (4, H, W) float64."""
        return torch.cat([self._I, torch.ones_like(self._I[:1])]).double()

    @cached_property
    def _mean(self) -> Tensor:
        """Of the guide in every window: (3, H-2, W-2) float64."""
        return box_mean(self._extended[:3])

    @cached_property
    def _inverse(self) -> Tensor:
        """(Σ + ε/9)⁻¹ of every window: (3, 3, H-2, W-2) float64."""
        I, mean = self._extended, self._mean
        cov = torch.stack([box_mean(I[i] * I[j]) - mean[i] * mean[j] for i, j in PAIRS])
        return inverse(cov, self._epsilon / 9)

    @cached_property
    def _count(self) -> Tensor:
        """In how many windows each pixel is: (H, W) float64."""
        return _spread(torch.ones_like(self._mean[:1]))[0]

    def _prepared(self, x: Tensor) -> Tensor:
        """As :meth:`_combine` takes it: detached, float32 or float64, contiguous, on the CPU 3, 6, ... channels."""
        if x.ndim != 3 or x.shape[1:] != self._I.shape[1:]:
            raise ValueError(
                f"x: shape {tuple(x.shape)}, must be (C, H, W), H and W {tuple(self._I.shape[1:])} as the guide"
            )
        x = _plain(x.detach())
        missing = -len(x) % 3 if x.device.type == "cpu" else 0
        return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x

    def _combine(
        self,
        x: Tensor,
        weights: tuple[float, float],
        other: tuple[Tensor, float] | None = None,
        overwritten: tuple[Tensor, float] | None = None,
        dots: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """``weights`` times x and M x, plus two further weighted pictures, the last of which gives its memory.

        Returns:
            The sum, of x's shape and dtype; and (C,) float64 dot products of it with x, where asked for.
        """
        T, w_T = other or (x, 0.0)
        out, w_out = overwritten or (torch.empty_like(x), 0.0)
        if x.device.type != "cpu":
            total = weights[0] * x.double() + weights[1] * self.apply_unfused(x.double())
            if w_T or w_out:
                total += w_T * T.double() + w_out * out.double()
            return out.copy_(total), _dots(x.double(), total) if dots else total.new_empty(0)
        partial = torch.empty(len(x), x.shape[1], tiles(x.shape[2]) if dots else 0, dtype=torch.float64)
        for k in range(0, len(x), 3):
            part = slice(k, k + 3)
            combine(
                self._I.numpy(),
                self._epsilon,
                x[part].numpy(),
                T[part].numpy(),
                out[part].numpy(),
                (*weights, w_T, w_out),
                partial[part].numpy(),
                torch.get_num_threads(),
            )
        return out, partial.sum(dim=2).sum(dim=1)


def _less_dot(x: Tensor, a: Tensor, v: Tensor) -> Tensor:
    """``x`` less ``dot(a, v)``: (C, H, W), (C, 3, H, W) and (3, H, W) give (C, H, W)."""
    for n in range(3):
        x = torch.addcmul(x, a[:, n], v[n], value=-1)
    return x


def _plain(x: Tensor) -> Tensor:
    return (x if x.dtype in (torch.float32, torch.float64) else x.float()).contiguous()


def _dots(x: Tensor, y: Tensor) -> Tensor:
    """Dot product of each channel, row by row: torch never divides a row among threads."""
    return (x * y).sum(dim=2).sum(dim=1)


def _check_smoothing(mu: float, steps: int) -> None:
    if not 0 <= mu < math.inf:
        raise ValueError(f"mu: {mu}, must be at least 0")
    if steps < 1:
        raise ValueError(f"steps: {steps}, must be at least 1")


class _Energy(torch.autograd.Function):
    """xᵀ M x with the gradient 2 M x, so that the operator runs once for value and gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, laplacian: MattingLaplacian) -> Tensor:
        energy, gradient = laplacian.energy(x)
        ctx.save_for_backward(gradient)
        return energy

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].to(gradient.dtype), None


def matting_energy(x: Tensor, laplacian: MattingLaplacian) -> Tensor:
    """Σ over channels of xᵀ M x, differentiable in x: (C, H, W) of any float dtype, gives a float64 scalar."""
    energy: Tensor = _Energy.apply(x, laplacian)  # type: ignore[no-untyped-call]
    return energy


class _Smoothed(torch.autograd.Function):
    """A self-adjoint linear map: its own derivative's transpose."""

    @staticmethod
    def forward(ctx: Any, T: Tensor, laplacian: MattingLaplacian, mu: float, steps: int) -> Tensor:
        ctx.arguments = laplacian, mu, steps
        return laplacian.chebyshev_smooth(T, mu, steps)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None]:
        return smoothed(grad_outputs[0], *ctx.arguments), None, None, None


def smoothed(T: Tensor, laplacian: MattingLaplacian, mu: float, steps: int) -> Tensor:
    """:meth:`MattingLaplacian.chebyshev_smooth`, differentiable in T as often as wanted; backward is the same map."""
    picture: Tensor = _Smoothed.apply(T, laplacian, mu, steps)  # type: ignore[no-untyped-call]
    return picture


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
