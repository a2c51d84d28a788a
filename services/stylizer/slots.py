"""A bounded first-come queue in front of the worker, which tells everyone where they stand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from services.common.errors import ResourceExhausted

__all__ = ["Slots"]

_RETRY_SECONDS = 5.0
"""Advice to a refused caller when no job has been timed yet; a default solve takes 10 to 20 s on two cores."""


class Slots:
    """One slot and a queue of at most ``limit`` waiting callers.

    ``on_depth`` is told the number of waiting callers whenever it changes.
    """

    def __init__(self, limit: int, on_depth: Callable[[int], None]) -> None:
        self._limit, self._on_depth = limit, on_depth
        self._busy = False
        self._waiting: deque[asyncio.Queue[int]] = deque()
        self._job_seconds = 0.0

    def eta_seconds(self, position: int) -> float:
        """Estimated seconds until the caller at a position is served; 0 if nothing was timed yet."""
        return position * self._job_seconds

    async def acquire(self) -> AsyncGenerator[int, None]:
        """Take the slot; yields the number of callers ahead as long as there are any, ends when the slot is ours.

        Raises:
            ResourceExhausted: the queue is full.
        """
        if not self._busy:
            self._busy = True
            return
        if len(self._waiting) >= self._limit:
            wait = self._job_seconds or _RETRY_SECONDS
            raise ResourceExhausted(f"the queue is full: {self._limit} requests are waiting", wait)
        ticket: asyncio.Queue[int] = asyncio.Queue()
        self._waiting.append(ticket)
        self._on_depth(len(self._waiting))
        position = len(self._waiting)
        try:
            while position:
                yield position
                position = await ticket.get()
        except BaseException:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._tell_positions()
            else:
                self.release()  # the slot was handed to us in the same moment
            raise

    def release(self, job_seconds: float = 0.0) -> None:
        """Give the slot to the next caller; ``job_seconds`` is how long it was held, for estimates."""
        if job_seconds:
            self._job_seconds = 0.7 * self._job_seconds + 0.3 * job_seconds if self._job_seconds else job_seconds
        if not self._waiting:
            self._busy = False
            return
        self._waiting.popleft().put_nowait(0)
        self._tell_positions()

    def _tell_positions(self) -> None:
        self._on_depth(len(self._waiting))
        for position, ticket in enumerate(self._waiting, 1):
            ticket.put_nowait(position)
