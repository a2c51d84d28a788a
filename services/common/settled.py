"""Operations of gRPC that are awaited to their end, also by a task that is cancelled meanwhile.

``grpc.aio`` frees the operations of a batch after the ``await`` that waits for them; a task that is cancelled there
does not come to that, and loses 100 to 1000 bytes each time (https://github.com/grpc/grpc/issues/43360).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["settled"]

_T = TypeVar("_T")

_left: set[asyncio.Task[Any]] = set()
"""Operations that nobody waits for any more: a task without a reference may be collected half-way."""


async def settled(operation: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of ``operation``.

    If this is cancelled, ``operation`` goes on by itself; see to it that it ends soon, which it does with its call.
    """
    task = asyncio.ensure_future(operation)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        _left.add(task)
        task.add_done_callback(_ended)
        raise
    return task.result()


def _ended(task: asyncio.Task[Any]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # else asyncio reports one that was never retrieved
