"""The gateway follows the health of the services behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway.readiness import follow_health
from services.common.client import channel_options
from tests.gateway.fakes import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def health_server(port: int, **statuses: int) -> AsyncIterator[tuple[health.aio.HealthServicer, int]]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    servicer = health.aio.HealthServicer()
    for name, status in statuses.items():
        await servicer.set(name, status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    yield servicer, bound
    await server.stop(None)


async def test_ready_only_while_both_are_and_again_after_a_restart() -> None:
    said: list[bool] = []

    async def serving(able: bool) -> None:
        if said[-1:] != [able]:
            said.append(able)

    async with health_server(0, one=SERVING) as (_, one), health_server(0, other=NOT_SERVING) as (servicer, other):
        channels = {
            name: grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options(1 << 20))
            for name, port in (("one", one), ("other", other))
        }
        following = asyncio.create_task(follow_health(channels, serving))
        await eventually(lambda: said == [False])
        await servicer.set("other", SERVING)
        await eventually(lambda: said == [False, True])
    await eventually(lambda: said == [False, True, False])
    async with health_server(one, one=SERVING), health_server(other, other=SERVING):
        await eventually(lambda: said == [False, True, False, True])
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        for channel in channels.values():
            await channel.close()
