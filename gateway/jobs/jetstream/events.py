"""What happened to jobs, in two streams with a subject for each job: of iterations the last ones are kept only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from cachetools import LRUCache
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

from gateway.jobs.jetstream.connection import Connection
from gateway.jobs.store import KEPT_ITERATIONS, Event

__all__ = ["Events"]

_KINDS: Final = {"events": -1, "iterations": KEPT_ITERATIONS}
"""Streams, and how many events of a job each keeps; -1 = all."""

_SEQUENCE: Final = "Dpst-Sequence"
_CURSORS: Final = 4096


class Events:
    """Of all jobs, by their keys."""

    def __init__(self, js: JetStreamContext, prefix: str) -> None:
        self._js, self._prefix = js, prefix
        # (event, place in the stream) where the last reader stopped: few begin anew, most want what comes next.
        self._cursors: LRUCache[tuple[str, str], tuple[int, int]] = LRUCache(_CURSORS)

    @classmethod
    async def opened(cls, js: JetStreamContext, connection: Connection) -> Events:
        """With the streams that they need, which are made if they are not there."""
        prefix = connection.prefix
        for kind, most in _KINDS.items():
            config = api.StreamConfig(
                name=f"{prefix}-{kind}",
                subjects=[f"{prefix}.{kind}.*"],
                max_msgs_per_subject=most,
                num_replicas=connection.replicas,
                allow_direct=True,
            )
            await js.add_stream(config)
        return cls(js, prefix)

    async def add(self, key: str, events: Sequence[Event]) -> None:
        """Keep what happened to a job."""
        for event in events:
            kind = "iterations" if event.is_iteration else "events"
            await self._js.publish(f"{self._prefix}.{kind}.{key}", event.data, headers={_SEQUENCE: str(event.sequence)})

    async def since(self, key: str, from_sequence: int) -> list[Event]:
        """A job's events from a number on, in order."""
        found = [event for kind in _KINDS async for event in self._of(kind, key, from_sequence)]
        return sorted(found, key=lambda event: event.sequence)

    async def forget(self, key: str) -> None:
        """Remove a job's events."""
        for kind in _KINDS:
            await self._js.purge_stream(f"{self._prefix}-{kind}", subject=f"{self._prefix}.{kind}.{key}")

    async def _of(self, kind: str, key: str, from_sequence: int) -> AsyncIterator[Event]:
        stream, subject = f"{self._prefix}-{kind}", f"{self._prefix}.{kind}.{key}"
        last, place = self._cursors.get((kind, key), (-1, 1))
        if from_sequence <= last:
            place = 1
        while True:
            try:
                message = await self._js.get_msg(stream, seq=place, subject=subject, next=True, direct=True)
            except NotFoundError:
                return
            assert message.seq is not None, "the server counts"  # noqa: S101
            sequence, place = int((message.headers or {})[_SEQUENCE]), message.seq + 1
            if sequence >= from_sequence:
                self._cursors[kind, key] = (sequence, place)
                yield Event(sequence, message.data or b"", is_iteration=kind == "iterations")
