"""The queue before the places is bounded, cancellation frees its place, and the gauges tell the truth."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import pytest

from services.common.errors import Cancelled, ResourceExhausted
from services.common.metrics import Metrics
from services.segmentation.slots import Cancel, Slots

T = TypeVar("T")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def slots(metrics: Metrics) -> AsyncIterator[Slots]:
    slots = Slots(1, 1, 1, metrics)
    yield slots
    await asyncio.to_thread(slots.close)


async def run(slots: Slots, *works: Callable[[Cancel], T]) -> T:
    async with slots.place() as place:
        for work in works:
            result = await place.run(work)
        return result


def gauge(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name)


async def test_work_runs_in_a_thread_and_its_errors_arrive(slots: Slots, metrics: Metrics) -> None:
    assert await run(slots, lambda _: threading.current_thread()) is not threading.main_thread()

    def fail(_: Cancel) -> None:
        raise Cancelled("as asked")

    with pytest.raises(Cancelled, match="as asked"):
        await run(slots, fail)
    assert await run(slots, lambda _: 6, lambda _: 7) == 7
    assert gauge(metrics, "dpst_inflight") == 0
    assert gauge(metrics, "dpst_queue_wait_seconds_count") == 3


async def test_the_queue_is_bounded(slots: Slots, metrics: Metrics) -> None:
    release, started = threading.Event(), threading.Event()

    def hold(_: Cancel) -> str:
        started.set()
        release.wait(10)
        return "done"

    first = asyncio.create_task(run(slots, hold))
    await asyncio.to_thread(started.wait, 10)
    second = asyncio.create_task(run(slots, hold))
    await asyncio.sleep(0)
    assert gauge(metrics, "dpst_queue_depth") == 1
    with pytest.raises(ResourceExhausted, match="1 photos wait") as caught:
        await run(slots, hold)
    assert caught.value.retry_after_seconds > 0
    release.set()
    assert [await first, await second] == ["done", "done"]
    assert gauge(metrics, "dpst_queue_depth") == 0


async def test_cancelling_tells_the_work_and_frees_the_place(slots: Slots, metrics: Metrics) -> None:
    started, told = threading.Event(), threading.Event()

    def work(cancel: Cancel) -> None:
        started.set()
        while True:
            try:
                cancel.check()
            except Cancelled:
                told.set()
                raise

    running = asyncio.create_task(run(slots, work))
    await asyncio.to_thread(started.wait, 10)
    waiting = asyncio.create_task(run(slots, work))
    await asyncio.sleep(0)
    waiting.cancel()
    running.cancel()
    for task in (waiting, running):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(told.wait, 10)
    assert await run(slots, lambda _: "free again") == "free again"
    assert gauge(metrics, "dpst_queue_depth") == 0
    assert gauge(metrics, "dpst_inflight") == 0


async def test_a_place_is_kept_until_its_work_has_ended(slots: Slots, metrics: Metrics) -> None:
    release, started = threading.Event(), threading.Event()

    def stubborn(_: Cancel) -> None:
        started.set()
        release.wait(10)

    running = asyncio.create_task(run(slots, stubborn))
    await asyncio.to_thread(started.wait, 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gauge(metrics, "dpst_inflight") == 1
    release.set()
    assert await run(slots, lambda _: "free again") == "free again"


async def test_places_outnumber_threads(metrics: Metrics) -> None:
    slots = Slots(3, 1, 0, metrics)
    entered = asyncio.Semaphore(0)
    leave = asyncio.Event()

    async def hold() -> None:
        async with slots.place():
            entered.release()
            await leave.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(3)]
    for _ in tasks:
        await entered.acquire()
    assert gauge(metrics, "dpst_inflight") == 3
    with pytest.raises(ResourceExhausted):
        await run(slots, lambda _: None)
    leave.set()
    await asyncio.gather(*tasks)
    slots.close()
