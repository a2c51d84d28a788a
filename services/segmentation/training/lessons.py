"""What the teacher says of views: asked anew for each step, for who sees a view twice learns it by heart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from services.segmentation.training.data import Batch, Photo, normalised, views
from services.segmentation.training.mixing import mixed
from services.segmentation.training.scene import STEP_PX
from services.segmentation.training.teacher import Teacher

__all__ = ["SMALL", "WHOLE", "Lesson", "Lessons", "places"]

SMALL, WHOLE = (249, 377), (345, 505)
"""(height, width) of views, or the other way round: sides at 8 px are multiples of 4 (``trunk.phases``)."""

_BATCH: Final = 4


@dataclass(frozen=True)
class Lesson:
    """A batch of views.

    Attributes:
        photos: (N, 3, H, W) of -1..1.
        offset: of finer features than one each 8 px, each second row and column counts; this is the first, 0 or 1.
        hints: (places, channels) bfloat16 of each stage: the teacher's features, as :func:`places` gives them.
        people: (places,) int64, of the stage ``head``: position in ``COMMON_LABELS``; -1 where nobody gave one.
    """

    photos: Tensor
    offset: tuple[int, int]
    hints: Mapping[str, Tensor]
    people: Tensor


class Lessons:
    """A supply of lessons, no view twice.

    Args:
        photos: to look at.
        teacher: is asked about each view.
        seed: of the order and the views.
    """

    def __init__(self, photos: Sequence[Photo], teacher: Teacher, seed: int) -> None:
        self._photos, self._teacher = photos, teacher
        self._random = np.random.default_rng(seed)
        upright = [photo.pixels.shape[1] > photo.pixels.shape[2] for photo in photos]
        self._kinds = {kind: [n for n, each in enumerate(upright) if each == kind] for kind in (False, True)}
        self._orders: dict[bool, list[int]] = {False: [], True: []}

    def batch(self, size: tuple[int, int]) -> Batch:
        """Views of this size of some photos; of upright ones, the other way round."""
        kind = self._random.random() < len(self._kinds[True]) / len(self._photos)
        order = self._orders[kind]
        while len(order) < _BATCH:
            order[:0] = self._random.permutation(self._kinds[kind]).tolist()
        chosen = [self._photos[order.pop()] for _ in range(_BATCH)]
        return views(chosen, size[::-1] if kind else size, self._random)

    @torch.no_grad()
    def new(self, size: tuple[int, int]) -> Lesson:
        """Ask the teacher about a batch of views, some of which are mixed."""
        batch = mixed(self.batch(size), self._random)
        top, left = self._random.integers(0, 2, size=2).tolist()
        height, offset = batch.photos.shape[2], (top, left)
        hints = self._teacher(batch.photos)
        return Lesson(
            normalised(batch.photos),
            offset,
            {name: places(hint, height, offset).bfloat16() for name, hint in hints.items()},
            places(batch.people[:, None], height, offset)[:, 0],
        )


def places(features: Tensor, height: int, offset: tuple[int, int]) -> Tensor:
    """(N, C, h, w) of photos of that height to (places, C); of each second row and column, if there are many."""
    if features.shape[2] > (height - 1) // STEP_PX + 1:
        features = features[:, :, offset[0] :: 2, offset[1] :: 2]
    return features.permute(0, 2, 3, 1).flatten(end_dim=2)
