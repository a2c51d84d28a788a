"""Keeps the workers running and gives them the jobs; what a lost worker was at goes on in another one, once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from services.common.config import StylizerSettings
from services.common.errors import DeadlineExceeded, ResourceExhausted, Shortage, Unavailable
from services.common.metrics import Metrics
from services.stylizer.footprint import Footprint, predicted
from services.stylizer.forecast import Forecast
from services.stylizer.jobs import (
    Checkpointed,
    Exported,
    Finished,
    Job,
    NetworkInfo,
    Picture,
    Queued,
    Rendered,
    StylizeJob,
    WorkerEvent,
)
from services.stylizer.promises import Promises
from services.stylizer.slots import Priority, Slots
from services.stylizer.worker_process import WorkerLost, WorkerProcess, memory_limit

__all__ = ["Supervisor", "Terms"]

_RESTART_SECONDS = (0.0, 1.0, 2.0, 5.0, 15.0, 30.0)
"""Pause before the n-th start in a row that did no job in between: quick after one fault, gentle in a crash loop."""

_PATIENCE = 2
"""So many failed starts in a row of the last worker, and everyone who waits is sent away."""

_WARM_SECONDS = 10.0
"""Advice to callers while a worker starts: importing torch and loading the weights take 3 to 8 s."""

_BLOATED_SHARE = 0.8
"""Of its memory's limit, above which a worker without a job is exchanged for a fresh one."""

_CAUTION = 1.2
"""What a forecast is multiplied by when a job is admitted: an admitted job keeps its deadline."""

_LEAST_REST_SHARE = 0.1
"""Of the time until the deadline, which a solve leaves for what comes after it."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Terms:
    """What a caller asks besides the job itself.

    Attributes:
        priority: how urgent it is.
        deadline: when the caller leaves, on the machine's monotonic clock; None = never.
        best_effort: whether a solve ends early to keep the deadline.
    """

    priority: Priority = Priority.NORMAL
    deadline: float | None = None
    best_effort: bool = False


class Supervisor:
    """The worker processes and the queue in front of them.

    Args:
        settings: of the stylizer process.
        metrics: of the process.
    """

    def __init__(self, settings: StylizerSettings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._limit_bytes = memory_limit(settings)
        self._slots = Slots[WorkerProcess, Footprint](
            settings.queue_limit, metrics.queue_depth.set, lambda worker, sizes: worker.room.holds(sizes)
        )
        self._workers: dict[int, WorkerProcess] = {}
        self._warm: dict[int, NetworkInfo] = {}
        self._ended: dict[int, int] = dict.fromkeys(range(settings.workers), 0)
        self._stopping = False
        self._forecast = Forecast()
        self._promises = Promises()
        kinds: dict[str, Callable[[WorkerProcess], int]] = {
            "workers_resident": lambda worker: worker.memory_bytes,
            "card_allocated": lambda worker: worker.card_bytes[0],
            "card_reserved": lambda worker: worker.card_bytes[1],
        }
        for kind, size in kinds.items():
            metrics.device_memory_bytes.labels(kind).set_function(functools.partial(self._summed, size))

    def _summed(self, size: Callable[[WorkerProcess], int]) -> int:
        return sum(size(worker) for worker in self._workers.values())

    @property
    def network(self) -> NetworkInfo | None:
        """The warm feature network, the same in every worker; None while none is warm."""
        return next(iter(self._warm.values()), None)

    async def supervise(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        """Keep the workers running until :meth:`stop`.

        Args:
            serving: told whether a warm worker is there.

        Raises:
            ModelError: a worker cannot start with these settings; trying again would not help.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(self._settings.workers):
                    group.create_task(self._keep(index, serving))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def run(self, job: Job, terms: Terms) -> AsyncGenerator[Queued | WorkerEvent, None]:
        """Run a job; its events up to, but without, ``Ended``.

        A job whose worker is lost is begun again, once, where its last checkpoint was: events from ``Queued`` on may
        then come a second time, but never a second picture. Closing the iterator or cancelling its task stops the job
        within one evaluation.

        Raises:
            ResourceExhausted: the queue is full or too long for the deadline, or the memory does not suffice.
            DeadlineExceeded: the deadline cannot be met even without a queue.
            Unavailable: no worker is warm, or the second one was lost over this job.
            Exception: whatever the job failed with.
        """
        if isinstance(job, StylizeJob):
            self._promises.redeem(job.request_id)
        priority = terms.priority
        size = self._admit(job, terms, expected=0)
        for last in (False, True):
            picture: Picture | None = None
            try:
                async with contextlib.aclosing(self._attempt(job, size, terms, priority)) as events:
                    async for event in events:
                        if isinstance(event, Checkpointed) and isinstance(job, StylizeJob):
                            job = replace(job, checkpoint=event.data)
                        if isinstance(event, Picture):
                            picture = event
                            continue
                        if picture is not None:
                            yield picture
                            picture = None
                        yield event
            except WorkerLost as lost:
                if lost.reason == "memory":
                    limit = f"a worker may have {self._limit_bytes} bytes"
                    raise ResourceExhausted(
                        f"the job needs more memory than there is: {limit}", _WARM_SECONDS, Shortage.MEMORY
                    ) from lost
                if last or self._stopping:
                    raise Unavailable("the stylizer's worker died", _WARM_SECONDS) from lost
                _log.warning("job goes on in another worker", reason=lost.reason)
                priority = Priority.AGAIN
            else:
                return

    def expect(self, job: StylizeJob, terms: Terms) -> None:
        """Keep room for a solve that will come soon, of which photos and labels are not known yet.

        A caller may be told by one replica that there is room and go to another one; others do so the other way round.

        Raises:
            ResourceExhausted, DeadlineExceeded, Unavailable: as :meth:`run` would.
        """
        self._admit(job, terms, len(self._promises))
        self._promises.give(job.request_id)

    def check_room(self, priority: Priority, expected: int = 0) -> None:
        """See whether there is any sense in looking at a request that comes behind ``expected`` others.

        Raises:
            ResourceExhausted: the queue is full.
            Unavailable: no worker is warm.
        """
        if self.network is None:
            raise Unavailable("the stylizer's worker is starting", _WARM_SECONDS)
        self._slots.check_room(priority, expected)

    async def stop(self) -> None:
        """End the workers; running jobs are cancelled."""
        self._stopping = True
        await asyncio.gather(*(worker.stop() for worker in self._workers.values()))

    def _admit(self, job: Job, terms: Terms, expected: int) -> Footprint:
        self.check_room(terms.priority, expected)
        size = self._footprint(job)
        self._check_memory(size)
        self._check_deadline(job, terms, self._slots.wait_seconds(terms.priority, expected), _CAUTION)
        return size

    def _check_memory(self, needed: Footprint) -> None:
        """Whether a worker could do it if it had nothing else to do; with others beside it, it waits."""
        rooms = [self._workers[index].room for index in self._warm]
        for kind, need, have in zip(
            ("memory", "the card's memory"), needed, map(max, zip(*rooms, strict=True)), strict=True
        ):
            if need > have:
                raise ResourceExhausted(
                    f"the job needs about {need >> 20} MiB of {kind}, a worker has {have >> 20} MiB for jobs",
                    _WARM_SECONDS,
                    Shortage.MEMORY,
                )

    def _footprint(self, job: Job) -> Footprint:
        network = self.network
        assert network is not None, "there is room"  # noqa: S101
        return predicted(job, network.name, on_card=network.device.startswith("cuda"))

    def _check_deadline(self, job: Job, terms: Terms, wait_seconds: float, caution: float) -> None:
        if terms.deadline is None:
            return
        left = terms.deadline - time.monotonic()
        forecast = self._forecast.around_seconds if terms.best_effort else self._forecast.seconds
        needed = caution * forecast(job)
        if needed > left:
            raise DeadlineExceeded(f"the deadline cannot be met: {left:.1f} s are left, {needed:.1f} s are needed")
        if needed + caution * wait_seconds > left:
            raise ResourceExhausted(
                f"the queue is too long for the deadline: about {wait_seconds:.1f} s, {left:.1f} s are left",
                max(1.0, wait_seconds + needed - left),
                Shortage.TIME,
                least_seconds=caution * (forecast(replace(job, pixels=0)) + wait_seconds),
            )

    async def _attempt(
        self, job: Job, size: Footprint, terms: Terms, priority: Priority
    ) -> AsyncGenerator[Queued | WorkerEvent, None]:
        worker: WorkerProcess | None = None
        async with contextlib.aclosing(self._slots.acquire(size, priority)) as positions:
            async for position in positions:
                if isinstance(position, WorkerProcess):
                    worker = position
                else:
                    yield Queued(position, self._slots.eta_seconds(position))
        assert worker is not None, "the last thing that is yielded"  # noqa: S101
        try:
            self._check_deadline(job, terms, 0.0, 1.0)
        except DeadlineExceeded:
            self._slots.release(worker, size)
            raise
        if terms.deadline is not None and terms.best_effort and isinstance(job, StylizeJob):
            left = terms.deadline - time.monotonic()
            after = max(_CAUTION * self._forecast.around_seconds(job), _LEAST_REST_SHARE * left)
            job = replace(job, solve_until=terms.deadline - after)
        free = functools.partial(self._freed, worker, size, time.monotonic())
        async with contextlib.aclosing(worker.run(job, free)) as events:
            async for event in events:
                if isinstance(event, Finished | Rendered | Exported):
                    self._forecast.learn(job, event.stage_seconds)
                yield event

    def _freed(self, worker: WorkerProcess, size: Footprint, began: float, is_there: bool) -> None:
        if not is_there:
            self._slots.lose(worker, size)
            return
        self._ended[worker.index] += 1
        self._slots.release(worker, size, time.monotonic() - began)
        if not worker.jobs and worker.memory_bytes > _BLOATED_SHARE * self._limit_bytes:
            self._withdraw(worker)
            worker.kill("bloated")

    async def _keep(self, index: int, serving: Callable[[bool], Awaitable[None]]) -> None:
        failures = 0
        while True:
            await asyncio.sleep(_RESTART_SECONDS[min(failures, len(_RESTART_SECONDS) - 1)])
            if self._stopping:
                return
            ended_before = self._ended[index]
            worker = self._workers[index] = WorkerProcess(self._settings, index, self._limit_bytes)
            try:
                self._warm[index] = await worker.warm()
                for _ in range(self._settings.slots):
                    self._slots.offer(worker)
                await serving(True)
                await worker.watch()
            except WorkerLost:
                pass
            finally:
                self._warm.pop(index, None)
                self._withdraw(worker)
                if worker.exit_code is None and not self._stopping:
                    worker.kill("stopped")
                await worker.bury()
            if self._stopping:
                return
            self._metrics.worker_restarts_total.labels(worker.reason).inc()
            await serving(bool(self._warm))
            failures = failures + 1 if self._ended[index] == ended_before else 1
            if failures >= _PATIENCE and not self._warm:
                self._slots.dismiss(Unavailable("the stylizer's worker cannot start", _WARM_SECONDS))
            _log.error(
                "worker is gone",
                worker=index,
                reason=worker.reason,
                exit_code=worker.exit_code,
                failures_in_a_row=failures,
            )

    def _withdraw(self, worker: WorkerProcess) -> None:
        """Nobody gets this worker any more."""
        for _ in range(self._settings.slots):
            self._slots.withdraw(worker)
