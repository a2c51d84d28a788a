"""Quality numbers of a finished picture, as docs/quality.md defines them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from services.stylizer.core.covariance import dot
from services.stylizer.core.edges import EdgeReference
from services.stylizer.core.flatness import FlatGround
from services.stylizer.core.matting import MattingLaplacian, box_mean
from services.stylizer.core.objective import StyleGoal
from services.stylizer.core.results import LabelQuality, Quality

__all__ = ["affine_energy_map", "clipped", "edge_similarity", "score"]


def affine_energy_map(O: Tensor, laplacian: MattingLaplacian, I: Tensor) -> Tensor:
    """Matting energy of each 3x3 window, summed over channels: (3, H, W) gives (H-2, W-2) float64.

    9 times (variance of O in the window minus the part that the ridge fit on I explains).
    """
    x, guide = O.double(), I.double()
    a, _ = laplacian.fit(x)
    mean_x, mean_I = box_mean(x), box_mean(guide)
    variance = box_mean(x * x) - mean_x * mean_x
    covariance = box_mean(x[:, None] * guide[None]) - mean_x[:, None] * mean_I[None]
    return 9 * (variance - torch.stack([dot(a[c : c + 1], covariance[c])[0] for c in range(len(x))])).sum(dim=0)


def edge_similarity(O: Tensor, I: Tensor) -> float:
    """SSIM of Sobel magnitudes, see :class:`EdgeReference`, in float64."""
    return float(EdgeReference(I.double()).similarity(O.double()))


def clipped(O: Tensor) -> Tensor:
    """Where channel values of the 8-bit picture stand at 0 or 255: (3, H, W) to booleans."""
    levels = (O * 255).round()
    return (levels <= 0) | (levels >= 255)


def score(O: Tensor, I: Tensor, goal: StyleGoal, masks: Tensor, names: Sequence[str]) -> Quality:
    """Score a picture.

    Args:
        O: (3, H, W) the picture, RGB 0..1; clipped here.
        I: (3, H, W) the content photo.
        goal: Gram matrices of the style; knows the masks that take part.
        masks: (L, H, W) hard masks of the labels in ``names``, those of the goal.
        names: the labels.
    """
    O = O.clamp(0, 1)
    with torch.no_grad():
        picture, untouched = (goal.trunk(x[None], goal.layers.all) for x in (O, I))
        distances = [goal.style_by_label(features).tolist() for features in (picture, untouched)]
        per_label = list(zip(*distances, strict=True))
        energy = affine_energy_map(O, MattingLaplacian(I), I)
        ends = clipped(O).float().mean(dim=0)
        labels = []
        for k, name in enumerate(names):
            inside, mask = masks[k, 1:-1, 1:-1].double(), masks[k]
            labels.append(
                LabelQuality(
                    name,
                    per_label[k][0] / max(per_label[k][1], 1e-12),
                    float((energy * inside).sum() / mask.double().sum().clamp_min(1)) * 1e6,
                    float((ends * mask).sum() / mask.sum().clamp_min(1)),
                )
            )
        return Quality(
            style_relative=sum(p[0] for p in per_label) / max(sum(p[1] for p in per_label), 1e-12),
            content=5 * float(goal.content(picture)),
            affine_per_pixel_e6=float(energy.sum()) / (I.shape[1] * I.shape[2]) * 1e6,
            edges=edge_similarity(O, I),
            flat_deviation=FlatGround(I.double()).deviation(O.double()),
            clipped_share=float(ends.mean()),
            scored_edge_px=max(I.shape[1:]),
            labels=tuple(labels),
        )
