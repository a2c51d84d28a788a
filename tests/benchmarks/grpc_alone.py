"""What ``grpc.aio`` itself leaves behind when a call is cancelled, and what ``settled_calls`` makes of it.

Part of ``cancel``. https://github.com/grpc/grpc/issues/43360: the operations of a batch are freed by whoever awaits it,
and a cancelled task does not come to that.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import platform
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import grpc.aio

from services.common.settled_calls import SettledChannel

__all__ = ["grpc_alone"]

_PAUSE_SECONDS = 0.004
"""Until a call has arrived and waits."""

_SIZES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of the GNU C library."""

    _fields_ = [(name, ctypes.c_size_t) for name in _SIZES]


class _Unobserved:
    def metadata(self, given: grpc.aio.Metadata | None) -> grpc.aio.Metadata:
        return given or grpc.aio.Metadata()

    def begun(self, call: grpc.aio.Call, kind: str, method: str) -> None:
        pass


async def grpc_alone(calls: int = 1000) -> dict[str, tuple[float, float]]:
    """Bytes that a cancelled call leaves in client and server together, by kind of call; {} on other C libraries.

    The first number is of ``grpc.aio``, the second of the same call through a ``SettledChannel``.
    """
    if platform.libc_ver()[0] != "glibc":
        return {}
    server = grpc.aio.server()
    handlers = {
        "One": grpc.unary_unary_rpc_method_handler(_never),
        "Many": grpc.unary_stream_rpc_method_handler(_once),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Bare", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    found: dict[str, tuple[float, float]] = {}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        settled = SettledChannel(channel, _Unobserved())
        for kind, call in (("one answer", _answer), ("a stream, while it is read", _read)):
            alone = await _left_behind(partial(call, channel), calls)
            found[kind] = alone, await _left_behind(partial(call, settled), calls)
    await server.stop(None)
    return found


async def _answer(channel: grpc.aio.Channel) -> None:
    one: Any = channel.unary_unary("/bare.Bare/One")
    await one(b"")


async def _read(channel: grpc.aio.Channel) -> None:
    many: Any = channel.unary_stream("/bare.Bare/Many")
    async for _ in many(b""):
        pass


async def _never(request: bytes, context: Any) -> bytes:
    await asyncio.Event().wait()
    return request


async def _once(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield request
    await asyncio.Event().wait()


async def _left_behind(call: Callable[[], Awaitable[None]], count: int) -> float:
    await _cancelled(call, count // 3)
    before = await _used_bytes()
    await _cancelled(call, count)
    return (await _used_bytes() - before) / count


async def _cancelled(call: Callable[[], Awaitable[None]], count: int) -> None:
    for _ in range(count):
        task = asyncio.ensure_future(call())
        await asyncio.sleep(_PAUSE_SECONDS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _used_bytes() -> int:
    """What is allocated in the main arena, after what still ends has ended."""
    await asyncio.sleep(0.5)
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _MallocInfo
    return int(mallinfo2().uordblks)
