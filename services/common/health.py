"""``grpc.health.v1`` of a process: ``""`` is alive from the start, the services' names are able to work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["Health"]

_Status = health_pb2.HealthCheckResponse
_Context = grpc.aio.ServicerContext[Any, Any]

_log = structlog.stdlib.get_logger(__name__)


class Health(health_pb2_grpc.HealthServicer):
    """The health service, and what ``/readyz`` says.

    Own code, because grpcio's forgets all watchers of a service when one of them leaves, and because watchers that are
    not told to leave would hold up every drain.

    Args:
        names: full gRPC service names such as "dpst.v1.Stylizer".

    Attributes:
        ready: whether all of them are able to work.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.ready = False
        self._draining = False
        self._names = names
        self._changed = asyncio.Condition()

    async def serving(self, able: bool) -> None:
        """Tell whether the services are able to work; without effect while draining."""
        if self._draining or able == self.ready:
            return
        _log.info("ready" if able else "not ready")
        async with self._changed:
            self.ready = able
            self._changed.notify_all()

    async def drain(self) -> None:
        """Not able to work any more, for good; watchers are told and leave. The process is alive still."""
        async with self._changed:
            self.ready, self._draining = False, True
            self._changed.notify_all()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: _Context) -> health_pb2.HealthCheckResponse:  # noqa: N802
        """See the proto."""
        status = self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"this process has no service {request.service[:80]!r}")
        return _Status(status=status)

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: _Context,  # noqa: ARG002
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """See the proto."""
        told = None
        while True:
            draining, status = self._draining, self._status(request.service)
            if status != told:
                yield _Status(status=status)
                told = status
            if draining:
                return
            async with self._changed:
                if (self._draining, self._status(request.service)) == (draining, status):
                    await self._changed.wait()

    def _status(self, service: str) -> int:
        if service in self._names:
            return _Status.SERVING if self.ready else _Status.NOT_SERVING
        return _Status.SERVICE_UNKNOWN if service else _Status.SERVING
