"""A real gateway with fake services behind it; a scripted reply that goes unused fails the test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
from dpst.v1 import photo_style_pb2_grpc, segmentation_pb2_grpc, stylizer_pb2_grpc

from gateway.fetch import Fetcher
from gateway.looks import Looks
from gateway.pipeline import Pipeline
from gateway.rates import TokenBuckets
from gateway.servicer import PhotoStyleServicer
from gateway.uploads import Uploads
from services.common.client import make_channel
from services.common.config import GatewaySettings
from services.common.metrics import Metrics
from tests.gateway.fakes import FakeSegmentation, FakeStylizer, Script, World, started


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Build a gateway with scripted services behind it."""
    settings = GatewaySettings(host="127.0.0.1", port=0, http_port=0, max_inflight=4, max_image_bytes=2 << 20)
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
    uploads = Uploads(settings)
    fetcher = Fetcher(settings, uploads)
    pipeline = Pipeline(segmentation_pb2_grpc.SegmentationStub(channels[0]), stylizer_stub, fetcher, settings, metrics)
    looks = Looks(stylizer_stub, fetcher, settings, metrics)
    gateway, address = await started(
        settings,
        lambda server: photo_style_pb2_grpc.add_PhotoStyleServicer_to_server(
            PhotoStyleServicer(pipeline, looks, uploads, TokenBuckets(0, 1)), server
        ),
        metrics,
    )
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
        )
    for channel in channels:
        await channel.close()
    for server in (gateway, *servers):
        await server.stop(None)
    uploads.close()
    assert not segmentation.replies, "unused replies of the segmentation service"
    assert not stylizer.replies, "unused replies of the stylizer"
    assert not room.replies, "unused replies of the stylizer about its room"
