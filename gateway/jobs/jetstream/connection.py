"""A connection to NATS, and calls over it that end as they should."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import nats.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError

from services.common.errors import Unavailable

__all__ = ["ANSWER_SECONDS", "RETRY_SECONDS", "Connection", "answering", "whole"]

ANSWER_SECONDS: Final = 3.0
RETRY_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 2

_P = ParamSpec("_P")
_T = TypeVar("_T")

_log = structlog.stdlib.get_logger(__name__)


class Connection:
    """A connection to NATS that is made when it is needed, and kept.

    Args:
        servers: ``nats://`` or ``tls://`` addresses.
        credentials: path of a credentials file, None = none.
        replicas: of everything that is kept.
        prefix: of the names of all streams and buckets, so that fleets may share a server.
    """

    def __init__(self, servers: Sequence[str], credentials: str | None, replicas: int, prefix: str) -> None:
        self._servers, self._credentials = list(servers), credentials
        self.replicas, self.prefix = replicas, prefix
        self._client: Client | None = None
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    async def jetstream(self) -> JetStreamContext:
        """Raises Unavailable if no server can be reached now."""
        async with self._lock:
            if self._client is None or self._client.is_closed:
                client = Client()
                try:
                    await client.connect(
                        self._servers,
                        name="dpst-gateway",
                        connect_timeout=_CONNECT_SECONDS,
                        allow_reconnect=False,  # the next call makes a connection, and all that belongs to one
                        max_reconnect_attempts=1,
                        error_cb=_quiet,
                        user_credentials=self._credentials,
                    )
                except (nats.errors.Error, OSError, TimeoutError) as error:
                    raise _away(error) from error
                self._client = client
            return self._client.jetstream(timeout=ANSWER_SECONDS)

    @property
    def client(self) -> Client:
        """The connection itself, once :meth:`jetstream` has returned."""
        assert self._client is not None, "jetstream() comes first"  # noqa: S101
        return self._client

    async def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        """The result of a call, which goes on to its end if the caller is cancelled meanwhile."""
        task = asyncio.create_task(call)
        self._running.add(task)
        task.add_done_callback(self._over)
        return await asyncio.shield(task)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever wanted to know has been told

    async def close(self) -> None:
        """Wait for calls under way, and end it."""
        if self._running:
            await asyncio.wait(self._running)
        if self._client is not None and not self._client.is_closed:
            await self._client.close()


class _Connected(Protocol):
    @property
    def connection(self) -> Connection: ...


_Self = TypeVar("_Self", bound=_Connected)


def whole(
    method: Callable[Concatenate[_Self, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_Self, _P], Coroutine[Any, Any, _T]]:
    """Make a method one that is never cut off half way.

    ``asyncio.wait_for``, which nats-py waits by, loses a cancellation that comes together with the answer (Python
    before 3.12): a task that is to end would go on. So the method runs in a task of its own; its caller ends at once.
    """

    async def run(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self.connection.run(method(self, *args, **kwargs))

    functools.update_wrapper(run, method)
    return run


async def _quiet(error: Exception) -> None:
    """What goes wrong is told by the call that it goes wrong for."""
    _log.debug("NATS", reason=str(error))


def _away(error: BaseException) -> Unavailable:
    reason = str(error) or type(error).__name__
    return Unavailable(f"the store of submitted transfers fails: NATS: {reason}", RETRY_SECONDS)


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """What goes wrong between us and NATS is Unavailable."""
    try:
        yield
    except (nats.errors.Error, APIError, OSError, TimeoutError) as error:
        raise _away(error) from error
