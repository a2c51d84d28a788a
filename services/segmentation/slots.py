"""Places for requests, with a bounded queue before them, and threads for their work that must not block the loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from services.common.errors import Cancelled, ResourceExhausted, Shortage
from services.common.metrics import Metrics

__all__ = ["Cancel", "Place", "Slots"]

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


class Place:
    """One request's place; its work runs in the threads that all places share."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._cancel = Cancel()
        self._running: Future[Any] | None = None

    async def run(self, work: Callable[[Cancel], _T]) -> _T:
        """Run ``work`` in a thread. If the caller is cancelled, work that runs is told to stop, other never starts."""
        context = contextvars.copy_context()  # the request's id, and the span that this is a part of
        future: Future[_T] = self._threads.submit(context.run, work, self._cancel)
        self._running = future
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._cancel.set()
            raise

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back, from any thread, as soon as no work of this place runs."""
        if self._running is None:
            callback()
        else:
            self._running.add_done_callback(lambda _: callback())


class Slots:
    """At most ``places`` requests at work in ``threads`` threads, and ``queue_limit`` more that wait for a place.

    Feeds the queue and in-flight metrics.
    """

    def __init__(self, places: int, threads: int, queue_limit: int, metrics: Metrics) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="segment")
        self._free = asyncio.Semaphore(places)
        self._queue_limit = queue_limit
        self._waiting = 0
        self._metrics = metrics

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """Wait for a place and hold it. Raises ResourceExhausted at once if too many wait already.

        If the caller is cancelled while work of its place runs, the place is free once that work did end.
        """
        if self._free.locked() and self._waiting >= self._queue_limit:
            raise ResourceExhausted(f"{self._waiting} photos wait to be segmented already", 2.0, Shortage.QUEUE)
        await self._acquire()
        loop = asyncio.get_running_loop()
        self._metrics.inflight.inc()
        place = Place(self._threads)
        try:
            yield place
        finally:
            place.when_idle(lambda: self._release(loop))

    def close(self) -> None:
        """Wait for running work, drop what has not started."""
        self._threads.shutdown(wait=True, cancel_futures=True)

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

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        self._metrics.inflight.dec()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._free.release)
