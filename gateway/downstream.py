"""Calls to the services behind the gateway: how long they may take, and what their failures mean to our caller."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
import grpc.aio

from services.common.errors import DeadlineExceeded, InvalidArgument, Unavailable
from services.common.status import field_violation, is_answer, retryable

__all__ = ["Deadline", "explained", "is_for_another_replica", "renamed"]

# Time to pass a late answer's status on before the caller's own clock runs out.
_MARGIN_SECONDS = 0.25
# A restarted process has its networks warm again within about this time.
_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class Deadline:
    """The caller's deadline; ``seconds`` is what remained when the request came, None if there is none."""

    seconds: float | None
    _start: float = field(default_factory=time.monotonic)

    def timeout(self, at_most_seconds: float) -> float:
        """Seconds a downstream call may take: what remains less a margin, and never more than ``at_most_seconds``.

        Raises ``DeadlineExceeded`` if nothing remains.
        """
        remaining = self.remaining()
        if remaining <= 0:
            raise DeadlineExceeded("the deadline passed before the work could go on")
        return min(remaining, at_most_seconds)

    def remaining(self) -> float:
        """Seconds that remain less that margin; infinite if there is no deadline."""
        if self.seconds is None:
            return math.inf
        return self.seconds - (time.monotonic() - self._start) - _MARGIN_SECONDS


def explained(service: str, timeout_seconds: float, error: grpc.aio.AioRpcError) -> Exception:
    """Return what to raise instead of ``error``, which ``service`` gave or its absence caused.

    An answer of the service itself stays as it is; what the transport says is put into words that name the service.
    """
    code = error.code()
    if code is grpc.StatusCode.UNAVAILABLE and not retryable(error):
        return Unavailable(f"the {service} service cannot be reached", _RETRY_SECONDS)
    if code is grpc.StatusCode.CANCELLED:  # not by us: then asyncio.CancelledError would have been raised
        return Unavailable(f"the {service} service stopped while it worked on this request", _RETRY_SECONDS)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and not is_answer(error):
        return DeadlineExceeded(f"the {service} service did not finish within {timeout_seconds:.1f} s")
    return error


def is_for_another_replica(error: grpc.aio.AioRpcError) -> bool:
    """Whether another replica may do what one has failed at: it was full, it is gone, or its drain has ended."""
    return error.code() in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,  # not by us: then asyncio.CancelledError would have been raised
    )


def renamed(error: Exception, fields: Mapping[str, str]) -> Exception:
    """Return ``error`` with the field at fault called as our caller knows it.

    ``fields`` is from a service's names to ours; a name with a dot at its end stands for the beginning of a path, of
    which the rest is kept. Only INVALID_ARGUMENT names fields; others come back as they are.
    """
    violation = field_violation(error) if isinstance(error, grpc.aio.AioRpcError) else None
    if violation is None:
        return error
    root, dot, rest = violation.field.partition(".")
    ours = fields[root + dot] + rest if root + dot in fields else fields.get(root, root)
    value, _, limit = violation.description.removeprefix("got ").partition(", ")
    return InvalidArgument(ours, value, limit)
