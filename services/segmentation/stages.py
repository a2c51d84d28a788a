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
from services.segmentation.network import Inferred, Network
from services.segmentation.segmenter import Regions, map_size, regions_of, segment_as_one
from services.segmentation.slots import Cancel

__all__ = ["Decoded", "answer", "decode", "find_regions"]

_CHECKED_EDGE_PX = 64  # without a network the photo is decoded only to refuse damaged ones with every model alike


@dataclass(frozen=True, eq=False)
class Decoded:
    """A photo's pixels, (H, W, 3), sRGB 0..1; the size of its map; and the network's inputs, one a view."""

    pixels: NDArray[np.float32]
    width: int
    height: int
    inputs: tuple[NDArray[np.float32], ...]


def decode(data: bytes, map_edge_px: int, network: Network | None, limits: ImageLimits, cancel: Cancel) -> Decoded:
    """Read a photo at the size that the network needs. Raises InvalidArgument for files that cannot be used."""
    photo = open_photo(data, "image.data", limits)
    width, height = map_size(photo.info.width_px, photo.info.height_px, map_edge_px)
    cancel.check()
    if network is None:
        return Decoded(photo.proxy(_CHECKED_EDGE_PX, None), width, height, ())
    pixels = photo.proxy(network.input_edge_px, None)
    cancel.check()
    return Decoded(pixels, width, height, (network.prepared(pixels),))


def find_regions(decoded: Decoded, network: Network | None, results: Sequence[Inferred]) -> Regions:
    """Turn what the network said into regions; ``results`` are in the order of the inputs."""
    if network is None:
        return segment_as_one(decoded.width, decoded.height)
    (result,) = results
    return regions_of(result.logits, network, decoded.pixels, decoded.width, decoded.height)


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
    )
