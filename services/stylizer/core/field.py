"""The bilateral-grid field of affine colour maps (Chen, Paris, Durand 2007; Gharbi et al. 2017).

A grid cell holds 12 numbers: a 3x3 matrix A and an offset b. At a pixel they are read by trilinear interpolation over
(luma of the guide, y, x), and applied to the warm start as ``O = B + A·(B − ½) + b``, so that a grid of zeros is the
identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["GRID_SHAPE", "Window", "apply_coefficients", "gamut_penalty", "grid_smoothness", "luma", "slice_grid"]

GRID_SHAPE: Final = (12, 8, 8, 8)
"""Coefficients, luma, y, x."""

_LUMA: Final = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Window:
    """Rows ``top .. top + rows`` of a picture of ``height`` x ``width`` pixels; the unit of tiled rendering."""

    top: int
    rows: int
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> Window:
        """The window that is the whole picture."""
        return cls(0, height, height, width)

    def coordinates(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the pixel centres, 0..1 over the whole picture: y (rows,) and x (width,)."""
        y = (torch.arange(self.top, self.top + self.rows, dtype=torch.float64) + 0.5) / self.height
        x = (torch.arange(self.width, dtype=torch.float64) + 0.5) / self.width
        return y.to(like), x.to(like)


def luma(I: Tensor) -> Tensor:  # noqa: E741
    """Luma of gamma-encoded RGB, ITU-R BT.601: (3, H, W) to (H, W)."""
    return I[0] * _LUMA[0] + I[1] * _LUMA[1] + I[2] * _LUMA[2]


def slice_grid(grid: Tensor, I: Tensor, window: Window) -> Tensor:  # noqa: E741
    """Read the grid at every pixel of a window.

    Args:
        grid: (12, D, Gy, Gx).
        I: (3, rows, width) guide pixels of the window, RGB 0..1.
        window: where they stand in the picture.

    Returns:
        (12, rows, width) coefficients.
    """
    y, x = window.coordinates(I)
    z = luma(I).clamp(0, 1) * 2 - 1
    points = torch.stack([(x * 2 - 1).expand_as(z), (y * 2 - 1)[:, None].expand_as(z), z], dim=-1)
    sliced = functional.grid_sample(
        grid[None], points[None, None], mode="bilinear", padding_mode="border", align_corners=True
    )
    return sliced[0, :, 0]


def apply_coefficients(B: Tensor, coefficients: Tensor) -> Tensor:
    """``B + A·(B − ½) + b`` at every pixel: (3, H, W) and (12, H, W) give (3, H, W)."""
    A = coefficients[:9].view(3, 3, *B.shape[1:])
    return B + (A * (B - 0.5)[None]).sum(dim=1) + coefficients[9:]


def grid_smoothness(grid: Tensor) -> Tensor:
    """Σ of squared differences of neighbouring cells, over the number of cells."""
    total = grid.diff(dim=1).square().sum() + grid.diff(dim=2).square().sum() + grid.diff(dim=3).square().sum()
    return total / (grid.numel() / grid.shape[0])


def gamut_penalty(O: Tensor) -> Tensor:  # noqa: E741
    """Mean squared excess over 0..1."""
    return (functional.relu(O - 1).square() + functional.relu(-O).square()).mean()
