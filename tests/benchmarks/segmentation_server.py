"""A segmentation server in a process of its own, with what a benchmark asks of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
import pyvips
from dpst.v1 import image_pb2, segmentation_pb2, segmentation_pb2_grpc

from gateway.stack import local_segmentation
from services.common.client import channel_options
from tests.benchmarks.scraped import scraped

__all__ = ["MAP_EDGE_PX", "STAGES", "Load", "Server", "running", "twelve_megapixels"]

MAP_EDGE_PX = 1024  # what the gateway asks for
STAGES = ("decode", "network", "segment", "encode")
_OPTIONS = channel_options(64 << 20)


@dataclass(frozen=True)
class Load:
    """One run of many callers: photos a second, processor seconds of the server for a photo, mean size of a batch."""

    photos_per_second: float
    cpu_seconds: float
    batch_size: float


@dataclass(frozen=True)
class Server:
    """Where it listens."""

    grpc: str
    http: str

    def model(self) -> segmentation_pb2.SegmentationModel:
        """The default network."""
        with grpc.insecure_channel(self.grpc) as channel:
            stub = segmentation_pb2_grpc.SegmentationStub(channel)
            listed = stub.ListModels(segmentation_pb2.ListModelsRequest()).models
        (default,) = [each for each in listed if each.is_default]
        return default

    def latencies(self, photo: bytes, count: int, cached: bool) -> dict[str, list[float]]:
        """Seconds of requests one after the other: "total" as the caller sees them, and each stage's.

        Raises RuntimeError if a reply came from the cache against ``cached``.
        """
        seconds: dict[str, list[float]] = {name: [] for name in ("total", *STAGES)}
        with grpc.insecure_channel(self.grpc, options=_OPTIONS) as channel:
            stub = segmentation_pb2_grpc.SegmentationStub(channel)
            stub.Segment(_request(photo))  # connects, and allocates for this size
            for _ in range(count):
                before = scraped(self.http)
                began = time.perf_counter()
                reply = stub.Segment(_request(photo))
                seconds["total"].append(time.perf_counter() - began)
                if reply.cached != cached:
                    raise RuntimeError(f"cached is {reply.cached}")
                after = scraped(self.http)
                for stage in STAGES:
                    key = f"dpst_stage_duration_seconds_sum/{stage}"
                    seconds[stage].append(after.get(key, 0.0) - before.get(key, 0.0))
        return seconds

    def load(self, photos: Sequence[bytes], callers: int, count: int) -> Load:
        """Let so many callers send ``count`` photos, each the next one as soon as its reply is there."""
        before = scraped(self.http)
        began = time.perf_counter()
        asyncio.run(self._send(photos, callers, count))
        seconds = time.perf_counter() - began
        after = scraped(self.http)
        spent = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in after}
        runs = spent["dpst_batch_size_count"]
        return Load(
            count / seconds, spent["process_cpu_seconds_total"] / count, spent["dpst_batch_size_sum"] / max(1.0, runs)
        )

    async def _send(self, photos: Sequence[bytes], callers: int, count: int) -> None:
        numbers = iter(range(count))

        async def caller(stub: Any) -> None:
            for number in numbers:
                await stub.Segment(_request(photos[number % len(photos)]))

        async with grpc.aio.insecure_channel(self.grpc, options=_OPTIONS) as channel:
            stub = segmentation_pb2_grpc.SegmentationStub(channel)
            await asyncio.gather(*(caller(stub) for _ in range(callers)))


@contextmanager
def running(settings: Mapping[str, str]) -> Iterator[Server]:
    """Start a server on free ports and stop it after."""
    with TemporaryDirectory() as logs, local_segmentation(Path(logs), settings) as stack:
        address = stack.addresses["segmentation"]
        yield Server(address.grpc, address.http)


def twelve_megapixels(photo: bytes) -> bytes:
    """Make a JPEG of 4000x3000 px of a small photo: mirrored to 2x2, enlarged, quality 92."""
    small = pyvips.Image.new_from_buffer(photo, "").copy_memory()
    row = small.join(small.fliphor(), "horizontal")
    tiled = row.join(row.flipver(), "vertical")
    large = tiled.resize(4000 / tiled.width, vscale=3000 / tiled.height, kernel="cubic")
    data: bytes = large.jpegsave_buffer(Q=92)
    return data


def _request(photo: bytes) -> segmentation_pb2.SegmentRequest:
    return segmentation_pb2.SegmentRequest(image=image_pb2.Image(data=photo), map_edge_px=MAP_EDGE_PX)
