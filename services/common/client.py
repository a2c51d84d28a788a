"""Channels to the other processes: limits, keepalive, metrics and the request id."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import grpc
import grpc.aio

from services.common.config import ProcessSettings
from services.common.logs import REQUEST_ID_KEY, current_request_id
from services.common.metrics import Metrics
from services.common.renewed_channel import RenewedChannel
from services.common.settled_calls import SettledChannel
from services.common.tls import ChannelCertificates
from services.common.tracing import propagated

__all__ = ["channel_options", "make_channel"]


def _service_config(service: str) -> str:
    """Load balancing and retries; see https://github.com/grpc/grpc-proto, service_config.proto."""
    return json.dumps(
        {
            # Every replica behind a headless service gets its share, as long as it says that it is able to work.
            "loadBalancingConfig": [{"round_robin": {}}],
            **({"healthCheckConfig": {"serviceName": service}} if service else {}),
            "methodConfig": [
                {
                    "name": [{}],
                    # A replica that drains refuses within milliseconds, and the next try goes to another one. What a
                    # replica refuses for want of room is for the caller to decide.
                    "retryPolicy": {
                        "maxAttempts": 4,
                        "initialBackoff": "0.05s",
                        "maxBackoff": "1s",
                        "backoffMultiplier": 3,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ],
            # When three of four calls fail, trying again only adds to the load.
            "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.5},
        }
    )


def channel_options(max_message_bytes: int, service: str = "") -> list[tuple[str, int | str]]:
    """Options of a channel inside the system; replicas that are not able to serve ``service`` are passed over."""
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
        ("grpc.service_config", _service_config(service)),
        ("grpc.enable_retries", 1),
        # A call is tried again only if its request is still in this buffer, whose default is 256 KiB.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        # Two channels that share a connection may end the process when both begin to watch its health: gRPC's
        # HealthProducer::Start leaves a moment in which the second one finds no subchannel. Seen with grpcio 1.85.
        ("grpc.use_local_subchannel_pool", 1),
        # Our own processes are never behind the proxy that the environment names.
        ("grpc.enable_http_proxy", 0),
    ]


def make_channel(target: str, service: str, settings: ProcessSettings, metrics: Metrics) -> grpc.aio.Channel:
    """Channel to ``service`` at ``target``: sends request id and key along, feeds ``grpc_client_*``, TLS as set.

    Certificates are read again when their files change. Raises TlsError if one cannot be read at first.
    """
    options = channel_options(settings.max_message_bytes, service)
    observer = _Observer(metrics, settings.token_file)
    if settings.tls_ca is None:
        return SettledChannel(grpc.aio.insecure_channel(target, options=options), observer)
    certificates = ChannelCertificates(settings.tls_ca, settings)

    def opened() -> grpc.aio.Channel:
        return grpc.aio.secure_channel(target, certificates.credentials(), options=options)

    return SettledChannel(RenewedChannel(opened, certificates.exchanged), observer)


class _Observer:
    """Signs calls, counts and times them."""

    def __init__(self, metrics: Metrics, token_file: Path | None) -> None:
        self._metrics, self._token_file = metrics, token_file
        self._observing: set[asyncio.Task[None]] = set()  # a task without a reference may be collected half-way

    def begun(self, call: grpc.aio.Call, kind: str, method: str) -> None:
        started = time.perf_counter()
        self._metrics.client_started(kind, method)

        async def finish(seconds: float) -> None:
            self._metrics.client_finished(kind, method, await call.code(), seconds)

        def done(_call: object) -> None:
            task = asyncio.get_running_loop().create_task(finish(time.perf_counter() - started))
            self._observing.add(task)
            task.add_done_callback(self._observing.discard)

        call.add_done_callback(done)

    def metadata(self, given: grpc.aio.Metadata | None) -> grpc.aio.Metadata:
        """Add the request's id, its span and this process's key."""
        metadata = grpc.aio.Metadata(*(given or ()))
        request_id = current_request_id()
        if request_id and metadata.get(REQUEST_ID_KEY) is None:
            metadata.add(REQUEST_ID_KEY, request_id)
        for key, value in propagated():
            metadata.add(key, value)
        if self._token_file is not None:
            metadata.add("authorization", f"Bearer {self._token_file.read_text(encoding='utf-8').strip()}")
        return metadata
