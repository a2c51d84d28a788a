"""Submitted transfers in NATS JetStream, for gateways on many machines.

What there is, all beginning with ``Connection.prefix``:

- a key-value bucket with a record for each job, which alone says how it stands: every change is of the revision that
  was read (compare and set), so that of two gateways one is told that it has lost;
- a work-queue stream with a message for each job that has not ended, and a pull consumer for each priority: the server
  hands a job to one gateway, and to another one if it has not heard of the first for a lease's length (``in_progress``
  prolongs it), or when a job that was given back is due;
- two streams of events, of iterations the last ones only;
- an object store for what a message cannot hold (label maps, checkpoints, looks), and one for photos and pictures,
  see ``jetstream_files``.

Every gateway watches the bucket, so that lists, counts and news need no question.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

from cachetools import LRUCache
from dpst.v1 import jobs_pb2
from google.rpc import status_pb2  # type: ignore[import-untyped]  # has stubs, lacks py.typed
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue
from nats.js.object_store import ObjectStore

from gateway.jobs import outcomes
from gateway.jobs.jetstream_connection import ANSWER_SECONDS, RETRY_SECONDS, Connection, answering, whole
from gateway.jobs.jetstream_records import Held, Stored, Value
from gateway.jobs.news import News
from gateway.jobs.store import (
    AGEING_SECONDS,
    ENDED,
    KEPT_ITERATIONS,
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

__all__ = ["CONSUMERS", "JetStreamStore"]

_QUEUED, _RUNNING = jobs_pb2.TRANSFER_STATE_QUEUED, jobs_pb2.TRANSFER_STATE_RUNNING
CONSUMERS: Final = ("priority-0", "priority-1", "priority-2")
"""Of the work-queue stream, one for each priority, the most urgent first."""


_VERSION: Final = 1
"""Of the records. A gateway leaves a bucket of a later version alone."""

_VERSION_KEY: Final = "version"

_NO_RECORD_SECONDS: Final = 5.0
_NO_RECORD_DELIVERIES: Final = 40
"""How often a message is looked at whose record is not there yet: longer than the server remembers its id."""

_ACK, _IN_PROGRESS = b"+ACK", b"+WPI"
_SEQUENCE: Final = "Dpst-Sequence"
_CURSORS: Final = 4096


class JetStreamStore:
    """``JobStore`` on NATS JetStream. What is kept is with the server when a call returns; see its ``sync_interval``.

    Args:
        connection: shared with the files.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._opened_on: Client | None = None
        self._opening = asyncio.Lock()
        self._records: KeyValue | None = None
        self._objects: ObjectStore | None = None
        self._js: JetStreamContext | None = None
        self._watching: asyncio.Task[None] | None = None
        self._seen: dict[str, Held] = {}
        self._is_up_to_date = asyncio.Event()
        self._held: dict[tuple[str, int], str] = {}
        self._lease_seconds = 0.0
        self._cursors: LRUCache[tuple[str, str], tuple[int, int]] = LRUCache(_CURSORS)
        self._news = News()

    @whole
    async def submit(self, job: Submission) -> Record:
        """See ``JobStore``."""
        async with self._ready():
            if known := await self._read(job.name):
                return await self._record(job.name, known.stored)
            # The message first: a record without one would wait for ever, a message without one is dropped in the end.
            sent = await self._jetstream.publish(
                f"{self._prefix}.work.{job.priority}",
                _key(job.name).encode(),
                headers={api.Header.MSG_ID: f"{job.name} {job.fingerprint}"},
            )
            # Of two that come at once with different contents, each has its own.
            transfer = await self._value(f"{_key(job.name)}.transfer.{job.fingerprint}", job.transfer)
            now = time.time()
            metadata = jobs_pb2.TransferMetadata(state=_QUEUED, request_id=job.request_id, submitted_at=now)
            stored = Stored(
                number=sent.seq,
                caller=job.caller,
                fingerprint=job.fingerprint,
                priority=job.priority,
                submitted_at=now,
                metadata=metadata.SerializeToString(),
                refs=tuple(job.refs),
                transfer=transfer,
            )
            try:
                revision = await self._bucket.create(_key(job.name), stored.to_json())
            except KeyWrongLastSequenceError:
                known = await self._read(job.name)
                assert known is not None, "it is there, or it could have been made"  # noqa: S101
                if known.stored.fingerprint != job.fingerprint:
                    await self._forget_value(transfer)
                return await self._record(job.name, known.stored)
            self._saw(_key(job.name), Held(stored, revision))
            return Record(job.name, job.caller, job.fingerprint, metadata, None)

    @whole
    async def claim(self, policy: Policy) -> Claim | None:
        """See ``JobStore``."""
        async with self._ready():
            await self._lease(policy.lease_seconds)
            while True:
                for priority in self._by_turn():
                    if (message := await self._pull(priority)) is not None:
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
                achieved = await self._value(f"{key}.progress.{claim.token}.{metadata.sequence}", progress)

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
                await self._forget_value(achieved)
                return Verdict.LOST
            if achieved is not None:
                await self._forget_value(gone[0])
            await self._answer(self._held.get((claim.name, claim.token)), _IN_PROGRESS)
            for event in events:
                kind = "iterations" if event.is_iteration else "events"
                await self._jetstream.publish(
                    f"{self._prefix}.{kind}.{key}", event.data, headers={_SEQUENCE: str(event.sequence)}
                )
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
                await self._answer(reply, _ACK)
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
                await self._answer(reply, _nak(min(delay_seconds, LONGEST_DELAY_SECONDS)))
            elif (known := await self._read(claim.name)) and known.stored.is_held(claim.token):
                await self._ended(claim.name, known.stored.parsed(), outcomes.cancelled(), lambda _: True)
                await self._answer(reply, _ACK)

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
            found = [
                event for kind in ("events", "iterations") async for event in self._of(kind, _key(name), from_sequence)
            ]
            return sorted(found, key=lambda event: event.sequence)

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
            await self._bucket.purge_deletes()
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
    def _prefix(self) -> str:
        return self.connection.prefix

    @property
    def _jetstream(self) -> JetStreamContext:
        assert self._js is not None, "see _ready"  # noqa: S101
        return self._js

    @property
    def _bucket(self) -> KeyValue:
        assert self._records is not None, "see _ready"  # noqa: S101
        return self._records

    @asynccontextmanager
    async def _ready(self) -> AsyncIterator[None]:
        """Connected, with all that has to be there; what goes wrong is Unavailable."""
        async with answering():
            async with self._opening:
                js = await self.connection.jetstream()
                has_watch = self._watching is not None and not self._watching.done()
                if self._opened_on is not self.connection.client or not has_watch:
                    await self._open(js)
            yield

    async def _open(self, js: JetStreamContext) -> None:
        await self._unwatch()
        self._js = js
        prefix, replicas = self._prefix, self.connection.replicas
        self._records = await js.create_key_value(bucket=f"{prefix}-jobs", replicas=replicas)
        self._objects = await js.create_object_store(f"{prefix}-values", replicas=replicas)
        for name, subjects, most in (
            ("events", f"{prefix}.events.*", -1),
            ("iterations", f"{prefix}.iterations.*", KEPT_ITERATIONS),
        ):
            config = api.StreamConfig(
                name=f"{prefix}-{name}",
                subjects=[subjects],
                max_msgs_per_subject=most,
                num_replicas=replicas,
                allow_direct=True,
            )
            await js.add_stream(config)
        work = api.StreamConfig(
            name=f"{prefix}-work",
            subjects=[f"{prefix}.work.*"],
            retention=api.RetentionPolicy.WORK_QUEUE,
            num_replicas=replicas,
        )
        await js.add_stream(work)
        with suppress(KeyWrongLastSequenceError):
            await self._bucket.create(_VERSION_KEY, str(_VERSION).encode())
        version = int((await self._bucket.get(_VERSION_KEY)).value or b"0")
        if version > _VERSION:
            raise Unavailable(
                f"the store of submitted transfers fails: {prefix}-jobs has version {version}, "
                f"this gateway knows {_VERSION}",
                RETRY_SECONDS,
            )
        self._lease_seconds = 0.0
        self._seen.clear()
        self._is_up_to_date.clear()
        watcher = await self._bucket.watchall()
        self._watching = asyncio.create_task(self._watch(watcher))
        self._opened_on = self.connection.client

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
            with suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None

    def _saw(self, key: str, held: Held) -> None:
        known = self._seen.get(key)
        if known is None or known.revision < held.revision:
            self._seen[key] = held
            self._news.tell()

    # Records.

    async def _read(self, name: str) -> Held | None:
        try:
            entry = await self._bucket.get(_key(name))
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
                revision = await self._bucket.update(_key(name), changed.to_json(), last=held.revision)
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
            result = await self._value(f"{_key(name)}.result.{token}", outcome.result.SerializeToString())
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
            await self._forget_value(result)
            return False
        for value in gone:
            await self._forget_value(value)
        return True

    async def _record(self, name: str, stored: Stored) -> Record:
        metadata = stored.parsed()
        outcome = None
        if metadata.state in ENDED:
            result = None if stored.result is None else await self._bytes(stored.result)
            outcome = Outcome(
                metadata.state,
                None if result is None else jobs_pb2.TransferResult.FromString(result),
                None if stored.error is None else status_pb2.Status.FromString(stored.error),
            )
        return Record(name, stored.caller, stored.fingerprint, metadata, outcome)

    async def _forget(self, key: str, stored: Stored) -> None:
        await self._bucket.purge(key)
        self._seen.pop(key, None)
        for kind in ("events", "iterations"):
            await self._jetstream.purge_stream(f"{self._prefix}-{kind}", subject=f"{self._prefix}.{kind}.{key}")
        for value in (stored.transfer, stored.progress, stored.result):
            await self._forget_value(value)

    # Values that may be too large for a record.

    async def _value(self, name: str, data: bytes) -> Value:
        value = Value.of(name, data)
        if value.object_name:
            assert self._objects is not None, "see _ready"  # noqa: S101
            await self._objects.put(value.object_name, data)
        return value

    async def _bytes(self, value: Value) -> bytes:
        if not value.object_name:
            return value.data
        assert self._objects is not None, "see _ready"  # noqa: S101
        return (await self._objects.get(value.object_name)).data or b""

    async def _forget_value(self, value: Value | None) -> None:
        if value is not None and value.object_name:
            assert self._objects is not None, "see _ready"  # noqa: S101
            with suppress(NotFoundError):
                await self._objects.delete(value.object_name)

    # The queue.

    async def _lease(self, seconds: float) -> None:
        """Have the server hand a job to another gateway after so long without a sign of life."""
        if seconds == self._lease_seconds:
            return
        for priority, consumer in enumerate(CONSUMERS):
            config = api.ConsumerConfig(
                durable_name=consumer,
                filter_subject=f"{self._prefix}.work.{priority}",
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=seconds,
                max_ack_pending=-1,
            )
            await self._jetstream.add_consumer(f"{self._prefix}-work", config)
        self._lease_seconds = seconds

    def _by_turn(self) -> list[int]:
        """The priorities, that with the job whose turn it is first: see ``AGEING_SECONDS``."""
        turns = dict.fromkeys(range(len(CONSUMERS)), math.inf)
        for held in self._seen.values():
            stored = held.stored
            if stored.state == _QUEUED:
                turn = stored.submitted_at + AGEING_SECONDS * stored.priority
                turns[stored.priority] = min(turns[stored.priority], turn)
        return sorted(turns, key=lambda priority: (turns[priority], priority))

    async def _pull(self, priority: int) -> Msg | None:
        """The next message of this priority, if there is one now."""
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._prefix}-work.{CONSUMERS[priority]}"
        request = json.dumps({"batch": 1, "no_wait": True}).encode()
        # An inbox of its own: the message comes under its own subject, by which a shared one finds nobody.
        message = await self.connection.client.request(subject, request, timeout=ANSWER_SECONDS, old_style=True)
        status = (message.headers or {}).get("Status")
        if status in ("404", "408", "409"):
            return None
        if status:
            raise APIError.from_msg(message)
        return message

    async def _taken(self, message: Msg, policy: Policy) -> Claim | None:
        """The claim that a message is; None if the job is over, given up, or in somebody's hands.

        The last is not the server's usual doing: it was killed and has forgotten what it delivered, or the job has two
        messages, because it was submitted once more long after the first time.
        """
        key, deliveries = message.data.decode(), message.metadata.num_delivered
        name, now = _name(key), time.time()
        over: list[Outcome] = []
        held_until: list[float] = []

        def begun(stored: Stored) -> Stored | None:
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
            transfer, progress = taken.transfer, taken.progress
            return Claim(
                name,
                taken.token,
                b"" if transfer is None else await self._bytes(transfer),
                b"" if progress is None else await self._bytes(progress),
                taken.parsed(),
            )
        known = await self._read(name)
        if known is None and deliveries < _NO_RECORD_DELIVERIES:
            await self._answer(message.reply, _nak(min(0.05 * 2**deliveries, _NO_RECORD_SECONDS)))  # it is on its way
            return None
        if known is not None and over:
            await self._ended(name, known.stored.parsed(), over[0], lambda stored: stored.state not in ENDED)
        await self._answer(message.reply, _nak(held_until[0] - now) if held_until else _ACK)
        return None

    async def _answer(self, reply: str | None, says: bytes) -> None:
        """Tell the server about a message, by its reply subject, which any connection may use."""
        if reply is not None:
            await self.connection.client.publish(reply, says)

    # Events.

    async def _of(self, kind: str, key: str, from_sequence: int) -> AsyncIterator[Event]:
        stream, subject = f"{self._prefix}-{kind}", f"{self._prefix}.{kind}.{key}"
        last, place = self._cursors.get((kind, key), (-1, 1))
        if from_sequence <= last:
            place = 1
        while True:
            try:
                message = await self._jetstream.get_msg(stream, seq=place, subject=subject, next=True, direct=True)
            except NotFoundError:
                return
            assert message.seq is not None, "the server counts"  # noqa: S101
            sequence, place = int((message.headers or {})[_SEQUENCE]), message.seq + 1
            if sequence >= from_sequence:
                self._cursors[kind, key] = (sequence, place)
                yield Event(sequence, message.data or b"", is_iteration=kind == "iterations")


def _nak(delay_seconds: float) -> bytes:
    return f'-NAK {{"delay": {round(delay_seconds * 1e9)}}}'.encode()


def _key(name: str) -> str:
    return name.rpartition("/")[2]


def _name(key: str) -> str:
    return f"operations/{key}"
