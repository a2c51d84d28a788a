"""The client for asyncio."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
import tenacity
from dpst.v1 import image_pb2, look_pb2, photo_style_pb2, photo_style_pb2_grpc, uploads_pb2
from google.longrunning import operations_pb2, operations_pb2_grpc

from dpst_client.connection import Deadline, Settings, retry_rules
from dpst_client.errors import failure
from dpst_client.requests import (
    Labels,
    Photo,
    Priority,
    Uploaded,
    export_request,
    photo_bytes,
    render_request,
    to_upload,
    transfer_request,
    upload_requests,
)
from dpst_client.results import Folded, LutResult, Progress, RenderResult, TransferResult, Watched, progress_of

__all__ = ["AsyncClient"]

_T = TypeVar("_T")


class AsyncClient:
    """A connection to a gateway of dpst, for many tasks of one event loop.

    Close it, or use it in an `async with`: that cancels what still runs. The arguments are those of ``Settings``.
    """

    def __init__(self, target: str, **settings: Any) -> None:
        self._settings = Settings(**settings)
        self._channel = self._settings.channel(grpc.aio, target)
        self._stub: Any = photo_style_pb2_grpc.PhotoStyleStub(self._channel)
        self._operations: Any = operations_pb2_grpc.OperationsStub(self._channel)

    async def close(self) -> None:
        """Cancel what still runs and disconnect."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def transfer(
        self,
        content: Photo,
        style: Photo,
        *,
        content_labels: Labels | None = None,
        style_labels: Labels | None = None,
        output: image_pb2.OutputOptions | None = None,
        segmentation_model: str = "",
        request_id: str = "",
        priority: Priority = "normal",
        best_effort: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - it goes to the server, and spans tries
        on_progress: Callable[[Progress], None] | None = None,
        **params: Any,
    ) -> TransferResult:
        """See ``Client.transfer``; ``on_progress`` is called in the event loop."""
        request = transfer_request(
            content,
            style,
            content_labels=content_labels,
            style_labels=style_labels,
            params=params,
            output=output,
            segmentation_model=segmentation_model,
            request_id=request_id,
            priority=priority,
            best_effort=best_effort,
        )

        async def attempt(left: float | None) -> TransferResult:
            ready = await self._ready(request, left)
            call = self._stub.TransferStream(ready, timeout=left, metadata=self._settings.metadata(request_id))
            folded, done = Folded(), None
            try:
                async for event in call:
                    if event.HasField("chunk"):
                        folded.add(event.chunk)
                    elif event.HasField("done"):
                        done = event.done
                    elif on_progress is not None and (progress := progress_of(event)) is not None:
                        on_progress(progress)
            finally:
                call.cancel()  # ends the work on the server if this is left early; no effect on a finished call
            assert done is not None, "the server ends every stream with it"  # noqa: S101
            return TransferResult(bytes(folded.picture), folded.info, done.report, done.look)

        return await self._tried(attempt, timeout)

    async def submit(
        self,
        content: Photo,
        style: Photo,
        *,
        content_labels: Labels | None = None,
        style_labels: Labels | None = None,
        output: image_pb2.OutputOptions | None = None,
        segmentation_model: str = "",
        request_id: str = "",
        priority: Priority = "normal",
        timeout: float | None = None,  # noqa: ASYNC109 - it goes to the server, and spans tries
        **params: Any,
    ) -> str:
        """See ``Client.submit``."""
        request = transfer_request(
            content,
            style,
            content_labels=content_labels,
            style_labels=style_labels,
            params=params,
            output=output,
            segmentation_model=segmentation_model,
            request_id=request_id or uuid.uuid4().hex,
            priority=priority,
            best_effort=False,
        )
        submission = photo_style_pb2.SubmitTransferRequest(transfer=request.transfer)

        async def attempt(left: float | None) -> str:
            ready = await self._ready(submission, left)
            metadata = self._settings.metadata(request.transfer.request_id)
            return str((await self._stub.SubmitTransfer(ready, timeout=left, metadata=metadata)).name)

        return await self._tried(attempt, timeout)

    async def watch(
        self,
        name: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it goes to the server, and spans tries
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TransferResult:
        """See ``Client.watch``; ``on_progress`` is called in the event loop."""
        watched = Watched(name)

        async def attempt(left: float | None) -> TransferResult:
            call = self._stub.WatchTransfer(watched.request(), timeout=left, metadata=self._settings.metadata(""))
            try:
                async for reply in call:
                    progress = watched.take(reply)
                    if on_progress is not None and progress is not None:
                        on_progress(progress)
            finally:
                call.cancel()
            return watched.result(b"")

        result = await self._tried(attempt, timeout)
        return replace(result, picture=await self.download(watched.ref, timeout=timeout))

    async def cancel(
        self,
        name: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it goes to the server, and spans tries
    ) -> None:
        """See ``Client.cancel``."""
        request = operations_pb2.CancelOperationRequest(name=name)

        async def attempt(left: float | None) -> None:
            await self._operations.CancelOperation(request, timeout=left, metadata=self._settings.metadata(""))

        await self._tried(attempt, timeout)

    async def render(
        self,
        look: look_pb2.Look,
        content: Photo,
        *,
        strength: float | None = None,
        preserve: str = "none",
        output: image_pb2.OutputOptions | None = None,
        priority: Priority = "normal",
        timeout: float | None = None,  # noqa: ASYNC109 - it goes to the server, and spans tries
    ) -> RenderResult:
        """See ``Client.render``."""
        request = render_request(look, content, strength, preserve, output, priority)

        async def attempt(left: float | None) -> RenderResult:
            ready = await self._ready(request, left)
            call = self._stub.RenderLook(ready, timeout=left, metadata=self._settings.metadata(""))
            folded = Folded()
            try:
                async for event in call:
                    if event.HasField("chunk"):
                        folded.add(event.chunk)
            finally:
                call.cancel()
            return RenderResult(bytes(folded.picture), folded.info)

        return await self._tried(attempt, timeout)

    async def export_look(
        self,
        look: look_pb2.Look,
        content: Photo,
        *,
        points: int = 33,
        label: str = "",
        per_label: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - it goes to the server, and spans tries
    ) -> LutResult:
        """See ``Client.export_look``."""
        request = export_request(look, content, points, label, per_label)

        async def attempt(left: float | None) -> LutResult:
            ready = await self._ready(request, left)
            reply = await self._stub.ExportLook(ready, timeout=left, metadata=self._settings.metadata(""))
            return LutResult(tuple(reply.luts), tuple(reply.labels_without_pixels))

        return await self._tried(attempt, timeout)

    async def upload(
        self,
        photo: bytes | Path | str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it goes to the server, and spans tries
    ) -> Uploaded:
        """See ``Client.upload``."""
        data = photo_bytes(photo)
        return await self._tried(lambda left: self._uploaded(data, left), timeout)

    async def download(
        self,
        ref: Uploaded | str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it goes to the server, and spans tries
    ) -> bytes:
        """See ``Client.download``."""
        address = ref.ref if isinstance(ref, Uploaded) else ref
        found = bytearray()

        async def attempt(left: float | None) -> bytes:
            request = uploads_pb2.DownloadImageRequest(ref=address, offset_bytes=len(found))
            call = self._stub.DownloadImage(request, timeout=left, metadata=self._settings.metadata(""))
            try:
                async for reply in call:
                    found.extend(reply.chunk.data)
            finally:
                call.cancel()
            return bytes(found)

        return await self._tried(attempt, timeout)

    async def _uploaded(self, data: bytes, left: float | None) -> Uploaded:
        metadata = self._settings.metadata("")
        reply = await self._stub.UploadImage(upload_requests(data), timeout=left, metadata=metadata)
        return Uploaded(reply.ref, reply.size_bytes)

    async def _ready(self, request: Any, left: float | None) -> Any:
        """The request, its photos uploaded if it is too large for one message."""
        ready, images = to_upload(request, self._settings.max_message_bytes)
        for image in images:
            image.ref = (await self._uploaded(image.data, left)).ref
        return ready

    async def _tried(self, attempt: Callable[[float | None], Awaitable[_T]], seconds: float | None) -> _T:
        deadline = Deadline.of(seconds)

        async def once() -> _T:
            try:
                return await attempt(deadline.left())
            except grpc.RpcError as error:
                raise failure(error) from error

        return await tenacity.AsyncRetrying(**retry_rules(self._settings.retries, deadline))(once)
