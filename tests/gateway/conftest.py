"""A real gateway with fake services behind it; a scripted reply that goes unused fails the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest
from dpst.v1 import photo_style_pb2_grpc, segmentation_pb2_grpc, stylizer_pb2_grpc
from google.longrunning import operations_pb2_grpc

from gateway.fetch import Fetcher
from gateway.jobs.engine import engine_of
from gateway.jobs.operations import OperationsServicer
from gateway.jobs.runner import Runner
from gateway.jobs.submission import Jobs
from gateway.looks import Looks
from gateway.pipeline import Pipeline
from gateway.rates import TokenBuckets
from gateway.room import Room
from gateway.servicer import PhotoStyleServicer
from gateway.uploads import Uploads
from services.common.client import make_channel
from services.common.config import GatewaySettings
from services.common.metrics import Metrics
from tests.gateway.fakes import FakeSegmentation, FakeStylizer, Script, World, started
from tests.nats_server import NatsServer, nats_server


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for all; each test has names of its own there."""
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def job_settings(tmp_path: Path) -> dict[str, str]:
    """Where submitted transfers are kept."""
    return {"jobs_url": f"sqlite:{tmp_path / 'jobs'}"}


@pytest.fixture
async def world(tmp_path: Path, job_settings: dict[str, str]) -> AsyncIterator[World]:
    """Build a gateway with scripted services behind it."""
    settings = GatewaySettings(
        **{"host": "127.0.0.1", "port": 0, "http_port": 0, "max_inflight": 4, "max_image_bytes": 2 << 20},
        **{**job_settings, "job_attempts": 2},
    )
    segmentation, stylizer, room, metrics = Script(), Script(), Script(), Metrics()
    servers = []
    addresses = []
    for add, servicer in (
        (segmentation_pb2_grpc.add_SegmentationServicer_to_server, FakeSegmentation(segmentation)),
        (stylizer_pb2_grpc.add_StylizerServicer_to_server, FakeStylizer(stylizer, room)),
    ):
        server, address = await started(settings, lambda server, a=add, s=servicer: a(s, server), Metrics())
        servers.append(server)
        addresses.append(address)
    names = ("dpst.v1.Segmentation", "dpst.v1.Stylizer")
    channels = [make_channel(*pair, settings, metrics) for pair in zip(addresses, names, strict=True)]
    stylizer_stub = stylizer_pb2_grpc.StylizerStub(channels[1])
    engine = engine_of(settings)
    assert engine is not None
    uploads = Uploads(settings, engine.files)
    fetcher = Fetcher(settings, uploads)
    asks = Room(stylizer_stub, settings)
    segmentation_stub = segmentation_pb2_grpc.SegmentationStub(channels[0])
    pipeline = Pipeline(segmentation_stub, stylizer_stub, asks, fetcher, settings, metrics)
    looks = Looks(stylizer_stub, fetcher, settings, metrics)
    jobs = Jobs(engine.store, engine.files, fetcher, settings)
    servicer = PhotoStyleServicer(pipeline, looks, uploads, TokenBuckets(0, 1), jobs)

    def register(server: grpc.aio.Server) -> None:
        photo_style_pb2_grpc.add_PhotoStyleServicer_to_server(servicer, server)
        operations_pb2_grpc.add_OperationsServicer_to_server(OperationsServicer(engine.store), server)

    gateway, address = await started(settings, register, metrics)
    runner = asyncio.create_task(Runner(pipeline, engine.store, engine.files, engine.policy, 1, metrics).run())
    async with grpc.aio.insecure_channel(address) as channel:
        yield World(
            segmentation,
            stylizer,
            room,
            address,
            photo_style_pb2_grpc.PhotoStyleStub(channel),
            metrics,
            addresses[0],
            lambda: servers[1].stop(None),
            operations_pb2_grpc.OperationsStub(channel),
            runner,
            engine,
        )
    runner.cancel()
    await asyncio.wait({runner})
    await engine.store.close()
    for channel in channels:
        await channel.close()
    for server in (gateway, *servers):
        await server.stop(None)
    uploads.close()
    assert not segmentation.replies, "unused replies of the segmentation service"
    assert not stylizer.replies, "unused replies of the stylizer"
    assert not room.replies, "unused replies of the stylizer about its room"
