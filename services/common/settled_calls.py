"""Calls that leave nothing behind when they are cancelled.

A call is cancelled, and never a task that waits for one of its operations (see ``settled``): they end with the call,
and are freed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol

import grpc.aio
from grpc.aio import _call

from services.common.settled import settled
from services.common.wrapped_channel import WrappedChannel

__all__ = ["Observer", "SettledChannel", "SettledStream"]

# The classes of calls go on to cancel the tasks that wait for responses; their base class ends the call.
_end: Callable[[Any], bool] = _call.Call.cancel


class Observer(Protocol):
    """Sees each call of a ``SettledChannel``; ``kind`` is "unary" or "server_stream"."""

    def metadata(self, given: grpc.aio.Metadata | None) -> grpc.aio.Metadata:
        """What a call sends along, ``given`` included."""

    def begun(self, call: grpc.aio.Call, kind: str, method: str) -> None:
        """A call has begun."""


class SettledChannel(WrappedChannel):
    """A channel whose calls with one request leave nothing behind; calls that stream requests pass untouched.

    Args:
        channel: carries the calls; without interceptors, because they hide the call that is to be ended.
        observer: sees each call.
    """

    def __init__(self, channel: grpc.aio.Channel, observer: Observer) -> None:
        self._channel, self._observer = channel, observer

    def _inner(self) -> grpc.aio.Channel:
        return self._channel

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """As ``grpc.aio.Channel``, except that a call is a coroutine: it begins when it is awaited."""
        start = self._starting("unary", method, self._channel.unary_unary(method, *args, **kwargs))

        async def answer(request: Any, **options: Any) -> Any:
            call = start(request, **options)
            return await _settled_or_ended(call, _awaited(call))

        return answer

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """As ``grpc.aio.Channel``, except for what a call is."""
        start = self._starting("server_stream", method, self._channel.unary_stream(method, *args, **kwargs))

        def responses(request: Any, **options: Any) -> SettledStream:
            return SettledStream(start(request, **options))

        return responses

    def _starting(self, kind: str, method: str, started: Callable[..., Any]) -> Callable[..., Any]:
        def start(request: Any, *, metadata: grpc.aio.Metadata | None = None, **options: Any) -> Any:
            call = started(request, metadata=self._observer.metadata(metadata), **options)
            self._observer.begun(call, kind, method)
            return call

        return start


class SettledStream(AsyncIterator[Any]):
    """The responses of ``call``, which has its metadata and status. A reader that is cancelled cancels the call."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, Any]) -> None:
        self.call = call

    def cancel(self) -> bool:
        """End the call; False if it has ended already."""
        return _end(self.call)

    async def __anext__(self) -> Any:
        response = await _settled_or_ended(self.call, self.call.read())
        if response is grpc.aio.EOF:
            raise StopAsyncIteration
        return response


async def _settled_or_ended(call: Any, operation: Coroutine[Any, Any, Any]) -> Any:
    """The result of an operation of ``call``; a task that is cancelled meanwhile ends the call."""
    try:
        return await settled(operation)
    except asyncio.CancelledError:
        _end(call)
        raise


async def _awaited(call: Awaitable[Any]) -> Any:
    return await call
