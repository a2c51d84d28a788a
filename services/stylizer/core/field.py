"""The bilateral-grid field of affine colour maps (Chen, Paris, Durand 2007; Gharbi et al. 2017).

A grid cell holds 12 numbers: the rows of [A | b], a 3x3 matrix and an offset. At a pixel they are read by trilinear
interpolation over (luma of the guide, y, x), and applied to the warm start as ``O = B + A·(B − ½) + b``, so that a grid
of zeros is the identity.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "GRID_SHAPE",
    "GridField",
    "apply_coefficients",
    "gamut_penalty",
    "grid_smoothness",
    "luma",
    "slice_grid",
    "trilinear_weights",
]

GRID_SHAPE: Final = (12, 8, 12, 16)
"""Coefficients, luma, y, x."""

_LUMA: Final = (0.299, 0.587, 0.114)


def luma(I: Tensor) -> Tensor:
    """Luma of gamma-encoded RGB, ITU-R BT.601: (3, H, W) to (H, W)."""
    return I[0] * _LUMA[0] + I[1] * _LUMA[1] + I[2] * _LUMA[2]


def trilinear_weights(I: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """The eight cells that each pixel reads, and with what weight.

    Args:
        I: (3, H, W) guide, RGB 0..1.
        shape: (D, Gy, Gx) of the grid; its corner cells stand at the corners of the picture and at luma 0 and 1.

    Returns:
        (P, 8) int64 indices into the flattened cells, and (P, 8) weights that sum to 1; P = H · W.
    """
    y, x = (_centres(size).to(I) for size in I.shape[1:])
    z = luma(I).clamp(0, 1)
    axes = (z, y[:, None].expand_as(z), x.expand_as(z))
    index = torch.zeros((z.numel(), 1), dtype=torch.int64, device=I.device)
    weight = I.new_ones((z.numel(), 1))
    for position, cells in zip(axes, shape, strict=True):
        scaled = position.reshape(-1, 1) * (cells - 1)
        low = scaled.floor().clamp(0, cells - 2)
        high_weight = scaled - low
        corner = low.long()
        index = torch.cat([index * cells + corner, index * cells + corner + 1], dim=1)
        weight = torch.cat([weight * (1 - high_weight), weight * high_weight], dim=1)
    return index, weight


def _centres(pixels: int) -> Tensor:
    """Positions of an axis's pixel centres, 0..1 over the whole picture: (pixels,) float64."""
    return (torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels


def slice_grid(grid: Tensor, I: Tensor) -> Tensor:
    """Read the grid at every pixel, once; :class:`GridField` is for doing it again and again.

    Args:
        grid: (12, D, Gy, Gx).
        I: (3, H, W) guide, RGB 0..1.

    Returns:
        (H · W, 12) coefficients.
    """
    index, weight = trilinear_weights(I, _cells(grid.shape))
    return functional.embedding_bag(index, grid.flatten(1).T.contiguous(), per_sample_weights=weight, mode="sum")


class GridField:
    """A grid applied again and again at fixed pixels: its reading is a sparse matrix, kept with the transpose.

    Ten times faster than ``grid_sample`` at 256 px on 2 cores, and deterministic (docs/adr/0003).

    Args:
        I: (3, H, W) guide, RGB 0..1.
        B: (3, H, W) what the affine maps are applied to.
        shape: of the grid.
    """

    def __init__(self, I: Tensor, B: Tensor, shape: tuple[int, int, int, int] = GRID_SHAPE) -> None:
        index, weight = trilinear_weights(I, _cells(shape))
        pixels, cells = index.shape[0], shape[1] * shape[2] * shape[3]
        flat = index.flatten()
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=cells)
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        starts = torch.arange(0, flat.numel() + 1, 8, device=I.device)
        with warnings.catch_warnings():  # torch warns once that its CSR layout is young
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self._read = torch.sparse_csr_tensor(
                starts, flat, weight.flatten(), (pixels, cells), check_invariants=False
            )
            self._write = torch.sparse_csr_tensor(
                ends, order // 8, weight.flatten()[order], (cells, pixels), check_invariants=False
            )
        self._B = B
        self._extended = _extended(B)

    def __call__(self, grid: Tensor) -> Tensor:
        """(12, D, Gy, Gx) gives the picture, (3, H, W), differentiable in the grid."""
        change: Tensor = _Change.apply(grid.flatten(1).T, self._extended, self._read, self._write)  # type: ignore[no-untyped-call]
        return self._B + change.T.reshape(self._B.shape)


class _Change(torch.autograd.Function):
    """``A·(B − ½) + b`` at every pixel, (P, 3), from (cells, 12); keeps no (P, 12) array for the way back."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor, extended: Tensor, read: Tensor, write: Tensor) -> Tensor:
        ctx.extended, ctx.write = extended, write
        return _affine(read @ cells.contiguous(), extended)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None]:
        outer = (grad_outputs[0].contiguous()[:, :, None] * ctx.extended[:, None]).view(-1, 12)
        return ctx.write @ outer, None, None, None


def _extended(B: Tensor) -> Tensor:
    """``(B − ½, 1)`` per pixel: (3, H, W) gives (P, 4)."""
    flat = B.flatten(1)
    return torch.cat([flat - 0.5, torch.ones_like(flat[:1])]).T.contiguous()


def _affine(coefficients: Tensor, extended: Tensor) -> Tensor:
    """``[A | b]`` times ``(B − ½, 1)`` per pixel: (P, 12) and (P, 4) give (P, 3)."""
    return (coefficients.view(-1, 3, 4) * extended[:, None]).sum(dim=2)


def _cells(shape: Sequence[int]) -> tuple[int, int, int]:
    return int(shape[1]), int(shape[2]), int(shape[3])


def apply_coefficients(B: Tensor, coefficients: Tensor) -> Tensor:
    """``B + A·(B − ½) + b`` at every pixel: (3, H, W) and (H·W, 12), rows of [A | b], give (3, H, W)."""
    return B + _affine(coefficients, _extended(B)).T.reshape(B.shape)


def grid_smoothness(grid: Tensor) -> Tensor:
    """Σ of squared differences of neighbouring cells, over the number of cells."""
    total = grid.diff(dim=1).square().sum() + grid.diff(dim=2).square().sum() + grid.diff(dim=3).square().sum()
    return total / (grid.numel() / grid.shape[0])


def gamut_penalty(O: Tensor) -> Tensor:
    """Mean squared excess over 0..1."""
    return (functional.relu(O - 1).square() + functional.relu(-O).square()).mean()
