"""What a call may fail with, one class for each thing that a caller can do about it."""

from __future__ import annotations

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # has stubs, lacks py.typed

__all__ = [
    "DeadlineExceeded",
    "InvalidRequest",
    "NotAllowed",
    "Overloaded",
    "TransferFailed",
    "Unavailable",
    "failure",
]

_REQUEST_ID = "x-request-id"
_PUSHBACK = "grpc-retry-pushback-ms"
_DETAILS = "grpc-status-details-bin"


class TransferFailed(Exception):
    """The server could not do it, and says no more than an id for its log.

    Attributes:
        code: gRPC status code.
        request_id: stands in every line that the server logged about the request; empty if it was not reached.
    """

    def __init__(self, text: str, code: grpc.StatusCode, request_id: str) -> None:
        super().__init__(text)
        self.code, self.request_id = code, request_id


class InvalidRequest(TransferFailed):
    """The request itself is wrong: sending it again cannot help. ``field`` names what is, empty if nothing is named."""

    field: str = ""


class NotAllowed(TransferFailed):
    """The key is missing, wrong, or not for this service."""


class _RetryableError(TransferFailed):
    retry_after_seconds: float = 0.0


class Overloaded(_RetryableError):
    """No room, or too many requests; ``retry_after_seconds`` is what the server advises."""


class Unavailable(_RetryableError):
    """The server cannot be reached, is starting or stopping; ``retry_after_seconds`` as in ``Overloaded``."""


class DeadlineExceeded(TransferFailed):
    """The timeout ran out, or the server foresaw that it would."""


_KINDS: dict[grpc.StatusCode, type[TransferFailed]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def failure(error: grpc.RpcError) -> TransferFailed:
    """The exception that stands for a failed RPC."""
    code, text = grpc.StatusCode.UNKNOWN, str(error)
    trailing: dict[str, str | bytes] = {}
    if isinstance(error, grpc.aio.AioRpcError | grpc.Call):
        code, text = error.code(), error.details() or ""
        trailing = dict(error.trailing_metadata() or ())
    failed = _KINDS.get(code, TransferFailed)(text, code, str(trailing.get(_REQUEST_ID, "")))
    if isinstance(failed, _RetryableError):
        failed.retry_after_seconds = int(trailing.get(_PUSHBACK, 0)) / 1000
    details = trailing.get(_DETAILS)
    if isinstance(failed, InvalidRequest) and isinstance(details, bytes):
        for packed in status_pb2.Status.FromString(details).details:
            bad = error_details_pb2.BadRequest()
            if packed.Unpack(bad) and bad.field_violations:
                failed.field = bad.field_violations[0].field
    return failed
