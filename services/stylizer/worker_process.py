"""The parent's side of one worker: starts it, hands it jobs, passes its events on, watches it, buries it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import multiprocessing
import queue
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import psutil
import structlog

from services.common.config import StylizerSettings
from services.stylizer.footprint import Footprint
from services.stylizer.jobs import Ended, Failed, Job, NetworkInfo, Ready, WorkerEvent
from services.stylizer.unread import Unread
from services.stylizer.vitals import Vitals

__all__ = ["WorkerLost", "WorkerProcess", "memory_limit"]

_STOP_SECONDS = 5.0
"""A worker that is told to stop ends within one evaluation, below a second; after this it is killed."""

_WATCH_SECONDS = 0.5
_WARM_LIMIT_SECONDS = 300.0
"""A cold start compiles kernels and reads weights from a slow disk; the slowest seen took 40 s."""

_log = structlog.stdlib.get_logger(__name__)


class WorkerLost(Exception):
    """The worker died or was killed over a job; ``reason`` is ``died``, ``hung``, ``stalled`` or ``memory``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def memory_limit(settings: StylizerSettings) -> int:
    """Bytes at which a worker is killed, see ``DPST_WORKER_MEMORY_BYTES``."""
    if settings.worker_memory_bytes:
        return settings.worker_memory_bytes
    total = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
        total = min(total, int(file.read()))  # "max" without a limit
    return int(0.9 * total) // settings.workers


def _work(settings: StylizerSettings, index: int, pipe: Connection, vitals: Vitals) -> None:
    """What the child runs; torch is imported there and never here."""
    from services.stylizer.worker import worker_main

    worker_main(settings, index, pipe, vitals)


@dataclass(frozen=True)
class _Job:
    """A job that the worker has."""

    on_free: Callable[[bool], None]
    events: Unread[WorkerEvent | WorkerLost] = field(default_factory=Unread)


class WorkerProcess:
    """One spawned process. To be made in the event loop; it lives until it dies, is killed, or ``stop``.

    Args:
        settings: of the stylizer process.
        index: of the worker, from 0.
        limit_bytes: of its memory.

    Attributes:
        memory_bytes: resident memory when it was last looked at.
        warm_bytes: resident memory without a job, 0 as long as it is not warm.
        reason: why it is gone, see :class:`WorkerLost`; empty while it lives.
    """

    def __init__(self, settings: StylizerSettings, index: int, limit_bytes: int) -> None:
        self._settings, self._limit_bytes = settings, limit_bytes
        self.index, self.memory_bytes, self.warm_bytes, self.reason = index, 0, 0, ""
        self._numbers = itertools.count(1)
        self._jobs: dict[int, _Job] = {}
        self._own: asyncio.Queue[WorkerEvent | WorkerLost] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._vitals: Any = context.RawValue(Vitals)
        self._process = context.Process(
            target=_work, args=(settings, index, theirs, self._vitals), name=f"stylizer-worker-{index}", daemon=True
        )
        self._process.start()
        theirs.close()
        atexit.register(self._process.kill)  # it ignores the SIGTERM that multiprocessing would send
        self._outbox: queue.SimpleQueue[tuple[int, Job | None] | None] = queue.SimpleQueue()
        for work in (self._read, self._write):
            Thread(target=work, name=f"stylizer-worker-{index}-{work.__name__}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid or 0

    @property
    def card_bytes(self) -> tuple[int, int]:
        """Allocated and reserved on its card when it was last looked at; zeros without a card."""
        return self._vitals.card_allocated, self._vitals.card_reserved

    @property
    def room(self) -> Footprint:
        """What jobs may take, all of them together, beside what it had when it was warm."""
        return Footprint(max(0, self._limit_bytes - self.warm_bytes), self._vitals.card_room)

    @property
    def jobs(self) -> int:
        """How many it has."""
        return len(self._jobs)

    @property
    def exit_code(self) -> int | None:
        """Of the process, None while it runs."""
        return self._process.exitcode

    async def warm(self) -> NetworkInfo:
        """Wait until it can work.

        Raises:
            ModelError: it cannot start with these settings.
            WorkerLost: it died, or took too long.
        """
        try:
            async with asyncio.timeout(_WARM_LIMIT_SECONDS):
                event = await self._own.get()
        except TimeoutError:
            self.kill("hung")
            raise WorkerLost("hung") from None
        if isinstance(event, Failed):
            raise event.error
        if not isinstance(event, Ready):
            raise WorkerLost(self.reason)
        self.warm_bytes = self._resident_bytes()
        return event.network

    async def watch(self) -> None:
        """Return when it is gone; kill it if it hangs, stalls, or has too much memory."""
        while not self._gone.is_set():
            now = time.monotonic()
            if now - self._vitals.beat > self._settings.worker_beat_seconds:
                self.kill("hung")
            elif now - self._vitals.moved > self._settings.worker_stall_seconds:
                self.kill("stalled")
            self.memory_bytes = self._resident_bytes()
            if self.memory_bytes > self._limit_bytes:
                self.kill("memory")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_SECONDS):
                    await self._gone.wait()

    async def run(self, job: Job, on_free: Callable[[bool], None]) -> AsyncGenerator[WorkerEvent, None]:
        """Run a job; its events up to, but without, ``Ended``.

        Closing the iterator or cancelling its task stops the job within one evaluation. ``on_free`` is called once:
        with True when the worker has room for another one, with False when it is gone.

        Raises:
            WorkerLost: the worker is gone.
            Exception: whatever the job failed with.
        """
        if self._gone.is_set():
            on_free(False)
            raise WorkerLost(self.reason)
        number, task = next(self._numbers), _Job(on_free)
        self._jobs[number] = task
        self._outbox.put((number, job))
        failure: Exception | None = None
        try:
            while not isinstance(event := await task.events.get(), Ended):
                if isinstance(event, WorkerLost):
                    raise event
                if isinstance(event, Failed):
                    failure = event.error
                else:
                    yield event
        finally:
            if number in self._jobs:  # it ends, and is forgotten, when the worker says so
                self._outbox.put((number, None))
        if failure is not None:
            raise failure

    async def stop(self) -> None:
        """End it; running jobs are cancelled."""
        self._outbox.put(None)
        await asyncio.to_thread(self._process.join, _STOP_SECONDS)
        self.kill("stopped")
        await self.bury()

    def kill(self, reason: str) -> None:
        """Kill it at once."""
        if self._process.is_alive() and not self.reason:
            self.reason = reason
            _log.error("worker is killed", worker=self.index, reason=reason, memory_bytes=self.memory_bytes)
            self._process.kill()

    async def bury(self) -> None:
        """Wait for the end of the process, which was killed or died."""
        await asyncio.to_thread(self._process.join)
        atexit.unregister(self._process.kill)

    def _resident_bytes(self) -> int:
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:  # gone, which the reader tells
            return self.memory_bytes

    def _write(self) -> None:
        """One thread sends, because a large job goes out in several pieces."""
        while True:
            message = self._outbox.get()
            try:
                self._pipe.send(message)
            except OSError:  # it died; who waits is told by the reader
                return
            if message is None:
                return

    def _read(self) -> None:
        while True:
            try:
                number, event = self._pipe.recv()
            except (EOFError, OSError):
                break
            self._in_loop(self._dispatch, number, event)
        self._in_loop(self._lost)

    def _in_loop(self, call: Any, *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(call, *arguments)

    def _dispatch(self, number: int, event: WorkerEvent) -> None:
        if number == 0:
            self._own.put_nowait(event)
            return
        job = self._jobs[number]
        if isinstance(event, Ended):
            del self._jobs[number]
            job.on_free(True)
        job.events.put_nowait(event)

    def _lost(self) -> None:
        self.reason = self.reason or "died"
        self._gone.set()
        self._outbox.put(None)  # ends the writing thread
        self._own.put_nowait(WorkerLost(self.reason))
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.on_free(False)
            job.events.put_nowait(WorkerLost(self.reason))
