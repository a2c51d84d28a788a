"""Solved looks: rendered onto a photo, or turned into lookup tables; both without solving."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import grpc.aio
from dpst.v1 import photo_style_pb2, report_pb2, stylizer_pb2

from gateway.accounting import counted, timed
from gateway.admission import admit_look
from gateway.downstream import Deadline, explained
from gateway.fetch import Fetcher
from services.common.config import GatewaySettings
from services.common.metrics import Metrics

if TYPE_CHECKING:  # the stub of this class has no code behind it
    from dpst.v1.stylizer_pb2_grpc import StylizerAsyncStub

__all__ = ["Looks"]

_Event = photo_style_pb2.RenderLookResponse


class Looks:
    """Hands looks to the stylizer behind ``stylizer``.

    Both methods raise ``ServiceError``, or the ``AioRpcError`` of the stylizer if that refused. The stylizer's fields
    are called like ours. Whoever leaves cancels the stylizer's work.
    """

    def __init__(
        self, stylizer: StylizerAsyncStub, fetcher: Fetcher, settings: GatewaySettings, metrics: Metrics
    ) -> None:
        self._stylizer = stylizer
        self._settings = settings
        self._metrics = metrics
        self._fetcher = fetcher

    async def render(
        self, request: photo_style_pb2.RenderLookRequest, deadline: Deadline
    ) -> AsyncGenerator[_Event, None]:
        """Yield ``queued`` as often as the place changes, the picture in chunks, ``done``."""
        started = time.perf_counter()
        with counted(self._metrics):
            await self._fetcher.fill(request.content, "content")
            await asyncio.to_thread(admit_look, request, self._settings)
            timeout = deadline.timeout(self._settings.solve_timeout_seconds)
            call = self._stylizer.Render(_render_request(request), timeout=timeout)
            finished = False
            try:
                async for response in call:
                    event = _forwarded(response)
                    if event.HasField("done"):
                        finished = True
                        event.done.stages.append(timed(self._metrics, report_pb2.STAGE_END_TO_END, started))
                    yield event
            except grpc.aio.AioRpcError as error:
                raise explained("stylizer", timeout, error) from error
            finally:
                call.cancel()  # ends the rendering if our caller has gone; no effect on a finished call
            if not finished:
                raise RuntimeError("the stylizer's stream ended without a result")

    async def export(
        self, request: photo_style_pb2.ExportLookRequest, deadline: Deadline
    ) -> photo_style_pb2.ExportLookResponse:
        """Return the lookup tables."""
        started = time.perf_counter()
        with counted(self._metrics):
            await self._fetcher.fill(request.content, "content")
            await asyncio.to_thread(admit_look, request, self._settings)
            timeout = deadline.timeout(self._settings.solve_timeout_seconds)
            try:
                response = await self._stylizer.ExportLook(_export_request(request), timeout=timeout)
            except grpc.aio.AioRpcError as error:
                raise explained("stylizer", timeout, error) from error
            end_to_end = timed(self._metrics, report_pb2.STAGE_END_TO_END, started)
        return photo_style_pb2.ExportLookResponse(
            luts=response.luts,
            labels_without_pixels=response.labels_without_pixels,
            stages=[*response.stages, end_to_end],
        )


def _render_request(request: photo_style_pb2.RenderLookRequest) -> stylizer_pb2.RenderRequest:
    return stylizer_pb2.RenderRequest(
        look=request.look,
        content=request.content,
        strength=request.strength if request.HasField("strength") else None,
        preserve=request.preserve,
        output=request.output,
        priority=request.priority,
    )


def _export_request(request: photo_style_pb2.ExportLookRequest) -> stylizer_pb2.StylizerExportLookRequest:
    return stylizer_pb2.StylizerExportLookRequest(
        look=request.look,
        content=request.content,
        points=request.points if request.HasField("points") else None,
        label=request.label,
        per_label=request.per_label,
    )


def _forwarded(response: stylizer_pb2.RenderResponse) -> _Event:
    if response.HasField("queued"):
        return _Event(queued=response.queued)
    if response.HasField("chunk"):
        return _Event(chunk=response.chunk)
    return _Event(done=response.done)
