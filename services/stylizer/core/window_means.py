"""Means over windows of any size at the price of a few additions a pixel, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["window_means"]


def window_means(planes: Tensor, rows: int, columns: int) -> Tensor:
    """Means over the windows inside, (C, H, W) to (C, H - rows + 1, W - columns + 1); differentiable in ``planes``."""
    means: Tensor = _WindowMeans.apply(planes, rows, columns)  # type: ignore[no-untyped-call]
    return means


class _WindowMeans(torch.autograd.Function):
    """Window sums forward; their adjoint is the way back.

    ``avg_pool2d`` reads every pixel as often as it is in a window, and takes twelve times as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, planes: Tensor, rows: int, columns: int) -> Tensor:
        ctx.window = rows, columns
        return _sums(_sums(planes, rows, 1), columns, 2) / (rows * columns)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        rows, columns = ctx.window
        spread = functional.pad(grad_outputs[0], (columns - 1, columns - 1, rows - 1, rows - 1))
        return _sums(_sums(spread, rows, 1), columns, 2) / (rows * columns), None, None


def _sums(x: Tensor, width: int, dim: int) -> Tensor:
    """Sum of each ``width`` neighbours, of runs whose lengths are the powers of two that make up the width."""
    size = x.shape[dim] - width + 1
    total, at, run, length = x.new_zeros(()), 0, x, 1
    while True:
        if width & length:
            total = total + run.narrow(dim, at, size)
            at += length
        if 2 * length > width:
            return total
        run = run.narrow(dim, 0, run.shape[dim] - length) + run.narrow(dim, length, run.shape[dim] - length)
        length *= 2
