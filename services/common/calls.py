"""Server interceptors written as async context managers around a whole RPC.

A streaming handler that is cancelled while the framework sends a message is not closed by grpc.aio until the garbage
collector finds it. Here the generator is driven inside the RPC's own task, so that its ``finally`` blocks run at once
and in the right context.

Initial metadata goes out with the first response and not before: a client that has received nothing may try a refused
call again by itself, on another replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

__all__ = ["Around", "AroundInterceptor", "ServerCall", "final_code", "send_first", "split_method"]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class ServerCall:
    """One RPC as a server sees it; ``kind`` is "unary" or "server_stream"."""

    method: str
    kind: str
    request: Any
    context: grpc.aio.ServicerContext[Any, Any]


_pending: ContextVar[list[tuple[str, str]] | None] = ContextVar("pending_initial_metadata", default=None)


def send_first(*metadata: tuple[str, str]) -> None:
    """Have initial metadata sent with the first response of the current call."""
    _pending.set(list(metadata))


async def _send_pending(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    pending = _pending.get()
    if pending:
        metadata = tuple(pending)
        pending.clear()
        await context.send_initial_metadata(metadata)


Around = Callable[[ServerCall], AbstractAsyncContextManager[None]]


class AroundInterceptor(grpc.aio.ServerInterceptor):
    """Enters ``around(call)`` before every unary or server-streaming handler and leaves it after."""

    def __init__(self, around: Around) -> None:
        self._around = around

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Replace the method's handler by one inside the context manager; other kinds of RPC pass untouched."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, handler_call_details.method),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary, handler_call_details.method),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(self, behaviour: Any, method: str) -> Callable[[Any, Any], Any]:
        async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with self._around(ServerCall(method, "unary", request, context)):
                response = await behaviour(request, context)
                await _send_pending(context)
                return response

        return unary

    def _streaming(self, behaviour: Any, method: str) -> Callable[[Any, Any], Any]:
        async def streaming(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            async with self._around(ServerCall(method, "server_stream", request, context)):
                result = behaviour(request, context)
                if not hasattr(result, "__aiter__"):  # a coroutine that calls context.write itself
                    await result
                    return
                async with aclosing(result) as responses:
                    async for response in responses:
                        await _send_pending(context)
                        await context.write(response)

        return streaming


def final_code(context: grpc.aio.ServicerContext[Any, Any], error: BaseException | None) -> grpc.StatusCode:
    """Status code of a finished handler that returned, or ended with ``error``."""
    if isinstance(error, asyncio.CancelledError):
        # grpc.aio cancels the handler for both reasons.
        remaining = context.time_remaining()
        expired = remaining is not None and remaining <= 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
    set_code: Any = context.code()  # an int or a StatusCode, depending on who set it
    code = (
        set_code if isinstance(set_code, grpc.StatusCode) else _CODES.get(int(set_code or 0), grpc.StatusCode.UNKNOWN)
    )
    if error is not None and code is grpc.StatusCode.OK:
        return grpc.StatusCode.UNKNOWN
    return code


def split_method(method: str) -> tuple[str, str]:
    """Service and method of "/package.Service/Method"."""
    service, _, name = method.lstrip("/").partition("/")
    return service, name
