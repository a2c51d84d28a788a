"""The objective of Luan et al. 2017, eq. 4, for a picture seen through the matting Laplacian's proximal step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.edges import EdgeReference
from services.stylizer.core.evaluator import Evaluator
from services.stylizer.core.field import gamut_penalty
from services.stylizer.core.flatness import FlatGround
from services.stylizer.core.losses import (
    LayerGoal,
    area_masks,
    content_loss,
    layer_style_loss,
    masked_grams,
    style_loss,
)
from services.stylizer.core.matting import MattingLaplacian, matting_energy, smoothed
from services.stylizer.core.palette import Palette
from services.stylizer.core.results import Losses
from services.stylizer.core.trunk import Trunk

__all__ = ["FeatureLayers", "PictureObjective", "StyleGoal", "Weights"]

_GAMUT_WEIGHT: Final = 10.0
_PALETTE_WEIGHT: Final = 10.0
_EDGES_WEIGHT: Final = 0.09
_FLATNESS_WEIGHT: Final = 1000.0
_PAPER = {"content": 5.0, "style": 100.0, "affine": 1e4}
_STYLE_SHARE: Final = 0.49
_CONTENT_SHARE: Final = 0.02
_AFFINE_SHARE: Final = 1.1
_ENERGY_POWER: Final = 0.2
"""What the paper's weights make of the root of a style distance that is the warm start's, of a relative content
distance of 1 and of an energy of 1 per pixel to the power of :data:`_ENERGY_POWER`. So the balance depends neither on
the scale of a trunk's features (docs/adr/0005) nor on how far apart the photos are, and what style the published
pictures do not reach is spent on being a photograph (docs/adr/0006). The power is less than that of style, since fog
(20e-6) must count its energy nearly as much as night lights do (800e-6)."""

_EPSILON: Final = 1e-5
_MU: Final = 3.0
_STEPS: Final = 8
"""Of the proximal step. Its ε is about the variance of 8-bit rounding in a window (9 / 12 / 255²), a hundred times that
of the energy: with 1e-7 the rounding noise and JPEG blocks of a clear sky count as structure, which may be raised to
speckle at no cost. Eight applications of M are within 4 % of the exact inverse at μ = 3."""

_EDGE_FLOOR: Final = 1e-5
"""Added to the squared Sobel magnitude: about that of 8-bit rounding noise, 24 · 0.45 / 12 / 255². Below it there is
nothing to keep; without it what looks empty, as a black ground, holds the whole picture in place (pair 16)."""

_STYLE_FLOOR: Final = 1e-4
_ENERGY_FLOOR: Final = 1e-6
"""Relative style distance and energy per pixel below which less hardly counts; they keep the powers' slopes finite."""

_LEAST_REFERENCE: Final = 0.02
"""Relative style distance of a warm start below which it is as good as the style."""

_LEAST_DISTANCE: Final = 1e-6
"""Share of the style's own Gram norm below which two photos count as equal in style."""


@dataclass(frozen=True)
class FeatureLayers:
    """Layers whose features are compared."""

    style: tuple[str, ...] = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    content: str = "conv4_2"

    @classmethod
    def of(cls, trunk: Trunk) -> FeatureLayers:
        """The paper's layers, or as many of them as the trunk has (content is its deepest if it lacks that one)."""
        paper = cls()
        content = paper.content if paper.content in trunk.layers else trunk.layers[-1]
        return cls(tuple(name for name in paper.style if name in trunk.layers), content)

    @property
    def all(self) -> tuple[str, ...]:
        """Every layer that is needed."""
        return (*self.style, self.content)


@dataclass(frozen=True)
class Weights:
    """Weights of the terms, as in ``TransferParams``; the defaults are the paper's."""

    content: float = _PAPER["content"]
    style: float = _PAPER["style"]
    affine: float = _PAPER["affine"]


class StyleGoal:
    """Gram matrices that the content photo's labels are to reach.

    Args:
        trunk: feature network.
        layers: layers to compare.
        I: (3, H, W) content photo, RGB 0..1.
        S: (3, H', W') style photo, RGB 0..1.
        M_content: (L, H, W) masks of the labels that take part.
        M_style: (L, H', W') masks of their partners.
    """

    def __init__(
        self,
        trunk: Trunk,
        layers: FeatureLayers,
        I: Tensor,
        S: Tensor,
        M_content: Tensor,
        M_style: Tensor,
    ) -> None:
        self.trunk, self.layers = trunk, layers
        with torch.no_grad():
            features_S = trunk(S[None], layers.style)
            masks_S = area_masks(M_style, {name: _size(F) for name, F in features_S.items()})
            features_I = trunk(I[None], layers.all)
            self.F_content = features_I[layers.content]
            self._content_norm = float(self.F_content.square().mean())
            self.masks = area_masks(M_content, {name: _size(features_I[name]) for name in layers.style})
            self.goals = {
                name: LayerGoal.of(masked_grams(features_S[name][0], masks_S[name]), self.masks[name])
                for name in layers.style
            }
            self.untouched = float(self.style(features_I))
            norms = [(g.G_style.square().mean(dim=(1, 2)) * g.shares).sum() for g in self.goals.values()]
            self._least_distance = _LEAST_DISTANCE * float(torch.stack(norms).sum())

    def style(self, features: Mapping[str, Tensor]) -> Tensor:
        """Style distance of a picture's features, not weighted; differentiable."""
        return torch.stack([layer_style_loss(features[name], goal) for name, goal in self.goals.items()]).sum()

    def style_by_label(self, features: Mapping[str, Tensor]) -> Tensor:
        """Style distance of each label, not weighted: (L,)."""
        terms = [
            style_loss(masked_grams(features[name][0], self.masks[name]), goal.G_style, goal.shares)
            for name, goal in self.goals.items()
        ]
        return torch.stack(terms).sum(dim=0)

    def content(self, features: Mapping[str, Tensor]) -> Tensor:
        """Content distance of a picture's features, not weighted."""
        return content_loss(features[self.layers.content], self.F_content)

    def relative_style(self, features: Mapping[str, Tensor]) -> Tensor:
        """Style distance over the untouched photo's."""
        return self.style(features) / max(self.untouched, self._least_distance, 1e-30)

    def relative_content(self, features: Mapping[str, Tensor]) -> Tensor:
        """Content distance over the mean square of the content photo's features."""
        return self.content(features) / max(self._content_norm, 1e-30)


class PictureObjective:
    """Value and gradient of the objective in T, where the picture is ``O = clip((1 + μM')⁻¹ T)``.

    M' has a larger ε than the M of the energy, see :data:`_EPSILON`.

    Args:
        goal: what the features are compared with.
        I: (3, H, W) content photo, RGB 0..1; guide of the Laplacian.
        palette: colours of the style.
        weights: of the terms.
        reference: relative style distance of the warm start.
        evaluator: of the goal's network; None is one of its own.

    Departures from the paper, each measured in docs/experiments.md: the picture is clipped before it is compared, since
    colours outside 0..1 reach style that no photograph can show (the gradient outside comes from the gamut penalty);
    style and matting energy enter by powers below 1, so that pairs that are near their goal already keep their balance;
    a term for edges, and one for flat ground. Each term is relative to a scale of its own, see :data:`_AFFINE_SHARE`.
    The matting term is an energy per pixel, so that λ means the same at every size; the published code sums over its
    700 px pictures.
    """

    def __init__(
        self,
        goal: StyleGoal,
        I: Tensor,
        palette: Palette,
        weights: Weights,
        reference: float,
        evaluator: Evaluator | None = None,
    ) -> None:
        self.goal, self._palette, self._weights = goal, palette, weights
        self._evaluate = evaluator or Evaluator(goal.trunk)
        self._reference = max(reference, _LEAST_REFERENCE)
        self._pixels = I.shape[1] * I.shape[2]
        self._laplacian = MattingLaplacian(I)
        self._smoother = MattingLaplacian(I, _EPSILON)
        self._edges = EdgeReference(I, _EDGE_FLOOR)
        self._flat = FlatGround(I)

    def picture(self, T: Tensor) -> Tensor:
        """The picture that a variable stands for: (3, H, W), clipped to 0..1."""
        return smoothed(T, self._smoother, _MU, _STEPS).clamp(0, 1)

    def __call__(self, T: Tensor, smoothness: Tensor | None = None) -> tuple[Tensor, Losses]:
        """The total, differentiable in T (3, H, W), and its terms.

        Args:
            T: the variable, RGB.
            smoothness: a term of the variable's own that is to be added.
        """
        free = smoothed(T, self._smoother, _MU, _STEPS)
        O = free.clamp(0, 1)
        of_features, terms = self._evaluate(O, self.goal.layers.all, self._feature_terms)
        per_pixel = matting_energy(O, self._laplacian) / self._pixels
        affine = self._weights.affine / _PAPER["affine"] * _AFFINE_SHARE * (per_pixel + _ENERGY_FLOOR) ** _ENERGY_POWER
        affine = affine.to(of_features.dtype)
        edges = _EDGES_WEIGHT * (1 - self._edges.similarity(O))
        flatness = _FLATNESS_WEIGHT * self._flat.excess(O)
        gamut = _GAMUT_WEIGHT * gamut_penalty(free) + _PALETTE_WEIGHT * self._palette.penalty(O)
        own = of_features.new_zeros(()) if smoothness is None else smoothness
        total = of_features + affine + edges + flatness + own + gamut
        style, content = terms
        found = (total, content, style, affine, own, gamut, edges, flatness)
        # one transfer: on a card each waits for everything that was asked of it before
        values = torch.stack([each.detach() for each in found]).tolist()
        return total, Losses(*values)

    def _feature_terms(self, features: Mapping[str, Tensor]) -> Tensor:
        """Style and content, weighted: (2,)."""
        distance = (self.goal.relative_style(features) + _STYLE_FLOOR) / self._reference
        style = self._weights.style / _PAPER["style"] * _STYLE_SHARE * distance.sqrt()
        content = self._weights.content / _PAPER["content"] * _CONTENT_SHARE * self.goal.relative_content(features)
        return torch.stack([style, content])


def _size(F: Tensor) -> tuple[int, int]:
    return int(F.shape[-2]), int(F.shape[-1])
