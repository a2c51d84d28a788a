"""The Stylizer service: messages in, jobs to the worker, events out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
from dpst.v1 import params_pb2, progress_pb2, stylizer_pb2, stylizer_pb2_grpc

from services.common.config import StylizerSettings
from services.common.errors import NotFound
from services.common.images import ImageLimits
from services.common.logs import current_request_id
from services.common.metrics import Metrics
from services.common.status import REPLICA
from services.common.tracing import Stages
from services.common.wire import image_info_message, picture_chunks
from services.stylizer.jobs import Exported, Finished, Iterated, Job, Picture, Queued, Rendered, StageBegan, WorkerEvent
from services.stylizer.messages import (
    expected_job,
    export_job,
    export_response,
    priority,
    queued_message,
    render_job,
    stage_times,
    stylize_job,
    stylize_responses,
)
from services.stylizer.supervisor import Supervisor, Terms

_Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["StylizerService"]

_MESSAGE_MARGIN_BYTES = 64 << 10
"""What a reply holds beside its lookup tables: at most 256 labels, their figures, the status."""


class StylizerService(stylizer_pb2_grpc.StylizerServicer):
    """Serves ``dpst.v1.Stylizer``; computes nothing itself.

    Args:
        settings: of the process.
        metrics: of the process.
    """

    names: tuple[str, ...] = ("dpst.v1.Stylizer",)

    def __init__(self, settings: StylizerSettings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._limits = ImageLimits.of(settings)
        self._max_export_bytes = settings.max_message_bytes - _MESSAGE_MARGIN_BYTES
        self._supervisor = Supervisor(settings, metrics)

    def register(self, server: grpc.aio.Server) -> None:
        """Add this servicer."""
        stylizer_pb2_grpc.add_StylizerServicer_to_server(self, server)

    async def start(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        """Keep a warm worker; ``serving`` follows it."""

        async def follow(able: bool) -> None:
            network = self._supervisor.network
            if network is not None:
                self._metrics.model_info.labels(network.name, network.version, network.device).set(1)
            await serving(able)

        await self._supervisor.supervise(follow)

    async def stop(self) -> None:
        """End the worker."""
        await self._supervisor.stop()

    async def CheckRoom(
        self, request: stylizer_pb2.CheckRoomRequest, context: _Context
    ) -> stylizer_pb2.CheckRoomResponse:
        """See the proto."""
        job = expected_job(request, current_request_id())
        self._check_features(job.params.features)
        deadline = time.monotonic() + request.remaining_seconds if request.HasField("remaining_seconds") else None
        self._supervisor.expect(job, Terms(priority(request.priority), deadline, request.best_effort))
        return stylizer_pb2.CheckRoomResponse(replica=REPLICA)

    async def Stylize(
        self, request: stylizer_pb2.StylizeRequest, context: _Context
    ) -> AsyncIterator[stylizer_pb2.StylizeResponse]:
        """See the proto."""
        request_id = current_request_id()
        terms = _terms(context, request.priority, request.best_effort)
        self._supervisor.check_room(terms.priority)
        job = await asyncio.to_thread(stylize_job, request, request_id, self._limits)
        self._check_features(job.params.features)
        picture: Picture | None = None
        async with contextlib.aclosing(self._measured(job, terms)) as events:
            async for event in events:
                if isinstance(event, Picture):
                    picture = event
                for response in stylize_responses(event, request_id, picture):
                    yield response

    async def Render(
        self, request: stylizer_pb2.RenderRequest, context: _Context
    ) -> AsyncIterator[stylizer_pb2.RenderResponse]:
        """See the proto."""
        terms = _terms(context, request.priority)
        self._supervisor.check_room(terms.priority)
        job = await asyncio.to_thread(render_job, request, current_request_id(), self._limits)
        picture: Picture | None = None
        async with contextlib.aclosing(self._measured(job, terms)) as events:
            async for event in events:
                if isinstance(event, Picture):
                    picture = event
                    for chunk in picture_chunks(event.data, event.info):
                        yield stylizer_pb2.RenderResponse(chunk=chunk)
                elif isinstance(event, Queued):
                    yield stylizer_pb2.RenderResponse(queued=queued_message(event))
                elif isinstance(event, Rendered) and picture is not None:
                    done = progress_pb2.RenderDone(
                        stages=stage_times(event.stage_seconds), result=image_info_message(picture.info)
                    )
                    yield stylizer_pb2.RenderResponse(done=done)

    async def ExportLook(
        self, request: stylizer_pb2.StylizerExportLookRequest, context: _Context
    ) -> stylizer_pb2.StylizerExportLookResponse:
        """See the proto."""
        terms = _terms(context)
        self._supervisor.check_room(terms.priority)
        job = await asyncio.to_thread(export_job, request, current_request_id(), self._limits, self._max_export_bytes)
        exported: Exported | None = None
        async with contextlib.aclosing(self._measured(job, terms)) as events:
            async for event in events:
                if isinstance(event, Exported):
                    exported = event
        if exported is None:
            raise RuntimeError("the worker ended an export without its tables")
        return await asyncio.to_thread(export_response, exported)

    def _check_features(self, wanted: str) -> None:
        network = self._supervisor.network
        if not wanted or network is None:
            return
        if wanted not in (network.name, f"{network.name}/{network.version}"):
            raise NotFound(
                f"params.features: no model {wanted!r} here, this stylizer holds {network.name}/{network.version}"
            )

    async def _measured(self, job: Job, terms: Terms) -> AsyncGenerator[Queued | WorkerEvent, None]:
        """The job's events, counted and timed on their way."""
        metrics, began = self._metrics, time.monotonic()
        waiting, last_elapsed, previewed = True, 0.0, False
        stages = Stages()
        stages.began("queue")
        try:
            async with contextlib.aclosing(self._supervisor.run(job, terms)) as events:
                async for event in events:
                    if waiting and not isinstance(event, Queued):
                        waiting = False
                        metrics.queue_wait_seconds.observe(time.monotonic() - began)
                        metrics.inflight.inc()
                    if isinstance(event, StageBegan):
                        stages.began(event.stage)
                    elif isinstance(event, Iterated):
                        metrics.evaluations_total.inc()
                        metrics.evaluation_batch_size.observe(event.together)
                        metrics.evaluation_seconds.observe(event.elapsed_seconds - last_elapsed)
                        last_elapsed = event.elapsed_seconds
                        if event.preview_jpeg and not previewed:
                            previewed = True
                            metrics.first_preview_seconds.observe(time.monotonic() - began)
                    elif isinstance(event, Finished | Rendered | Exported):
                        for stage, seconds in event.stage_seconds.items():
                            metrics.stage_duration_seconds.labels(stage).observe(seconds)
                    yield event
        finally:
            stages.ended()
            if not waiting:
                metrics.inflight.dec()


def _terms(
    context: _Context,
    urgency: params_pb2.Priority.ValueType = params_pb2.PRIORITY_UNSPECIFIED,
    best_effort: bool = False,
) -> Terms:
    remaining = context.time_remaining()
    return Terms(priority(urgency), None if remaining is None else time.monotonic() + remaining, best_effort)
