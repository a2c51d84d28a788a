"""The segmentation process: finds the network, warms it up, then says that it is able to work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc.aio
import structlog
from dpst.v1 import segmentation_pb2_grpc

from services.common.config import SegmentationSettings
from services.common.images import ImageLimits
from services.common.metrics import Metrics
from services.common.models import embedded_models_dir, find_model, user_models_dir
from services.segmentation.network import Network
from services.segmentation.segmenter import warm_up
from services.segmentation.servicer import SegmentationServicer
from services.segmentation.slots import Slots

__all__ = ["SegmentationService"]

_log = structlog.stdlib.get_logger(__name__)

_SLOTS = 2  # one photo is decoded or encoded while another one is in the network
_QUEUE_LIMIT = 32  # at about 0.2 s a photo on 2 cores the last one waits for 3 s; beyond that a caller should know


class SegmentationService:
    """What ``run_process`` runs."""

    names: tuple[str, ...] = ("dpst.v1.Segmentation",)

    def __init__(self, settings: SegmentationSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._slots = Slots(_SLOTS, _QUEUE_LIMIT, metrics)
        self._servicer = SegmentationServicer(ImageLimits.of(settings), self._slots, metrics)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer."""
        segmentation_pb2_grpc.add_SegmentationServicer_to_server(self._servicer, server)

    async def start(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        """Load the network and run it once; raises ModelError if what was asked for cannot be used."""
        network = await asyncio.to_thread(self._load)
        model = self._servicer.use(network)
        self._metrics.model_info.labels(model.name, model.version, model.device).set(1)
        _log.info(
            "segmentation model",
            model=f"{model.name}/{model.version}",
            device=model.device,
            built_in=model.built_in,
            description=model.description,
        )
        await serving(True)

    async def stop(self) -> None:
        """Wait for the threads."""
        await asyncio.to_thread(self._slots.close)

    def _load(self) -> Network | None:
        settings = self._settings
        models_dir = settings.models_dir or user_models_dir()
        embedded = embedded_models_dir("segmentation")
        model = find_model(models_dir, "segmentation", settings.segmentation_model, embedded)
        if model is None:
            return None
        network = Network(model, settings.device, settings.threads)
        network.dry_pass()
        warm_up()
        return network
