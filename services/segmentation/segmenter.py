"""Photo to regions: network, grouping, the confidence rule, and maps of any size that follow edges."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.label_maps import LabelMap, single_region
from services.common.taxonomy import COMMON_LABELS
from services.segmentation.confidence import LabelVerdict, judge
from services.segmentation.options import Options
from services.segmentation.refine.crf import CrfSettings, crf_marginals
from services.segmentation.refine.guided import guided_fits
from services.segmentation.refine.speckles import without_speckles
from services.segmentation.sampling import Axis, area_mean, fitted_size
from services.segmentation.surfaces import GuidedSurfaces, PlainSurfaces, Surfaces, bands_of, totals_and_winners
from services.segmentation.views import Probabilities, View, averaged

__all__ = ["Regions", "Segmenter", "map_size", "photo_edge_px", "regions_of", "segment", "segment_as_one", "warm_up"]

# Edges are followed in a guide of at most so many pixels; larger maps interpolate it, which keeps memory bounded.
_GUIDE_EDGE_PX = 2048
# The filters' coefficients are found at this size: four times finer than networks of stride 4 at 513 px answer.
_WORKING_EDGE_PX = 512
# How far a border may be moved, as a share of the working size's long edge: 16 px of 512, four such samples.
_RADIUS_SHARE = 1 / 32
_EPSILON = 1e-3
# After a CRF, which has moved the borders already, the filter only carries them to the larger size.
_CARRYING_RADIUS_PX = 2
_SPECKLE_SHARE = 0.0005
# Levels of 8 bits up to 10 and from 253: without light, and burnt out.
_BLACK, _WHITE = 10.5 / 255, 252.5 / 255


class Segmenter(Protocol):
    """What is needed of a network; ``Network`` is one."""

    labels: tuple[str, ...]
    input_edge_px: int
    align_corners: bool

    def input_size(self, width: int, height: int, scale: float = 1.0) -> tuple[int, int]:
        """Size (width, height) at which a photo enters the network, at ``scale`` times its usual size."""

    def logits(self, photo: NDArray[np.float32], scale: float = 1.0) -> NDArray[np.float32]:
        """Run on an sRGB photo, (H, W, 3), 0..1; returns (classes, h, w)."""


@dataclass(frozen=True, eq=False)
class Regions:
    """The label map of a photo, what the confidence rule did, and what soft masks are made of.

    ``verdicts`` has every label that the network saw, largest first; ``inference_seconds`` is the network's time.
    """

    label_map: LabelMap
    verdicts: tuple[LabelVerdict, ...]
    inference_seconds: float
    _surfaces: Surfaces
    _totals: NDArray[np.float32]
    _winners: NDArray[np.uint8]
    _cleaned: NDArray[np.uint8]

    def masks(self) -> Iterator[NDArray[np.float32]]:
        """Give each label's probability, (H, W), 0..1, in the order of the indices; they sum to 1 in every pixel.

        Where a speckle was given to another label, the two labels' probabilities are exchanged.
        """
        moved = self._cleaned != self._winners
        values = _exchanged(self._surfaces, self._totals, self._winners, self._cleaned, moved)
        for label in range(self._surfaces.labels):
            mask = np.empty_like(self._totals)
            for start, stop in bands_of(self._surfaces):
                mask[start:stop] = self._surfaces.plane(label, start, stop)
            mask /= self._totals
            mask[moved] = values[:, label]
            yield mask


def map_size(width: int, height: int, edge_px: int) -> tuple[int, int]:
    """Size (width, height) of the map of a photo: long edge ``edge_px``, 0 = as large as the photo, never larger."""
    return fitted_size(width, height, edge_px or max(width, height))


def photo_edge_px(input_edge_px: int, width: int, height: int, options: Options) -> int:
    """Long edge at which a photo is decoded for a map of ``width`` times ``height``: guide and input are made of it."""
    guide = 0 if options.refinement == "none" else min(max(width, height), _GUIDE_EDGE_PX)
    return max(guide, round(input_edge_px * max(options.scales)))


def segment(
    photo: NDArray[np.float32], segmenter: Segmenter, width: int, height: int, options: Options | None = None
) -> Regions:
    """Divide an sRGB photo, (H, W, 3), 0..1, into common labels; the map is ``width`` times ``height`` pixels."""
    options = options or Options()
    views = []
    seconds = 0.0
    for scale, flipped in options.views():
        size = fitted_size(photo.shape[1], photo.shape[0], round(segmenter.input_edge_px * scale))
        image = area_mean(photo, *size)
        started = time.perf_counter()
        logits = segmenter.logits(image[:, ::-1] if flipped else image, scale)
        seconds += time.perf_counter() - started
        input_size = segmenter.input_size(image.shape[1], image.shape[0], scale)
        views.append(View(logits, *input_size, segmenter.align_corners, flipped))
    return replace(regions_of(views, photo, segmenter.labels, width, height, options), inference_seconds=seconds)


def regions_of(
    views: Sequence[View],
    photo: NDArray[np.float32],
    classes: Sequence[str],
    width: int,
    height: int,
    options: Options,
) -> Regions:
    """Turn what a network said into regions; ``inference_seconds`` is left at 0.

    Args:
        views: one for each of ``options.views()``.
        photo: (H, W, 3), sRGB 0..1: the guide of the refinement, best of the size that ``photo_edge_px`` says.
        classes: the network's.
        width: of the map.
        height: of the map.
        options: how borders follow edges.
    """
    probabilities = averaged(views, classes)
    judgement = judge(probabilities.planes, _visible(photo, probabilities))
    if not judgement.kept:
        return replace(segment_as_one(width, height), verdicts=judgement.verdicts)
    sure = replace(probabilities, planes=judgement.probabilities)
    surfaces = _refined(sure, photo, width, height, options)
    totals, winners = totals_and_winners(surfaces)
    cleaned = without_speckles(winners, round(_SPECKLE_SHARE * winners.size))
    table = np.array(judgement.kept, np.uint8)
    label_map = LabelMap(table[cleaned], {index: COMMON_LABELS[index] for index in judgement.kept})
    return Regions(label_map, judgement.verdicts, 0.0, surfaces, totals, winners, cleaned)


def segment_as_one(width: int, height: int) -> Regions:
    """Take the whole photo as one region, "all": what is done without a network."""
    point = Axis(1, 1, False)
    surfaces = PlainSurfaces(Probabilities(np.ones((1, 1, 1), np.float32), point, point), width, height)
    label_map = single_region(width, height)
    totals = np.ones((height, width), np.float32)
    return Regions(label_map, (), 0.0, surfaces, totals, label_map.indices, label_map.indices)


def warm_up() -> None:
    """Find regions in a small picture, so that the refinement's loops are compiled before the first request."""
    halves = np.repeat(np.array([-9, 9], np.float32), 8)[None, None].repeat(16, axis=1)
    photo = np.full((64, 64, 3), 0.5, np.float32)
    photo[:, 32:] = 0.2
    view = View(np.concatenate([halves, -halves]), 64, 64, align_corners=False)
    list(regions_of([view], photo, ("sky", "building"), 64, 64, Options()).masks())


def _visible(photo: NDArray[np.float32], probabilities: Probabilities) -> NDArray[np.bool_]:
    """Where the photo is neither black nor blown out, at the probabilities' samples: nearest pixels are enough."""
    rows = (probabilities.rows.centres() * photo.shape[0]).astype(np.intp)
    columns = (probabilities.columns.centres() * photo.shape[1]).astype(np.intp)
    pixels = photo[rows[:, None], columns]
    visible: NDArray[np.bool_] = (pixels.max(axis=2) > _BLACK) & (pixels.min(axis=2) < _WHITE)
    return visible


def _refined(sure: Probabilities, photo: NDArray[np.float32], width: int, height: int, options: Options) -> Surfaces:
    if options.refinement == "none" or len(sure.planes) == 1:
        return PlainSurfaces(sure, width, height)
    if photo.shape[1] > width:
        photo = area_mean(photo, width, height)
    small_width, small_height = fitted_size(photo.shape[1], photo.shape[0], _WORKING_EDGE_PX)
    guide = area_mean(photo, small_width, small_height)
    planes = sure.at_size(small_width, small_height)
    if options.refinement == "crf":
        planes = crf_marginals(guide, planes, CrfSettings())
        radius = _CARRYING_RADIUS_PX
    else:
        radius = max(1, round(max(small_width, small_height) * _RADIUS_SHARE))
    return GuidedSurfaces(guided_fits(guide, planes, radius, _EPSILON), photo, width, height)


def _exchanged(
    surfaces: Surfaces,
    totals: NDArray[np.float32],
    winners: NDArray[np.uint8],
    cleaned: NDArray[np.uint8],
    moved: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Probabilities of the pixels that changed their label, (pixels, labels), those of old and new label exchanged."""
    values = np.empty((int(moved.sum()), surfaces.labels), np.float32)
    if not len(values):
        return values
    done = 0
    for start, stop in bands_of(surfaces):
        here = moved[start:stop]
        count = int(here.sum())
        for label, plane in enumerate(surfaces.band(start, stop) if count else ()):
            values[done : done + count, label] = plane[here] / totals[start:stop][here]
        done += count
    pixels, old, new = np.arange(len(values)), winners[moved], cleaned[moved]
    values[pixels, old], values[pixels, new] = values[pixels, new], values[pixels, old]
    return values
