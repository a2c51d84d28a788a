"""Requests that arrive close together share one run of a network.

Own code, because what is published for asyncio (async-batcher, aiobatch, batched) knows neither shapes nor
cancellation and waits its full delay even beside an idle network.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from services.common.metrics import Metrics

__all__ = ["Batcher"]


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


_In = TypeVar("_In", bound=_Shaped)
_Out = TypeVar("_Out")


@dataclass(eq=False)
class _Waiting(Generic[_In, _Out]):
    item: _In
    result: asyncio.Future[_Out]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[_In, _Out]):
    """Collects items of the same shape and runs them in a thread of its own, one batch at a time.

    While a batch runs, the next ones gather; when it ends, the shape whose first item has waited longest goes next.
    Beside an idle network an item waits only while others are announced (``coming``), and ``max_delay_seconds`` at
    most: a caller who is alone never waits.

    Args:
        run: gets the items of a batch and calls ``done(position, result)`` for each, from any thread. If it raises, or
            leaves items out, those items fail with that error; the others keep their results.
        max_size: most items of a batch.
        max_delay_seconds: see above.
        metrics: receives batch sizes and delays.
        multiple: batches larger than this are multiples of it; what is over waits for the next batch, where it may
            have company, instead of keeping one of several cores busy alone.
    """

    def __init__(
        self,
        run: Callable[[Sequence[_In], Callable[[int, _Out | Exception], None]], None],
        max_size: int,
        max_delay_seconds: float,
        metrics: Metrics,
        multiple: int = 1,
    ) -> None:
        self._run = run
        self._max_size = max_size
        self._max_delay_seconds = max_delay_seconds
        self._metrics = metrics
        self._multiple = multiple
        self._groups: dict[tuple[int, ...], list[_Waiting[_In, _Out]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._busy = False
        self._coming = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Announce an item: inside, the request is on its way here, so that others may wait for it."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            # Not at once: what has come is to be added first.
            asyncio.get_running_loop().call_soon(self._dispatch)

    async def __call__(self, items: Sequence[_In]) -> list[_Out]:
        """Give the items' results, or raise what the first to fail failed with.

        If the caller is cancelled, items whose batch has not begun leave it.
        """
        loop = asyncio.get_running_loop()
        waiting: list[_Waiting[_In, _Out]] = [_Waiting(item, loop.create_future()) for item in items]
        for each in waiting:
            self._groups.setdefault(each.item.shape, []).append(each)
        self._dispatch()
        try:
            return await asyncio.gather(*(each.result for each in waiting))
        finally:
            for each in waiting:
                self._leave(each)

    def close(self) -> None:
        """Wait for the running batch."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _leave(self, waiting: _Waiting[_In, _Out]) -> None:
        group = self._groups.get(waiting.item.shape, [])
        if waiting in group:
            group.remove(waiting)
            if not group:
                del self._groups[waiting.item.shape]

    def _dispatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._busy or not self._groups:
            return
        oldest = min(self._groups.values(), key=lambda group: group[0].since)
        full = [group for group in self._groups.values() if len(group) >= self._max_size]
        remaining = oldest[0].since + self._max_delay_seconds - time.monotonic()
        if self._coming and remaining > 0 and not full:
            self._timer = asyncio.get_running_loop().call_later(remaining, self._dispatch)
            return
        self._start(oldest if remaining <= 0 or not full else full[0])

    def _start(self, group: list[_Waiting[_In, _Out]]) -> None:
        size = min(len(group), self._max_size)
        if size > self._multiple:
            size -= size % self._multiple
        batch, rest = group[:size], group[size:]
        shape = batch[0].item.shape
        if rest:
            self._groups[shape] = rest
        else:
            del self._groups[shape]
        now = time.monotonic()
        for waiting in batch:
            self._metrics.batch_delay_seconds.observe(now - waiting.since)
        self._metrics.batch_size.observe(len(batch))
        self._busy = True
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._work, batch, loop)
        running.add_done_callback(lambda ended: self._ended(batch, ended))

    def _work(self, batch: Sequence[_Waiting[_In, _Out]], loop: asyncio.AbstractEventLoop) -> None:
        def done(position: int, result: _Out | Exception) -> None:
            loop.call_soon_threadsafe(_settle, batch[position].result, result)

        self._run([waiting.item for waiting in batch], done)

    def _ended(self, batch: Sequence[_Waiting[_In, _Out]], ended: asyncio.Future[None]) -> None:
        self._busy = False
        error = None if ended.cancelled() else ended.exception()
        for waiting in batch:
            _settle(waiting.result, error if isinstance(error, Exception) else RuntimeError("left out of its batch"))
        self._dispatch()


def _settle(future: asyncio.Future[_Out], result: _Out | Exception) -> None:
    if future.done():  # cancelled, or settled before
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
