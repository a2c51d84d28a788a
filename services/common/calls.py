"""Server interceptors written as async context managers around a whole RPC.

A streaming handler that is cancelled while the framework sends a message is not closed by grpc.aio until the garbage
collector finds it. Here the generator is driven inside the RPC's own task, so that its ``finally`` blocks run at once
and in the right context.

Initial metadata goes out with the first response and not before: a client that has received nothing may try a refused
call again by itself, on another replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from services.common.errors import Cancelled, InvalidArgument
from services.common.settled import settled

__all__ = ["HEALTH_SERVICE", "Around", "AroundInterceptor", "ServerCall", "final_code", "send_first", "split_method"]

HEALTH_SERVICE = "grpc.health.v1.Health"
"""Asked every few seconds, by orchestrators that have no key: let in, and neither traced nor logged at INFO."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class ServerCall:
    """One RPC as a server sees it; ``kind`` is "unary", "server_stream" or "client_stream"."""

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


@dataclass(frozen=True)
class _Unreadable:
    """Stands for a request whose bytes are no message."""

    size: int


@dataclass(frozen=True)
class _Reader:
    """A deserialiser that does not raise: gRPC would answer INTERNAL, as if it were our fault."""

    read: Callable[[bytes], Any]

    def __call__(self, data: bytes) -> Any:
        try:
            return self.read(data)
        except Exception:  # protobuf's DecodeError, or what another runtime raises
            return _Unreadable(len(data))


def _checked(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise InvalidArgument("request", f"{request.size} bytes", "must be a message of this method's type")
    return request


def _refusing(behaviour: Any, kind: str) -> Any:
    """The handler, for requests that are messages; others are refused by name."""

    async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return await behaviour(_checked(request), context)

    def streaming(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return behaviour(_checked(request), context)

    async def fed(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return await behaviour((_checked(request) async for request in requests), context)

    return {"unary": unary, "server_stream": streaming, "client_stream": fed}[kind]


class AroundInterceptor(grpc.aio.ServerInterceptor):
    """Enters ``around(call)`` before every handler and leaves it after.

    A handler whose caller takes nothing of its stream for ``stall_seconds`` ends with ``Cancelled``: what it holds is
    free then, though its status waits behind what the caller has not taken. Calls that stream both ways pass untouched:
    of those there is reflection only.
    """

    def __init__(self, around: Around, stall_seconds: float) -> None:
        self._around, self._stall_seconds = around, stall_seconds

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Replace the method's handler by one inside the context manager."""
        handler = await continuation(handler_call_details)
        if handler is None or (handler.request_streaming and handler.response_streaming):
            return handler
        read, write, method = handler.request_deserializer, handler.response_serializer, handler_call_details.method
        kind, behaviour = _kind(handler)
        if read is not None:
            behaviour, read = _refusing(behaviour, kind), _Reader(read)
        if kind == "server_stream":
            return grpc.unary_stream_rpc_method_handler(self._streaming(behaviour, method), read, write)
        if kind == "client_stream":
            return grpc.stream_unary_rpc_method_handler(self._answering(behaviour, method, kind), read, write)
        return grpc.unary_unary_rpc_method_handler(self._answering(behaviour, method, kind), read, write)

    def _answering(self, behaviour: Any, method: str, kind: str) -> Callable[[Any, Any], Any]:
        """``request`` is an iterator of messages if ``kind`` is "client_stream"."""

        async def answering(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with self._around(ServerCall(method, kind, request, context)):
                response = await behaviour(request, context)
                await _send_pending(context)
                return response

        return answering

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
                        await self._write(context, response)

        return streaming

    async def _write(self, context: grpc.aio.ServicerContext[Any, Any], response: Any) -> None:
        try:
            async with asyncio.timeout(self._stall_seconds):
                await settled(context.write(response))
        except TimeoutError:
            raise Cancelled(f"the caller has taken nothing for {self._stall_seconds:g} s") from None
        except grpc.aio.InternalError as error:  # the call ended before this was sent; its cancel is on the way
            raise Cancelled("the caller has left") from error


def _kind(handler: grpc.RpcMethodHandler[Any, Any]) -> tuple[str, Any]:
    if handler.request_streaming:
        return "client_stream", handler.stream_unary
    return ("server_stream", handler.unary_stream) if handler.response_streaming else ("unary", handler.unary_unary)


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
