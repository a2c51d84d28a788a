"""Tells everybody in this process who waits that something may have changed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["News"]


class News:
    """For the ``news`` of a store of jobs."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def tell(self) -> None:
        """Wake all who wait now."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, timeout_seconds: float) -> None:
        """Return with the next news, at the latest after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._changed.wait()
