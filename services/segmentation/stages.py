"""What is done to a photo before and after the network; runs in threads and knows neither queue nor cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from dpst.v1 import labels_pb2, report_pb2, segmentation_pb2
from numpy.typing import NDArray

from services.common.images import ImageLimits, open_photo
from services.common.label_maps import encode_mask
from services.common.wire import label_map_to_message
from services.segmentation.confidence import LabelVerdict
from services.segmentation.network import Inferred, Network
from services.segmentation.options import Options
from services.segmentation.sampling import area_mean, fitted_size
from services.segmentation.segmenter import Regions, map_size, photo_edge_px, regions_of, segment_as_one
from services.segmentation.slots import Cancel
from services.segmentation.views import View

__all__ = ["Decoded", "answer", "decode", "find_regions"]

_CHECKED_EDGE_PX = 64  # without a network the photo is decoded only to refuse damaged ones with every model alike


@dataclass(frozen=True, eq=False)
class Decoded:
    """A photo's pixels, (H, W, 3), sRGB 0..1; the size of its map; and the network's inputs, one a view."""

    pixels: NDArray[np.float32]
    width: int
    height: int
    inputs: tuple[NDArray[np.float32], ...]


def decode(
    data: bytes, map_edge_px: int, network: Network | None, options: Options, limits: ImageLimits, cancel: Cancel
) -> Decoded:
    """Read a photo at the size that is needed. Raises InvalidArgument for files that cannot be used."""
    photo = open_photo(data, "image.data", limits)
    width, height = map_size(photo.info.width_px, photo.info.height_px, map_edge_px)
    cancel.check()
    if network is None:
        return Decoded(photo.proxy(_CHECKED_EDGE_PX, None), width, height, ())
    pixels = photo.proxy(photo_edge_px(network.input_edge_px, width, height, options), None)
    inputs = []
    for scale, flipped in options.views():
        cancel.check()
        size = fitted_size(pixels.shape[1], pixels.shape[0], round(network.input_edge_px * scale))
        image = area_mean(pixels, *size)
        inputs.append(network.prepared(image[:, ::-1] if flipped else image, scale))
    return Decoded(pixels, width, height, tuple(inputs))


def find_regions(decoded: Decoded, network: Network | None, options: Options, results: Sequence[Inferred]) -> Regions:
    """Turn what the network said into regions; ``results`` are in the order of the inputs."""
    if network is None:
        return segment_as_one(decoded.width, decoded.height)
    views = [
        View(result.logits, given.shape[2], given.shape[1], network.align_corners, flipped)
        for result, given, (_, flipped) in zip(results, decoded.inputs, options.views(), strict=True)
    ]
    return regions_of(views, decoded.pixels, network.labels, decoded.width, decoded.height, options)


def answer(
    regions: Regions,
    model: report_pb2.ModelRef,
    results: Sequence[Inferred],
    soft_masks: bool,
    cancel: Cancel,
) -> segmentation_pb2.SegmentResponse:
    """Encode regions as a reply."""
    label_map = label_map_to_message(regions.label_map)
    masks = []
    if soft_masks:
        for label, mask in zip(label_map.labels, regions.masks(), strict=True):
            cancel.check()
            masks.append(labels_pb2.SoftMask(label=label, png=encode_mask(mask)))
    return segmentation_pb2.SegmentResponse(
        label_map=label_map,
        soft_masks=masks,
        model=model,
        inference_seconds=sum(result.seconds for result in results),
        verdicts=[_verdict_message(verdict) for verdict in regions.verdicts],
    )


def _verdict_message(verdict: LabelVerdict) -> labels_pb2.LabelVerdict:
    return labels_pb2.LabelVerdict(
        label=verdict.label,
        verdict=labels_pb2.Verdict.Value(f"VERDICT_{verdict.verdict.upper()}"),
        area_share=verdict.area_share,
        confidence=verdict.confidence,
        merged_into=verdict.merged_into,
        reason=verdict.reason,
    )
