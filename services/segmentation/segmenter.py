"""Photo to regions: network, grouping, and maps at the size that was asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.label_maps import LabelMap, single_region
from services.common.taxonomy import COMMON_LABELS
from services.segmentation.labels import group_probabilities, keep_credible, membership
from services.segmentation.sampling import Positions, bands, of_logits, resampled

__all__ = ["MIN_CONFIDENCE", "MIN_SHARE", "Regions", "Segmenter", "map_size", "regions_of", "segment", "segment_as_one"]

# A region under half a per cent has too few pixels for the statistics of deep features.
MIN_SHARE = 0.005
# On the development pairs labels that are there are 0.65 to 1.0 sure of themselves on average, most that are not
# (cars on a sea wall, people in clouds) 0.4 to 0.6.
MIN_CONFIDENCE = 0.6


class Segmenter(Protocol):
    """What is needed of a network; ``Network`` is one."""

    labels: tuple[str, ...]
    input_edge_px: int
    align_corners: bool

    def input_size(self, width: int, height: int) -> tuple[int, int]:
        """Size (width, height) at which a photo enters the network."""

    def logits(self, photo: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run on an sRGB photo, (H, W, 3), 0..1; returns (classes, h, w)."""


@dataclass(frozen=True, eq=False)
class Regions:
    """The label map of a photo, and what its soft masks are made of. ``inference_seconds`` is the network's time."""

    label_map: LabelMap
    inference_seconds: float
    _probabilities: NDArray[np.float32]
    _rows: Positions
    _columns: Positions

    def masks(self) -> Iterator[NDArray[np.float32]]:
        """Give each label's probability, (H, W), 0..1, in the order of the indices; they sum to 1 in every pixel."""
        for plane in self._probabilities:
            yield resampled(plane[None], self._rows, self._columns)[0]


def map_size(width: int, height: int, edge_px: int) -> tuple[int, int]:
    """Size (width, height) of the map of a photo: long edge ``edge_px``, 0 = as large as the photo, never larger."""
    scale = min(1.0, edge_px / max(width, height)) if edge_px else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def segment(photo: NDArray[np.float32], segmenter: Segmenter, width: int, height: int) -> Regions:
    """Divide an sRGB photo, (H, W, 3), 0..1, into common labels; the map is ``width`` times ``height`` pixels."""
    started = time.perf_counter()
    logits = segmenter.logits(photo)
    seconds = time.perf_counter() - started
    return replace(regions_of(logits, segmenter, photo, width, height), inference_seconds=seconds)


def regions_of(
    logits: NDArray[np.float32], segmenter: Segmenter, photo: NDArray[np.float32], width: int, height: int
) -> Regions:
    """Turn what a network said about a photo into regions; ``inference_seconds`` is left at 0.

    Probabilities are interpolated, not labels, so that borders stay smooth; then the most probable label wins.
    """
    grouped = group_probabilities(logits, membership(segmenter.labels))
    kept, probabilities = keep_credible(grouped, MIN_SHARE, MIN_CONFIDENCE)
    input_width, input_height = segmenter.input_size(photo.shape[1], photo.shape[0])
    rows = of_logits(logits.shape[1], input_height, height, segmenter.align_corners)
    columns = of_logits(logits.shape[2], input_width, width, segmenter.align_corners)
    table = np.array(kept, np.uint8)
    indices = np.concatenate([table[band.argmax(axis=0)] for band in bands(probabilities, rows, columns)])
    label_map = LabelMap(indices, {index: COMMON_LABELS[index] for index in kept})
    return Regions(label_map, 0.0, probabilities, rows, columns)


def segment_as_one(width: int, height: int) -> Regions:
    """Take the whole photo as one region, "all": what is done without a network."""
    everywhere = np.ones((1, 1, 1), np.float32)
    rows, columns = (Positions.at(np.zeros(size), 1) for size in (height, width))
    return Regions(single_region(width, height), 0.0, everywhere, rows, columns)
