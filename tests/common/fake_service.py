"""A tiny Stylizer whose replies a test scripts, run in this process or (as ``__main__``) in one of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc.aio
from dpst.v1 import progress_pb2, stylizer_pb2, stylizer_pb2_grpc

from services.common.config import ProcessSettings
from services.common.process import run_process


class FakeStylizer(stylizer_pb2_grpc.StylizerServicer):
    """Runs ``behaviour`` for every Stylize call."""

    names = ("dpst.v1.Stylizer",)

    def __init__(self, behaviour: Callable[[], Awaitable[None]]) -> None:
        self.behaviour = behaviour
        self.worker_is_there = False

    async def Stylize(self, request, context) -> AsyncIterator[stylizer_pb2.StylizeResponse]:
        yield stylizer_pb2.StylizeResponse(queued=progress_pb2.Queued(position=1))
        await self.behaviour()
        assert self.worker_is_there, "start was cancelled under a running call"
        yield stylizer_pb2.StylizeResponse(done=progress_pb2.Done())

    def register(self, server: grpc.aio.Server) -> None:
        stylizer_pb2_grpc.add_StylizerServicer_to_server(self, server)

    async def start(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        if sys.argv[1:] == ["broken"]:
            raise RuntimeError("the weights are gone")
        if sys.argv[1:] == ["unready"]:
            return
        self.worker_is_there = True
        await serving(True)
        try:
            await asyncio.Event().wait()
        finally:
            self.worker_is_there = False

    async def stop(self) -> None:
        print("service stopped", flush=True)


async def _one_second() -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    sys.exit(run_process("fake", ProcessSettings, lambda _settings, _metrics: FakeStylizer(_one_second)))
