"""What the teacher says of crops, kept for a while: asking it costs as much as learning from its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from services.segmentation.training.data import Photo, crops, normalised
from services.segmentation.training.scene import OUTPUT_STRIDE, STAGE_STRIDES, SceneNetwork, Window
from services.segmentation.training.teacher import Teacher

__all__ = ["Lesson", "Lessons"]

_BATCH: Final = 8
_CROP_PX: Final = 289
_WINDOW: Final = 18
"""Samples of 8 px along the sides of what is decoded of a crop."""

_KEPT: Final = 250
_USES: Final = 3
"""Steps per new lesson: each lesson is learned from about so many times, spread over ``_KEPT`` times as many steps."""


@dataclass(frozen=True)
class Lesson:
    """A batch of crops.

    Attributes:
        edges: (N, C, H/4, W/4) bfloat16, see ``SceneNetwork.edges``: training does not change them.
        window: what is decoded.
        scores: (N, classes, h, w) bfloat16: the teacher's, of the window.
        hints: features of its stages, bfloat16, those at a quarter of the size of the window.
        people: (N, h, w) int64, of the window: position in ``COMMON_LABELS``; -1 where nobody gave one.
    """

    edges: Tensor
    window: Window
    scores: Tensor
    hints: Mapping[str, Tensor]
    people: Tensor


class Lessons:
    """A supply of lessons, renewed one at a time.

    Args:
        photos: to crop.
        teacher: is asked about each crop.
        network: sees the edges.
        seed: of the order and the crops.
        kept: number of lessons at hand; one takes 20 MB.
    """

    def __init__(
        self, photos: Sequence[Photo], teacher: Teacher, network: SceneNetwork, seed: int, kept: int = _KEPT
    ) -> None:
        self._photos, self._teacher, self._network = photos, teacher, network
        self._random = np.random.default_rng(seed)
        self._order: list[int] = []
        self._asked = 0
        self.kept = [self._new() for _ in range(kept)]

    def take(self) -> Lesson:
        """One at random."""
        if self._asked % _USES == 0:
            self.kept[self._random.integers(len(self.kept))] = self._new()
        self._asked += 1
        return self.kept[self._random.integers(len(self.kept))]

    @torch.no_grad()
    def _new(self) -> Lesson:
        while len(self._order) < _BATCH:
            self._order = [*self._random.permutation(len(self._photos)).tolist(), *self._order]
        chosen = [self._photos[self._order.pop()] for _ in range(_BATCH)]
        batch = crops(chosen, _CROP_PX, self._random)
        scores, hints = self._teacher(batch.photos)
        edge = min(_WINDOW, _CROP_PX // 8)
        top, left = self._random.integers(_CROP_PX // 8 - edge + 1, size=2).tolist()
        window = Window(top, left, edge)
        seen = {
            name: window.of(each, OUTPUT_STRIDE) if STAGE_STRIDES[name] == OUTPUT_STRIDE else each
            for name, each in hints.items()
        }
        return Lesson(
            self._network.edges(normalised(batch.photos[:, :, :-1, :-1])).bfloat16(),
            window,
            _kept(window.of(scores, OUTPUT_STRIDE)),
            {name: _kept(each) for name, each in seen.items()},
            window.of(batch.people[:, None], OUTPUT_STRIDE)[:, 0].clone(),
        )


def _kept(features: Tensor) -> Tensor:
    return features.bfloat16().contiguous(memory_format=torch.channels_last)
