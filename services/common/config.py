"""Settings, read from ``DPST_`` environment variables; every default works on a laptop."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = [
    "GatewaySettings",
    "ProcessSettings",
    "SegmentationSettings",
    "StoreSettings",
    "StylizerSettings",
    "settings_problems",
    "unknown_settings",
]

_MIB = 1 << 20
_URI_PREFIX = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/([A-Za-z0-9._~/-]*/)?")


def settings_problems(error: ValidationError) -> str:
    """What is wrong with the settings, in one line that names the environment variables."""
    problems = ((".".join(map(str, problem["loc"])).upper(), problem["msg"]) for problem in error.errors())
    return "; ".join(f"DPST_{name}: {text}" if name else text for name, text in problems)


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """Names that begin with ``DPST_`` and are no setting of any process: slips of the pen, mostly."""
    kinds = (GatewaySettings, SegmentationSettings, StylizerSettings, StoreSettings)
    known = {f"DPST_{name.upper()}" for kind in kinds for name in kind.model_fields} | set(_OTHER_VARIABLES)
    return sorted(name for name in environment if name.upper().startswith("DPST_") and name.upper() not in known)


_OTHER_VARIABLES = ("DPST_TEST_DATA", "DPST_ADDRESS", "DPST_TOKEN")
"""Not of a process: of the tests and of clients."""


class ProcessSettings(BaseSettings):
    """What every process can be told."""

    model_config = SettingsConfigDict(env_prefix="DPST_", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=0, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    http_port: int = Field(
        default=0, ge=0, le=65535, description="Port of /metrics, /healthz, /readyz; 0 takes a free one."
    )
    address_file: Path | None = Field(
        default=None,
        description='File that receives {"grpc": "host:port", "http": "host:port"} once both ports are bound.',
    )
    exit_with_parent: bool = Field(
        default=False,
        description="Drain and exit when standard input ends: whoever started the process holds its other end.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe level logged."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="One JSON object a line, or text for people."
    )
    reflection: bool = Field(
        default=False, description="Whether gRPC server reflection is on; `dpst up` turns it on, for development."
    )
    health_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Second gRPC port, with health only and never with TLS, for orchestrators; 0 takes a free one, "
        "unset opens none.",
    )
    tls_cert: Path | None = Field(
        default=None, description="PEM file with this process's certificate chain; with tls_key it turns TLS on."
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the private key of tls_cert.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file of authorities; callers then need a certificate of one of them (mutual TLS).",
    )
    tls_ca: Path | None = Field(
        default=None,
        description="PEM file of the authorities of the processes behind this one; calls to them then use TLS and show "
        "tls_cert.",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description='OpenTelemetry collector that gets traces by OTLP over gRPC, such as "collector:4317"; needs the '
        "extra `otel`. Unset sends none.",
    )
    otlp_insecure: bool = Field(default=True, description="Whether traces go to the collector without TLS.")
    api_keys_file: Path | None = Field(
        default=None,
        description="TOML file of callers' keys, made with `dpst keys new`; unset lets everybody call. Read again when "
        "it changes.",
    )
    token_file: Path | None = Field(
        default=None,
        description="File with the key that this process shows to those behind it; read again for every call.",
    )
    max_message_bytes: int = Field(
        default=416 * _MIB,
        ge=_MIB,
        le=1024 * _MIB,
        description="Largest gRPC message; holds two photos of max_image_bytes.",
    )
    max_image_bytes: int = Field(
        default=200 * _MIB, ge=1024, description="Largest encoded photo accepted; fits 30 MP of 16 bits uncompressed."
    )
    max_pixels: int = Field(
        default=100_000_000, ge=1024, description="Largest photo accepted, in pixels; read from its header."
    )
    min_edge_px: int = Field(
        default=32, ge=16, description="Smallest edge accepted; below it conv5_1 has nothing to see."
    )
    max_edge_px: int = Field(default=30_000, ge=64, description="Largest edge accepted.")
    stall_seconds: float = Field(
        default=120.0,
        gt=0,
        description="A caller that takes none of a stream for so long is let go, and its work ended.",
    )
    drain_seconds: float = Field(
        default=30.0,
        ge=0,
        description="Grace after SIGTERM for running calls; longer than a usual solve of 10 to 20 s.",
    )
    drain_delay_seconds: float = Field(
        default=0.0,
        ge=0,
        le=300,
        description="After SIGTERM, how long new calls are still taken while health says NOT_SERVING, for load "
        "balancers that need time to look elsewhere; 5 s behind a Kubernetes Service.",
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("DPST_TLS_CERT and DPST_TLS_KEY belong together: set both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("DPST_TLS_CLIENT_CA needs DPST_TLS_CERT and DPST_TLS_KEY")
        return self


_MODELS_DIR = "Folder of <name>/<version>/manifest.json; unset means ~/.local/share/dpst/models, if it is there."


class StoreSettings(BaseSettings):
    """Settings of the command ``dpst models``."""

    model_config = SettingsConfigDict(env_prefix="DPST_", frozen=True)

    models_dir: Path | None = Field(default=None, description=_MODELS_DIR)
    models_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Mirror of the model files: they are fetched from <mirror>/<name>/<version>/<file>.",
    )


class _ModelSettings(ProcessSettings):
    models_dir: Path | None = Field(default=None, description=_MODELS_DIR)
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where networks run; cuda refuses to fall back."
    )
    threads: int = Field(default=0, ge=0, description="Threads of one computation; 0 takes every core.")


class SegmentationSettings(_ModelSettings):
    """Settings of the segmentation service."""

    port: int = Field(default=50052, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    http_port: int = Field(
        default=8082, ge=0, le=65535, description="Port of /metrics, /healthz, /readyz; 0 takes a free one."
    )
    segmentation_model: str = Field(
        default="auto",
        description='Networks as "name" or "name/version", separated by commas, the first is the default; '
        "auto takes the first found, else one region.",
    )
    segmentation_max_batch_size: int = Field(
        default=8, ge=1, le=64, description="Most photos of the same shape in one run of a network; 1 = no batches."
    )
    segmentation_max_queue_delay_ms: float = Field(
        default=5.0,
        ge=0,
        le=1000,
        description="Longest wait beside an idle network for photos that are being decoded; the two of a transfer come "
        "within a few ms, and 5 ms is little beside a run.",
    )
    segmentation_cache_bytes: int = Field(
        default=64 * _MIB, ge=0, description="Most bytes of kept results, 0 = off; a map of 1024 px takes 10 to 40 kB."
    )
    segmentation_cache_seconds: float = Field(
        default=3600.0, ge=0, description="How long a result is kept, 0 = off; fits an hour of work on one photo."
    )
    tensorrt: bool = Field(
        default=False, description="Whether networks run in TensorRT where there is a GPU and ONNX Runtime lists it."
    )


class StylizerSettings(_ModelSettings):
    """Settings of the stylizer service."""

    port: int = Field(default=50053, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    http_port: int = Field(
        default=8083, ge=0, le=65535, description="Port of /metrics, /healthz, /readyz; 0 takes a free one."
    )
    features_model: str = Field(
        default="auto",
        description='Feature network as "name" or "name/version"; auto takes the first found, else built-in.',
    )
    queue_limit: int = Field(
        default=16,
        ge=0,
        le=10_000,
        description="Requests that may wait for a slot before new ones are refused; low priority may fill half of it, "
        "normal seven eighths.",
    )
    workers: int = Field(
        default=1, ge=1, le=64, description="Worker processes; with CUDA the n-th has the n-th device for itself."
    )
    slots: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Jobs that one worker computes at the same time; on a CPU they share the cores, so that more than "
        "one gains little.",
    )
    evaluation_batch: int = Field(
        default=0,
        ge=0,
        le=16,
        description="Photos of one size that a worker's slots put through the network together; 0 takes as many as it "
        "has slots with CUDA and 1, each for itself, on a CPU.",
    )
    worker_beat_seconds: float = Field(
        default=15.0,
        gt=0,
        description="A worker that shows no life for so long is killed and started again; a busy machine may hold a "
        "process up for seconds.",
    )
    worker_stall_seconds: float = Field(
        default=300.0,
        gt=0,
        description="A worker with a job that reached no point at which it could be stopped for so long is killed; the "
        "longest way between two is the encoding of a large AVIF.",
    )
    worker_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Memory at which a worker is killed before the system kills something else; 0 takes nine tenths of "
        "what the machine or the container has, divided by the workers.",
    )


class GatewaySettings(ProcessSettings):
    """Settings of the gateway."""

    @field_validator("uri_prefixes")
    @classmethod
    def _prefixes_are_whole(cls, value: str) -> str:
        for prefix in value.split(","):
            if prefix.strip() and not _URI_PREFIX.fullmatch(prefix.strip()):
                raise ValueError(
                    f"{prefix.strip()!r} must be http:// or https://, a host, and a path ending with a slash"
                )
        return value

    port: int = Field(default=50051, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    http_port: int = Field(
        default=8080, ge=0, le=65535, description="Port of /metrics, /healthz, /readyz; 0 takes a free one."
    )
    segmentation_address: str = Field(default="127.0.0.1:50052", description="gRPC target of the segmentation service.")
    stylizer_address: str = Field(default="127.0.0.1:50053", description="gRPC target of the stylizer service.")
    segment_timeout_seconds: float = Field(
        default=60.0, gt=0, description="Longest segmentation call; a 12 MP photo takes about a second."
    )
    solve_timeout_seconds: float = Field(
        default=1800.0, gt=0, description="Longest stylizer call without a caller's deadline, waiting included."
    )
    uri_prefixes: str = Field(
        default="",
        description="Where photos may be fetched from by `Image.uri`: beginnings such as https://photos.internal/in/ "
        "that end with a slash, separated by commas. Empty = nowhere.",
    )
    uri_timeout_seconds: float = Field(default=30.0, gt=0, description="Longest fetch of one photo.")
    blob_dir: Path | None = Field(
        default=None,
        description="Folder for uploads, which gateways may share; unset = a temporary one of this process.",
    )
    blob_max_bytes: int = Field(
        default=4096 * _MIB,
        ge=_MIB,
        description="Most bytes of uploads; those not asked for longest make room. Holds about 400 photos of 24 MP.",
    )
    blob_keep_seconds: float = Field(
        default=86_400.0, gt=0, description="How long an upload stays that nobody asks for: a day."
    )
    jobs_url: str | None = Field(
        default=None,
        pattern=r"^(sqlite:.+|(nats|tls)://[^,\s]+(,(nats|tls)://[^,\s]+)*)$",
        description="Where submitted transfers are kept: sqlite:<folder>, which the gateways of one machine may share, "
        "or NATS JetStream for those of many, nats://<host>:<port> or tls://..., several servers separated by commas; "
        "unset = none may be submitted. `dpst up` takes ~/.local/share/dpst/jobs.",
    )
    jobs_nats_credentials: Path | None = Field(default=None, description="Credentials file for NATS.")
    jobs_nats_replicas: int = Field(
        default=1, ge=1, le=5, description="Servers of a NATS cluster that keep each submitted transfer."
    )
    jobs_nats_prefix: str = Field(
        default="dpst",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="Of the names of NATS' streams and buckets; fleets that share a server have one each.",
    )
    jobs_at_once: int = Field(
        default=4,
        ge=0,
        le=1024,
        description="Submitted transfers that this gateway works on at a time, those that wait for a stylizer "
        "included; 0 leaves them to others.",
    )
    job_attempts: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Attempts at a submitted transfer, after which it is given up. To find a stylizer full or away is "
        "none.",
    )
    job_lease_seconds: float = Field(
        default=15.0,
        ge=2,
        le=3600,
        description="A gateway that has shown no life for so long loses its submitted transfers to others; it does "
        "every half second.",
    )
    job_patience_seconds: float = Field(
        default=172_800.0, gt=0, description="After so long in the queue a submitted transfer is given up: two days."
    )
    job_keep_seconds: float = Field(
        default=604_800.0, gt=0, description="How long a submitted transfer and its picture stay after its end: a week."
    )
    rate_per_minute: float = Field(
        default=0.0,
        ge=0,
        description="Requests a minute that each caller (key, certificate or address) may make in the long run; "
        "0 = any.",
    )
    rate_burst: int = Field(default=10, ge=1, description="Requests that a caller may make at once before that counts.")
    max_inflight: int = Field(
        default=64,
        ge=1,
        description="Most transfers at a time; each holds its photos in memory, up to max_message_bytes.",
    )
    stylizer_tries: int = Field(
        default=2,
        ge=1,
        le=16,
        description="Stylizer replicas that are asked for one transfer, if the first is full, or is lost on the way: "
        "the next one goes on from the last checkpoint.",
    )
    map_edge_px: int = Field(
        default=1024, ge=64, description="Long edge of label maps asked from the segmentation service."
    )
