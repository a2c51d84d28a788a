"""What a channel that starts its calls on another one has in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import grpc
import grpc.aio

__all__ = ["WrappedChannel"]


class WrappedChannel(grpc.aio.Channel):
    """Forwards to ``_inner()`` whatever a subclass does not do itself."""

    @abstractmethod
    def _inner(self) -> grpc.aio.Channel:
        """The channel that is used now."""

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """As ``grpc.aio.Channel``, like all the following."""
        return self._inner().unary_unary(*args, **kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See ``unary_unary``."""
        return self._inner().unary_stream(*args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See ``unary_unary``."""
        return self._inner().stream_unary(*args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See ``unary_unary``."""
        return self._inner().stream_stream(*args, **kwargs)

    async def close(self, grace: float | None = None) -> None:
        """See ``unary_unary``."""
        await self._inner().close(grace)

    async def __aenter__(self) -> WrappedChannel:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See ``unary_unary``."""
        return self._inner().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See ``unary_unary``."""
        await self._inner().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See ``unary_unary``."""
        await self._inner().channel_ready()
