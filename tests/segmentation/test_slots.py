"""The queue before the threads is bounded, cancellation frees its slot, and the gauges tell the truth."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from services.common.errors import Cancelled, ResourceExhausted
from services.common.metrics import Metrics
from services.segmentation.slots import Cancel, Slots


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def slots(metrics: Metrics) -> AsyncIterator[Slots]:
    slots = Slots(1, 1, metrics)
    yield slots
    await asyncio.to_thread(slots.close)


def gauge(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name)


async def test_work_runs_in_a_thread_and_its_errors_arrive(slots: Slots, metrics: Metrics) -> None:
    assert await slots.run(lambda _: threading.current_thread()) is not threading.main_thread()

    def fail(_: Cancel) -> None:
        raise Cancelled("as asked")

    with pytest.raises(Cancelled, match="as asked"):
        await slots.run(fail)
    assert await slots.run(lambda _: 7) == 7
    assert gauge(metrics, "dpst_inflight") == 0
    assert gauge(metrics, "dpst_queue_wait_seconds_count") == 3


async def test_the_queue_is_bounded(slots: Slots, metrics: Metrics) -> None:
    release, started = threading.Event(), threading.Event()

    def hold(_: Cancel) -> str:
        started.set()
        release.wait(10)
        return "done"

    first = asyncio.create_task(slots.run(hold))
    await asyncio.to_thread(started.wait, 10)
    second = asyncio.create_task(slots.run(hold))
    await asyncio.sleep(0)
    assert gauge(metrics, "dpst_queue_depth") == 1
    with pytest.raises(ResourceExhausted, match="1 photos wait") as caught:
        await slots.run(hold)
    assert caught.value.retry_after_seconds > 0
    release.set()
    assert [await first, await second] == ["done", "done"]
    assert gauge(metrics, "dpst_queue_depth") == 0


async def test_cancelling_tells_the_work_and_frees_the_slot(slots: Slots, metrics: Metrics) -> None:
    started, told = threading.Event(), threading.Event()

    def work(cancel: Cancel) -> None:
        started.set()
        while True:
            try:
                cancel.check()
            except Cancelled:
                told.set()
                raise

    running = asyncio.create_task(slots.run(work))
    await asyncio.to_thread(started.wait, 10)
    waiting = asyncio.create_task(slots.run(work))
    await asyncio.sleep(0)
    waiting.cancel()
    running.cancel()
    for task in (waiting, running):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(told.wait, 10)
    assert await slots.run(lambda _: "free again") == "free again"
    assert gauge(metrics, "dpst_queue_depth") == 0
    assert gauge(metrics, "dpst_inflight") == 0
