"""Photos through a gateway, so many at a time, each submitted so that nothing of it is lost."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpst.v1 import image_pb2
from dpst_client import AsyncClient, InvalidRequest, NotAllowed, TransferFailed, TransferResult, Unavailable, Uploaded

from gateway.cli.batch.journal import Entry, Journal
from gateway.cli.files import write_atomically

__all__ = ["Plan", "Task", "run"]

_TRIES = 60
"""With pauses of up to 5 s: a server that restarts, or is full for some minutes, ends no batch."""

_NO_JOBS = "DPST_JOBS_URL"
"""The field that a gateway names which keeps no submitted transfers."""


@dataclass(frozen=True)
class Task:
    """A photo, the file of its result, and how that is encoded."""

    content: Path
    output: Path
    options: image_pb2.OutputOptions


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        tasks: the photos.
        style: bytes of the photo that gives the style.
        params: of every transfer, as ``dpst_client`` takes them.
        segmentation_model: of every transfer.
        at_once: photos on their way at a time.
    """

    tasks: Sequence[Task]
    style: bytes
    params: Mapping[str, Any]
    segmentation_model: str
    at_once: int


async def run(
    address: str, token: str | None, plan: Plan, journal: Journal, on_entry: Callable[[Task, Entry | None], None]
) -> None:
    """Do what the journal says is not done yet.

    Args:
        address: of the gateway.
        token: key for it.
        plan: what to do.
        journal: gets an entry for each photo.
        on_entry: is told of each, None = it was done before; called in a thread, for several at a time.

    Raises:
        NotAllowed: the key is wrong.
        Unavailable: the gateway was away for minutes.
    """
    waiting = list(reversed(plan.tasks))
    async with AsyncClient(address, token=token, retries=_TRIES) as client:
        photo = _Style(client, plan.style)

        async def work() -> None:
            while waiting:
                task = waiting.pop()
                entry = await _done(client, photo, plan, task, journal)
                await asyncio.to_thread(on_entry, task, entry)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(plan.at_once, len(plan.tasks))):
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None


class _Style:
    """The style photo, uploaded when it is needed first, and again if the server has it no more."""

    def __init__(self, client: AsyncClient, data: bytes) -> None:
        self._client, self._data = client, data
        self._lock = asyncio.Lock()
        self._uploaded: Uploaded | None = None

    async def ref(self) -> Uploaded:
        async with self._lock:
            if self._uploaded is None:
                self._uploaded = await self._client.upload(self._data)
            return self._uploaded

    def gone(self) -> None:
        self._uploaded = None


async def _done(client: AsyncClient, style: _Style, plan: Plan, task: Task, journal: Journal) -> Entry | None:
    began = time.monotonic()
    try:
        content = await asyncio.to_thread(task.content.read_bytes)
    except OSError as error:
        entry = Entry(str(task.content), task.output.name, "", "failed", error=str(error))
        journal.add(entry)
        return entry
    digest = await asyncio.to_thread(_digest, content, plan, task)
    if journal.is_done(task.output.name, digest) and task.output.exists():
        return None
    try:
        result = await _restyled(client, style, content, plan, task, f"{digest[:40]}.{journal.failures(digest)}")
    except (NotAllowed, Unavailable):
        raise
    except TransferFailed as error:
        entry = Entry(str(task.content), task.output.name, digest, "failed", error=str(error))
    else:
        await asyncio.to_thread(write_atomically, task.output, result.picture)
        entry = Entry(
            content=str(task.content),
            output=task.output.name,
            digest=digest,
            state="done",
            seconds=round(time.monotonic() - began, 2),
            evaluations=result.report.evaluations,
            style_distance=round(result.report.quality.style_relative, 4),
            edges=round(result.report.quality.edges, 4),
            notes=tuple(result.report.notes),
        )
    await asyncio.to_thread(journal.add, entry)
    return entry


async def _restyled(
    client: AsyncClient, style: _Style, content: bytes, plan: Plan, task: Task, request_id: str
) -> TransferResult:
    for last in (False, True):
        asked: dict[str, Any] = {
            "output": task.options,
            "segmentation_model": plan.segmentation_model,
            "priority": "low",
            **plan.params,
        }
        try:
            photo = await style.ref()
            try:
                name = await client.submit(content, photo, request_id=request_id, **asked)
            except InvalidRequest as error:
                if error.field != _NO_JOBS:
                    raise
                return await client.transfer(content, photo, request_id=request_id, **asked)
            return await client.watch(name)
        except InvalidRequest as error:
            if last or not str(error).startswith("style.ref"):
                raise
            style.gone()
    raise AssertionError("the last round returns or raises")


def _digest(content: bytes, plan: Plan, task: Task) -> str:
    found = hashlib.sha256()
    asked = repr((sorted(plan.params.items()), plan.segmentation_model)).encode()
    for part in (content, plan.style, asked, task.options.SerializeToString(deterministic=True)):
        found.update(hashlib.sha256(part).digest())
    return found.hexdigest()
