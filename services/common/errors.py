"""Errors that a caller may see, one class a gRPC status code.

::

    ServiceError
    ├── InvalidArgument      INVALID_ARGUMENT      + BadRequest naming field, value and limit
    ├── NotFound             NOT_FOUND
    ├── FailedPrecondition   FAILED_PRECONDITION   + BadRequest naming field, value and limit
    ├── ResourceExhausted    RESOURCE_EXHAUSTED    + ErrorInfo with a Shortage, RetryInfo, grpc-retry-pushback-ms
    ├── Unavailable          UNAVAILABLE           + RetryInfo, grpc-retry-pushback-ms
    ├── DeadlineExceeded     DEADLINE_EXCEEDED
    ├── Unauthenticated      UNAUTHENTICATED
    ├── PermissionDenied     PERMISSION_DENIED
    └── Cancelled            CANCELLED

Everything else that escapes a handler becomes INTERNAL with an error id; its text stays in the log.
All of them survive pickling, because workers send them across a process boundary.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar

import grpc

__all__ = [
    "Cancelled",
    "DeadlineExceeded",
    "FailedPrecondition",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "ServiceError",
    "Shortage",
    "Unauthenticated",
    "Unavailable",
]


class ServiceError(Exception):
    """Base of all errors with a public text."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[ServiceError], args: tuple[Any, ...], state: dict[str, Any]) -> ServiceError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class _FieldError(ServiceError):
    def __init__(self, field: str, value: object, limit: str) -> None:
        """``field`` is the request's field path, ``value`` what came, ``limit`` what is allowed."""
        super().__init__(f"{field}: got {value}, {limit}")
        self.field = field
        self.value = str(value)
        self.limit = limit


class InvalidArgument(_FieldError):
    """The request itself is wrong; sending it again cannot help."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class FailedPrecondition(_FieldError):
    """The request is well formed but cannot be served as asked."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class NotFound(ServiceError):
    """Something that the request names does not exist here."""

    code = grpc.StatusCode.NOT_FOUND


class _RetryableError(ServiceError):
    def __init__(self, message: str, retry_after_seconds: float) -> None:
        """``retry_after_seconds`` is when another try may succeed."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Shortage(enum.StrEnum):
    """What there is too little of: the ``reason`` of an ``ErrorInfo``, by which a caller can tell whether to wait."""

    QUEUE = "QUEUE_FULL"
    TIME = "QUEUE_TOO_LONG"
    MEMORY = "MEMORY"
    DISK = "DISK_FULL"
    RATE = "RATE_LIMIT"


class ResourceExhausted(_RetryableError):
    """The queue is full or the memory does not suffice."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(
        self, message: str, retry_after_seconds: float, shortage: Shortage, least_seconds: float = 0.0
    ) -> None:
        """``shortage`` says of what.

        ``least_seconds``: whoever asks for the same now, of any photo, and has no more time, is refused as well.
        """
        super().__init__(message, retry_after_seconds)
        self.shortage, self.least_seconds = shortage, least_seconds


class Unavailable(_RetryableError):
    """Starting, draining, or a process that is needed is away."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(ServiceError):
    """The caller's deadline cannot be or was not met."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unauthenticated(ServiceError):
    """The caller did not say who it is, or not truly."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(ServiceError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Cancelled(ServiceError):
    """The caller does not wait any more."""

    code = grpc.StatusCode.CANCELLED
