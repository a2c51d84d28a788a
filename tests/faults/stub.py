"""``python -m tests.faults.stub``: segmentation and stylizer in one process that compute nothing, for the fleet's sake.

A solve takes 20 ms and gives the content photo back.
"""

from __future__ import annotations

import asyncio
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

_SECONDS = 0.02


class Stub(stylizer_pb2_grpc.StylizerServicer, segmentation_pb2_grpc.SegmentationServicer):
    """Photos come with their labels, so that nobody asks for any."""

    names = ("dpst.v1.Segmentation", "dpst.v1.Stylizer")

    async def CheckRoom(self, request: stylizer_pb2.CheckRoomRequest, context: Any) -> stylizer_pb2.CheckRoomResponse:
        return stylizer_pb2.CheckRoomResponse()

    async def Stylize(
        self, request: stylizer_pb2.StylizeRequest, context: Any
    ) -> AsyncIterator[stylizer_pb2.StylizeResponse]:
        event = stylizer_pb2.StylizeResponse
        yield event(stage=progress_pb2.StageStarted(stage=report_pb2.STAGE_SOLVE))
        await asyncio.sleep(_SECONDS)
        yield event(iteration=progress_pb2.Iteration(evaluation=1, max_evaluations=1))
        data = request.content.data
        yield event(chunk=image_pb2.PictureChunk(data=data, total_bytes=len(data)))
        yield event(done=progress_pb2.Done(report=report_pb2.TransferReport(evaluations=1)))

    def register(self, server: grpc.aio.Server) -> None:
        stylizer_pb2_grpc.add_StylizerServicer_to_server(self, server)
        segmentation_pb2_grpc.add_SegmentationServicer_to_server(self, server)

    async def start(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        await serving(True)

    async def stop(self) -> None:
        pass


if __name__ == "__main__":
    sys.exit(run_process("stub", ProcessSettings, lambda _settings, _metrics: Stub()))
