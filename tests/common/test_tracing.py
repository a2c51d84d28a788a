"""Spans of two processes' worth of servers, sent to memory instead of a collector."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator

import grpc.aio
import pytest
import structlog
from dpst.v1 import progress_pb2, segmentation_pb2, segmentation_pb2_grpc, stylizer_pb2, stylizer_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.common.client import make_channel
from services.common.config import ProcessSettings
from services.common.errors import NotFound
from services.common.health import Health
from services.common.metrics import Metrics
from services.common.server import bind, make_server
from services.common.tracing import Stages, TracingError, configure_tracing, propagated, span, stop_tracing

SETTINGS = ProcessSettings()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    configure_tracing("test", SETTINGS, exporter)
    yield exporter
    stop_tracing()


class _Segmentation(segmentation_pb2_grpc.SegmentationServicer):
    async def Segment(self, request, context) -> segmentation_pb2.SegmentResponse:
        with span("network", photos=1):
            if not request.map_edge_px:
                raise NotFound("model: no such model")
        return segmentation_pb2.SegmentResponse()


class _Stylizer(stylizer_pb2_grpc.StylizerServicer):
    """Asks a segmentation service, as no stylizer does."""

    def __init__(self, segmentation: str) -> None:
        self._segmentation = segmentation

    async def Stylize(self, request, context) -> AsyncIterator[stylizer_pb2.StylizeResponse]:
        stages = Stages()
        for name in ("decode", "solve"):
            stages.began(name)
            yield stylizer_pb2.StylizeResponse(queued=progress_pb2.Queued())
        stages.ended()
        async with make_channel(self._segmentation, "", SETTINGS, Metrics()) as channel:
            stub = segmentation_pb2_grpc.SegmentationStub(channel)
            await stub.Segment(segmentation_pb2.SegmentRequest(map_edge_px=len(request.content.data)))


async def started(add) -> tuple[grpc.aio.Server, str]:
    server = make_server(SETTINGS, Metrics())
    health_pb2_grpc.add_HealthServicer_to_server(Health(()), server)
    add(server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1', 0)}"
    await server.start()
    return server, address


async def traced(content: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> list[dict[str, object]]:
    """Log lines of one call through both servers."""
    segmentation, behind = await started(
        lambda server: segmentation_pb2_grpc.add_SegmentationServicer_to_server(_Segmentation(), server)
    )
    stylizer, address = await started(
        lambda server: stylizer_pb2_grpc.add_StylizerServicer_to_server(_Stylizer(behind), server)
    )
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with grpc.aio.insecure_channel(address) as channel:
            request = stylizer_pb2.StylizeRequest()
            request.content.data = content
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            try:
                async for _ in stylizer_pb2_grpc.StylizerStub(channel).Stylize(request, metadata=metadata):
                    pass
            except grpc.aio.AioRpcError:
                assert not content
    for server in (stylizer, segmentation):
        await server.stop(None)
    return lines


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {each.name: each for each in spans.get_finished_spans()}


async def test_one_trace_from_caller_to_stage(spans: InMemorySpanExporter) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    lines = await traced(b"x", (("traceparent", f"00-{trace}-b7ad6b7169203331-01"),))
    found = by_name(spans)
    assert set(found) == {"dpst.v1.Stylizer/Stylize", "dpst.v1.Segmentation/Segment", "decode", "solve", "network"}
    assert {f"{each.context.trace_id:032x}" for each in found.values()} == {trace}
    parents = {name: each.parent.span_id for name, each in found.items() if each.parent}
    outer, inner = found["dpst.v1.Stylizer/Stylize"], found["dpst.v1.Segmentation/Segment"]
    assert f"{parents['dpst.v1.Stylizer/Stylize']:016x}" == "b7ad6b7169203331"
    assert parents["decode"] == parents["solve"] == parents["dpst.v1.Segmentation/Segment"] == outer.context.span_id
    assert parents["network"] == inner.context.span_id
    assert outer.attributes is not None
    assert outer.attributes["rpc.grpc.status_code"] == 0
    ends = [line for line in lines if line["event"] == "rpc finished" and "Health" not in str(line["method"])]
    assert [line["trace_id"] for line in ends] == [trace, trace]


async def test_a_refused_call_has_its_code(spans: InMemorySpanExporter) -> None:
    await traced(b"")
    inner = by_name(spans)["dpst.v1.Segmentation/Segment"]
    assert inner.attributes is not None
    assert inner.attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert not inner.status.is_ok


async def test_without_a_collector_nothing_is_traced() -> None:
    assert propagated() == []
    with span("nothing"):
        pass
    lines = await traced(b"x")
    assert all("trace_id" not in line for line in lines)


def test_a_collector_without_the_extra_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingError, match=r"dpst\[otel\]"):
        configure_tracing("test", ProcessSettings(otlp_endpoint="collector:4317"))
