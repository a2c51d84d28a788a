"""Asking a stylizer for room, where it is older than the question."""

from __future__ import annotations

import grpc.aio
from dpst.v1 import photo_style_pb2, stylizer_pb2_grpc

from gateway.downstream import Deadline
from gateway.room import Room
from services.common.config import GatewaySettings
from services.common.images import PhotoInfo
from services.common.metrics import Metrics
from tests.gateway.fakes import started


async def test_a_stylizer_that_does_not_know_the_question_takes_all() -> None:
    settings = GatewaySettings(host="127.0.0.1", port=0, http_port=0)
    server, address = await started(settings, lambda server: None, Metrics())
    async with grpc.aio.insecure_channel(address) as channel:
        room = Room(stylizer_pb2_grpc.StylizerStub(channel), settings)
        await room.check(photo_style_pb2.Transfer(), PhotoInfo("png", 48, 32, 8, False, False), Deadline(5.0))
    await server.stop(None)
