"""A bounded queue in front of the workers' slots: priorities that age, and everyone is told where they stand."""

from __future__ import annotations

import asyncio
import bisect
import itertools
import math
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeVar

from services.common.errors import ResourceExhausted, Shortage

__all__ = ["Priority", "Slots"]

_RETRY_SECONDS = 5.0
"""Advice to a refused caller when no job has been timed yet; a default solve takes 10 to 20 s on two cores."""

_AGEING_SECONDS = 60.0
"""A request that has waited so much longer than one of the next higher priority goes first: nobody waits for ever."""

_T = TypeVar("_T")
_S = TypeVar("_S")


class Priority(IntEnum):
    """How urgent a job is; the most urgent one is the least number."""

    AGAIN = -1
    """Given up by a worker that died: it has had its turn."""
    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(eq=False)
class _Waiting(Generic[_T, _S]):
    key: tuple[float, int]
    size: _S
    position: int = 0
    told: asyncio.Queue[int | _T | Exception] = field(default_factory=asyncio.Queue)


class Slots(Generic[_T, _S]):
    """Slots that are offered, and a queue of at most ``limit`` callers that wait for one.

    A slot may be offered several times, for as many jobs at once; it then has all their sizes to bear. Nobody passes
    the first one in the queue: as long as no free slot can bear its size too, the others wait with it.

    Part of the queue is kept free for those who are more urgent: LOW may fill half of it, NORMAL seven eighths. A
    request's place is its time of arrival plus ``_AGEING_SECONDS`` for each step of priority below HIGH.

    Args:
        limit: most waiting callers.
        on_depth: told the number of waiting callers whenever it changes.
        bears: whether a slot can bear jobs of these sizes at once; a single job it always gets.
    """

    def __init__(
        self, limit: int, on_depth: Callable[[int], None], bears: Callable[[_T, Sequence[_S]], bool] = lambda *_: True
    ) -> None:
        self._limit, self._on_depth, self._bears = limit, on_depth, bears
        self._free: list[_T] = []
        self._taken: defaultdict[_T, list[_S]] = defaultdict(list)
        self._waiting: list[_Waiting[_T, _S]] = []
        self._numbers = itertools.count()
        self._job_seconds = 0.0

    def eta_seconds(self, position: int) -> float:
        """Estimated seconds until the caller at a position is served; 0 if nothing was timed yet."""
        busy = sum(map(len, self._taken.values()))
        return position * self._job_seconds / max(1, busy + len(self._free))

    def wait_seconds(self, priority: Priority, expected: int = 0) -> float:
        """Estimated seconds until a caller who comes behind ``expected`` others would be served.

        0 if nothing was timed yet.
        """
        last = (_key(priority), next(self._numbers))
        ahead = expected + sum(ticket.key < last for ticket in self._waiting)
        free = 0 if self._waiting else len(self._free)
        return self.eta_seconds(max(0, 1 + ahead - free))

    def room(self, priority: Priority) -> int:
        """How many callers may wait before one of this priority is refused."""
        if priority is Priority.LOW:
            return self._limit - self._limit // 2
        return self._limit - self._limit // 8 if priority is Priority.NORMAL else self._limit

    def check_room(self, priority: Priority, expected: int = 0) -> None:
        """Raise ResourceExhausted if a caller of this priority, behind ``expected`` others, would be refused now."""
        free = 0 if self._waiting else len(self._free)
        if expected >= free:
            self._check_queue(priority, len(self._waiting) + expected - free)

    def _check_queue(self, priority: Priority, waiting: int) -> None:
        if priority is not Priority.AGAIN and waiting >= self.room(priority):
            wait = self._job_seconds or _RETRY_SECONDS
            message = f"the queue is full: {waiting} requests are waiting"
            raise ResourceExhausted(message, wait, Shortage.QUEUE, least_seconds=math.inf)

    async def acquire(self, size: _S, priority: Priority = Priority.NORMAL) -> AsyncGenerator[int | _T, None]:
        """Take a slot: yields the number of callers ahead whenever it changes, and last the slot.

        What is yielded last is to be given back with the same size (``release``, or ``lose``). AGAIN is never refused.

        Raises:
            ResourceExhausted: the queue is full.
        """
        if not self._waiting and (slot := self._bearing(size)) is not None:
            yield self._take(slot, size)
            return
        self._check_queue(priority, len(self._waiting))
        ticket = _Waiting[_T, _S]((_key(priority), next(self._numbers)), size)
        bisect.insort(self._waiting, ticket, key=lambda waiting: waiting.key)
        self._tell_positions()
        given: _T | None = None
        try:
            while given is None:
                told = await _news(ticket)
                if not isinstance(told, int):
                    given = told
                yield told
        except BaseException:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._serve()  # it may have been the one who did not fit
            elif given is None:
                self._pass_on(ticket)
            raise

    def offer(self, slot: _T) -> None:
        """Add a slot, that of a worker which has become warm."""
        self._free.append(slot)
        if self._waiting:
            self._serve()

    def release(self, slot: _T, size: _S, job_seconds: float = 0.0) -> None:
        """Give a slot back to the next caller; ``job_seconds`` is how long it was held, for estimates."""
        if job_seconds:
            self._job_seconds = 0.7 * self._job_seconds + 0.3 * job_seconds if self._job_seconds else job_seconds
        self.lose(slot, size)
        self.offer(slot)

    def lose(self, slot: _T, size: _S) -> None:
        """A slot that was taken is gone with its worker."""
        self._taken[slot].remove(size)
        if not self._taken[slot]:
            del self._taken[slot]

    def withdraw(self, slot: _T) -> None:
        """Take a slot away, if nobody has it: its worker is gone."""
        if slot in self._free:
            self._free.remove(slot)

    def dismiss(self, error: Exception) -> None:
        """Fail everyone who waits."""
        waiting, self._waiting = self._waiting, []
        for ticket in waiting:
            ticket.told.put_nowait(error)
        self._on_depth(0)

    def _bearing(self, size: _S) -> _T | None:
        """A free slot for a job of this size."""
        for slot in self._free:
            others = self._taken.get(slot)
            if not others or self._bears(slot, [*others, size]):
                return slot
        return None

    def _take(self, slot: _T, size: _S) -> _T:
        self._free.remove(slot)
        self._taken[slot].append(size)
        return slot

    def _serve(self) -> None:
        """Give free slots to those who wait, in their order."""
        while self._waiting and (slot := self._bearing(self._waiting[0].size)) is not None:
            ticket = self._waiting.pop(0)
            ticket.told.put_nowait(self._take(slot, ticket.size))
        self._tell_positions()

    def _pass_on(self, ticket: _Waiting[_T, _S]) -> None:
        """The slot was handed over in the moment in which its caller left."""
        while not ticket.told.empty():
            told = ticket.told.get_nowait()
            if not isinstance(told, int | Exception):
                self.release(told, ticket.size)

    def _tell_positions(self) -> None:
        self._on_depth(len(self._waiting))
        for position, ticket in enumerate(self._waiting, 1):
            if position != ticket.position:
                ticket.position = position
                ticket.told.put_nowait(position)


def _key(priority: Priority) -> float:
    return float("-inf") if priority is Priority.AGAIN else time.monotonic() + priority * _AGEING_SECONDS


async def _news(ticket: _Waiting[_T, _S]) -> int | _T:
    told = await ticket.told.get()
    if isinstance(told, Exception):
        raise told
    return told
