"""The objective of Luan et al. 2017, eq. 4, on pixels, with the numbers of the released implementation.

The variable x is the output in the units that those numbers presuppose: BGR, 0..255, minus (103.939, 116.779, 123.68).
With V the output in RGB 0..1, F_l features after ReLU, C, H, W the size of a layer and m_c the mask of label c there::

    total   = content + style + affine + smoothness
    content = 5 · mean over C·H·W of (F[x] − F[I])²                                             at conv4_2
    style   = Σ_l Σ_c 100 · mean(m_c) · mean over C² of (G_c[x] − G_c[S])²         l = conv1_1 … conv5_1
    G_c     = (m_c∘F)(m_c∘F)ᵀ / (C · H · W · mean m_c)       with the mask of the photo that F belongs to
    affine  = 1e4 · Σ_channels V_chᵀ M_I V_ch                summed over pixels, M_I the matting Laplacian
    smoothness = 1e-3 · ½ Σ (x_ij − x_i,j+1)² + (x_ij − x_i+1,j)²        over pixels that have both neighbours

All gradients follow from these values by the chain rule; so the affine term's is ``2 · 1e4 · M_I V / 255`` in units
of x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.losses import LayerGoal, content_loss, layer_style_loss, masked_grams
from services.stylizer.core.matting import MattingLaplacian, matting_energy
from services.stylizer.core.objective import FeatureLayers
from services.stylizer.core.paper_photos import PaperPhotos, layer_masks
from services.stylizer.core.results import Losses
from services.stylizer.core.trunk import Trunk

__all__ = ["PaperObjective", "PaperWeights", "to_rgb"]

_MEAN_BGR: Final = (103.939, 116.779, 123.68)
_PEAK: Final = 255.0


@dataclass(frozen=True)
class PaperWeights:
    """Weights of the terms; the defaults are the published ones."""

    content: float = 5.0
    style: float = 100.0
    affine: float = 1e4
    tv: float = 1e-3


class PaperObjective:
    """Value of the objective at a picture; differentiable.

    Args:
        trunk: feature network. One that ends before conv5_1 is compared at the layers it has. Features of a network
            that does not take pixels of 0..255 are multiplied by what its input is short of (its ``feature_scale``),
            or the weights would mean something else; for the Caffe network that is 1.
        photos: what is transferred.
        weights: of the terms.
    """

    def __init__(self, trunk: Trunk, photos: PaperPhotos, weights: PaperWeights) -> None:
        self._trunk, self._weights = trunk, weights
        self._layers = FeatureLayers.of(trunk)
        self._scale = trunk.feature_scale
        with torch.no_grad():
            features_S = trunk(photos.S[None], self._layers.style)
            grams = _style_grams(features_S, photos.M_style)
            features_I = trunk(photos.I[None], self._layers.all)
            self._F_content = features_I[self._layers.content]
            M_content = layer_masks(features_I, photos.M_content)
            self._goals = {name: LayerGoal.of(grams[name], M_content[name]) for name in self._layers.style}
        self._laplacian = MattingLaplacian(photos.I) if weights.affine else None

    def __call__(self, x: Tensor, affine: bool) -> tuple[Tensor, Losses]:
        """The total and its terms.

        Args:
            x: (3, H, W) BGR, 0..255, minus the mean.
            affine: whether L_m takes part; its term is 0 otherwise.
        """
        O = to_rgb(x)
        features = self._trunk(O[None], self._layers.all)
        layers = [layer_style_loss(features[name], goal) for name, goal in self._goals.items()]
        style = self._weights.style * self._scale**4 * torch.stack(layers).sum()
        content = content_loss(features[self._layers.content], self._F_content)
        content = self._weights.content * self._scale**2 * content
        smoothness = self._weights.tv * _total_variation(x)
        L_m = x.new_zeros(())
        if affine and self._laplacian is not None:
            L_m = (self._weights.affine * matting_energy(O, self._laplacian)).to(x.dtype)
        total = style + content + L_m + smoothness
        terms = (total, content, style, L_m, smoothness, x.new_zeros(()))
        return total, Losses(*[float(term.detach()) for term in terms])


def to_rgb(x: Tensor) -> Tensor:
    """From the variable to RGB 0..1, not clipped: (3, H, W) to the same shape."""
    return ((x + _mean(x)) / _PEAK).flip(0)


def _mean(like: Tensor) -> Tensor:
    return like.new_tensor(_MEAN_BGR).view(3, 1, 1)


def _style_grams(features: Mapping[str, Tensor], M: Tensor | None) -> dict[str, Tensor]:
    """:func:`masked_grams` of each layer one label at a time, so that only one masked copy of the features is alive."""
    masks = layer_masks(features, M)
    return {name: torch.cat([masked_grams(F[0], m[None]) for m in masks[name]]) for name, F in features.items()}


def _total_variation(x: Tensor) -> Tensor:
    """½ Σ of squared differences to the right and lower neighbour, as in Johnson's neural-style: a scalar."""
    corner = x[:, :-1, :-1]
    return ((corner - x[:, :-1, 1:]).square().sum() + (corner - x[:, 1:, :-1]).square().sum()) / 2
