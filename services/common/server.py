"""A grpc.aio server with our interceptors, limits and keepalive, bound to a port that is ours alone."""

from __future__ import annotations

import grpc.aio

from services.common.calls import AroundInterceptor
from services.common.config import ProcessSettings
from services.common.logs import logged_call
from services.common.metrics import Metrics
from services.common.status import mapped_errors

__all__ = ["PortTakenError", "bind", "host_port", "make_server"]

_MINUTE_MS = 60_000


class PortTakenError(Exception):
    """The address is in use, or not one of this machine's."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} of {host} is taken or not available; choose another one")


def make_server(settings: ProcessSettings, metrics: Metrics) -> grpc.aio.Server:
    """Server that logs, measures and maps the errors of every RPC, in this order from the outside in."""
    return grpc.aio.server(
        interceptors=[
            AroundInterceptor(logged_call),
            AroundInterceptor(metrics.measured_call),
            AroundInterceptor(mapped_errors),
        ],
        options=_options(settings),
    )


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


def bind(server: grpc.aio.Server, host: str, port: int) -> int:
    """Bind ``server``; return the port, which the system chose if ``port`` is 0. Raises ``PortTakenError``."""
    try:
        bound = server.add_insecure_port(host_port(host, port))
    except RuntimeError as error:
        raise PortTakenError(host, port) from error
    if bound == 0:
        raise PortTakenError(host, port)
    return bound


def host_port(host: str, port: int) -> str:
    """``host:port`` with the brackets an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
