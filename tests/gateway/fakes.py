"""Fake services for a gateway, whose every reply is scripted."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from dpst.v1 import (
    image_pb2,
    labels_pb2,
    look_pb2,
    photo_style_pb2,
    photo_style_pb2_grpc,
    progress_pb2,
    report_pb2,
    segmentation_pb2,
    segmentation_pb2_grpc,
    stylizer_pb2,
    stylizer_pb2_grpc,
)
from google.longrunning import operations_pb2_grpc
from PIL import Image as PillowImage

from gateway.jobs.engine import Engine
from services.common.config import GatewaySettings
from services.common.logs import current_request_id
from services.common.metrics import Metrics
from services.common.server import bind, make_server

Reply = Any  # a message, an exception, or an async function that gives either


def photo(width: int = 48, height: int = 32, colour: tuple[int, int, int] = (200, 90, 30)) -> bytes:
    """Make a small PNG."""
    file = io.BytesIO()
    PillowImage.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def labels(width: int = 48, height: int = 32) -> labels_pb2.LabelMap:
    """Make a label map of one region called "sky"."""
    file = io.BytesIO()
    PillowImage.new("L", (width, height), 3).save(file, "PNG")
    return labels_pb2.LabelMap(png=file.getvalue(), labels=[labels_pb2.Label(index=3, name="sky", area_share=1)])


def transfer(**fields: Any) -> photo_style_pb2.Transfer:
    """Make a transfer of two small photos."""
    given = {
        "content": image_pb2.Image(data=photo()),
        "style": image_pb2.Image(data=photo(colour=(20, 40, 160))),
        **fields,
    }
    return photo_style_pb2.Transfer(**given)


def segmented(name: str = "fake-net", built_in: bool = False) -> segmentation_pb2.SegmentResponse:
    """Make a reply of the segmentation service."""
    model = report_pb2.ModelRef(name=name, version="1", device="cpu", built_in=built_in, description="one region")
    return segmentation_pb2.SegmentResponse(label_map=labels(), model=model)


def solved(picture: bytes = b"a restyled picture") -> list[stylizer_pb2.StylizeResponse]:
    """Make the events of a whole solve, the picture in two chunks."""
    half = len(picture) // 2
    info = image_pb2.ImageInfo(format=image_pb2.IMAGE_FORMAT_PNG, width_px=48, height_px=32, bit_depth=8)
    report = report_pb2.TransferReport(
        evaluations=2,
        notes=["built-in features"],
        stages=[report_pb2.StageTime(stage=report_pb2.STAGE_SOLVE, seconds=0.5)],
        result=info,
        peak_memory_bytes=1 << 30,
    )
    event = stylizer_pb2.StylizeResponse
    losses = report_pb2.Losses(total=12.5)
    return [
        event(queued=progress_pb2.Queued(position=1, eta_seconds=2)),
        event(stage=progress_pb2.StageStarted(stage=report_pb2.STAGE_SOLVE)),
        event(iteration=progress_pb2.Iteration(evaluation=1, max_evaluations=2, losses=losses, remaining_seconds=1)),
        event(iteration=progress_pb2.Iteration(evaluation=2, max_evaluations=2, losses=losses, preview_jpeg=b"jpeg")),
        event(chunk=image_pb2.PictureChunk(offset_bytes=0, total_bytes=len(picture), data=picture[:half], info=info)),
        event(chunk=image_pb2.PictureChunk(offset_bytes=half, total_bytes=len(picture), data=picture[half:])),
        event(done=progress_pb2.Done(report=report)),
    ]


def rendered(picture: bytes = b"a rendered picture") -> list[stylizer_pb2.RenderResponse]:
    """Make the events of a whole rendering, the picture in two chunks."""
    half = len(picture) // 2
    info = image_pb2.ImageInfo(format=image_pb2.IMAGE_FORMAT_PNG, width_px=48, height_px=32, bit_depth=8)
    event = stylizer_pb2.RenderResponse
    seconds = report_pb2.StageTime(stage=report_pb2.STAGE_RENDER, seconds=0.25)
    return [
        event(queued=progress_pb2.Queued(position=2, eta_seconds=9)),
        event(chunk=image_pb2.PictureChunk(offset_bytes=0, total_bytes=len(picture), data=picture[:half], info=info)),
        event(chunk=image_pb2.PictureChunk(offset_bytes=half, total_bytes=len(picture), data=picture[half:])),
        event(done=progress_pb2.RenderDone(stages=[seconds], result=info)),
    ]


def exported(*names: str) -> stylizer_pb2.StylizerExportLookResponse:
    """Make a reply with one lookup table a name, whose text is the name; "lake" has no pixel."""
    luts = [
        look_pb2.Lut(
            label=name,
            points=33,
            cube=name.encode(),
            area_share=1 / len(names),
            fit_error=look_pb2.ColourDifference(mean=1.25, p95=3.5, max=9.0),
        )
        for name in names
    ]
    seconds = report_pb2.StageTime(stage=report_pb2.STAGE_EXPORT, seconds=0.5)
    return stylizer_pb2.StylizerExportLookResponse(luts=luts, labels_without_pixels=["lake"], stages=[seconds])


async def forever() -> None:
    """Block until cancelled."""
    await asyncio.Event().wait()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until ``condition()`` holds, which another task or process brings about."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition has no event to wait for
            await asyncio.sleep(0.01)


@dataclass
class Script:
    """Replies in order, and the requests that took them."""

    replies: list[Reply] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    cancelled: int = 0

    async def next(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        self.timeouts.append(context.time_remaining())
        self.request_ids.append(current_request_id())
        assert self.replies, f"unexpected call with {type(request).__name__}"
        reply = self.replies.pop(0)
        return await self.play(reply)

    async def play(self, reply: Reply) -> Any:
        try:
            if callable(reply):
                reply = await reply()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(reply, BaseException):
            raise reply
        return reply


class FakeSegmentation(segmentation_pb2_grpc.SegmentationServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def Segment(self, request, context):
        return await self._script.next(request, context)


class FakeStylizer(stylizer_pb2_grpc.StylizerServicer):
    """Has room for all who ask, but for whom ``room`` has replies."""

    def __init__(self, script: Script, room: Script) -> None:
        self._script, self._room = script, room

    async def CheckRoom(self, request, context):
        if not self._room.replies:
            self._room.replies.append(stylizer_pb2.CheckRoomResponse())
        return await self._room.next(request, context)

    async def Stylize(self, request, context):
        for event in await self._script.next(request, context):
            yield await self._script.play(event)

    async def Render(self, request, context):
        for event in await self._script.next(request, context):
            yield await self._script.play(event)

    async def ExportLook(self, request, context):
        return await self._script.next(request, context)


@dataclass
class World:
    """A gateway and the fakes behind it."""

    segmentation: Script
    stylizer: Script
    room: Script
    address: str
    stub: photo_style_pb2_grpc.PhotoStyleStub
    metrics: Metrics
    segmentation_address: str
    stop_stylizer: Callable[[], Awaitable[None]]
    operations: operations_pb2_grpc.OperationsStub
    runner: asyncio.Task[None]
    engine: Engine

    async def events(self, request: photo_style_pb2.Transfer, **options: Any) -> list[Any]:
        """Run one transfer; return its events."""
        call = self.stub.TransferStream(photo_style_pb2.TransferStreamRequest(transfer=request), **options)
        return [event async for event in call]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


async def started(settings: GatewaySettings, register: Callable[[grpc.aio.Server], None], metrics: Metrics):
    server = make_server(settings, metrics)
    register(server)
    port = bind(server, "127.0.0.1", 0)
    await server.start()
    return server, f"127.0.0.1:{port}"
