"""Refusing in a millisecond what the stylizer would refuse after both photos were segmented for nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dpst.v1 import params_pb2

from services.common.errors import ResourceExhausted

__all__ = ["Gate"]

_RETRY_SECONDS = 2.0
_FIRST_TRY_SECONDS, _LONGEST_TRY_SECONDS = 1.0, 5.0
"""After a refusal one transfer more than there is room for is let in, to see whether there is more room by now; after
twice as long if there is not. What it finds out costs two segmentations."""

_LIKE = 1.25
"""A transfer that has so many times the seconds of one that was refused may find room in a queue too long for that."""


@dataclass
class _Room:
    """How many transfers the stylizer has room for, as far as its refusals tell.

    Attributes:
        transfers: that many may be under way.
        seconds: what remained to the transfer that was refused; the queue may be too long for its deadline only.
        retry_after_seconds: when the stylizer expected to have room again.
        try_at: when one more is let in.
        pause_seconds: from one such try to the next.
        step: how many more the next try stands for: room that grew is found by doubling. 1 = none since a refusal.
    """

    transfers: float = math.inf
    seconds: float = 0.0
    retry_after_seconds: float = 0.0
    try_at: float = 0.0
    pause_seconds: float = _FIRST_TRY_SECONDS
    step: int = 1

    def grow(self, now: float) -> None:
        """One more is let in."""
        if self.step > 1:  # the last try was no refusal's cause
            self.pause_seconds = _FIRST_TRY_SECONDS
        self.transfers += self.step
        self.step *= 2
        self.try_at = now + self.pause_seconds

    def shrink(self, transfers: int, now: float) -> None:
        """One was refused, so many are left."""
        if self.step > 1:
            self.pause_seconds = min(2 * self.pause_seconds, _LONGEST_TRY_SECONDS)
        self.transfers, self.step = transfers, 1
        self.try_at = now + self.pause_seconds


class Gate:
    """Lets transfers in, as many as ``limit`` at a time and as the stylizer has room for."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._rooms: dict[int, _Room] = {}

    @contextmanager
    def entered(self, priority: params_pb2.Priority.ValueType, seconds: float | None) -> Iterator[None]:
        """Be inside, with so many seconds left (None = no deadline).

        Raises:
            ResourceExhausted: there is no room.
        """
        room = self._rooms.get(_level(priority))
        if room is not None and self._inside >= room.transfers and (seconds or math.inf) <= _LIKE * room.seconds:
            now = time.monotonic()
            if now < room.try_at:
                raise ResourceExhausted("the stylizer's queue is full", room.retry_after_seconds)
            room.grow(now)
        if self._inside >= self._limit:
            raise ResourceExhausted(f"{self._limit} transfers are under way, as many as may be", _RETRY_SECONDS)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def refused(
        self, priority: params_pb2.Priority.ValueType, seconds: float | None, retry_after_seconds: float
    ) -> None:
        """The stylizer had no room for a transfer that is inside, nor then for others of this or a lower priority."""
        now = time.monotonic()
        for level in range(params_pb2.PRIORITY_LOW, _level(priority) + 1):
            room = self._rooms.setdefault(level, _Room())
            room.shrink(self._inside - 1, now)
            room.seconds, room.retry_after_seconds = seconds or math.inf, retry_after_seconds


def _level(priority: params_pb2.Priority.ValueType) -> int:
    return priority if priority != params_pb2.PRIORITY_UNSPECIFIED else params_pb2.PRIORITY_NORMAL
