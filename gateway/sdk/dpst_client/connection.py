"""How a client's channel is set up, and when a call is tried again."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import tenacity

from dpst_client.errors import Overloaded, Unavailable

__all__ = ["Deadline", "Settings", "retry_rules"]

_MIB = 1 << 20
_SERVICE_CONFIG = json.dumps(
    {
        # Every replica gets its share, as long as its health says that it is able to work.
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "dpst.v1.PhotoStyle"},
    }
)
_backoff = tenacity.wait_exponential(multiplier=0.1, max=5.0) + tenacity.wait_random(0.0, 0.2)


@dataclass(frozen=True)
class Settings:
    """How to connect.

    A target is one of gRPC; "dns:///host:port" spreads calls over all replicas behind the name.

    Attributes:
        token: API key, from ``dpst keys new``.
        ca: PEM file of authorities; with it the connection uses TLS.
        certificate: PEM file with our own certificate, where the server asks for one.
        key: PEM file with its private key.
        retries: how often a call that met an overloaded or absent server is tried again, after the time that the server
            asks for. A transfer changes nothing on the server, so that it may be tried at any point.
        max_message_bytes: largest message; the default is the server's own limit. Photos that do not fit are uploaded
            in pieces first, so that it may be the limit of any proxy between;
            1 MiB is the least, for results come in pieces of a quarter of that.
    """

    token: str | None = None
    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    retries: int = 8
    max_message_bytes: int = 416 * _MIB

    def __post_init__(self) -> None:
        if self.max_message_bytes < _MIB:
            raise ValueError(f"max_message_bytes: got {self.max_message_bytes}, must be at least {_MIB}")

    def channel(self, module: Any, target: str) -> Any:
        """A channel of ``grpc`` or ``grpc.aio``."""
        options = [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.service_config", _SERVICE_CONFIG),
            # A solve may be silent for many seconds: a ping tells a busy server from one that is gone.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # A server that restarts is back within seconds.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.min_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            # Clients that share a connection may end the process when two begin to watch its health: gRPC's
            # HealthProducer::Start leaves a moment in which the second one finds no subchannel. Seen with grpcio 1.85.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self.ca is None:
            return module.insecure_channel(target, options=options)
        own: tuple[bytes | None, bytes | None] = (None, None)
        if self.key is not None and self.certificate is not None:
            own = Path(self.key).read_bytes(), Path(self.certificate).read_bytes()
        credentials = grpc.ssl_channel_credentials(Path(self.ca).read_bytes(), *own)
        return module.secure_channel(target, credentials, options=options)

    def metadata(self, request_id: str) -> list[tuple[str, str]]:
        """What goes with a call."""
        found = [("authorization", f"Bearer {self.token}")] if self.token else []
        return [*found, ("x-request-id", request_id)] if request_id else found


@dataclass(frozen=True)
class Deadline:
    """Seconds of a whole call with all its tries, counted from now; None = for ever."""

    seconds: float | None
    began: float

    @classmethod
    def of(cls, seconds: float | None) -> Deadline:
        """Begins now."""
        return cls(seconds, time.monotonic())

    def left(self) -> float | None:
        """Seconds for the next try."""
        return None if self.seconds is None else max(0.0, self.seconds - (time.monotonic() - self.began))


def retry_rules(retries: int, deadline: Deadline) -> dict[str, Any]:
    """Arguments of tenacity: what is tried again, after the time that the server asks for or a growing pause."""
    stop: Any = tenacity.stop_after_attempt(retries + 1)
    if deadline.seconds is not None:
        stop = stop | tenacity.stop_before_delay(deadline.seconds)
    return {"stop": stop, "wait": _wait, "retry": tenacity.retry_if_exception(_is_passing), "reraise": True}


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, Overloaded | Unavailable)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_seconds if isinstance(error, Overloaded | Unavailable) else 0.0
    return max(asked, _backoff(state))
