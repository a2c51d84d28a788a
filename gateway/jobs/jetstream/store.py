"""The store of submitted transfers in NATS JetStream.

What there is, all beginning with ``Connection.prefix``:

- a key-value bucket with a record for each job, which alone says how it stands: every change is of the revision that
  was read (compare and set), so that of two gateways one is told that it has lost;
- a work-queue stream with a message for each job that has not ended, and a pull consumer for each priority: the server
  hands a job to one gateway, and to another one if it has not heard of the first for a lease's length (``in_progress``
  prolongs it), or when a job that was given back is due;
- two streams of events, of iterations the last ones only;
- an object store for what a record cannot hold (label maps, checkpoints, looks), and one for photos and pictures, see
  ``files``.

Every gateway watches the bucket, so that lists, counts and news need no question.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final, NamedTuple

from dpst.v1 import jobs_pb2
from google.rpc import status_pb2  # type: ignore[import-untyped]  # has stubs, lacks py.typed
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from gateway.jobs import outcomes
from gateway.jobs.jetstream.connection import ANSWER_SECONDS, RETRY_SECONDS, Connection, answering, whole
from gateway.jobs.jetstream.events import Events
from gateway.jobs.jetstream.queue import CONSUMERS, WorkQueue
from gateway.jobs.jetstream.records import Held, Stored, Value
from gateway.jobs.jetstream.values import Values
from gateway.jobs.news import News
from gateway.jobs.store import (
    AGEING_SECONDS,
    ENDED,
    LONGEST_DELAY_SECONDS,
    Claim,
    Event,
    Outcome,
    Page,
    Policy,
    Record,
    State,
    Submission,
    Verdict,
)
from services.common.errors import InvalidArgument, Unavailable

__all__ = ["JetStreamStore"]

_QUEUED, _RUNNING = jobs_pb2.TRANSFER_STATE_QUEUED, jobs_pb2.TRANSFER_STATE_RUNNING
_VERSION: Final = 1
"""Of the records. A gateway leaves a bucket of a later version alone."""

_VERSION_KEY: Final = "version"

_NO_RECORD_SECONDS: Final = 5.0
_NO_RECORD_DELIVERIES: Final = 40
"""How often a message is looked at whose record is not there yet: longer than the server remembers its id."""


class _Parts(NamedTuple):
    """What there is of one connection."""

    client: Client
    records: KeyValue
    values: Values
    events: Events
    queue: WorkQueue


class JetStreamStore:
    """``JobStore`` on NATS JetStream. What is kept is with the server when a call returns; see its ``sync_interval``.

    Args:
        connection: shared with the files.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._parts: _Parts | None = None
        self._opening = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._seen: dict[str, Held] = {}
        self._is_up_to_date = asyncio.Event()
        self._held: dict[tuple[str, int], str] = {}
        self._news = News()

    @whole
    async def submit(self, job: Submission) -> Record:
        """See ``JobStore``."""
        async with self._ready():
            # What the watch has not seen may be there all the same: then the record is not made, see below.
            if _key(job.name) in self._seen and (known := await self._read(job.name)):
                return await self._record(job.name, known.stored)
            # The message first: a record without one would wait for ever, a message without one is dropped in the end.
            number = await self._now.queue.put(_key(job.name), job.priority, f"{job.name} {job.fingerprint}")
            # Of two that come at once with different contents, each has its own.
            transfer = await self._now.values.keep(f"{_key(job.name)}.transfer.{job.fingerprint}", job.transfer)
            now = time.time()
            metadata = jobs_pb2.TransferMetadata(state=_QUEUED, request_id=job.request_id, submitted_at=now)
            stored = Stored(
                number=number,
                caller=job.caller,
                fingerprint=job.fingerprint,
                priority=job.priority,
                submitted_at=now,
                metadata=metadata.SerializeToString(),
                refs=tuple(job.refs),
                transfer=transfer,
            )
            try:
                revision = await self._now.records.create(_key(job.name), stored.to_json())
            except KeyWrongLastSequenceError:
                known = await self._read(job.name)
                assert known is not None, "it is there, or it could have been made"  # noqa: S101
                if known.stored.fingerprint != job.fingerprint:
                    await self._now.values.forget(transfer)
                return await self._record(job.name, known.stored)
            self._saw(_key(job.name), Held(stored, revision))
            return Record(job.name, job.caller, job.fingerprint, metadata, None)

    @whole
    async def claim(self, policy: Policy) -> Claim | None:
        """See ``JobStore``."""
        async with self._ready():
            await self._now.queue.lease(policy.lease_seconds)
            while True:
                for priority in self._by_turn():
                    if (message := await self._now.queue.pull(priority)) is not None:
                        break
                else:
                    return None
                if (claim := await self._taken(message, policy)) is not None:
                    return claim

    @whole
    async def beat(
        self,
        claim: Claim,
        policy: Policy,
        metadata: jobs_pb2.TransferMetadata,
        events: Sequence[Event],
        progress: bytes | None,
    ) -> Verdict:
        """See ``JobStore``."""
        async with self._ready():
            key = _key(claim.name)
            achieved = None
            if progress is not None:
                achieved = await self._now.values.keep(f"{key}.progress.{claim.token}.{metadata.sequence}", progress)

            gone: list[Value | None] = [None]

            def alive(stored: Stored) -> Stored | None:
                if not stored.is_held(claim.token):
                    return None
                gone[0] = stored.progress
                return replace(
                    stored,
                    metadata=metadata.SerializeToString(),
                    progress=achieved or stored.progress,
                    held_until=time.time() + policy.lease_seconds,
                )

            after = await self._change(claim.name, alive)
            if after is None:
                await self._now.values.forget(achieved)
                return Verdict.LOST
            if achieved is not None:
                await self._now.values.forget(gone[0])
            await self._now.queue.in_progress(self._held.get((claim.name, claim.token)))
            await self._now.events.add(key, events)
            if events:
                self._news.tell()
            return Verdict.CANCELLED if after.cancelled else Verdict.GO_ON

    @whole
    async def end(self, claim: Claim, metadata: jobs_pb2.TransferMetadata, outcome: Outcome) -> bool:
        """See ``JobStore``."""
        async with self._ready():
            held = await self._ended(
                claim.name, metadata, outcome, lambda stored: stored.is_held(claim.token), claim.token
            )
            reply = self._held.pop((claim.name, claim.token), None)
            if held:
                await self._now.queue.over(reply)
            return held

    @whole
    async def give_back(self, claim: Claim, delay_seconds: float, error: status_pb2.Status, *, counts: bool) -> None:
        """See ``JobStore``."""
        async with self._ready():

            def waiting(stored: Stored) -> Stored | None:
                if not stored.is_held(claim.token) or stored.cancelled:
                    return None
                metadata = stored.parsed()
                metadata.state = _QUEUED
                metadata.attempts -= 0 if counts else 1
                return replace(stored, metadata=metadata.SerializeToString(), error=error.SerializeToString())

            reply = self._held.pop((claim.name, claim.token), None)
            if await self._change(claim.name, waiting) is not None:
                await self._now.queue.again(reply, min(delay_seconds, LONGEST_DELAY_SECONDS))
            elif (known := await self._read(claim.name)) and known.stored.is_held(claim.token):
                await self._ended(claim.name, known.stored.parsed(), outcomes.cancelled(), lambda _: True)
                await self._now.queue.over(reply)

    @whole
    async def get(self, name: str, caller: str) -> Record | None:
        """See ``JobStore``."""
        async with self._ready():
            known = await self._read(name)
            if known is None or known.stored.caller != caller:
                return None
            return await self._record(name, known.stored)

    @whole
    async def events(self, name: str, from_sequence: int) -> Sequence[Event]:
        """See ``JobStore``."""
        async with self._ready():
            return await self._now.events.since(_key(name), from_sequence)

    @whole
    async def page(self, caller: str, states: Collection[State], size: int, token: str) -> Page:
        """See ``JobStore``."""
        if token and not (token.isascii() and token.isdecimal() and len(token) < 19):
            raise InvalidArgument("page_token", repr(token[:40]), "must be the last reply's next_page_token")
        async with self._ready():
            await self._all_seen()
            mine = [
                (held.stored.number, key, held.stored)
                for key, held in self._seen.items()
                if held.stored.caller == caller
                and (not token or held.stored.number < int(token))
                and held.stored.state in states
            ]
            mine.sort(key=lambda each: -each[0])
            records = [await self._record(_name(key), stored) for _, key, stored in mine[:size]]
            return Page(records, str(mine[size - 1][0]) if len(mine) > size else "")

    @whole
    async def cancel(self, name: str, caller: str) -> bool:
        """See ``JobStore``."""
        async with self._ready():
            known = await self._read(name)
            if known is None or known.stored.caller != caller:
                return False
            waits = await self._ended(
                name, known.stored.parsed(), outcomes.cancelled(), lambda stored: stored.state == _QUEUED
            )
            if not waits:
                await self._change(
                    name, lambda stored: replace(stored, cancelled=True) if stored.state == _RUNNING else None
                )
            return True

    @whole
    async def delete(self, name: str, caller: str) -> bool | None:
        """See ``JobStore``."""
        async with self._ready():
            known = await self._read(name)
            if known is None or known.stored.caller != caller:
                return None
            if known.stored.state not in ENDED:
                return False
            await self._forget(_key(name), known.stored)
            return True

    @whole
    async def sweep(self, policy: Policy) -> Collection[str]:
        """See ``JobStore``."""
        async with self._ready():
            await self._all_seen()
            oldest = time.time() - policy.keep_seconds
            for key, held in list(self._seen.items()):
                if held.stored.state in ENDED and held.stored.ended_at < oldest:
                    await self._forget(key, held.stored)
            await self._now.records.purge_deletes()
            return {ref for held in self._seen.values() for ref in held.stored.refs}

    @whole
    async def waiting(self) -> tuple[int, float]:
        """See ``JobStore``."""
        async with self._ready():
            await self._all_seen()
            since = [held.stored.submitted_at for held in self._seen.values() if held.stored.state == _QUEUED]
            return len(since), max(0.0, time.time() - min(since)) if since else 0.0

    async def news(self, timeout_seconds: float) -> None:
        """See ``JobStore``."""
        await self._news.wait(timeout_seconds)

    async def close(self) -> None:
        """See ``JobStore``."""
        await self._unwatch()
        await self.connection.close()

    # Of one connection: streams, buckets, and the watch.

    @property
    def _now(self) -> _Parts:
        assert self._parts is not None, "see _ready"  # noqa: S101
        return self._parts

    @asynccontextmanager
    async def _ready(self) -> AsyncIterator[None]:
        """Connected, with all that has to be there; what goes wrong is Unavailable."""
        async with answering():
            async with self._opening:
                js = await self.connection.jetstream()
                has_watch = self._watching is not None and not self._watching.done()
                if self._parts is None or self._parts.client is not self.connection.client or not has_watch:
                    await self._open(js)
            yield

    async def _open(self, js: JetStreamContext) -> None:
        await self._unwatch()
        connection = self.connection
        records = await js.create_key_value(bucket=f"{connection.prefix}-jobs", replicas=connection.replicas)
        with suppress(KeyWrongLastSequenceError):
            await records.create(_VERSION_KEY, str(_VERSION).encode())
        version = int((await records.get(_VERSION_KEY)).value or b"0")
        if version > _VERSION:
            raise Unavailable(
                f"the store of submitted transfers fails: {connection.prefix}-jobs has version {version}, "
                f"this gateway knows {_VERSION}",
                RETRY_SECONDS,
            )
        values = await Values.opened(js, connection)
        events = await Events.opened(js, connection)
        queue = await WorkQueue.opened(js, connection)
        self._seen.clear()
        self._is_up_to_date.clear()
        self._watching = asyncio.create_task(self._watch(await records.watchall()))
        self._parts = _Parts(connection.client, records, values, events, queue)

    async def _all_seen(self) -> None:
        """Wait until ``_seen`` has the whole bucket. Raises TimeoutError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._is_up_to_date.wait()

    async def _watch(self, watcher: KeyValue.KeyWatcher) -> None:
        async for entry in watcher:
            if entry is None:
                self._is_up_to_date.set()
            elif entry.operation is not None:
                if self._seen.pop(entry.key, None) is not None:
                    self._news.tell()
            elif entry.key != _VERSION_KEY and entry.value is not None and entry.revision is not None:
                self._saw(entry.key, Held(Stored.from_json(entry.value), entry.revision))

    async def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None

    def _saw(self, key: str, held: Held) -> None:
        known = self._seen.get(key)
        if known is None or known.revision < held.revision:
            self._seen[key] = held
            self._news.tell()

    # Records.

    async def _read(self, name: str) -> Held | None:
        try:
            entry = await self._now.records.get(_key(name))
        except NotFoundError:
            return None
        assert entry.value is not None, "a record has a value"  # noqa: S101
        assert entry.revision is not None, "and a revision"  # noqa: S101
        held = Held(Stored.from_json(entry.value), entry.revision)
        self._saw(_key(name), held)
        return held

    async def _change(self, name: str, to: Callable[[Stored], Stored | None]) -> Stored | None:
        """Write what ``to`` makes of the record as it stands; None if there is none, or it wants nothing written."""
        while (held := await self._read(name)) is not None:
            changed = to(held.stored)
            if changed is None:
                return None
            try:
                revision = await self._now.records.update(_key(name), changed.to_json(), last=held.revision)
            except KeyWrongLastSequenceError:
                continue
            self._saw(_key(name), Held(changed, revision))
            return changed
        return None

    async def _ended(
        self,
        name: str,
        metadata: jobs_pb2.TransferMetadata,
        outcome: Outcome,
        if_: Callable[[Stored], bool],
        token: int = 0,
    ) -> bool:
        """Whether the job stood as ``if_`` says, and has ended; ``token`` is of the claim that has a result."""
        result = None
        if outcome.result is not None:
            result = await self._now.values.keep(f"{_key(name)}.result.{token}", outcome.result.SerializeToString())
        ended = jobs_pb2.TransferMetadata()
        ended.CopyFrom(metadata)
        ended.state = outcome.state
        gone: list[Value | None] = []

        def over(stored: Stored) -> Stored | None:
            if not if_(stored):
                return None
            gone[:] = [stored.progress, stored.transfer]
            return replace(
                stored,
                metadata=ended.SerializeToString(),
                ended_at=time.time(),
                progress=None,
                transfer=None,
                result=result,
                error=None if outcome.error is None else outcome.error.SerializeToString(),
                refs=tuple(dict.fromkeys((*stored.refs, *outcome.refs))),
            )

        if await self._change(name, over) is None:
            await self._now.values.forget(result)
            return False
        await self._now.values.forget(*gone)
        return True

    async def _record(self, name: str, stored: Stored) -> Record:
        metadata = stored.parsed()
        outcome = None
        if metadata.state in ENDED:
            result = None if stored.result is None else await self._now.values.read(stored.result)
            outcome = Outcome(
                metadata.state,
                None if result is None else jobs_pb2.TransferResult.FromString(result),
                None if stored.error is None else status_pb2.Status.FromString(stored.error),
            )
        return Record(name, stored.caller, stored.fingerprint, metadata, outcome)

    async def _forget(self, key: str, stored: Stored) -> None:
        await self._now.records.purge(key)
        self._seen.pop(key, None)
        await self._now.events.forget(key)
        await self._now.values.forget(stored.transfer, stored.progress, stored.result)

    # Claims.

    def _by_turn(self) -> list[int]:
        """The priorities, that with the job whose turn it is first: see ``AGEING_SECONDS``."""
        turns = dict.fromkeys(range(len(CONSUMERS)), math.inf)
        for held in self._seen.values():
            stored = held.stored
            if stored.state == _QUEUED:
                turn = stored.submitted_at + AGEING_SECONDS * stored.priority
                turns[stored.priority] = min(turns[stored.priority], turn)
        return sorted(turns, key=lambda priority: (turns[priority], priority))

    async def _taken(self, message: Msg, policy: Policy) -> Claim | None:
        """The claim that a message is; None if the job is over, given up, or in somebody's hands.

        The last is not the server's usual doing: it was killed and has forgotten what it delivered, or the job has two
        messages, because it was submitted once more long after the first time.
        """
        key, deliveries = message.data.decode(), message.metadata.num_delivered
        name, now = _name(key), time.time()
        found: list[Stored] = []
        over: list[Outcome] = []
        held_until: list[float] = []

        def begun(stored: Stored) -> Stored | None:
            found[:] = [stored]
            over.clear()
            held_until.clear()
            metadata = stored.parsed()
            if metadata.state in ENDED:
                return None
            if metadata.state == _RUNNING and now < stored.held_until <= now + 2 * policy.lease_seconds:
                held_until.append(stored.held_until)
                return None
            end = outcomes.end_instead(
                policy,
                is_cancelled=stored.cancelled,
                attempts=metadata.attempts,
                waited_seconds=now - stored.submitted_at,
                was_lost=metadata.state == _RUNNING,
                error=status_pb2.Status.FromString(stored.error or b""),
            )
            if end is not None:
                over.append(end)
                return None
            metadata.state = _RUNNING
            metadata.attempts += 1
            return replace(
                stored,
                metadata=metadata.SerializeToString(),
                token=stored.token + 1,
                held_until=now + policy.lease_seconds,
            )

        taken = await self._change(name, begun)
        if taken is not None:
            self._held[name, taken.token] = message.reply
            transfer = await self._now.values.read(taken.transfer)
            progress = await self._now.values.read(taken.progress)
            return Claim(name, taken.token, transfer, progress, taken.parsed())
        # What counts is the record as it was looked at: one that is made a moment later has not been decided on.
        if not found and deliveries < _NO_RECORD_DELIVERIES:
            pause = min(0.05 * 2**deliveries, _NO_RECORD_SECONDS)
            await self._now.queue.again(message.reply, pause)  # it is on its way
            return None
        if over:
            await self._ended(name, found[0].parsed(), over[0], lambda stored: stored.state not in ENDED)
        if held_until:
            await self._now.queue.again(message.reply, held_until[0] - now)
        else:
            await self._now.queue.over(message.reply)
        return None


def _key(name: str) -> str:
    return name.rpartition("/")[2]


def _name(key: str) -> str:
    return f"operations/{key}"
