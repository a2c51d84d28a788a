"""What a network says about one photo that entered it in several sizes, and mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.segmentation.labels import group_probabilities, membership
from services.segmentation.sampling import Axis, resampled

__all__ = ["Probabilities", "View", "averaged"]


@dataclass(frozen=True, eq=False)
class View:
    """``logits`` are (classes, h, w), of a photo that entered the network at ``input_width`` times ``input_height``."""

    logits: NDArray[np.float32]
    input_width: int
    input_height: int
    align_corners: bool
    flipped: bool = False


@dataclass(frozen=True, eq=False)
class Probabilities:
    """``planes`` are (labels, h, w); ``rows`` and ``columns`` say where their samples lie on the photo."""

    planes: NDArray[np.float32]
    rows: Axis
    columns: Axis

    def at_size(self, width: int, height: int) -> NDArray[np.float32]:
        """Interpolate to (labels, height, width)."""
        return resampled(self.planes, self.rows.for_size(height), self.columns.for_size(width))


def averaged(views: Sequence[View], classes: Sequence[str]) -> Probabilities:
    """Average the views' probabilities of the common labels, on the samples of the view with the most of them."""
    groups = membership(classes)
    every = [_grouped(view, groups) for view in views]
    finest = max(every, key=lambda each: each.planes[0].size)
    total = np.zeros_like(finest.planes)
    for each in every:
        if (each.rows, each.columns) == (finest.rows, finest.columns):
            total += each.planes
        else:
            rows, columns = each.rows.at(finest.rows.centres()), each.columns.at(finest.columns.centres())
            total += resampled(each.planes, rows, columns)
    return Probabilities(total / np.float32(len(every)), finest.rows, finest.columns)


def _grouped(view: View, groups: NDArray[np.intp]) -> Probabilities:
    planes = group_probabilities(view.logits, groups)
    if view.flipped:
        planes = planes[:, :, ::-1]
    rows = Axis(planes.shape[1], view.input_height, view.align_corners)
    return Probabilities(planes, rows, Axis(planes.shape[2], view.input_width, view.align_corners))
