"""Content loss and masked-Gram style loss (Luan et al. 2017, eq. 1 and 3; normalised as their released code does)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LayerGoal", "area_masks", "content_loss", "layer_style_loss", "masked_grams", "style_loss"]


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


def style_loss(G: Tensor, G_style: Tensor, shares: Tensor) -> Tensor:
    """Style distance of each label at one layer: ``mean((G_c[O] − G_c[S])²) · mean(m_c)``.

    Args:
        G: (L, C, C) Gram matrices of the picture.
        G_style: the same of the style.
        shares: (L,) the mean of each label's content mask.

    Returns:
        (L,), to be summed over labels and layers.
    """
    return (G - G_style).square().mean(dim=(1, 2)) * shares


@dataclass(frozen=True)
class LayerGoal:
    """What one layer's features are to reach: the style's Gram matrices and where each mask is not empty.

    Attributes:
        G_style: (L, C, C).
        shares: (L,) the mean of each label's mask.
        supports: for each label the (n,) indices of pixels in the mask and the (n, 1) mask there, or None where the
            mask is 1 everywhere. Labels partition a photo, so that the Gram matrices of all of them cost little more
            than one.
    """

    G_style: Tensor
    shares: Tensor
    supports: tuple[tuple[Tensor, Tensor] | None, ...]

    @classmethod
    def of(cls, G_style: Tensor, M: Tensor) -> LayerGoal:
        """From the style's Gram matrices and the content's (L, H, W) masks at this layer."""
        flat = M.flatten(1)
        return cls(G_style, flat.mean(dim=1), tuple(_support(m) for m in flat))


def _support(m: Tensor) -> tuple[Tensor, Tensor] | None:
    if bool((m == 1).all()):
        return None
    index = m.nonzero()[:, 0]
    return index, m[index, None]


class _LayerStyleLoss(torch.autograd.Function):
    """Σ over labels of :func:`style_loss`, with the gradient made along with the value.

    With X = m∘F and Z = C·Σm: ∂/∂F = m∘(2·X·(∂/∂G)) / Z, ∂/∂G = 2·(G − S)·share / C².
    """

    @staticmethod
    def forward(ctx: Any, F: Tensor, goal: LayerGoal) -> Tensor:
        channels = F.shape[1]
        flat = F.detach().permute(0, 2, 3, 1).reshape(-1, channels)
        gradient = torch.zeros_like(flat)
        total = flat.new_zeros(())
        for G_style, share, support in zip(goal.G_style, goal.shares, goal.supports, strict=True):
            if support is None:
                X, Z = flat, flat.new_tensor(flat.numel())
            else:
                index, m = support
                X, Z = flat.index_select(0, index).mul_(m), channels * m.sum().clamp_min(1e-12)
            D = X.T @ X / Z - G_style
            total += D.square().mean() * share
            part = X @ (D * (4 * share / channels**2 / Z))
            if support is None:
                gradient.add_(part)
            else:
                gradient.index_add_(0, index, part.mul_(m))
        ctx.save_for_backward(gradient.view(F.shape[0], *F.shape[2:], channels).permute(0, 3, 1, 2))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None


def layer_style_loss(F: Tensor, goal: LayerGoal) -> Tensor:
    """Style distance at one layer, summed over labels; differentiable in F.

    Args:
        F: (1, C, H, W) features; channels-last memory is fastest.
        goal: what they are compared with.
    """
    loss: Tensor = _LayerStyleLoss.apply(F, goal)  # type: ignore[no-untyped-call]
    return loss
