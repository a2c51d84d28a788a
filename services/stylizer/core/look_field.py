"""A look tied to one photo: what it makes of that photo, as a picture and as local affine maps."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from services.stylizer.core.covariance import dot
from services.stylizer.core.field import apply_coefficients, slice_grid
from services.stylizer.core.guided_filter import guided_coefficients
from services.stylizer.core.local_affine import applied, exact_affine
from services.stylizer.core.look import Look, expanded
from services.stylizer.core.variables import resized

__all__ = ["LookField", "label_masks"]

_FEATHER_RADIUS: Final = 8
"""Half window in pixels of the label map at which masks are feathered along the photo's edges."""


def label_masks(indices: Tensor, count: int) -> Tensor:
    """Hard masks of a label map: (h, w) integers to (count, h, w) float32 of 0 and 1."""
    labels = torch.arange(count, device=indices.device, dtype=indices.dtype)
    return (indices[None] == labels[:, None, None]).float()


class LookField:
    """A look tied to one photo: soft masks and local affine maps follow that photo's edges.

    Args:
        look: the look.
        I: (3, h, w) the photo at the size of ``look.indices``, RGB 0..1.
    """

    def __init__(self, look: Look, I: Tensor) -> None:
        self.look, self._I = look, I
        self._masks = self._soft_masks()
        self._affines = torch.einsum("lhw,lij->ijhw", self._masks, look.affines)
        self.base = applied(self._affines, I)

    def picture(self) -> Tensor:
        """The field's own picture, without what pixels add: (3, h, w), not clipped."""
        return apply_coefficients(self.base, self._grid_coefficients())

    def holding(self, O: Tensor) -> Look:
        """The look whose picture on this photo is O (3, h, w), RGB, as near as its bytes allow."""
        return self.look.with_change(O.clamp(0, 1) - self.picture().clamp(0, 1))

    def restyled(self, strength: float = 1.0) -> Tensor:
        """The look on the small photo: (3, h, w), RGB 0..1."""
        share = strength * self._share()
        return self._I + share * (self._full_strength() - self._I)

    def coefficients(self) -> Tensor:
        """The look as local affine maps, label strengths applied: (3, 4, h, w) float32 with ``O = A·I + b``.

        Where the photo is flat, A is the field's own matrix: the grid's times the label's. Elsewhere it is fitted to
        photo and result, so that maps interpolated across an edge follow the edge (:func:`exact_affine`).
        """
        grid = self._grid_coefficients().T.reshape(3, 4, *self._I.shape[1:])
        own = self._affines[:, :3]
        prior = own + torch.einsum("ikhw,kjhw->ijhw", grid[:, :3], own)
        return self.shared(exact_affine(self._full_strength(), self._I, prior).float())

    def shared(self, maps: Tensor) -> Tensor:
        """Maps (3, 4, h, w) as far as the labels' strengths let them: the same shape."""
        identity = torch.eye(3, 4, device=maps.device)[:, :, None, None]
        return identity + self._share() * (maps - identity)

    def _full_strength(self) -> Tensor:
        return (self.picture().clamp(0, 1) + resized(expanded(self.look), self._I.shape[1:])).clamp(0, 1)

    def _grid_coefficients(self) -> Tensor:
        return slice_grid(self.look.grid, self._I)

    def _share(self) -> Tensor:
        return torch.einsum("lhw,l->hw", self._masks, self.look.strengths)

    def _soft_masks(self) -> Tensor:
        """Masks feathered along the photo's edges: (L, h, w), summing to 1."""
        hard = label_masks(self.look.indices, len(self.look.names))
        if len(hard) == 1:
            return hard
        radius = min(_FEATHER_RADIUS, (min(self._I.shape[1:]) - 1) // 2)
        coefficients = guided_coefficients(self._I, hard, radius)
        masks = (dot(coefficients[:, :3], self._I) + coefficients[:, 3]).clamp(0, 1)
        return masks / masks.sum(dim=0, keepdim=True).clamp_min(1e-6)
