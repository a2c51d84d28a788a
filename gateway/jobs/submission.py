"""Transfers are submitted and watched."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator
from typing import Final

from dpst.v1 import image_pb2, params_pb2, photo_style_pb2, progress_pb2
from google.longrunning import operations_pb2

from gateway.admission import admit
from gateway.fetch import Fetcher
from gateway.jobs.files import JobFiles
from gateway.jobs.operations import COLLECTION, POLL_SECONDS, found, operation_of
from gateway.jobs.store import JobStore, Submission
from services.common.auth import current_caller
from services.common.config import GatewaySettings
from services.common.errors import InvalidArgument
from services.common.status import error_of

__all__ = ["Jobs"]

_URGENCY: Final = {params_pb2.PRIORITY_HIGH: 0, params_pb2.PRIORITY_LOW: 2}
_NORMAL: Final = 1


class Jobs:
    """The front of a store of jobs."""

    def __init__(self, store: JobStore, files: JobFiles, fetcher: Fetcher, settings: GatewaySettings) -> None:
        self._store, self._files, self._fetcher, self._settings = store, files, fetcher, settings

    async def submit(self, transfer: photo_style_pb2.Transfer) -> operations_pb2.Operation:
        """Keep a transfer with its photos. It is not lost any more when this returns.

        Raises:
            InvalidArgument: it cannot be done, or its ``request_id`` was another transfer's.
        """
        await asyncio.gather(
            self._fetcher.fill(transfer.content, "content"), self._fetcher.fill(transfer.style, "style")
        )
        await asyncio.to_thread(admit, transfer, self._settings)
        if transfer.priority not in params_pb2.Priority.values():
            names = ", ".join(params_pb2.Priority.keys()[1:])
            raise InvalidArgument("priority", transfer.priority, f"must be one of {names}")
        refs = await asyncio.gather(self._files.write(transfer.content.data), self._files.write(transfer.style.data))
        kept = photo_style_pb2.Transfer()
        kept.CopyFrom(transfer)
        for image, ref in zip((kept.content, kept.style), refs, strict=True):
            image.CopyFrom(image_pb2.Image(ref=ref))
        caller = current_caller()
        name = f"{COLLECTION}/{_id(caller, transfer.request_id)}"
        if not kept.request_id:
            kept.request_id = name.rpartition("/")[2]
        data = kept.SerializeToString(deterministic=True)
        fingerprint = hashlib.sha256(data).hexdigest()
        urgency = _URGENCY.get(transfer.priority, _NORMAL)
        submission = Submission(name, caller, kept.request_id, fingerprint, urgency, data, refs)
        record = await self._store.submit(submission)
        if record.fingerprint != fingerprint:
            raise InvalidArgument("request_id", repr(transfer.request_id), "was given to another transfer")
        return operation_of(record)

    async def watch(
        self, request: photo_style_pb2.WatchTransferRequest
    ) -> AsyncGenerator[photo_style_pb2.WatchTransferResponse, None]:
        """Yield the events of a job from a number on, to its end; then raise its error, if it has one.

        Raises NotFound if this caller has no such job.
        """
        wanted = request.from_sequence
        while True:
            record = await found(self._store, request.name)
            for event in await self._store.events(request.name, wanted):
                wanted = event.sequence + 1
                yield photo_style_pb2.WatchTransferResponse(
                    event=photo_style_pb2.TransferStreamResponse.FromString(event.data)
                )
            outcome = record.outcome
            if outcome is None:
                await self._store.news(POLL_SECONDS)
                continue
            if outcome.error is not None:
                raise error_of(outcome.error)
            if outcome.result is not None:
                done = progress_pb2.Done(report=outcome.result.report, look=outcome.result.look)
                sequence = record.metadata.sequence + 1
                event_ = photo_style_pb2.TransferStreamResponse(sequence=sequence, done=done)
                yield photo_style_pb2.WatchTransferResponse(event=event_, picture=outcome.result.picture)
            return


def _id(caller: str, request_id: str) -> str:
    """The same for the same request of the same caller."""
    if not request_id:
        return uuid.uuid4().hex
    return hashlib.sha256(f"{caller}\0{request_id}".encode()).hexdigest()[:32]
