"""The photos and pictures of submitted transfers in an object store of NATS JetStream."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection
from datetime import datetime
from typing import Final

from cachetools import TTLCache
from nats.aio.client import Client
from nats.js.api import ObjectInfo
from nats.js.errors import NotFoundError
from nats.js.object_store import ObjectStore

from gateway.jobs.files import NEW_SECONDS
from gateway.jobs.jetstream.connection import Connection, answering, whole
from gateway.jobs.jetstream.objects import remove_object
from services.common.errors import NotFound

__all__ = ["JetStreamFiles"]

_KNOWN: Final = 4096


class JetStreamFiles:
    """``JobFiles`` by the SHA-256 of their bytes; the server's own digest of an object is checked when it is read.

    Args:
        connection: shared with the store of jobs.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._bucket = f"{connection.prefix}-files"
        self._opened: tuple[Client, ObjectStore] | None = None
        # Of a batch all jobs have one style: files that are known to be there need no question.
        self._known: TTLCache[str, bool] = TTLCache(_KNOWN, NEW_SECONDS / 4)

    @whole
    async def write(self, data: bytes) -> str:
        """See ``JobFiles``."""
        ref = hashlib.sha256(data).hexdigest()
        async with answering():
            store = await self._store()
            if ref in self._known:
                return ref
            try:
                is_new = _age_seconds(await store.get_info(ref)) < NEW_SECONDS / 2
            except NotFoundError:
                is_new = False
            if not is_new:  # another time, too, lest it is removed before its job is there
                await store.put(ref, data)
        self._known[ref] = True
        return ref

    @whole
    async def read(self, ref: str, field: str) -> bytes:
        """See ``JobFiles``."""
        async with answering():
            store = await self._store()
            try:
                return (await store.get(ref)).data or b""
            except NotFoundError:
                self._known.pop(ref, None)
                raise NotFound(f"{field}: {ref} is not here, or is here no more; upload the file again") from None

    @whole
    async def keep_only(self, needed: Collection[str]) -> None:
        """See ``JobFiles``."""
        async with answering():
            js, store = await self.connection.jetstream(), await self._store()
            try:
                found = await store.list()
            except NotFoundError:
                return
            for info in found:
                if info.name not in needed and _age_seconds(info) > NEW_SECONDS:
                    self._known.pop(info.name, None)
                    await remove_object(js, self._bucket, info.name)

    async def _store(self) -> ObjectStore:
        js = await self.connection.jetstream()
        client = self.connection.client
        if self._opened is None or self._opened[0] is not client:
            self._opened = client, await js.create_object_store(self._bucket, replicas=self.connection.replicas)
            self._known.clear()  # a server that comes back may have lost what it had
        return self._opened[1]


def _age_seconds(info: ObjectInfo) -> float:
    return time.time() - datetime.fromisoformat(info.mtime).timestamp() if info.mtime else 0.0
