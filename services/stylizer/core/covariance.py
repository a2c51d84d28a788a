"""Inverses of the symmetric 3x3 matrices that local colour statistics give at every pixel."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PAIRS", "dot", "inverse"]

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Order of a symmetric matrix's six entries: rr, rg, rb, gg, gb, bb."""


def inverse(entries: Tensor, ridge: float | Tensor) -> Tensor:
    """Inverse of ``S + ridge·U`` in closed form, ten times faster than a batched solver for so small matrices.

    Args:
        entries: (6, H, W) entries of S in the order of :data:`PAIRS`; float64, since the determinant cancels.
        ridge: added to the diagonal, above 0; one number or (H, W).

    Returns:
        (3, 3, H, W).
    """
    rr, rg, rb, gg, gb, bb = entries
    rr, gg, bb = rr + ridge, gg + ridge, bb + ridge
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
    i_rr, i_rg, i_rb, i_gg, i_gb, i_bb = cofactors / (rr * cofactors[0] + rg * cofactors[1] + rb * cofactors[2])
    return torch.stack([i_rr, i_rg, i_rb, i_rg, i_gg, i_gb, i_rb, i_gb, i_bb]).view(3, 3, *rr.shape)


def dot(a: Tensor, v: Tensor) -> Tensor:
    """Σ over i of ``a[:, i] · v[i]``: (C, 3, H, W) and (3, H, W) give (C, H, W). Quicker than ``sum`` here."""
    return torch.addcmul(torch.addcmul(a[:, 0] * v[0], a[:, 1], v[1]), a[:, 2], v[2])
