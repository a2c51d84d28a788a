"""Submitted transfers for the benchmarks of a fleet: what is asked, until it is taken, until it has ended."""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc.aio
from dpst.v1 import image_pb2, labels_pb2, photo_style_pb2, photo_style_pb2_grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from PIL import Image

from tests.faults.cluster import picture
from tests.nats_server import NatsServer, nats_server

__all__ = ["ENGINES", "ended", "page", "request", "store", "submitted"]

ENGINES = {"sqlite": "SQLite", "nats": "NATS JetStream"}


def page(name: str, engine: str) -> str:
    """A page's name without its suffix; the default engine goes without saying."""
    return name if engine == "sqlite" else f"{name}-{engine}"


def request(number: int, has_labels: bool) -> photo_style_pb2.SubmitTransferRequest:
    """A transfer of 160x120 px photos, under an id of its own."""
    file = io.BytesIO()
    Image.new("L", (160, 120), 1).save(file, "PNG")
    labels = labels_pb2.LabelMap(png=file.getvalue(), labels=[labels_pb2.Label(index=1, name="sky", area_share=1)])
    transfer = photo_style_pb2.Transfer(
        content=image_pb2.Image(data=picture(number, 160, 120)),
        style=image_pb2.Image(data=picture(0, 160, 120)),
        content_labels=labels if has_labels else None,
        style_labels=labels if has_labels else None,
        request_id=f"request-{number}",
    )
    return photo_style_pb2.SubmitTransferRequest(transfer=transfer)


async def submitted(
    channels: Sequence[grpc.aio.Channel], number: int, request: photo_style_pb2.SubmitTransferRequest
) -> tuple[str, int]:
    """Name of the operation, and after how many tries; tried at one gateway after the other until one answers."""
    tries = 0
    while True:
        stub = photo_style_pb2_grpc.PhotoStyleStub(channels[(number + tries) % len(channels)])
        tries += 1
        try:
            reply = await stub.SubmitTransfer(request, timeout=5)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.2)
            continue
        return reply.name, tries


async def ended(
    channels: Sequence[grpc.aio.Channel], names: set[str], seconds: float, pause: float = 0.5
) -> AsyncIterator[operations_pb2.Operation]:
    """Yield each operation once it has ended; leave those that have not after so many seconds."""
    limit = time.monotonic() + seconds
    left = set(names)
    while left and time.monotonic() < limit:
        for at, name in enumerate(sorted(left)):
            stub = operations_pb2_grpc.OperationsStub(channels[at % len(channels)])
            try:
                operation = await stub.GetOperation(operations_pb2.GetOperationRequest(name=name), timeout=5)
            except grpc.aio.AioRpcError:
                continue
            if operation.done:
                left.discard(name)
                yield operation
        await asyncio.sleep(pause)


@contextmanager
def store(engine: str) -> Iterator[tuple[Path, dict[str, str], NatsServer | None]]:
    """A folder, the settings of a store that is there, and its server."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if engine == "sqlite":
            yield folder, {"jobs_url": f"sqlite:{folder}/jobs"}, None
            return
        with nats_server(folder / "nats") as server:
            yield folder, {"jobs_url": server.url}, server
