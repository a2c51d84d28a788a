"""Works on submitted transfers: claims them, keeps their leases, and decides what a failure means."""

from __future__ import annotations

import asyncio
import contextlib
import io
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import grpc
import structlog
from dpst.v1 import image_pb2, jobs_pb2, photo_style_pb2, report_pb2
from google.rpc import status_pb2  # type: ignore[import-untyped]  # has stubs, lacks py.typed

from gateway.downstream import Deadline
from gateway.jobs.files import JobFiles
from gateway.jobs.store import Claim, Event, JobStore, Outcome, Policy, Verdict
from gateway.pipeline import Pipeline
from gateway.progress import Progress
from services.common.errors import ServiceError, Shortage
from services.common.logs import bind_request_id
from services.common.metrics import Metrics
from services.common.status import retry_seconds, shortage_of, status_of

__all__ = ["Runner"]

_log = structlog.stdlib.get_logger(__name__)

_BEAT_SECONDS: Final = 0.5
"""How often what happened is kept, and a cancel is seen; a lease holds for many of these."""

_LOOK_SECONDS: Final = 0.1
"""How soon a checkpoint is kept that has come."""

_POLL_SECONDS: Final = 1.0
"""How soon a job that another gateway was given, or has lost, is found."""

_SWEEP_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = (1.0, 5.0, 20.0, 60.0)
"""Before the next attempt, by the number of those that failed."""

_AWAY_SECONDS: Final = 5.0
"""Until a service that is full or away is tried again, if it did not say when."""

_REFUSALS: Final = frozenset(
    code.value[0]
    for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
)
_PASSING: Final = frozenset(
    code.value[0]
    for code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
)
"""Before a solve has begun, these say nothing about the job, unless it is memory that lacks; later they may be its
doing: the worker it has killed."""


@dataclass(frozen=True)
class _Means:
    """What a job is done with."""

    pipeline: Pipeline
    store: JobStore
    files: JobFiles
    policy: Policy
    metrics: Metrics


class Runner:
    """Works on the jobs of a store, so many at a time.

    Args:
        pipeline: does the work.
        store: has the jobs.
        files: has their photos.
        policy: of retries and leases.
        at_once: most jobs at a time.
        metrics: of the process.
    """

    def __init__(
        self, pipeline: Pipeline, store: JobStore, files: JobFiles, policy: Policy, at_once: int, metrics: Metrics
    ) -> None:
        self._means = _Means(pipeline, store, files, policy, metrics)
        self._store, self._at_once = store, at_once

    async def run(self) -> None:
        """Work until cancelled; what is under way then goes back, to be gone on with elsewhere."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._work())
            group.create_task(self._tidy())

    async def _work(self) -> None:
        while True:
            try:
                claim = await self._store.claim(self._means.policy)
                if claim is not None:
                    await asyncio.create_task(_Job(self._means, claim).done())
                    continue
            except ServiceError as error:
                _log.warning("the store of jobs fails", reason=str(error))
                await asyncio.sleep(_AWAY_SECONDS)
            except Exception:
                _log.exception("a submitted transfer is left to its lease")
                await asyncio.sleep(_AWAY_SECONDS)
            await self._store.news(_POLL_SECONDS)

    async def _tidy(self) -> None:
        since_sweep = _SWEEP_SECONDS
        while True:
            try:
                count, age_seconds = await self._store.waiting()
                self._means.metrics.submitted_waiting.set(count)
                self._means.metrics.submitted_age_seconds.set(age_seconds)
                if since_sweep >= _SWEEP_SECONDS:
                    since_sweep = 0.0
                    await self._means.files.keep_only(await self._store.sweep(self._means.policy))
            except (OSError, ServiceError) as error:
                _log.warning("the store of jobs fails", reason=str(error))
            await asyncio.sleep(_AWAY_SECONDS)
            since_sweep += _AWAY_SECONDS


class _Job:
    """One claim, from its photos to its end."""

    def __init__(self, means: _Means, claim: Claim) -> None:
        self._means, self._store, self._claim = means, means.store, claim
        self._metadata = claim.metadata
        self._progress = Progress.read(claim.progress)
        self._kept = self._achieved()
        self._events: list[Event] = []
        self._begun = False

    async def done(self) -> None:
        """Work on it; it is back in the queue, or has ended, or somebody else has it, when this returns."""
        transfer = photo_style_pb2.Transfer.FromString(self._claim.transfer)
        bind_request_id(transfer.request_id)
        work = asyncio.create_task(self._transferred(transfer))
        try:
            while not work.done():
                await self._until_due(work)
                verdict = await self._beat()
                if verdict is Verdict.LOST:
                    _log.warning("another gateway has this job by now", operation=self._claim.name)
                    return
                if verdict is Verdict.CANCELLED and not work.done():
                    work.cancel()
                    await asyncio.wait({work})
                    await self._give_back(0.0, status_pb2.Status(), counts=False)  # where its cancel is found
                    return
            await self._ended(work)
        except asyncio.CancelledError:  # the gateway stops
            with contextlib.suppress(Exception):
                await asyncio.shield(self._left())
            raise
        finally:
            work.cancel()
            await asyncio.wait({work})

    async def _until_due(self, work: asyncio.Task[Outcome]) -> None:
        """Return when something is to be kept: a checkpoint, the end, or what has happened in a while."""
        for _ in range(round(_BEAT_SECONDS / _LOOK_SECONDS)):
            await asyncio.wait({work}, timeout=_LOOK_SECONDS)
            if work.done() or self._achieved() != self._kept:
                return

    async def _left(self) -> None:
        await self._beat()
        await self._give_back(0.0, status_pb2.Status(), counts=False)

    async def _give_back(self, delay_seconds: float, error: status_pb2.Status, *, counts: bool) -> None:
        await self._store.give_back(self._claim, delay_seconds, error, counts=counts)

    async def _transferred(self, transfer: photo_style_pb2.Transfer) -> Outcome:
        for name in ("content", "style"):
            image = getattr(transfer, name)
            image.data = await self._means.files.read(image.ref, name)
        picture, result = io.BytesIO(), jobs_pb2.TransferResult()
        async with aclosing(self._means.pipeline.run(transfer, Deadline(None), self._progress)) as events:
            async for event in events:
                if event.HasField("chunk"):
                    picture.write(event.chunk.data)
                elif event.HasField("done"):
                    result.report.CopyFrom(event.done.report)
                    result.look.CopyFrom(event.done.look)
                else:
                    self._saw(event)
        ref = await self._means.files.write(picture.getvalue())
        result.picture.CopyFrom(image_pb2.Image(ref=ref))
        return Outcome(jobs_pb2.TRANSFER_STATE_DONE, result=result, refs=(ref,))

    def _saw(self, event: photo_style_pb2.TransferStreamResponse) -> None:
        metadata = self._metadata
        metadata.sequence += 1
        event.sequence = metadata.sequence
        kind = event.WhichOneof("event")
        if kind == "stage":
            metadata.stage = event.stage.stage
        elif kind == "iteration":
            metadata.evaluations = event.iteration.evaluation
            metadata.max_evaluations = event.iteration.max_evaluations
        self._begun = (
            self._begun or kind == "iteration" or (kind == "stage" and event.stage.stage != report_pb2.STAGE_SEGMENT)
        )
        self._events.append(Event(event.sequence, event.SerializeToString(), kind == "iteration"))

    async def _beat(self) -> Verdict:
        events, self._events = self._events, []
        progress = None
        if (achieved := self._achieved()) != self._kept:  # megabytes, when there are any
            self._kept, progress = achieved, self._progress.serialized()
        return await self._store.beat(self._claim, self._means.policy, self._metadata, events, progress)

    def _achieved(self) -> tuple[bool, int]:
        """Whether regions are found, and after how many evaluations the checkpoint is: it changes with these."""
        checkpoint = self._progress.checkpoint
        return self._progress.regions is not None, 0 if checkpoint is None else checkpoint.evaluations

    async def _ended(self, work: asyncio.Task[Outcome]) -> None:
        try:
            outcome = work.result()
        except Exception as error:
            await self._failed(error)
            return
        if not await self._store.end(self._claim, self._metadata, outcome):
            _log.warning("another gateway has this job by now", operation=self._claim.name)

    async def _failed(self, error: Exception) -> None:
        status = status_of(error)
        if status.code == grpc.StatusCode.INTERNAL.value[0]:
            _log.error("a submitted transfer failed", operation=self._claim.name, exc_info=error)
        if status.code in _REFUSALS and self._progress.checkpoint is not None and "checkpoint" in status.message:
            self._progress.checkpoint = None  # of another version of the stylizer: from the start then
            await self._beat()
            await self._give_back(0.0, status, counts=True)
        elif status.code in _REFUSALS:
            await self._store.end(self._claim, self._metadata, Outcome(jobs_pb2.TRANSFER_STATE_FAILED, error=status))
        elif status.code in _PASSING and not self._begun and shortage_of(status) is not Shortage.MEMORY:
            _log.info("a submitted transfer waits", operation=self._claim.name, reason=status.message)
            await self._give_back(retry_seconds(status) or _AWAY_SECONDS, status, counts=False)
        else:
            attempts = self._metadata.attempts
            _log.warning("an attempt failed", operation=self._claim.name, attempts=attempts, reason=status.message)
            self._means.metrics.submitted_retries_total.inc()
            pause = _PAUSE_SECONDS[min(attempts, len(_PAUSE_SECONDS)) - 1]
            await self._give_back(max(pause, retry_seconds(status)), status, counts=True)
