"""A channel whose certificates may be exchanged while calls run: gRPC reads a channel's files once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from services.common.wrapped_channel import WrappedChannel

__all__ = ["RenewedChannel"]


class _Opened:
    """A channel and the number of its running calls."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.is_left = False
        self._running = 0
        self._closing: asyncio.Task[None] | None = None

    def follow(self, call: grpc.aio.Call) -> None:
        self._running += 1
        call.add_done_callback(self._ended)

    def leave(self) -> None:
        """Close it with the end of its last call."""
        self.is_left = True
        self._close_if_idle()

    def _ended(self, _call: object) -> None:
        self._running -= 1
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self.is_left and self._running == 0 and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self.channel.close())


class RenewedChannel(WrappedChannel):
    """Each call goes through a channel that knows the newest certificates; calls that run stay where they are.

    Only the newest channel is closed with this one; an older one ends with its last call.

    Args:
        opened: opens a channel.
        is_outdated: asked before each call: whether a new channel is to be opened.
    """

    def __init__(self, opened: Callable[[], grpc.aio.Channel], is_outdated: Callable[[], bool]) -> None:
        self._open, self._is_outdated = opened, is_outdated
        self._now = _Opened(opened())

    def _inner(self) -> grpc.aio.Channel:
        return self._now.channel

    def _current(self) -> _Opened:
        if self._is_outdated():
            before, self._now = self._now, _Opened(self._open())
            before.leave()
        return self._now

    def _callable(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        def started(*request: Any, **options: Any) -> Any:
            opened = self._current()
            call = getattr(opened.channel, kind)(*args, **kwargs)(*request, **options)
            opened.follow(call)
            return call

        return started

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """As ``grpc.aio.Channel``, like the following."""
        return self._callable("unary_unary", *args, **kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See ``unary_unary``."""
        return self._callable("unary_stream", *args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See ``unary_unary``."""
        return self._callable("stream_unary", *args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See ``unary_unary``."""
        return self._callable("stream_stream", *args, **kwargs)
