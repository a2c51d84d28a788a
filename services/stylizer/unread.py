"""Events of a job that nobody has come for yet."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TypeVar

from services.stylizer.jobs import Checkpointed, Iterated, Picture

__all__ = ["Unread"]

_T = TypeVar("_T")


class Unread(asyncio.Queue[_T]):
    """A queue that a slow reader cannot make grow: it holds one checkpoint and one preview, the newest.

    A caller that stops reading stops every write to it, and solves go on for hours, with a checkpoint of a megabyte or
    more twice a second.
    """

    def _init(self, maxsize: int) -> None:  # noqa: ARG002
        self._queue: deque[_T] = deque()

    def _put(self, item: _T) -> None:
        if isinstance(item, Checkpointed | Picture):
            self._queue = deque(event for event in self._queue if not isinstance(event, Checkpointed))
        elif isinstance(item, Iterated) and item.preview_jpeg:
            self._queue = deque(_without_preview(event) for event in self._queue)
        self._queue.append(item)


def _without_preview(event: _T) -> _T:
    return replace(event, preview_jpeg=b"") if isinstance(event, Iterated) and event.preview_jpeg else event
