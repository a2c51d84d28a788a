"""``python -m tests.faults.stub``: segmentation and stylizer in one process that compute nothing, for the fleet's sake.

A solve takes ``STUB_SECONDS`` of the environment, 20 ms if it says nothing, and gives the content photo back; one solve
at a time, the others wait. The report's only note is the process that did it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
from dpst.v1 import (
    image_pb2,
    progress_pb2,
    report_pb2,
    segmentation_pb2_grpc,
    stylizer_pb2,
    stylizer_pb2_grpc,
)

from services.common.config import ProcessSettings
from services.common.process import run_process

_SECONDS = float(os.environ.get("STUB_SECONDS", "0.02"))


class Stub(stylizer_pb2_grpc.StylizerServicer, segmentation_pb2_grpc.SegmentationServicer):
    """Photos come with their labels, so that nobody asks for any."""

    names = ("dpst.v1.Segmentation", "dpst.v1.Stylizer")

    def __init__(self) -> None:
        self._slot = asyncio.Lock()

    async def CheckRoom(self, request: stylizer_pb2.CheckRoomRequest, context: Any) -> stylizer_pb2.CheckRoomResponse:
        return stylizer_pb2.CheckRoomResponse()

    async def Stylize(
        self, request: stylizer_pb2.StylizeRequest, context: Any
    ) -> AsyncIterator[stylizer_pb2.StylizeResponse]:
        event = stylizer_pb2.StylizeResponse
        async with self._slot:
            yield event(stage=progress_pb2.StageStarted(stage=report_pb2.STAGE_SOLVE))
            await asyncio.sleep(_SECONDS)
        yield event(iteration=progress_pb2.Iteration(evaluation=1, max_evaluations=1))
        data = request.content.data
        yield event(chunk=image_pb2.PictureChunk(data=data, total_bytes=len(data)))
        report = report_pb2.TransferReport(evaluations=1, notes=[f"process {os.getpid()}"])
        yield event(done=progress_pb2.Done(report=report))

    def register(self, server: grpc.aio.Server) -> None:
        stylizer_pb2_grpc.add_StylizerServicer_to_server(self, server)
        segmentation_pb2_grpc.add_SegmentationServicer_to_server(self, server)

    async def start(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        await serving(True)

    async def stop(self) -> None:
        pass


if __name__ == "__main__":
    sys.exit(run_process("stub", ProcessSettings, lambda _settings, _metrics: Stub()))
