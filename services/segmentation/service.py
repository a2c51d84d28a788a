"""The segmentation process: finds its networks, warms them up, then says that it is able to work."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import grpc.aio
import structlog
from dpst.v1 import segmentation_pb2, segmentation_pb2_grpc

from services.common.config import SegmentationSettings
from services.common.images import ImageLimits
from services.common.metrics import Metrics
from services.common.models import ModelError
from services.segmentation.cache import ResultCache
from services.segmentation.registry import Registry
from services.segmentation.servicer import SegmentationServicer
from services.segmentation.sessions import Placement
from services.segmentation.slots import Slots

__all__ = ["SegmentationService"]

_log = structlog.stdlib.get_logger(__name__)

_QUEUE_LIMIT = 32  # at about 0.1 s a photo on 2 cores the last one waits for 3 s; beyond that a caller should know
_ENTRY_BYTES = 1024  # of a kept reply beside what it holds: its key and Python's objects


class SegmentationService:
    """What ``run_process`` runs. SIGHUP looks for changed models; if one cannot be used, all stay as they are."""

    names: tuple[str, ...] = ("dpst.v1.Segmentation",)

    def __init__(self, settings: SegmentationSettings, metrics: Metrics) -> None:
        threads = max(2, Placement(settings.device, settings.threads).cores)
        # While a batch is in the network, each thread has one photo at hand and another one that waits.
        places = settings.segmentation_max_batch_size + 2 * threads
        self._slots = Slots(places, threads, _QUEUE_LIMIT, metrics)
        self._registry = Registry(settings, metrics)
        cache = ResultCache(
            "segmentation", settings.segmentation_cache_bytes, settings.segmentation_cache_seconds, _kept_bytes, metrics
        )
        self._servicer = SegmentationServicer(self._registry, ImageLimits.of(settings), self._slots, cache, metrics)
        self._reloading: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer."""
        segmentation_pb2_grpc.add_SegmentationServicer_to_server(self._servicer, server)

    async def start(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        """Load the networks and run each once; raises ModelError if what was asked for cannot be used."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._asked.set)
        self._registry.use(await asyncio.to_thread(self._registry.load))
        self._log_models()
        self._reloading = asyncio.create_task(self._reload_when_asked())
        await serving(True)

    async def reload(self) -> bool:
        """Load what has changed and serve it; return False, with the reason in the log, if the old ones stay."""
        try:
            loaded = await asyncio.to_thread(self._registry.load)
        except ModelError as error:
            _log.error("models not exchanged, the old ones stay", reason=str(error))
            return False
        except Exception:
            _log.exception("models not exchanged, the old ones stay")
            return False
        self._registry.use(loaded)
        self._log_models()
        return True

    async def stop(self) -> None:
        """Wait for the threads and for running batches."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.gather(self._reloading, return_exceptions=True)
        await asyncio.to_thread(self._slots.close)
        await asyncio.to_thread(self._registry.close)

    async def _reload_when_asked(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.reload()

    def _log_models(self) -> None:
        for position, held in enumerate(self._registry.held):
            if held.network is not None or position == 0:
                model = held.reference
                _log.info(
                    "segmentation model",
                    model=f"{model.name}/{model.version}",
                    default=position == 0,
                    device=model.device,
                    provider=held.network.provider if held.network else "",
                    built_in=model.built_in,
                    description=model.description,
                )


def _kept_bytes(reply: segmentation_pb2.SegmentResponse) -> int:
    return reply.ByteSize() + _ENTRY_BYTES
