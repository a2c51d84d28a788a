"""The parent's side of the worker: starts it, hands it jobs, cancels them, starts it again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from ctypes import c_longlong
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import structlog

from services.common.config import StylizerSettings
from services.common.errors import Unavailable
from services.stylizer.jobs import Ended, Failed, Job, NetworkInfo, Queued, Ready, WorkerEvent
from services.stylizer.slots import Slots

__all__ = ["Supervisor"]

_RESTART_SECONDS = (0.0, 1.0, 2.0, 5.0, 15.0, 30.0)
"""Pause before the n-th start in a row that did no job in between: quick after one fault, gentle in a crash loop."""

_STOP_SECONDS = 5.0
"""A worker that is told to stop ends within one evaluation, below a second; after this it is killed."""

_WARM_SECONDS = 10.0
"""Advice to callers while a worker starts: importing torch and loading the weights take 3 to 8 s."""

_log = structlog.stdlib.get_logger(__name__)


def _work(settings: StylizerSettings, pipe: Connection, cancelled: c_longlong) -> None:
    """What the child runs; torch is imported there and never here."""
    from services.stylizer.worker import worker_main

    worker_main(settings, pipe, cancelled)


class _Running:
    """A job that the worker works on."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.events: asyncio.Queue[WorkerEvent] = asyncio.Queue()
        self.began = time.monotonic()


class Supervisor:
    """One worker process and the queue in front of it.

    Args:
        settings: of the stylizer process.
        on_depth: told the number of waiting jobs whenever it changes.

    Attributes:
        network: the warm feature network, None while no worker is warm.
    """

    def __init__(self, settings: StylizerSettings, on_depth: Callable[[int], None]) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("spawn")
        self._cancelled = self._context.RawValue("q", 0)
        self._numbers = itertools.count(1)
        self._slots = Slots(settings.queue_limit, on_depth)
        self._running: _Running | None = None
        self._process: Any = None
        self._pipe: Any = None
        self._stopping = False
        self._jobs_ended = 0
        self.network: NetworkInfo | None = None

    async def supervise(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        """Keep a worker running until :meth:`stop`.

        Args:
            serving: told whether a warm worker is there.

        Raises:
            ModelError: the worker cannot start with these settings; trying again would not help.
        """
        failures = 0
        while not self._stopping:
            await asyncio.sleep(_RESTART_SECONDS[min(failures, len(_RESTART_SECONDS) - 1)])
            ended_before = self._jobs_ended
            events = self._spawn()
            try:
                first = await events.get()
                if isinstance(first, Failed):
                    raise first.error
                if isinstance(first, Ready):
                    self.network = first.network
                    await serving(True)
                    await events.get()  # comes when the worker is gone
            finally:
                self.network = None
                await self._bury()
            if self._stopping:
                return
            await serving(False)
            failures = failures + 1 if self._jobs_ended == ended_before else 1
            _log.error("worker died", exit_code=self._process.exitcode, failures_in_a_row=failures)

    async def run(self, job: Job) -> AsyncGenerator[Queued | WorkerEvent, None]:
        """Run a job; its events up to, but without, ``Ended``.

        Closing the iterator or cancelling its task stops the job within one evaluation.

        Raises:
            ResourceExhausted: the queue is full.
            Unavailable: no worker is warm, or it died over this job.
            Exception: whatever the job failed with.
        """
        if self.network is None:
            raise Unavailable("the stylizer's worker is starting", _WARM_SECONDS)
        async with contextlib.aclosing(self._slots.acquire()) as positions:
            async for position in positions:
                yield Queued(position, self._slots.eta_seconds(position))
        if self.network is None:
            self._slots.release()
            raise Unavailable("the stylizer's worker is starting again", _WARM_SECONDS)
        running = _Running(next(self._numbers))
        self._running = running
        ended = False
        try:
            await asyncio.to_thread(self._pipe.send, (running.number, job))
            while True:
                event = await running.events.get()
                if isinstance(event, Ended):
                    ended = True
                    return
                if isinstance(event, Failed):
                    ended = isinstance(event.error, Unavailable)  # the worker is gone and says no more
                    raise event.error
                yield event
        except OSError as error:  # the pipe broke while the job was sent
            ended = True
            raise Unavailable("the stylizer's worker died", _WARM_SECONDS) from error
        finally:
            if not ended:
                self._cancelled.value = running.number  # the slot is freed when the worker says Ended

    async def stop(self) -> None:
        """End the worker; a running job is cancelled."""
        self._stopping = True
        if self._running is not None:
            self._cancelled.value = self._running.number
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # it died by itself
                self._pipe.send((0, None))
        await self._bury()

    def _spawn(self) -> asyncio.Queue[WorkerEvent]:
        """Start a worker; gives its events about itself: ``Ready`` or ``Failed``, then ``Ended`` when it is gone."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(self._settings, theirs, self._cancelled), name="stylizer-worker", daemon=True
        )
        process.start()
        theirs.close()
        self._process, self._pipe = process, ours
        own: asyncio.Queue[WorkerEvent] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            while True:
                try:
                    number, event = ours.recv()
                except (EOFError, OSError):
                    break
                loop.call_soon_threadsafe(self._dispatch, own, number, event)
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._lost, own)

        Thread(target=read, name="stylizer-worker-events", daemon=True).start()
        return own

    def _dispatch(self, own: asyncio.Queue[WorkerEvent], number: int, event: WorkerEvent) -> None:
        running = self._running
        if number == 0:
            own.put_nowait(event)
        elif running is not None and running.number == number:
            running.events.put_nowait(event)
            if isinstance(event, Ended):
                self._running = None
                self._jobs_ended += 1
                self._slots.release(time.monotonic() - running.began)

    def _lost(self, own: asyncio.Queue[WorkerEvent]) -> None:
        own.put_nowait(Ended())
        self.network = None
        if self._running is not None:
            self._running.events.put_nowait(Failed(Unavailable("the stylizer's worker died", _WARM_SECONDS)))
            self._running = None
            self._slots.release()

    async def _bury(self) -> None:
        process = self._process
        if process is None:
            return
        await asyncio.to_thread(process.join, _STOP_SECONDS)
        if process.is_alive():
            process.kill()
            await asyncio.to_thread(process.join)
