"""Content loss and masked-Gram style loss (Luan et al. 2017, eq. 1 and 3; normalised as their released code does)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["area_masks", "content_loss", "masked_grams", "style_loss"]


def area_masks(M: Tensor, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """Masks resized to each layer by area averaging.

    Args:
        M: (L, H, W) masks, 0..1.
        sizes: (H', W') of each layer.

    Returns:
        For each layer (L, H', W') masks. The published code also blurs them at every convolution; this does not.
    """
    return {name: functional.interpolate(M[None], size=size, mode="area")[0] for name, size in sizes.items()}


def content_loss(F: Tensor, F_content: Tensor) -> Tensor:
    """Mean squared difference of features: (N, C, H, W) twice, gives a scalar."""
    return functional.mse_loss(F, F_content)


def masked_grams(F: Tensor, M: Tensor) -> Tensor:
    """Gram matrices of features under each mask.

    Args:
        F: (C, H, W) features.
        M: (L, H, W) masks, 0..1.

    Returns:
        (L, C, C): ``G_c = (m∘F)(m∘F)ᵀ / (C·H·W·mean m)``; zero where a mask is empty.
    """
    channels = F.shape[0]
    flat = F.reshape(channels, -1)
    m = M.reshape(M.shape[0], 1, -1)
    masked = flat * m
    total = m.sum(dim=2, keepdim=True).clamp_min(1e-12)
    return torch.bmm(masked, masked.transpose(1, 2)) / (channels * total)


def style_loss(G: Sequence[Tensor], G_style: Sequence[Tensor], shares: Sequence[Tensor]) -> Tensor:
    """Σ over layers and labels of ``mean((G_c[O] − G_c[S])²) · mean(m_c)``.

    Args:
        G: for each layer (L, C, C) Gram matrices of the picture.
        G_style: the same of the style.
        shares: for each layer (L,) the mean of each label's content mask.
    """
    terms = [
        ((g - s).square().mean(dim=(1, 2)) * share).sum() for g, s, share in zip(G, G_style, shares, strict=True)
    ]
    return torch.stack(terms).sum()
