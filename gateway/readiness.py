"""Whether the services behind the gateway are able to work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["follow_health"]

# Health.Watch would need no polling, but grpcio's server forgets all watchers of a service when one of them leaves.
# A check takes a millisecond; within half a second a restarted service is found again.
_POLL_SECONDS = 0.5
# A live process answers within 50 ms even while it solves.
_CHECK_TIMEOUT_SECONDS = 2.0

_log = structlog.stdlib.get_logger(__name__)


async def follow_health(channels: Mapping[str, grpc.aio.Channel], serving: Callable[[bool], Awaitable[None]]) -> None:
    """Call ``serving(all able)`` again and again, for ever; ``channels`` are by full gRPC service name."""
    away: list[str] | None = None
    while True:
        able = await asyncio.gather(*(_able(channel, name) for name, channel in channels.items()))
        now_away = [name for name, is_able in zip(channels, able, strict=True) if not is_able]
        if now_away != away:
            _log.info("services behind the gateway", away=now_away)
            away = now_away
        await serving(not away)
        await asyncio.sleep(_POLL_SECONDS)


async def _able(channel: grpc.aio.Channel, name: str) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=name)
    try:
        reply = await stub.Check(request, timeout=_CHECK_TIMEOUT_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
