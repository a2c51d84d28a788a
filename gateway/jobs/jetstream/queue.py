"""Jobs that have not ended, as messages of a work-queue stream: the server hands each to one gateway at a time."""

from __future__ import annotations

import json
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.errors import APIError

from gateway.jobs.jetstream.connection import ANSWER_SECONDS, Connection

__all__ = ["CONSUMERS", "WorkQueue"]

CONSUMERS: Final = ("priority-0", "priority-1", "priority-2")
"""One for each priority, the most urgent first."""

_NOTHING: Final = ("404", "408", "409")
"""Statuses of an answer that is no message: there is none now."""


class WorkQueue:
    """A message holds a job's key. Its reply subject is where the server hears of it, over any connection."""

    def __init__(self, js: JetStreamContext, client: Client, prefix: str) -> None:
        self._js, self._client, self._prefix = js, client, prefix
        self._lease_seconds = 0.0

    @classmethod
    async def opened(cls, js: JetStreamContext, connection: Connection) -> WorkQueue:
        """With the stream that it needs, which is made if it is not there."""
        prefix = connection.prefix
        config = api.StreamConfig(
            name=f"{prefix}-work",
            subjects=[f"{prefix}.work.*"],
            retention=api.RetentionPolicy.WORK_QUEUE,
            num_replicas=connection.replicas,
        )
        await js.add_stream(config)
        return cls(js, connection.client, prefix)

    async def put(self, key: str, priority: int, message_id: str) -> int:
        """Add a job; its number, the same again for an id that the server remembers."""
        headers = {api.Header.MSG_ID.value: message_id}
        return (await self._js.publish(f"{self._prefix}.work.{priority}", key.encode(), headers=headers)).seq

    async def lease(self, seconds: float) -> None:
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
            await self._js.add_consumer(f"{self._prefix}-work", config)
        self._lease_seconds = seconds

    async def pull(self, priority: int) -> Msg | None:
        """The next message of this priority, if there is one now."""
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._prefix}-work.{CONSUMERS[priority]}"
        request = json.dumps({"batch": 1, "no_wait": True}).encode()
        # An inbox of its own: the message comes under its own subject, by which a shared one finds nobody.
        message = await self._client.request(subject, request, timeout=ANSWER_SECONDS, old_style=True)
        status = (message.headers or {}).get("Status")
        if status in _NOTHING:
            return None
        if status:
            raise APIError.from_msg(message)
        return message

    async def over(self, reply: str | None) -> None:
        """This job needs nobody any more."""
        await self._answer(reply, b"+ACK")

    async def in_progress(self, reply: str | None) -> None:
        """Somebody works on this job: its lease begins anew."""
        await self._answer(reply, b"+WPI")

    async def again(self, reply: str | None, delay_seconds: float) -> None:
        """Hand this job to somebody after the delay."""
        await self._answer(reply, f'-NAK {{"delay": {round(delay_seconds * 1e9)}}}'.encode())

    async def _answer(self, reply: str | None, says: bytes) -> None:
        if reply is not None:
            await self._client.publish(reply, says)
