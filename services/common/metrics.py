"""Prometheus metrics of one process, in a registry of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from services.common.allocator import allocated_bytes
from services.common.calls import ServerCall, final_code, split_method

__all__ = ["Metrics"]

# Plain RPCs are over within seconds; jobs may queue and solve for minutes.
_RPC_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_JOB_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 600.0, 1200.0)
_BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
_RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")


class Metrics:
    """Every metric of ``api.md``; labels never hold an id or a user.

    ``jobs_total`` counts finished jobs by outcome: "done", "refused" (the caller's fault or no room), "cancelled",
    "failed". ``stage_duration_seconds`` is labelled decode, network, segment, warm_start, solve, render, encode, score,
    export or end_to_end. ``cache_requests_total`` counts by result: "hit", "shared" (was being computed for another
    caller), "miss".
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        if allocated_bytes() is not None:
            Gauge(
                "dpst_allocated_bytes", "Memory that is allocated and not freed.", registry=self.registry
            ).set_function(lambda: allocated_bytes() or 0)
        self.stage_duration_seconds = self._seconds("dpst_stage_duration_seconds", "Time of one stage.", ("stage",))
        self.queue_wait_seconds = self._seconds("dpst_queue_wait_seconds", "Time a job waited for a slot.")
        self.first_preview_seconds = self._seconds(
            "dpst_first_preview_seconds", "Time from a request to its first preview."
        )
        self.evaluation_seconds = self._seconds(
            "dpst_evaluation_seconds", "Time of one network evaluation.", buckets=_RPC_SECONDS
        )
        self.queue_depth = Gauge("dpst_queue_depth", "Jobs waiting for a slot.", registry=self.registry)
        self.inflight = Gauge("dpst_inflight", "Jobs being worked on.", registry=self.registry)
        self.jobs_total = Counter("dpst_jobs_total", "Finished jobs.", ("outcome",), registry=self.registry)
        self.evaluations_total = Counter("dpst_evaluations_total", "Network evaluations.", registry=self.registry)
        self.model_info = Gauge(
            "dpst_model_info", "1 for every loaded model.", ("name", "version", "device"), registry=self.registry
        )
        self.batch_size = Histogram(
            "dpst_batch_size", "Photos in one run of a network.", buckets=_BATCH_SIZES, registry=self.registry
        )
        self.evaluation_batch_size = Histogram(
            "dpst_evaluation_batch_size",
            "Photos that an evaluation of a solve was made for at once; observed for each of them.",
            buckets=_BATCH_SIZES,
            registry=self.registry,
        )
        self.batch_delay_seconds = self._seconds(
            "dpst_batch_delay_seconds", "Time a decoded photo waited for its run.", buckets=_RPC_SECONDS
        )
        self.cache_requests_total = Counter(
            "dpst_cache_requests_total", "Requests to a cache.", ("cache", "result"), registry=self.registry
        )
        self.cache_bytes = Gauge("dpst_cache_bytes", "Bytes of kept results.", ("cache",), registry=self.registry)
        self.worker_restarts_total = Counter(
            "dpst_worker_restarts_total", "Workers that were lost and replaced.", ("reason",), registry=self.registry
        )
        self.device_memory_bytes = Gauge(
            "dpst_device_memory_bytes", "Memory of the workers.", ("kind",), registry=self.registry
        )
        self.submitted_waiting = Gauge(
            "dpst_submitted_waiting", "Submitted transfers that wait in the store.", registry=self.registry
        )
        self.submitted_age_seconds = Gauge(
            "dpst_submitted_age_seconds", "Since the oldest waiting one was submitted.", registry=self.registry
        )
        self.submitted_retries_total = Counter(
            "dpst_submitted_retries_total", "Attempts at submitted transfers that failed.", registry=self.registry
        )
        self._server = _RpcFamily(self.registry, "server")
        self._client = _RpcFamily(self.registry, "client")

    def _seconds(
        self, name: str, text: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = _JOB_SECONDS
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    @asynccontextmanager
    async def measured_call(self, call: ServerCall) -> AsyncIterator[None]:
        """Count and time one RPC on the server's side."""
        self._server.start(call.kind, call.method)
        started = time.perf_counter()
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            code = final_code(call.context, error)
            self._server.finish(call.kind, call.method, code, time.perf_counter() - started)

    def client_started(self, kind: str, method: str) -> None:
        """Count one RPC that this process sends; ``kind`` is "unary" or "server_stream"."""
        self._client.start(kind, method)

    def client_finished(self, kind: str, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Count and time the end of one RPC that this process sent."""
        self._client.finish(kind, method, code, seconds)


class _RpcFamily:
    """The three standard series of one side, named as public dashboards expect them."""

    def __init__(self, registry: CollectorRegistry, side: str) -> None:
        self._started = Counter(f"grpc_{side}_started_total", "RPCs started.", _RPC_LABELS, registry=registry)
        self._handled = Counter(
            f"grpc_{side}_handled_total", "RPCs ended.", (*_RPC_LABELS, "grpc_code"), registry=registry
        )
        self._seconds = Histogram(
            f"grpc_{side}_handling_seconds", "Time of one RPC.", _RPC_LABELS, buckets=_RPC_SECONDS, registry=registry
        )

    def start(self, kind: str, method: str) -> None:
        self._started.labels(kind, *split_method(method)).inc()

    def finish(self, kind: str, method: str, code: grpc.StatusCode, seconds: float) -> None:
        labels = (kind, *split_method(method))
        self._handled.labels(*labels, _camel(code)).inc()
        self._seconds.labels(*labels).observe(seconds)


def _camel(code: grpc.StatusCode) -> str:
    """``INVALID_ARGUMENT`` as ``InvalidArgument``, the spelling of the standard metrics."""
    return "OK" if code is grpc.StatusCode.OK else "".join(word.capitalize() for word in code.name.split("_"))
