"""Channels to the other processes: limits, keepalive, metrics and the request id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from services.common.config import ProcessSettings
from services.common.logs import REQUEST_ID_KEY, current_request_id
from services.common.metrics import Metrics

__all__ = ["channel_options", "make_channel"]


def channel_options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    """Options of every channel inside the system."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # A solve may be silent for many seconds: a ping tells a busy peer from one that is gone. Not more often than
        # the server's min_recv_ping_interval of 10 s allows.
        ("grpc.keepalive_time_ms", 30_000),
        # A machine that is reachable answers a ping within milliseconds; 10 s outlasts a pause of its scheduler.
        ("grpc.keepalive_timeout_ms", 10_000),
        # A process that restarts is back within seconds; the default of 120 s would leave us waiting for minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # Every replica behind a headless service gets its share.
        ("grpc.lb_policy_name", "round_robin"),
        # Our own processes are never behind the proxy that the environment names.
        ("grpc.enable_http_proxy", 0),
    ]


def make_channel(target: str, settings: ProcessSettings, metrics: Metrics) -> grpc.aio.Channel:
    """Channel to ``target`` that sends the current request id along and feeds ``grpc_client_*``."""
    return grpc.aio.insecure_channel(
        target,
        options=channel_options(settings.max_message_bytes),
        interceptors=[_UnaryClient(metrics), _StreamClient(metrics)],
    )


class _Observer:
    def __init__(self, metrics: Metrics, kind: str) -> None:
        self._metrics = metrics
        self._kind = kind
        self._observing: set[asyncio.Task[None]] = set()  # a task without a reference may be collected half-way

    def _observe(self, call: grpc.aio.Call, method: str) -> None:
        started = time.perf_counter()
        self._metrics.client_started(self._kind, method)

        async def finish(seconds: float) -> None:
            self._metrics.client_finished(self._kind, method, await call.code(), seconds)

        def done(_call: object) -> None:
            task = asyncio.get_running_loop().create_task(finish(time.perf_counter() - started))
            self._observing.add(task)
            task.add_done_callback(self._observing.discard)

        call.add_done_callback(done)


class _UnaryClient(_Observer, grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics, "unary")

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[grpc.aio.UnaryUnaryCall[Any, Any]]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        call = await continuation(_with_request_id(client_call_details), request)
        self._observe(call, _text(client_call_details.method))
        return call


class _StreamClient(_Observer, grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics, "server_stream")

    async def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[grpc.aio.UnaryStreamCall[Any, Any]]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> AsyncIterator[Any] | grpc.aio.UnaryStreamCall[Any, Any]:
        call = await continuation(_with_request_id(client_call_details), request)
        self._observe(call, _text(client_call_details.method))
        return call


def _with_request_id(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    request_id = current_request_id()
    if request_id and metadata.get(REQUEST_ID_KEY) is None:
        metadata.add(REQUEST_ID_KEY, request_id)
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


def _text(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method
