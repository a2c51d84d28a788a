"""The Segmentation RPCs: cache, place, decoding, network, regions, in this order."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from dpst.v1 import segmentation_pb2, segmentation_pb2_grpc

from services.common.errors import Unavailable
from services.common.images import ImageLimits
from services.common.metrics import Metrics
from services.common.tracing import span
from services.common.wire import image_bytes
from services.segmentation.cache import ResultCache
from services.segmentation.labels import common_labels_of
from services.segmentation.network import Inferred
from services.segmentation.options import Options, options_of
from services.segmentation.registry import Held, Registry
from services.segmentation.slots import Cancel, Slots
from services.segmentation.stages import Decoded, answer, decode, find_regions

__all__ = ["SegmentationServicer"]

_HASHED_AT_ONCE_BYTES = 128 << 10  # a tenth of a millisecond; larger photos are hashed in a thread


@dataclass(frozen=True)
class _Job:
    """A request whose fields are read; everything but ``data`` is part of the cache's key."""

    data: bytes
    held: Held
    options: Options
    map_edge_px: int
    soft_masks: bool

    def key(self) -> tuple[Any, ...]:
        """What the result depends on."""
        photo = hashlib.sha256(self.data).digest()
        return photo, self.held.identity, self.options, self.map_edge_px, self.soft_masks


class SegmentationServicer(segmentation_pb2_grpc.SegmentationServicer):
    """Serves the networks of a registry; not ready before they are loaded.

    Finished replies are kept rather than what the network said: they are a hundred times smaller, and a caller asks
    for the same photo at the same size again.
    """

    def __init__(
        self,
        registry: Registry,
        limits: ImageLimits,
        slots: Slots,
        cache: ResultCache[segmentation_pb2.SegmentResponse],
        metrics: Metrics,
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._slots = slots
        self._cache = cache
        self._metrics = metrics

    async def Segment(
        self,
        request: segmentation_pb2.SegmentRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> segmentation_pb2.SegmentResponse:
        """Give the label map of one photo."""
        self._check_ready()
        held = self._registry.chosen(request.model)
        data = image_bytes(request.image, "image", self._limits.max_bytes)
        options = options_of(request.options, "options")
        job = _Job(data, held, options, request.map_edge_px, request.soft_masks)
        if not self._cache.is_on:
            return await self._computed(job)
        key = job.key() if len(data) <= _HASHED_AT_ONCE_BYTES else await asyncio.to_thread(job.key)
        reply, origin = await self._cache.get(key, lambda: self._computed(job))
        return _as_cached(reply) if origin == "hit" else reply

    async def ListModels(
        self,
        request: segmentation_pb2.ListModelsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> segmentation_pb2.ListModelsResponse:
        """List the networks and the single region."""
        self._check_ready()
        held = self._registry.held
        return segmentation_pb2.ListModelsResponse(models=[_described(each, each is held[0]) for each in held])

    def _check_ready(self) -> None:
        if not self._registry.is_ready:
            raise Unavailable("the segmentation service is still starting", retry_after_seconds=1.0)

    async def _computed(self, job: _Job) -> segmentation_pb2.SegmentResponse:
        network, batcher = job.held.network, job.held.batcher
        async with self._slots.place() as place:

            def before(cancel: Cancel) -> Decoded:
                with self._stage("decode"):
                    return decode(job.data, job.map_edge_px, network, job.options, self._limits, cancel)

            if batcher is None:
                decoded, results = await place.run(before), []
            else:
                with batcher.coming():
                    decoded = await place.run(before)
                results = await batcher(decoded.inputs)

            def after(cancel: Cancel) -> segmentation_pb2.SegmentResponse:
                with self._stage("segment"):
                    regions = find_regions(decoded, network, job.options, results)
                cancel.check()
                with self._stage("encode"):
                    return answer(regions, job.held.reference, results, job.soft_masks, cancel)

            self._observe(results)
            return await place.run(after)

    def _observe(self, results: Sequence[Inferred]) -> None:
        for result in results:
            self._metrics.stage_duration_seconds.labels("network").observe(result.seconds)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        with span(name):
            yield
        self._metrics.stage_duration_seconds.labels(name).observe(time.perf_counter() - started)


def _as_cached(kept: segmentation_pb2.SegmentResponse) -> segmentation_pb2.SegmentResponse:
    reply = segmentation_pb2.SegmentResponse()
    reply.CopyFrom(kept)
    reply.cached, reply.inference_seconds = True, 0.0
    return reply


def _described(held: Held, is_default: bool) -> segmentation_pb2.SegmentationModel:
    network = held.network
    if network is None:
        return segmentation_pb2.SegmentationModel(
            model=held.reference, labels=["all"], licence="Apache-2.0", is_default=is_default
        )
    return segmentation_pb2.SegmentationModel(
        model=held.reference,
        labels=common_labels_of(network.labels),
        licence=network.model.licence,
        input_edge_px=network.input_edge_px,
        execution_provider=network.provider,
        is_default=is_default,
    )
