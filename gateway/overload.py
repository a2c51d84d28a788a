"""Refusing in a millisecond what the stylizer would refuse after both photos were segmented for nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from dpst.v1 import params_pb2

from services.common.errors import ResourceExhausted

__all__ = ["Gate"]

_LONGEST_SECONDS = 1.0
"""How long one refusal counts for others: the queue may have room again after one job, and is filled again at once."""

_RETRY_SECONDS = 2.0


class Gate:
    """Lets transfers in, as many as ``limit`` at a time, and none of a priority that the stylizer has just refused."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._closed: dict[int, tuple[float, float]] = {}

    @contextmanager
    def entered(self, priority: params_pb2.Priority.ValueType) -> Iterator[None]:
        """Be inside.

        Raises:
            ResourceExhausted: there is no room.
        """
        until, retry_at = self._closed.get(_level(priority), (0.0, 0.0))
        now = time.monotonic()
        if now < until:
            raise ResourceExhausted("the stylizer's queue is full", max(0.1, retry_at - now))
        if self._inside >= self._limit:
            raise ResourceExhausted(f"{self._limit} transfers are under way, as many as may be", _RETRY_SECONDS)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def refused(self, priority: params_pb2.Priority.ValueType, retry_after_seconds: float) -> None:
        """The stylizer's queue had no room for this priority, nor then for lower ones."""
        now = time.monotonic()
        closed = (now + min(retry_after_seconds, _LONGEST_SECONDS), now + retry_after_seconds)
        for level in range(params_pb2.PRIORITY_LOW, _level(priority) + 1):
            self._closed[level] = closed


def _level(priority: params_pb2.Priority.ValueType) -> int:
    return priority if priority != params_pb2.PRIORITY_UNSPECIFIED else params_pb2.PRIORITY_NORMAL
