"""PhotoStyle over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc.aio
from dpst.v1 import image_pb2, photo_style_pb2, photo_style_pb2_grpc

from gateway.downstream import Deadline
from gateway.pipeline import Pipeline

__all__ = ["PhotoStyleServicer"]


class PhotoStyleServicer(photo_style_pb2_grpc.PhotoStyleServicer):
    """Both transfer RPCs on one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def Transfer(
        self, request: photo_style_pb2.TransferRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> photo_style_pb2.TransferResponse:
        """Photo in, photo out, in one call."""
        picture = bytearray()
        response = photo_style_pb2.TransferResponse()
        async with aclosing(self._events(request.transfer, context)) as events:
            async for event in events:
                if event.HasField("chunk"):
                    _append(picture, event.chunk)
                    if event.chunk.HasField("info"):
                        response.info.CopyFrom(event.chunk.info)
                elif event.HasField("done"):
                    response.report.CopyFrom(event.done.report)
                    response.look.CopyFrom(event.done.look)
        response.picture = bytes(picture)
        return response

    async def TransferStream(
        self, request: photo_style_pb2.TransferStreamRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[photo_style_pb2.TransferStreamResponse, None]:
        """Yield the events of one transfer, the result in chunks."""
        async with aclosing(self._events(request.transfer, context)) as events:
            async for event in events:
                yield event

    def _events(
        self, transfer: photo_style_pb2.Transfer, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[photo_style_pb2.TransferStreamResponse, None]:
        return self._pipeline.run(transfer, Deadline(context.time_remaining()))


def _append(picture: bytearray, chunk: image_pb2.PictureChunk) -> None:
    if chunk.offset_bytes != len(picture):
        raise RuntimeError(f"a chunk at {chunk.offset_bytes} came after {len(picture)} bytes")
    picture += chunk.data
