"""What the teacher says of views: asked anew for each step, for who sees a view twice learns it by heart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from services.segmentation.training.data import Photo, normalised, views
from services.segmentation.training.scene import Edges, SceneNetwork
from services.segmentation.training.teacher import Teacher

__all__ = ["SMALL", "WHOLE", "Lesson", "Lessons", "places"]

SMALL, WHOLE = (241, 369), (337, 497)
"""(height, width) of views, or the other way round: a sixteenth of a side, rounded up, is even (``trunk.phases``)."""

_BATCH: Final = 4


@dataclass(frozen=True)
class Lesson:
    """A batch of views. Scores and hints at a quarter of the size are of each second row and column.

    Attributes:
        edges: see ``SceneNetwork.edges``: training does not change them.
        offset: the first row and column, 0 or 1.
        scores: (places, classes) bfloat16: the teacher's.
        hints: (places, channels) bfloat16: its features.
        people: (places,) int64: position in ``COMMON_LABELS``; -1 where nobody gave one.
    """

    edges: Edges
    offset: tuple[int, int]
    scores: Tensor
    hints: Mapping[str, Tensor]
    people: Tensor


class Lessons:
    """A supply of lessons, no view twice.

    Args:
        photos: to look at.
        teacher: is asked about each view.
        network: sees the edges.
        seed: of the order and the views.
    """

    def __init__(self, photos: Sequence[Photo], teacher: Teacher, network: SceneNetwork, seed: int) -> None:
        self._photos, self._teacher, self._network = photos, teacher, network
        self._random = np.random.default_rng(seed)
        upright = [photo.pixels.shape[1] > photo.pixels.shape[2] for photo in photos]
        self._kinds = {kind: [n for n, each in enumerate(upright) if each == kind] for kind in (False, True)}
        self._orders: dict[bool, list[int]] = {False: [], True: []}

    @torch.no_grad()
    def new(self, size: tuple[int, int]) -> Lesson:
        """Ask the teacher about views of this size of some photos; of upright ones, the other way round."""
        kind = self._random.random() < len(self._kinds[True]) / len(self._photos)
        order = self._orders[kind]
        while len(order) < _BATCH:
            order[:0] = self._random.permutation(self._kinds[kind]).tolist()
        chosen = [self._photos[order.pop()] for _ in range(_BATCH)]
        batch = views(chosen, size[::-1] if kind else size, self._random)
        scores, hints = self._teacher(batch.photos)
        top, left = self._random.integers(0, 2, size=2).tolist()
        second = (..., slice(top, None, 2), slice(left, None, 2))
        return Lesson(
            self._network.edges(normalised(batch.photos)),
            (top, left),
            places(scores[second]).bfloat16(),
            {"context": places(hints["context"]).bfloat16(), "decoded": places(hints["decoded"][second]).bfloat16()},
            batch.people[second].flatten(),
        )


def places(features: Tensor) -> Tensor:
    """(N, C, H, W) to (N·H·W, C)."""
    return features.permute(0, 2, 3, 1).flatten(end_dim=2)
