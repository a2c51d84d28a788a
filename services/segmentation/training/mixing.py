"""Views made of two photos: nobody knows by heart what has never been (function matching: Beyer et al. 2022).

The teacher is asked about the mixture, so that its answer is as right there as anywhere.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from torch import Tensor

from services.segmentation.training.data import Batch
from services.segmentation.training.scene import OUTPUT_STRIDE

__all__ = ["mixed"]

_BLENDED, _SPLICED = 0.3, 0.3
"""Shares of the views over which another is laid, and of those that get a part of another."""

_LEAST_PART: Final = 0.25
"""Of a side, that comes from each of the two."""


def mixed(batch: Batch, random: np.random.Generator) -> Batch:
    """Lay the view before over some views of a batch, thinner than these are, and put a side of it into some others.

    A view over which another was laid has no labels by people; parts bring theirs with them.
    """
    photos, people = batch.photos.clone(), batch.people.clone()
    other_photos, other_people = batch.photos.roll(1, 0), batch.people.roll(1, 0)
    for n, chance in enumerate(random.random(len(photos))):
        if chance < _BLENDED:
            photos[n].lerp_(other_photos[n], random.uniform(0, 0.5))
            people[n] = -1
        elif chance < _BLENDED + _SPLICED:
            axis, comes_first = int(random.integers(-2, 0)), bool(random.random() < 0.5)
            steps = people.shape[axis]
            at = round(steps * random.uniform(_LEAST_PART, 1 - _LEAST_PART))
            _take_part(people[n], other_people[n], axis, at, comes_first)
            _take_part(photos[n], other_photos[n], axis, OUTPUT_STRIDE * at, comes_first)
    return Batch(photos, people)


def _take_part(own: Tensor, other: Tensor, axis: int, at: int, comes_first: bool) -> None:
    """Overwrite what lies before that row or column of a tensor, or what lies from there on."""
    start, length = (0, at) if comes_first else (at, own.shape[axis] - at)
    own.narrow(axis, start, length).copy_(other.narrow(axis, start, length))
