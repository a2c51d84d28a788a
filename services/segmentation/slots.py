"""Threads for work that must not block the event loop, with a bounded queue before them."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from services.common.errors import Cancelled, ResourceExhausted
from services.common.metrics import Metrics

__all__ = ["Cancel", "Slots"]

_T = TypeVar("_T")


class Cancel:
    """Tells work in a thread that nobody waits for it any more."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def set(self) -> None:
        """Ask the work to stop."""
        self._flag.set()

    def check(self) -> None:
        """Raise Cancelled if the work is to stop; called between stages."""
        if self._flag.is_set():
            raise Cancelled("the caller does not wait any more")


class Slots:
    """``slots`` threads and at most ``queue_limit`` calls that wait for one; feeds queue and in-flight metrics."""

    def __init__(self, slots: int, queue_limit: int, metrics: Metrics) -> None:
        self._executor = ThreadPoolExecutor(slots, thread_name_prefix="segment")
        self._free = asyncio.Semaphore(slots)
        self._queue_limit = queue_limit
        self._waiting = 0
        self._metrics = metrics

    async def run(self, work: Callable[[Cancel], _T]) -> _T:
        """Run ``work`` in a thread. Raises ResourceExhausted at once if too many wait already.

        If the caller is cancelled while waiting, the work never starts; while running, it is told to stop, and its
        slot is free once it did.
        """
        if self._free.locked() and self._waiting >= self._queue_limit:
            raise ResourceExhausted(f"{self._waiting} photos wait to be segmented already", retry_after_seconds=2.0)
        await self._acquire()
        cancel = Cancel()
        future: Future[_T] = self._executor.submit(work, cancel)
        self._metrics.inflight.inc()
        future.add_done_callback(functools.partial(self._done, asyncio.get_running_loop()))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            cancel.set()
            raise

    def close(self) -> None:
        """Wait for running work, drop what has not started."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _acquire(self) -> None:
        started = time.perf_counter()
        self._waiting += 1
        self._metrics.queue_depth.inc()
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
            self._metrics.queue_depth.dec()
        self._metrics.queue_wait_seconds.observe(time.perf_counter() - started)

    def _done(self, loop: asyncio.AbstractEventLoop, _: Future[Any]) -> None:
        self._metrics.inflight.dec()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._free.release)
