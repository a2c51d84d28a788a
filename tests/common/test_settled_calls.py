"""Calls that are cancelled, and what is left of them."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from dpst.v1 import progress_pb2, stylizer_pb2, stylizer_pb2_grpc

from services.common.client import make_channel
from services.common.config import ProcessSettings
from services.common.errors import ResourceExhausted, Shortage
from services.common.metrics import Metrics
from services.common.server import bind, make_server
from services.common.settled import settled
from tests.benchmarks.grpc_alone import grpc_alone
from tests.common.test_rpc_frame import eventually

SETTINGS = ProcessSettings()


class _Stylizer(stylizer_pb2_grpc.StylizerServicer):
    """Does not answer; counts who has come and who has left."""

    def __init__(self) -> None:
        self.come = self.left = 0

    async def _forever(self) -> None:
        self.come += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.left += 1

    async def CheckRoom(self, request, context):
        if request.width_px == 7:
            raise ResourceExhausted("no room", 1.5, Shortage.QUEUE)
        await self._forever()

    async def Stylize(self, request, context) -> AsyncIterator[stylizer_pb2.StylizeResponse]:
        yield stylizer_pb2.StylizeResponse(queued=progress_pb2.Queued(position=1))
        await self._forever()


@asynccontextmanager
async def serving():
    servicer = _Stylizer()
    server = make_server(SETTINGS, Metrics())
    stylizer_pb2_grpc.add_StylizerServicer_to_server(servicer, server)
    port = bind(server, "127.0.0.1", 0)
    await server.start()
    async with make_channel(f"127.0.0.1:{port}", "dpst.v1.Stylizer", SETTINGS, Metrics()) as channel:
        yield stylizer_pb2_grpc.StylizerStub(channel), servicer
    await server.stop(None)


async def _read(stub) -> None:
    async for _ in stub.Stylize(stylizer_pb2.StylizeRequest()):
        pass


async def _ask(stub) -> None:
    await stub.CheckRoom(stylizer_pb2.CheckRoomRequest())


@pytest.mark.parametrize("call", [_ask, _read])
async def test_a_task_that_is_cancelled_takes_its_call_along(call) -> None:
    async with serving() as (stub, servicer):
        waiting = asyncio.create_task(call(stub))
        await eventually(lambda: servicer.come == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await eventually(lambda: servicer.left == 1)


async def test_a_refusal_is_what_grpc_makes_of_it() -> None:
    async with serving() as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError, match="no room") as caught:
            await stub.CheckRoom(stylizer_pb2.CheckRoomRequest(width_px=7))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CheckRoom(stylizer_pb2.CheckRoomRequest(), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="counts what the GNU C library has allocated")
async def test_a_cancelled_call_leaves_nothing_behind() -> None:
    left = await grpc_alone(200)  # grpc.aio itself leaves 960 bytes of an answer, 100 of a stream
    assert all(bytes_settled < 50 for _, bytes_settled in left.values()), left
    assert len(left) == 2


async def test_an_operation_goes_on_without_the_task_that_waited_for_it() -> None:
    may_end, ended = asyncio.Event(), asyncio.Event()

    async def operation() -> None:
        await may_end.wait()
        ended.set()
        raise RuntimeError("nobody is told")

    waiting = asyncio.create_task(settled(operation()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not ended.is_set()
    may_end.set()
    async with asyncio.timeout(5):
        await ended.wait()
