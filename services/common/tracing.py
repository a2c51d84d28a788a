"""OpenTelemetry traces, for whoever installed the extra ``otel`` and set ``DPST_OTLP_ENDPOINT``; else nothing at all.

The context travels as W3C ``traceparent`` in gRPC metadata. Each RPC is a span on either side, each stage of a job one
below it; trace id and span id stand in the log lines. What a worker does is told by its events, so that the worker
needs no tracing of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import structlog

from services.common.calls import HEALTH_SERVICE, ServerCall, final_code, split_method
from services.common.config import ProcessSettings

__all__ = ["Stages", "TracingError", "configure_tracing", "propagated", "span", "stop_tracing", "traced_call"]

_tracer: Any = None
_provider: Any = None


class TracingError(Exception):
    """Traces are asked for and cannot be sent."""


def configure_tracing(process: str, settings: ProcessSettings, exporter: Any = None) -> None:
    """Send spans to ``settings.otlp_endpoint``, or to an exporter of a test's own; without either, do nothing.

    Raises TracingError if the extra ``otel`` is not installed.
    """
    global _provider, _tracer
    if settings.otlp_endpoint is None and exporter is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    except ImportError as error:
        raise TracingError('DPST_OTLP_ENDPOINT needs the extra: pip install "dpst[otel]"') from error
    _provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"dpst.{process}"}))
    if exporter is None:
        sender = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=settings.otlp_insecure)
        _provider.add_span_processor(BatchSpanProcessor(sender))
    else:
        _provider.add_span_processor(SimpleSpanProcessor(exporter))
    _tracer = _provider.get_tracer("dpst")


def stop_tracing() -> None:
    """Send what is left. Blocks for some seconds if the collector is away."""
    global _provider, _tracer
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None


@asynccontextmanager
async def traced_call(call: ServerCall) -> AsyncIterator[None]:
    """A span around a served RPC, below the caller's if it sent one."""
    service, method = split_method(call.method)
    if _tracer is None or service == HEALTH_SERVICE:
        yield
        return
    from opentelemetry import trace
    from opentelemetry.propagate import extract

    carrier = {key: value for key, value in call.context.invocation_metadata() or () if isinstance(value, str)}
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    error: BaseException | None = None
    with _tracer.start_as_current_span(
        call.method.lstrip("/"),
        context=extract(carrier),
        kind=trace.SpanKind.SERVER,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        identity = current.get_span_context()
        structlog.contextvars.bind_contextvars(trace_id=f"{identity.trace_id:032x}", span_id=f"{identity.span_id:016x}")
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            code = final_code(call.context, error)
            current.set_attribute("rpc.grpc.status_code", code.value[0])
            if code.name != "OK":
                current.set_status(trace.Status(trace.StatusCode.ERROR, code.name))
            structlog.contextvars.unbind_contextvars("trace_id", "span_id")


@contextmanager
def span(name: str, **attributes: str | int | float) -> Iterator[None]:
    """A span around a piece of work of this process."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, attributes=attributes):
        yield


def propagated() -> list[tuple[str, str]]:
    """Metadata that tells the process behind this one which span it works for."""
    if _tracer is None:
        return []
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return list(carrier.items())


class Stages:
    """Spans of a job's stages, one after the other, as its events tell of them."""

    def __init__(self) -> None:
        self._span: Any = None

    def began(self, name: str) -> None:
        """The stage ``name`` began, and the one before has ended."""
        self.ended()
        if _tracer is not None:
            self._span = _tracer.start_span(name)

    def ended(self) -> None:
        """The last stage has ended."""
        if self._span is not None:
            self._span.end()
            self._span = None
