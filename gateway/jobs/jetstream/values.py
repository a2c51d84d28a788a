"""What may be too large for a record or a message: label maps, checkpoints, looks."""

from __future__ import annotations

from nats.js import JetStreamContext
from nats.js.object_store import ObjectStore

from gateway.jobs.jetstream.connection import Connection
from gateway.jobs.jetstream.objects import remove_object
from gateway.jobs.jetstream.records import Value

__all__ = ["Values"]


class Values:
    """Small ones stand in the record itself, the others in an object store."""

    def __init__(self, js: JetStreamContext, bucket: str, objects: ObjectStore) -> None:
        self._js, self._bucket, self._objects = js, bucket, objects

    @classmethod
    async def opened(cls, js: JetStreamContext, connection: Connection) -> Values:
        """With the object store that they need, which is made if it is not there."""
        bucket = f"{connection.prefix}-values"
        return cls(js, bucket, await js.create_object_store(bucket, replicas=connection.replicas))

    async def keep(self, name: str, data: bytes) -> Value:
        """What a record has of ``data``; ``name`` is its object's, if it needs one."""
        value = Value.of(name, data)
        if value.object_name:
            await self._objects.put(value.object_name, data)
        return value

    async def read(self, value: Value | None) -> bytes:
        """The bytes; none of None."""
        if value is None:
            return b""
        if not value.object_name:
            return value.data
        return (await self._objects.get(value.object_name)).data or b""

    async def forget(self, *values: Value | None) -> None:
        """Remove what these have beside their records."""
        for value in values:
            if value is not None and value.object_name:
                await remove_object(self._js, self._bucket, value.object_name)
