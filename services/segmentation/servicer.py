"""The Segmentation RPCs: the only file that sees both messages and networks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc.aio
from dpst.v1 import labels_pb2, report_pb2, segmentation_pb2, segmentation_pb2_grpc

from services.common.errors import NotFound, Unavailable
from services.common.images import ImageLimits, open_photo
from services.common.label_maps import encode_mask
from services.common.metrics import Metrics
from services.common.wire import image_bytes, label_map_to_message
from services.segmentation.confidence import LabelVerdict
from services.segmentation.labels import common_labels_of
from services.segmentation.network import Network
from services.segmentation.options import Options, options_of
from services.segmentation.segmenter import map_size, photo_edge_px, segment, segment_as_one
from services.segmentation.slots import Cancel, Slots

__all__ = ["BUILT_IN", "SegmentationServicer", "verdict_message"]

BUILT_IN = report_pb2.ModelRef(
    name="single-region",
    version="1",
    device="cpu",
    built_in=True,
    description="Takes the whole photo as one region; used because no segmentation network was given.",
)
_BUILT_IN_NAMES = ("builtin", "single-region", "single-region/1")


class SegmentationServicer(segmentation_pb2_grpc.SegmentationServicer):
    """Serves one network, or none: then every photo is one region. Not ready until ``use`` was called."""

    def __init__(self, limits: ImageLimits, slots: Slots, metrics: Metrics) -> None:
        self._limits = limits
        self._slots = slots
        self._metrics = metrics
        self._network: Network | None = None
        self._ready = False

    def use(self, network: Network | None) -> report_pb2.ModelRef:
        """Serve this network from now on, None = the built-in; returns how replies will call it."""
        self._network = network
        self._ready = True
        return _reference(network)

    async def Segment(
        self,
        request: segmentation_pb2.SegmentRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> segmentation_pb2.SegmentResponse:
        """Give the label map of one photo."""
        self._check_ready()
        network = self._chosen(request.model)
        options = options_of(request.options, "options")
        return await self._slots.run(lambda cancel: self._segment(request, network, options, cancel))

    async def ListModels(
        self,
        request: segmentation_pb2.ListModelsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> segmentation_pb2.ListModelsResponse:
        """List the network and the built-in."""
        self._check_ready()
        built_in = segmentation_pb2.SegmentationModel(
            model=BUILT_IN, labels=["all"], licence="Apache-2.0", is_default=self._network is None
        )
        models = [built_in] if self._network is None else [_described(self._network), built_in]
        return segmentation_pb2.ListModelsResponse(models=models)

    def _check_ready(self) -> None:
        if not self._ready:
            raise Unavailable("the segmentation service is still starting", retry_after_seconds=1.0)

    def _chosen(self, wanted: str) -> Network | None:
        network = self._network
        if wanted in _BUILT_IN_NAMES:
            return None
        names = ["single-region"]
        if network is not None:
            names = [network.model.name, f"{network.model.name}/{network.model.version}", *names]
        if wanted and wanted not in names:
            raise NotFound(f"model: {wanted[:80]!r} is unknown; this process holds {', '.join(names)}")
        return network

    def _segment(
        self, request: segmentation_pb2.SegmentRequest, network: Network | None, options: Options, cancel: Cancel
    ) -> segmentation_pb2.SegmentResponse:
        data = image_bytes(request.image, "image", self._limits.max_bytes)
        photo = open_photo(data, "image.data", self._limits)
        width, height = map_size(photo.info.width_px, photo.info.height_px, request.map_edge_px)
        cancel.check()
        if network is None:
            with self._stage("decode"):
                photo.proxy(64, None)  # a damaged photo is refused with every model alike
            with self._stage("segment"):
                regions = segment_as_one(width, height)
        else:
            with self._stage("decode"):
                pixels = photo.proxy(photo_edge_px(network.input_edge_px, width, height, options), None)
            cancel.check()
            with self._stage("segment"):
                regions = segment(pixels, network, width, height, options)
        cancel.check()
        label_map = label_map_to_message(regions.label_map)
        masks = []
        if request.soft_masks:
            for label, mask in zip(label_map.labels, regions.masks(), strict=True):
                cancel.check()
                masks.append(labels_pb2.SoftMask(label=label, png=encode_mask(mask)))
        return segmentation_pb2.SegmentResponse(
            label_map=label_map,
            soft_masks=masks,
            model=_reference(network),
            inference_seconds=regions.inference_seconds,
            verdicts=[verdict_message(verdict) for verdict in regions.verdicts],
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._metrics.stage_duration_seconds.labels(name).observe(time.perf_counter() - started)


def verdict_message(verdict: LabelVerdict) -> labels_pb2.LabelVerdict:
    """Put a verdict into a message."""
    return labels_pb2.LabelVerdict(
        label=verdict.label,
        verdict=labels_pb2.Verdict.Value(f"VERDICT_{verdict.verdict.upper()}"),
        area_share=verdict.area_share,
        confidence=verdict.confidence,
        merged_into=verdict.merged_into,
        reason=verdict.reason,
    )


def _reference(network: Network | None) -> report_pb2.ModelRef:
    if network is None:
        return BUILT_IN
    model = network.model
    description = str(model.manifest.get("source") or f"Segmentation network {model.name}.")
    return report_pb2.ModelRef(name=model.name, version=model.version, device=network.device, description=description)


def _described(network: Network) -> segmentation_pb2.SegmentationModel:
    return segmentation_pb2.SegmentationModel(
        model=_reference(network),
        labels=common_labels_of(network.labels),
        licence=network.model.licence,
        input_edge_px=network.input_edge_px,
        execution_provider=network.provider,
        is_default=True,
    )
