"""Results that are kept by the content they were computed from."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Literal, TypeVar

import cachetools

from services.common.metrics import Metrics

__all__ = ["Origin", "ResultCache"]

_V = TypeVar("_V")

Origin = Literal["hit", "shared", "miss"]
"""Whether a result was kept, was being computed for another caller, or was computed now."""


class _Flight(Generic[_V]):
    """A computation and how many wait for it."""

    def __init__(self, task: asyncio.Task[_V]) -> None:
        self.task = task
        self.waiting = 0


class ResultCache(Generic[_V]):
    """Results bounded by bytes and seconds; those used longest ago go first.

    Equal requests at the same time are computed once. The computation goes on as long as anyone waits for it, so a
    caller who leaves does not fail the others, and the last one to leave cancels it. Errors are not kept.

    Args:
        name: in the metrics.
        max_bytes: of all results together; 0 = off.
        max_seconds: that a result is kept; 0 = off.
        size_of: bytes of a result.
        metrics: receives hits, misses and the bytes.
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        max_bytes: int,
        max_seconds: float,
        size_of: Callable[[_V], int],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on = max_bytes > 0 and max_seconds > 0
        self._kept: cachetools.TTLCache[Hashable, _V] = cachetools.TTLCache(
            max(1, max_bytes), max(1e-9, max_seconds), timer=clock, getsizeof=size_of
        )
        self._flights: dict[Hashable, _Flight[_V]] = {}
        self._requests = {
            origin: metrics.cache_requests_total.labels(name, origin) for origin in ("hit", "shared", "miss")
        }
        metrics.cache_bytes.labels(name).set_function(lambda: float(self._kept.currsize))

    @property
    def is_on(self) -> bool:
        """Whether anything is kept at all; if not, every request is computed."""
        return self._on

    async def get(self, key: Hashable, compute: Callable[[], Awaitable[_V]]) -> tuple[_V, Origin]:
        """Give the result of ``key``, computing it if need be, and where it came from."""
        if not self._on:
            return await compute(), "miss"
        kept = self._kept.get(key)
        if kept is not None:
            return kept, self._counted("hit")
        flight = self._flights.get(key)
        origin = self._counted("miss" if flight is None else "shared")
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(self._computed(key, compute)))
        flight.waiting += 1
        try:
            # Shielded, because the others wait for it too.
            return await asyncio.shield(flight.task), origin
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                if self._flights.get(key) is flight:
                    del self._flights[key]  # who comes now must not join what is being cancelled
                flight.task.cancel()

    async def _computed(self, key: Hashable, compute: Callable[[], Awaitable[_V]]) -> _V:
        task = asyncio.current_task()
        try:
            value = await compute()
            with contextlib.suppress(ValueError):  # larger than the whole cache
                self._kept[key] = value
            return value
        finally:
            flight = self._flights.get(key)
            if flight is not None and flight.task is task:
                del self._flights[key]

    def _counted(self, origin: Origin) -> Origin:
        self._requests[origin].inc()
        return origin
