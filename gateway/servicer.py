"""PhotoStyle over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio
from dpst.v1 import image_pb2, photo_style_pb2, photo_style_pb2_grpc, uploads_pb2
from google.longrunning import operations_pb2

from gateway.downstream import Deadline
from gateway.jobs.operations import no_jobs
from gateway.jobs.submission import Jobs
from gateway.looks import Looks
from gateway.pipeline import Pipeline
from gateway.rates import TokenBuckets
from gateway.uploads import Uploads
from services.common.auth import current_caller

__all__ = ["PhotoStyleServicer"]


class PhotoStyleServicer(photo_style_pb2_grpc.PhotoStyleServicer):
    """The transfer RPCs on one pipeline, those of solved looks, of files and of jobs beside it.

    ``jobs`` None refuses submitted transfers.
    """

    def __init__(
        self, pipeline: Pipeline, looks: Looks, uploads: Uploads, rates: TokenBuckets, jobs: Jobs | None = None
    ) -> None:
        self._pipeline, self._looks, self._uploads, self._rates = pipeline, looks, uploads, rates
        self._jobs = jobs

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

    async def SubmitTransfer(
        self, request: photo_style_pb2.SubmitTransferRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> operations_pb2.Operation:
        """Photos in, the name of an operation out."""
        self._rates.take(current_caller())
        return await self._kept_jobs().submit(request.transfer)

    async def WatchTransfer(
        self, request: photo_style_pb2.WatchTransferRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[photo_style_pb2.WatchTransferResponse, None]:
        """Yield the events of one submitted transfer."""
        self._rates.take(current_caller())
        async with aclosing(self._kept_jobs().watch(request)) as events:
            async for event in events:
                yield event

    async def RenderLook(
        self, request: photo_style_pb2.RenderLookRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[photo_style_pb2.RenderLookResponse, None]:
        """Yield the events of one rendering, the result in chunks."""
        self._rates.take(current_caller())
        async with aclosing(self._looks.render(request, Deadline(context.time_remaining()))) as events:
            async for event in events:
                yield event

    async def ExportLook(
        self, request: photo_style_pb2.ExportLookRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> photo_style_pb2.ExportLookResponse:
        """Look in, lookup tables out."""
        self._rates.take(current_caller())
        return await self._looks.export(request, Deadline(context.time_remaining()))

    async def UploadImage(
        self,
        request_iterator: AsyncIterator[uploads_pb2.UploadImageRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> uploads_pb2.UploadImageResponse:
        """Pieces of a file in, its address out."""
        self._rates.take(current_caller())
        return await self._uploads.take(request_iterator)

    async def DownloadImage(
        self, request: uploads_pb2.DownloadImageRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[uploads_pb2.DownloadImageResponse, None]:
        """Address of a file in, its pieces out."""
        self._rates.take(current_caller())
        async with aclosing(self._uploads.give(request)) as pieces:
            async for piece in pieces:
                yield piece

    def _kept_jobs(self) -> Jobs:
        if self._jobs is None:
            raise no_jobs()
        return self._jobs

    def _events(
        self, transfer: photo_style_pb2.Transfer, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[photo_style_pb2.TransferStreamResponse, None]:
        self._rates.take(current_caller())
        return self._pipeline.run(transfer, Deadline(context.time_remaining()))


def _append(picture: bytearray, chunk: image_pb2.PictureChunk) -> None:
    if chunk.offset_bytes != len(picture):
        raise RuntimeError(f"a chunk at {chunk.offset_bytes} came after {len(picture)} bytes")
    picture += chunk.data
