"""Error mapping, request ids, metrics and cancellation over a real server on port 0."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
import structlog
from dpst.v1 import progress_pb2, stylizer_pb2, stylizer_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from prometheus_client import generate_latest

from services.common import errors
from services.common.calls import AroundInterceptor, ServerCall
from services.common.client import make_channel
from services.common.config import ProcessSettings
from services.common.logs import current_request_id, is_request_id
from services.common.metrics import Metrics
from services.common.server import PortTakenError, bind, make_server
from services.common.status import least_seconds_of, shortage_of, status_of

SETTINGS = ProcessSettings()
STREAM = {"grpc_type": "server_stream", "grpc_service": "dpst.v1.Stylizer", "grpc_method": "Stylize"}


class _Stylizer(stylizer_pb2_grpc.StylizerServicer):
    def __init__(self, behaviour: Callable[[], Awaitable[None]]) -> None:
        self.behaviour = behaviour
        self.ended_with: list[str] = []

    async def Stylize(self, request, context) -> AsyncIterator[stylizer_pb2.StylizeResponse]:
        try:
            yield stylizer_pb2.StylizeResponse(queued=progress_pb2.Queued(position=1))
            await self.behaviour()
        except BaseException as error:
            self.ended_with.append(type(error).__name__)
            raise


@asynccontextmanager
async def serving(behaviour: Callable[[], Awaitable[None]]):
    """Yield the stub's call, the servicer and the metrics of both sides."""
    server_metrics, client_metrics = Metrics(), Metrics()
    servicer = _Stylizer(behaviour)
    server = make_server(SETTINGS, server_metrics)
    stylizer_pb2_grpc.add_StylizerServicer_to_server(servicer, server)
    port = bind(server, "127.0.0.1", 0)
    await server.start()
    async with make_channel(f"127.0.0.1:{port}", "dpst.v1.Stylizer", SETTINGS, client_metrics) as channel:
        yield stylizer_pb2_grpc.StylizerStub(channel), servicer, server_metrics, client_metrics
    await server.stop(None)


async def drain(call) -> None:
    async for _ in call:
        pass


async def failure(error: BaseException) -> grpc.aio.AioRpcError:
    async def behave() -> None:
        raise error

    async with serving(behave) as (stub, *_):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drain(stub.Stylize(stylizer_pb2.StylizeRequest()))
    return caught.value


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for lives in another process or thread
            await asyncio.sleep(0.01)


async def test_wrong_field_is_named_with_value_and_limit() -> None:
    error = await failure(errors.InvalidArgument("params.strength", 7, "allowed: 0..1"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "params.strength: got 7, allowed: 0..1"
    detail = error_details_pb2.BadRequest()
    assert rpc_status.from_call(error).details[0].Unpack(detail)
    assert detail.field_violations[0].field == "params.strength"
    assert detail.field_violations[0].description == "got 7, allowed: 0..1"


@pytest.mark.parametrize(
    ("raised", "shortage", "least_seconds"),
    [
        (errors.ResourceExhausted("queue full", 1.5, errors.Shortage.QUEUE, math.inf), errors.Shortage.QUEUE, math.inf),
        (errors.ResourceExhausted("too long", 1.5, errors.Shortage.TIME, 2.5), errors.Shortage.TIME, 2.5),
        (errors.ResourceExhausted("too large", 1.5, errors.Shortage.MEMORY), errors.Shortage.MEMORY, 0.0),
        (errors.Unavailable("starting", 1.5), None, 0.0),
    ],
)
async def test_retryable_error_says_when_and_what_lacks(
    raised: errors.ServiceError, shortage: errors.Shortage | None, least_seconds: float
) -> None:
    error = await failure(raised)
    assert error.code() is raised.code
    assert shortage_of(status_of(error)) is shortage
    assert least_seconds_of(status_of(error)) == least_seconds
    detail = error_details_pb2.RetryInfo()
    assert rpc_status.from_call(error).details[-1].Unpack(detail)
    assert detail.retry_delay == Duration(seconds=1, nanos=500_000_000)
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1500"


@pytest.mark.parametrize("kind", [errors.NotFound, errors.DeadlineExceeded, errors.Cancelled])
async def test_plain_public_errors_keep_code_and_text(kind: type[errors.ServiceError]) -> None:
    error = await failure(kind("no such upload"))
    assert (error.code(), error.details()) == (kind.code, "no such upload")


async def test_anything_else_is_internal_and_its_text_stays_in_the_log() -> None:
    with structlog.testing.capture_logs() as lines:
        error = await failure(KeyError("secret path /etc/x"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    (line,) = [line for line in lines if line["event"] == "internal error"]
    assert error.details() == f"internal error {line['error_id']}"


async def test_downstream_status_is_forwarded_with_its_details() -> None:
    inner = await failure(errors.InvalidArgument("content", "3 bytes", "not an image"))
    outer = await failure(inner)
    assert (outer.code(), outer.details()) == (inner.code(), inner.details())
    assert rpc_status.from_call(outer) == rpc_status.from_call(inner)


async def test_downstream_internal_is_not_forwarded() -> None:
    inner = await failure(ValueError("x"))
    outer = await failure(inner)
    assert outer.code() is grpc.StatusCode.INTERNAL
    assert outer.details() != inner.details()


async def test_request_id_travels_and_comes_back() -> None:
    seen: list[str] = []

    async def behave() -> None:
        seen.append(current_request_id())

    async with serving(behave) as (stub, *_):
        with structlog.contextvars.bound_contextvars(request_id="holiday-7"):
            call = stub.Stylize(stylizer_pb2.StylizeRequest())
            await drain(call)
        assert dict(await call.call.initial_metadata())["x-request-id"] == "holiday-7"
        call = stub.Stylize(stylizer_pb2.StylizeRequest(), metadata=(("x-request-id", "not an id!"),))
        await drain(call)
        made = dict(await call.call.initial_metadata())["x-request-id"]
    assert seen == ["holiday-7", made]
    assert is_request_id(made)
    assert made != "not an id!"


async def test_every_rpc_logs_one_line() -> None:
    async def behave() -> None:
        return None

    with structlog.testing.capture_logs() as lines:
        async with serving(behave) as (stub, *_):
            await drain(stub.Stylize(stylizer_pb2.StylizeRequest()))
    (line,) = [line for line in lines if line["event"] == "rpc finished"]
    assert (line["method"], line["code"], line["log_level"]) == ("/dpst.v1.Stylizer/Stylize", "OK", "info")
    assert line["seconds"] >= 0


async def test_cancel_reaches_the_handler_at_once() -> None:
    started = asyncio.Event()

    async def behave() -> None:
        started.set()
        await asyncio.Event().wait()

    async with serving(behave) as (stub, servicer, server_metrics, client_metrics):
        call = stub.Stylize(stylizer_pb2.StylizeRequest())
        await anext(call)
        await started.wait()
        call.cancel()
        await eventually(lambda: servicer.ended_with == ["CancelledError"])
        labels = {**STREAM, "grpc_code": "Cancelled"}
        await eventually(lambda: sample(server_metrics, "grpc_server_handled_total", **labels) == 1)
        await eventually(lambda: sample(client_metrics, "grpc_client_handled_total", **labels) == 1)


async def test_a_caller_that_takes_nothing_is_let_go() -> None:
    ended = asyncio.Event()

    class Flood(stylizer_pb2_grpc.StylizerServicer):
        async def Stylize(self, request, context) -> AsyncIterator[stylizer_pb2.StylizeResponse]:
            checkpoint = progress_pb2.Checkpoint(data=bytes(1 << 20))
            try:
                while True:
                    yield stylizer_pb2.StylizeResponse(checkpoint=checkpoint)
            finally:
                ended.set()

    server = make_server(ProcessSettings(stall_seconds=2.0), Metrics())
    stylizer_pb2_grpc.add_StylizerServicer_to_server(Flood(), server)
    port = bind(server, "127.0.0.1", 0)
    await server.start()
    async with make_channel(f"127.0.0.1:{port}", "dpst.v1.Stylizer", SETTINGS, Metrics()) as channel:
        call = stylizer_pb2_grpc.StylizerStub(channel).Stylize(stylizer_pb2.StylizeRequest())
        for _ in range(20):  # longer than the limit, but it takes something now and then
            await anext(call)
            await asyncio.sleep(0.15)
        assert not ended.is_set()
        async with asyncio.timeout(10):
            await ended.wait()
        with pytest.raises(grpc.aio.AioRpcError, match=r"nothing for 2 s") as caught:
            await drain(call)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
    await server.stop(None)


async def test_a_write_that_fails_is_a_caller_that_has_left() -> None:
    class Left:
        async def write(self, response: object) -> None:
            raise grpc.aio.InternalError("Failed grpc_call_start_batch")

    async def stylize(request, context) -> AsyncIterator[str]:
        yield "event"

    @asynccontextmanager
    async def around(call: ServerCall) -> AsyncIterator[None]:
        yield

    async def found(details: object) -> grpc.RpcMethodHandler:
        return grpc.unary_stream_rpc_method_handler(stylize)

    details = SimpleNamespace(method="/dpst.v1.Stylizer/Stylize")
    handler = await AroundInterceptor(around, 5.0).intercept_service(found, details)
    with pytest.raises(errors.Cancelled, match="left"):
        await handler.unary_stream("request", Left())


async def test_metrics_count_calls_on_both_sides() -> None:
    async def behave() -> None:
        return None

    async with serving(behave) as (stub, _, server_metrics, client_metrics):
        for side, metrics in (("server", server_metrics), ("client", client_metrics)):
            assert sample(metrics, f"grpc_{side}_started_total", **STREAM) == 0
        for _ in range(3):
            await drain(stub.Stylize(stylizer_pb2.StylizeRequest()))
        for side, metrics in (("server", server_metrics), ("client", client_metrics)):
            name = f"grpc_{side}_handled_total"
            await eventually(lambda m=metrics, n=name: sample(m, n, **STREAM, grpc_code="OK") == 3)
            assert sample(metrics, f"grpc_{side}_started_total", **STREAM) == 3
            assert sample(metrics, f"grpc_{side}_handling_seconds_count", **STREAM) == 3


async def test_each_process_has_a_registry_of_its_own() -> None:
    one, other = Metrics(), Metrics()
    one.jobs_total.labels("done").inc()
    assert sample(one, "dpst_jobs_total", outcome="done") == 1
    assert sample(other, "dpst_jobs_total", outcome="done") == 0
    assert b'dpst_stage_duration_seconds_bucket{le="1200.0",stage="solve"}' not in generate_latest(one.registry)
    one.stage_duration_seconds.labels("solve").observe(3)
    assert b'dpst_stage_duration_seconds_bucket{le="1200.0",stage="solve"} 1.0' in generate_latest(one.registry)


async def test_taken_port_is_refused() -> None:
    first, second = make_server(SETTINGS, Metrics()), make_server(SETTINGS, Metrics())
    port = bind(first, "127.0.0.1", 0)
    with pytest.raises(PortTakenError, match=f"port {port} of 127.0.0.1 is taken"):
        bind(second, "127.0.0.1", port)
    await first.stop(None)
    await second.stop(None)
