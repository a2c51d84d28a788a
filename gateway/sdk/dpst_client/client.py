"""The client."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
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

__all__ = ["Client"]

_T = TypeVar("_T")


class Client:
    """A connection to a gateway of dpst, for many threads.

    Close it, or use it in a `with`: that cancels what still runs. The arguments are those of ``Settings``.
    """

    def __init__(self, target: str, **settings: Any) -> None:
        self._settings = Settings(**settings)
        self._channel = self._settings.channel(grpc, target)
        self._stub: Any = photo_style_pb2_grpc.PhotoStyleStub(self._channel)
        self._operations: Any = operations_pb2_grpc.OperationsStub(self._channel)

    def close(self) -> None:
        """Cancel what still runs and disconnect."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transfer(
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
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        **params: Any,
    ) -> TransferResult:
        """Give ``content`` the look of ``style``.

        Args:
            content: the photo to be restyled: bytes of a file, its path, or what ``upload`` gave for it.
            style: the photo that gives the style.
            content_labels: regions of the content photo; None = the server finds them.
            style_labels: regions of the style photo; None = the server finds them.
            output: format, quality, depth, metadata; None = as the content photo was.
            segmentation_model: network as "name" or "name/version"; empty = the server's default.
            request_id: 1 to 128 of ``[A-Za-z0-9._-]``, for finding the request in the server's logs; empty = the
                server makes one.
            priority: who goes first when there is a queue.
            best_effort: at a timeout that is near take the best picture so far instead of being refused.
            timeout: seconds of the whole call, waiting and tries included; None = for ever.
            on_progress: called with each step, in this thread.
            **params: fields of ``dpst.v1.TransferParams`` such as ``quality="high"`` or ``strength=0.8``.

        Raises:
            ValueError: a parameter that does not exist.
            InvalidRequest: the server says what is wrong with the request.
            NotAllowed: the key is missing or wrong.
            Overloaded: no room, in as many tries as are allowed.
            Unavailable: the server is away, likewise.
            DeadlineExceeded: ``timeout`` ran out.
            TransferFailed: anything else.
        """
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

        def attempt(left: float | None) -> TransferResult:
            ready = self._ready(request, left)
            call = self._stub.TransferStream(ready, timeout=left, metadata=self._settings.metadata(request_id))
            folded, done = Folded(), None
            try:
                for event in call:
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

        return self._tried(attempt, timeout)

    def submit(
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
        timeout: float | None = None,
        **params: Any,
    ) -> str:
        """Have a transfer done, whoever dies meanwhile; returns the name of its operation, for ``watch``.

        The arguments are those of ``transfer``. The same ``request_id`` gives the same operation, so that a call of
        which nobody knows what became of it may be made again. Raises as ``transfer``.
        """
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

        def attempt(left: float | None) -> str:
            ready = self._ready(submission, left)
            metadata = self._settings.metadata(request.transfer.request_id)
            return str(self._stub.SubmitTransfer(ready, timeout=left, metadata=metadata).name)

        return self._tried(attempt, timeout)

    def watch(
        self, name: str, *, timeout: float | None = None, on_progress: Callable[[Progress], None] | None = None
    ) -> TransferResult:
        """Wait for a submitted transfer; a stream that breaks goes on where it broke.

        Leaving early does not end the transfer, ``cancel`` does. Raises as ``transfer``, with what the transfer failed
        with.
        """
        watched = Watched(name)

        def attempt(left: float | None) -> TransferResult:
            call = self._stub.WatchTransfer(watched.request(), timeout=left, metadata=self._settings.metadata(""))
            try:
                for reply in call:
                    progress = watched.take(reply)
                    if on_progress is not None and progress is not None:
                        on_progress(progress)
            finally:
                call.cancel()
            return watched.result(b"")

        result = self._tried(attempt, timeout)
        return replace(result, picture=self.download(watched.ref, timeout=timeout))

    def cancel(self, name: str, *, timeout: float | None = None) -> None:
        """End a submitted transfer. Raises as ``transfer``."""
        request = operations_pb2.CancelOperationRequest(name=name)

        def attempt(left: float | None) -> None:
            self._operations.CancelOperation(request, timeout=left, metadata=self._settings.metadata(""))

        self._tried(attempt, timeout)

    def render(
        self,
        look: look_pb2.Look,
        content: Photo,
        *,
        strength: float | None = None,
        preserve: str = "none",
        output: image_pb2.OutputOptions | None = None,
        priority: Priority = "normal",
        timeout: float | None = None,
    ) -> RenderResult:
        """Apply a solved look, without solving: another strength 0..1, another size, the next frame of a burst.

        Raises as ``transfer``.
        """
        request = render_request(look, content, strength, preserve, output, priority)

        def attempt(left: float | None) -> RenderResult:
            ready = self._ready(request, left)
            call = self._stub.RenderLook(ready, timeout=left, metadata=self._settings.metadata(""))
            folded = Folded()
            try:
                for event in call:
                    if event.HasField("chunk"):
                        folded.add(event.chunk)
            finally:
                call.cancel()
            return RenderResult(bytes(folded.picture), folded.info)

        return self._tried(attempt, timeout)

    def export_look(
        self,
        look: look_pb2.Look,
        content: Photo,
        *,
        points: int = 33,
        label: str = "",
        per_label: bool = False,
        timeout: float | None = None,
    ) -> LutResult:
        """Turn a solved look into .cube lookup tables of 17, 33 or 65 points, fitted to its photo's colours.

        Raises as ``transfer``.
        """
        request = export_request(look, content, points, label, per_label)

        def attempt(left: float | None) -> LutResult:
            ready = self._ready(request, left)
            reply = self._stub.ExportLook(ready, timeout=left, metadata=self._settings.metadata(""))
            return LutResult(tuple(reply.luts), tuple(reply.labels_without_pixels))

        return self._tried(attempt, timeout)

    def upload(self, photo: bytes | Path | str, *, timeout: float | None = None) -> Uploaded:
        """Have a photo kept by the server, for calls that use it again. Raises as ``transfer``."""
        data = photo_bytes(photo)
        return self._tried(lambda left: self._uploaded(data, left), timeout)

    def download(self, ref: Uploaded | str, *, timeout: float | None = None) -> bytes:
        """Get a kept file; a stream that breaks goes on where it broke. Raises as ``transfer``."""
        address = ref.ref if isinstance(ref, Uploaded) else ref
        found = bytearray()

        def attempt(left: float | None) -> bytes:
            request = uploads_pb2.DownloadImageRequest(ref=address, offset_bytes=len(found))
            call = self._stub.DownloadImage(request, timeout=left, metadata=self._settings.metadata(""))
            try:
                for reply in call:
                    found.extend(reply.chunk.data)
            finally:
                call.cancel()
            return bytes(found)

        return self._tried(attempt, timeout)

    def _uploaded(self, data: bytes, left: float | None) -> Uploaded:
        metadata = self._settings.metadata("")
        reply = self._stub.UploadImage(upload_requests(data), timeout=left, metadata=metadata)
        return Uploaded(reply.ref, reply.size_bytes)

    def _ready(self, request: Any, left: float | None) -> Any:
        """The request, its photos uploaded if it is too large for one message."""
        ready, images = to_upload(request, self._settings.max_message_bytes)
        for image in images:
            image.ref = self._uploaded(image.data, left).ref
        return ready

    def _tried(self, attempt: Callable[[float | None], _T], seconds: float | None) -> _T:
        deadline = Deadline.of(seconds)

        def once() -> _T:
            try:
                return attempt(deadline.left())
            except grpc.RpcError as error:
                raise failure(error) from error

        return tenacity.Retrying(**retry_rules(self._settings.retries, deadline))(once)
