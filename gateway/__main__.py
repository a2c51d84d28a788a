"""``python -m gateway``: the process that callers talk to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import grpc.aio
from dpst.v1.photo_style_pb2_grpc import add_PhotoStyleServicer_to_server
from dpst.v1.segmentation_pb2_grpc import SegmentationStub
from dpst.v1.stylizer_pb2_grpc import StylizerStub
from google.longrunning.operations_pb2_grpc import add_OperationsServicer_to_server

from gateway.fetch import Fetcher
from gateway.jobs.engine import engine_of
from gateway.jobs.operations import OperationsServicer
from gateway.jobs.runner import Runner
from gateway.jobs.submission import Jobs
from gateway.looks import Looks
from gateway.pipeline import Pipeline
from gateway.rates import TokenBuckets
from gateway.readiness import follow_health
from gateway.room import Room
from gateway.servicer import PhotoStyleServicer
from gateway.uploads import Uploads
from services.common.client import make_channel
from services.common.config import GatewaySettings
from services.common.metrics import Metrics
from services.common.process import run_process

_SEGMENTATION, _STYLIZER = "dpst.v1.Segmentation", "dpst.v1.Stylizer"


class _Gateway:
    names: tuple[str, ...] = ("dpst.v1.PhotoStyle", "google.longrunning.Operations")

    def __init__(self, settings: GatewaySettings, metrics: Metrics) -> None:
        self._segmentation = make_channel(settings.segmentation_address, _SEGMENTATION, settings, metrics)
        self._stylizer = make_channel(settings.stylizer_address, _STYLIZER, settings, metrics)
        stylizer = StylizerStub(self._stylizer)
        self._jobs = engine_of(settings)
        self._uploads = Uploads(settings, self._jobs.files if self._jobs else None)
        fetcher = Fetcher(settings, self._uploads)
        # Questions go over a channel of their own: on one they would take each second turn of its round robin, and
        # solves would gather in some replicas while others have none.
        self._asked = make_channel(settings.stylizer_address, _STYLIZER, settings, metrics)
        room = Room(StylizerStub(self._asked), settings)
        self._pipeline = Pipeline(SegmentationStub(self._segmentation), stylizer, room, fetcher, settings, metrics)
        self._looks = Looks(stylizer, fetcher, settings, metrics)
        self._rates = TokenBuckets(settings.rate_per_minute, settings.rate_burst)
        self._submitted: Jobs | None = None
        self._runner: Runner | None = None
        self._working: asyncio.Task[None] | None = None
        if self._jobs is not None:
            self._submitted = Jobs(self._jobs.store, self._jobs.files, fetcher, settings)
            self._runner = Runner(
                *(self._pipeline, self._jobs.store, self._jobs.files, self._jobs.policy),
                *(settings.jobs_at_once, metrics),
            )

    def register(self, server: grpc.aio.Server) -> None:
        servicer = PhotoStyleServicer(self._pipeline, self._looks, self._uploads, self._rates, self._submitted)
        add_PhotoStyleServicer_to_server(servicer, server)
        add_OperationsServicer_to_server(OperationsServicer(self._jobs.store if self._jobs else None), server)

    async def start(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        if self._runner is not None:
            self._working = asyncio.create_task(self._runner.run())
        channels = {_SEGMENTATION: self._segmentation, _STYLIZER: self._stylizer}
        await follow_health(channels, serving)

    async def stop(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait({self._working})
        await self._segmentation.close()
        await self._stylizer.close()
        await self._asked.close()
        self._uploads.close()
        if self._jobs is not None:
            await self._jobs.store.close()


def main() -> int:
    """Serve until SIGTERM; return the exit status."""
    return run_process("gateway", GatewaySettings, _Gateway)


if __name__ == "__main__":
    sys.exit(main())
