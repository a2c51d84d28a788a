"""The trip of one transfer: admit, segment both photos, stylize, and tell the caller about it on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc.aio
import structlog
from dpst.v1 import photo_style_pb2, progress_pb2, report_pb2, stylizer_pb2

from gateway.accounting import counted, timed
from gateway.admission import admit
from gateway.downstream import Deadline, explained, is_for_another_replica
from gateway.fetch import Fetcher
from gateway.label_notes import label_notes
from gateway.progress import Progress
from gateway.regions import Regions, find_regions
from gateway.room import Room
from services.common.config import GatewaySettings
from services.common.logs import bind_request_id, current_request_id
from services.common.metrics import Metrics
from services.common.tracing import span

if TYPE_CHECKING:  # the stubs of these classes have no code behind them
    from dpst.v1.segmentation_pb2_grpc import SegmentationAsyncStub
    from dpst.v1.stylizer_pb2_grpc import StylizerAsyncStub

__all__ = ["Pipeline"]

_log = structlog.stdlib.get_logger(__name__)

_Event = photo_style_pb2.TransferStreamResponse


class Pipeline:
    """Runs transfers on the services behind ``segmentation`` and ``stylizer``."""

    def __init__(
        self,
        segmentation: SegmentationAsyncStub,
        stylizer: StylizerAsyncStub,
        room: Room,
        fetcher: Fetcher,
        settings: GatewaySettings,
        metrics: Metrics,
    ) -> None:
        self._segmentation = segmentation
        self._stylizer = stylizer
        self._settings = settings
        self._metrics = metrics
        self._room = room
        self._fetcher = fetcher

    async def run(
        self,
        transfer: photo_style_pb2.Transfer,
        deadline: Deadline,
        progress: Progress | None = None,
    ) -> AsyncGenerator[_Event, None]:
        """Yield the numbered events of one transfer, ``accepted`` first, ``done`` last.

        What an earlier run of it left in ``progress`` is not done again, and what this one achieves is put there.

        Raises ``ServiceError``, or the ``AioRpcError`` of the service that refused. Closing the generator, or
        cancelling the task that reads it, cancels the calls that are running.
        """
        started = time.perf_counter()
        sequence = 0
        previewed = False
        progress = Progress() if progress is None else progress
        with counted(self._metrics), self._room.entered():
            async with aclosing(self._events(transfer, deadline, progress)) as events:
                async for event in events:
                    sequence += 1
                    event.sequence = sequence
                    if event.iteration.preview_jpeg and not previewed:
                        previewed = True
                        self._metrics.first_preview_seconds.observe(time.perf_counter() - started)
                    if event.HasField("done"):
                        end_to_end = timed(self._metrics, report_pb2.STAGE_END_TO_END, started)
                        event.done.report.stages.append(end_to_end)
                    yield event

    async def _events(
        self, transfer: photo_style_pb2.Transfer, deadline: Deadline, progress: Progress
    ) -> AsyncGenerator[_Event, None]:
        self._room.recall(transfer, deadline)
        await asyncio.gather(
            self._fetcher.fill(transfer.content, "content"), self._fetcher.fill(transfer.style, "style")
        )
        photo = await asyncio.to_thread(admit, transfer, self._settings)
        ours = report_pb2.TransferReport(request_id=current_request_id() or bind_request_id(transfer.request_id))
        await self._room.check(transfer, photo, deadline)
        yield _Event(accepted=progress_pb2.Accepted(request_id=ours.request_id))
        if progress.regions is None:
            if not (transfer.HasField("content_labels") and transfer.HasField("style_labels")):
                yield _Event(stage=progress_pb2.StageStarted(stage=report_pb2.STAGE_SEGMENT))
            progress.regions = await self._find_regions(transfer, deadline, ours)
        content, style = progress.regions
        if content.model or style.model:
            _describe(ours, content, style)
        request = stylizer_pb2.StylizeRequest(
            content=transfer.content,
            style=transfer.style,
            content_labels=content.labels,
            style_labels=style.labels,
            params=transfer.params,
            output=transfer.output,
            priority=transfer.priority,
            best_effort=transfer.best_effort,
        )
        async with aclosing(self._stylize(request, deadline, progress)) as responses:
            async for response in responses:
                yield _forwarded(response, ours)

    async def _find_regions(
        self, transfer: photo_style_pb2.Transfer, deadline: Deadline, ours: report_pb2.TransferReport
    ) -> tuple[Regions, Regions]:
        started = time.perf_counter()
        with span("segment"):
            content, style = await find_regions(self._segmentation, transfer, self._settings, deadline)
        if content.model or style.model:
            ours.stages.append(timed(self._metrics, report_pb2.STAGE_SEGMENT, started))
            self._room.segmented(ours.stages[-1].seconds)
        return content, style

    async def _stylize(
        self, request: stylizer_pb2.StylizeRequest, deadline: Deadline, progress: Progress
    ) -> AsyncGenerator[stylizer_pb2.StylizeResponse, None]:
        """The stylizer's events; a replica that is full or lost is passed over, and the next one goes on for it."""
        for tries_left in reversed(range(self._settings.stylizer_tries)):
            timeout = deadline.timeout(self._settings.solve_timeout_seconds)
            if progress.checkpoint is not None:
                request.checkpoint.CopyFrom(progress.checkpoint)
            call = self._stylizer.Stylize(request, timeout=timeout)
            begun, finished = False, False
            try:
                async for response in call:
                    finished = response.HasField("done")
                    if response.HasField("checkpoint"):
                        progress.checkpoint = response.checkpoint
                        continue
                    begun = begun or response.HasField("chunk")
                    yield response
            except grpc.aio.AioRpcError as error:
                if tries_left and not begun and is_for_another_replica(error):
                    _log.warning("another replica is asked", code=error.code().name, details=error.details())
                    continue
                raise explained("stylizer", timeout, error) from error
            finally:
                call.cancel()  # ends the solve if our caller has gone; no effect on a finished call
            if not finished:
                raise RuntimeError("the stylizer's stream ended without a result")
            return


def _describe(report: report_pb2.TransferReport, content: Regions, style: Regions) -> None:
    if content.model is not None:
        report.content_segmentation_model.CopyFrom(content.model)
    if style.model is not None:
        report.style_segmentation_model.CopyFrom(style.model)
    report.content_label_verdicts.extend(content.verdicts)
    report.style_label_verdicts.extend(style.verdicts)
    report.notes.extend(label_notes(content, style))


def _forwarded(response: stylizer_pb2.StylizeResponse, ours: report_pb2.TransferReport) -> _Event:
    """Return the caller's form of a stylizer's event, the gateway's part of the report added to ``done``."""
    kind = response.WhichOneof("event")
    if kind == "queued":
        return _Event(queued=response.queued)
    if kind == "stage":
        return _Event(stage=response.stage)
    if kind == "iteration":
        return _Event(iteration=response.iteration)
    if kind == "chunk":
        return _Event(chunk=response.chunk)
    report = report_pb2.TransferReport()
    report.CopyFrom(ours)
    report.MergeFrom(response.done.report)  # appends the stylizer's stages and notes to ours
    report.request_id = ours.request_id
    return _Event(done=progress_pb2.Done(report=report, look=response.done.look))
