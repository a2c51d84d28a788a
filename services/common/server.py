"""A grpc.aio server with our interceptors, limits and keepalive, bound to a port that is ours alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from services.common.auth import authenticated
from services.common.calls import AroundInterceptor, ServerCall
from services.common.config import ProcessSettings
from services.common.keys import KeyFile
from services.common.logs import logged_call
from services.common.metrics import Metrics
from services.common.status import mapped_errors
from services.common.tracing import traced_call

__all__ = ["PortTakenError", "bind", "host_port", "make_server"]

_MINUTE_MS = 60_000


class PortTakenError(Exception):
    """The address is in use, or not one of this machine's."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} of {host} is taken or not available; choose another one")


def make_server(settings: ProcessSettings, metrics: Metrics) -> grpc.aio.Server:
    """Server that traces, logs and measures every RPC, maps its errors, and lets in who may call, from the outside in.

    Raises KeyFileError if the callers' keys cannot be read.
    """
    keys = KeyFile(settings.api_keys_file) if settings.api_keys_file is not None else None
    known = authenticated(keys)

    @asynccontextmanager
    async def framed(call: ServerCall) -> AsyncIterator[None]:
        async with traced_call(call), logged_call(call), metrics.measured_call(call), mapped_errors(call), known(call):
            yield

    return grpc.aio.server(interceptors=[AroundInterceptor(framed, settings.stall_seconds)], options=_options(settings))


def _options(settings: ProcessSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # With port sharing, a second process on the same port would silently take half of the calls.
        ("grpc.so_reuseport", 0),
        # Clients reconnect, and so find new replicas, twice an hour.
        ("grpc.max_connection_age_ms", 30 * _MINUTE_MS),
        # Longer than the longest job: the time budget of a solve ends at 60 min.
        ("grpc.max_connection_age_grace_ms", 75 * _MINUTE_MS),
        # A caller that vanished without a FIN is noticed, and its slot freed, within 80 s.
        ("grpc.keepalive_time_ms", _MINUTE_MS),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Our own clients ping every 30 s; below 10 s it is a fault or an attack.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def bind(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:
    """Bind ``server``; return the port, which the system chose if ``port`` is 0. Raises ``PortTakenError``."""
    address = host_port(host, port)
    try:
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise PortTakenError(host, port) from error
    if bound == 0:
        raise PortTakenError(host, port)
    return bound


def host_port(host: str, port: int) -> str:
    """``host:port`` with the brackets an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
