"""Errors to gRPC statuses: public ones with ``google.rpc`` details, all others as INTERNAL with an error id."""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc
import grpc.aio
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # has stubs, lacks py.typed

from services.common import errors
from services.common.calls import ServerCall
from services.common.logs import REQUEST_ID_KEY, current_request_id

__all__ = [
    "REPLICA",
    "error_of",
    "field_violation",
    "is_answer",
    "least_seconds_of",
    "mapped_errors",
    "replica_of",
    "retry_seconds",
    "retryable",
    "shortage_of",
    "status_metadata",
    "status_of",
]

REPLICA: Final = uuid.uuid4().hex
"""Names this process in what it refuses for want of room."""

_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_DOMAIN, _REPLICA_KEY, _LEAST_KEY = "dpst", "replica", "least_seconds"
# Codes that mean the same to our caller when a process behind us sends them.
_PUBLIC = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)

_log = structlog.stdlib.get_logger(__name__)


@asynccontextmanager
async def mapped_errors(call: ServerCall) -> AsyncIterator[None]:
    """Abort the call with the status that belongs to what its handler raised.

    ``CancelledError`` passes: grpc.aio leaks a stream whose handler swallows it.
    """
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except errors.ServiceError as error:
        if type(error).code is not grpc.StatusCode.INTERNAL:
            await call.context.abort(error.code, str(error), (*status_metadata(error), *_request_id()))
        await _abort_internal(call)
    except grpc.aio.AioRpcError as error:
        if error.code() not in _PUBLIC:
            await _abort_internal(call)
        kept = [(key, value) for key, value in error.trailing_metadata() or () if key in (_DETAILS_KEY, _PUSHBACK_KEY)]
        await call.context.abort(error.code(), error.details() or "", (*kept, *_request_id()))
    except Exception:
        await _abort_internal(call)


async def _abort_internal(call: ServerCall) -> None:
    error_id = uuid.uuid4().hex
    _log.exception("internal error", error_id=error_id, method=call.method)
    await call.context.abort(grpc.StatusCode.INTERNAL, f"internal error {error_id}", _request_id())


def _request_id() -> tuple[tuple[str, str], ...]:
    """A refused call has no first response that the id could come with."""
    request_id = current_request_id()
    return ((REQUEST_ID_KEY, request_id),) if request_id else ()


def status_of(error: Exception) -> status_pb2.Status:
    """``error`` as a message: a public one with its details; of others the code INTERNAL only."""
    if isinstance(error, grpc.aio.AioRpcError) and error.code() in _PUBLIC:
        details = _trailing(error, _DETAILS_KEY)
        if isinstance(details, bytes):
            return status_pb2.Status.FromString(details)
        return status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    if isinstance(error, errors.ServiceError) and type(error).code is not grpc.StatusCode.INTERNAL:
        for key, value in status_metadata(error):
            if key == _DETAILS_KEY and isinstance(value, bytes):
                return status_pb2.Status.FromString(value)
        return status_pb2.Status(code=error.code.value[0], message=str(error))
    return status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message="internal error")


def retry_seconds(status: status_pb2.Status) -> float:
    """When whoever gave ``status`` asks to be tried again; 0 if it did not say so."""
    for packed in status.details:
        found = error_details_pb2.RetryInfo()
        if packed.Unpack(found):
            return float(found.retry_delay.ToTimedelta().total_seconds())
    return 0.0


def shortage_of(status: status_pb2.Status) -> errors.Shortage | None:
    """What whoever gave ``status`` lacks; None if it did not say so."""
    found = _info(status)
    return errors.Shortage(found.reason) if found and found.reason in set(errors.Shortage) else None


def replica_of(status: status_pb2.Status) -> str:
    """The name of the process that refused for want of room; empty if it did not say so."""
    found = _info(status)
    return str(found.metadata.get(_REPLICA_KEY, "")) if found else ""


def least_seconds_of(status: status_pb2.Status) -> float:
    """With no more time than that the same is refused for any photo; 0 if whoever gave ``status`` did not say so."""
    found = _info(status)
    try:
        return float(found.metadata.get(_LEAST_KEY, 0.0)) if found else 0.0
    except ValueError:
        return 0.0


def _info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    for packed in status.details:
        found = error_details_pb2.ErrorInfo()
        if packed.Unpack(found) and found.domain == _DOMAIN:
            return found
    return None


def error_of(status: status_pb2.Status) -> grpc.aio.AioRpcError:
    """What to raise in a handler for a call to end with ``status``."""
    code = next(each for each in grpc.StatusCode if each.value[0] == status.code)
    details = grpc.aio.Metadata((_DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), details, status.message)


def status_metadata(error: errors.ServiceError) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata for ``error``: details (see ``services.common.errors``) and the retry pushback."""
    pushback: tuple[tuple[str, str], ...] = ()
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    if isinstance(error, errors.InvalidArgument | errors.FailedPrecondition):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=f"got {error.value}, {error.limit}"
        )
        _attach(status, error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, errors.ResourceExhausted | errors.Unavailable):
        if isinstance(error, errors.ResourceExhausted):
            said = {_REPLICA_KEY: REPLICA}
            if error.least_seconds:
                said[_LEAST_KEY] = f"{error.least_seconds:.3f}"
            _attach(status, error_details_pb2.ErrorInfo(reason=error.shortage, domain=_DOMAIN, metadata=said))
        milliseconds = math.ceil(error.retry_after_seconds * 1000)
        delay = Duration()
        delay.FromMilliseconds(milliseconds)
        _attach(status, error_details_pb2.RetryInfo(retry_delay=delay))
        pushback = ((_PUSHBACK_KEY, str(milliseconds)),)
    else:
        return ()
    return ((_DETAILS_KEY, status.SerializeToString()), *pushback)


def _attach(status: status_pb2.Status, detail: Message) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


def is_answer(error: grpc.aio.AioRpcError) -> bool:
    """Whether the process behind ``error`` sent it, and not our own end of the connection."""
    return _trailing(error, REQUEST_ID_KEY) is not None


def retryable(error: grpc.aio.AioRpcError) -> bool:
    """Whether the process behind ``error`` itself said when to try again."""
    return _trailing(error, _PUSHBACK_KEY) is not None


def _trailing(error: grpc.aio.AioRpcError, wanted: str) -> str | bytes | None:
    """The first value of that name in the trailing metadata."""
    return next((value for key, value in error.trailing_metadata() or () if key == wanted), None)


def field_violation(error: grpc.aio.AioRpcError) -> error_details_pb2.BadRequest.FieldViolation | None:
    """Return the first field that an INVALID_ARGUMENT names, None for every other error."""
    if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
        return None
    details = _trailing(error, _DETAILS_KEY)
    if isinstance(details, bytes):
        for packed in status_pb2.Status.FromString(details).details:
            found = error_details_pb2.BadRequest()
            if packed.Unpack(found) and found.field_violations:
                return found.field_violations[0]
    return None
