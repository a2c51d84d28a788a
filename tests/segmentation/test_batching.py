"""Items of one shape share a run; nobody waits for nothing, and one bad item fails alone."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import pytest

from services.common.metrics import Metrics
from services.segmentation.batching import Batcher

Done = Callable[[int, float | Exception], None]
LONG_SECONDS = 60.0  # a delay that no test waits for


class Held:
    """A network that runs a batch when it is told to; its result is ten times the item's first value."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.started: queue.Queue[list[float]] = queue.Queue()
        self.go = threading.Semaphore(0)

    def run(self, items: Sequence[np.ndarray], done: Done) -> None:
        values = [float(item.flat[0]) for item in items]
        self.batches.append(values)
        self.started.put(values)
        assert self.go.acquire(timeout=20)
        for position, value in enumerate(values):
            if value == 13:
                done(position, ValueError("thirteen"))
            elif value != 99:  # left out
                done(position, value * 10)
            if value == -1:
                raise MemoryError("no room")

    async def begun(self) -> list[float]:
        return await asyncio.to_thread(self.started.get, True, 20)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def make(held: Held, metrics: Metrics) -> AsyncIterator[Callable[..., Batcher[np.ndarray, float]]]:
    made: list[Batcher[np.ndarray, float]] = []

    def make_(size: int = 4, delay_seconds: float = LONG_SECONDS, multiple: int = 1) -> Batcher[np.ndarray, float]:
        made.append(Batcher(held.run, size, delay_seconds, metrics, multiple))
        return made[-1]

    yield make_
    held.go.release(100)
    for batcher in made:
        await asyncio.to_thread(batcher.close)


def item(value: float, shape: tuple[int, ...] = (3, 2, 2)) -> np.ndarray:
    return np.full(shape, value, np.float32)


Send = Callable[..., "asyncio.Task[list[float]]"]


def sender(batcher: Batcher[np.ndarray, float]) -> Send:
    def send(value: float, shape: tuple[int, ...] = (3, 2, 2)) -> asyncio.Task[list[float]]:
        return asyncio.create_task(batcher([item(value, shape)]))

    return send


async def test_who_is_alone_never_waits(make: Callable[..., Batcher[np.ndarray, float]], held: Held) -> None:
    held.go.release()
    assert await asyncio.wait_for(make()([item(1)]), 20) == [10]


async def test_what_gathers_while_a_batch_runs_goes_together(
    make: Callable[..., Batcher[np.ndarray, float]], held: Held, metrics: Metrics
) -> None:
    send = sender(make())
    tasks = [send(0)]
    assert await held.begun() == [0]
    tasks += [send(value) for value in range(1, 7)]
    held.go.release(3)
    assert await asyncio.gather(*tasks) == [[value * 10] for value in range(7)]
    assert held.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert metrics.registry.get_sample_value("dpst_batch_size_sum") == 7
    assert metrics.registry.get_sample_value("dpst_batch_size_count") == 3
    assert metrics.registry.get_sample_value("dpst_batch_delay_seconds_count") == 7


async def test_shapes_never_mix_and_the_oldest_goes_first(
    make: Callable[..., Batcher[np.ndarray, float]], held: Held
) -> None:
    send = sender(make())
    tasks = [send(0)]
    await held.begun()
    tasks += [send(1), send(2, (3, 4, 2)), send(3), send(4, (3, 4, 2))]
    held.go.release(3)
    await asyncio.gather(*tasks)
    assert held.batches == [[0], [1, 3], [2, 4]]


async def test_items_wait_for_announced_ones(make: Callable[..., Batcher[np.ndarray, float]], held: Held) -> None:
    batcher = make()
    held.go.release(2)
    with batcher.coming():
        first = asyncio.create_task(batcher([item(1)]))
        await asyncio.sleep(0)
        assert held.batches == []
    assert await batcher([item(2)]) == [20]
    assert await first == [10]
    assert held.batches == [[1, 2]]


async def test_announced_ones_who_do_not_come_hold_nobody_up(
    make: Callable[..., Batcher[np.ndarray, float]], held: Held
) -> None:
    batcher = make()
    held.go.release()
    with batcher.coming():  # and fails at decoding
        task = asyncio.create_task(batcher([item(1)]))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(task, 20) == [10]


async def test_the_delay_is_the_longest_wait(make: Callable[..., Batcher[np.ndarray, float]], held: Held) -> None:
    batcher = make(delay_seconds=0.01)
    held.go.release()
    with batcher.coming():  # and never comes
        assert await asyncio.wait_for(batcher([item(1)]), 20) == [10]


async def test_a_full_batch_waits_for_nobody(make: Callable[..., Batcher[np.ndarray, float]], held: Held) -> None:
    batcher = make(size=2)
    held.go.release()
    with batcher.coming():
        assert await asyncio.wait_for(batcher([item(1), item(2)]), 20) == [10, 20]


async def test_size_one_is_no_batching(make: Callable[..., Batcher[np.ndarray, float]], held: Held) -> None:
    batcher = make(size=1)
    held.go.release(3)
    assert await batcher([item(1), item(2), item(3)]) == [10, 20, 30]
    assert held.batches == [[1], [2], [3]]


async def test_what_is_over_a_multiple_waits_for_company(
    make: Callable[..., Batcher[np.ndarray, float]], held: Held
) -> None:
    send = sender(make(size=7, multiple=3))
    tasks = [send(0)]
    await held.begun()
    tasks += [send(value) for value in range(1, 6)]
    held.go.release(4)
    await asyncio.gather(*tasks)
    assert held.batches == [[0], [1, 2, 3], [4, 5]]


async def test_the_cancelled_leave_before_their_batch_begins(
    make: Callable[..., Batcher[np.ndarray, float]], held: Held
) -> None:
    send = sender(make())
    tasks = [send(0)]
    await held.begun()
    tasks += [send(1), send(2), send(3)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    tasks[0].cancel()  # runs already; its result is dropped
    await asyncio.sleep(0)
    held.go.release(2)
    assert await asyncio.gather(tasks[1], tasks[3]) == [[10], [30]]
    assert held.batches == [[0], [1, 3]]
    assert tasks[2].cancelled()
    assert tasks[0].cancelled()


async def test_a_bad_item_fails_alone(make: Callable[..., Batcher[np.ndarray, float]], held: Held) -> None:
    send = sender(make())
    tasks = [send(0)]
    await held.begun()
    tasks += [send(1), send(13), send(99), send(2)]
    held.go.release(2)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [results[0], results[1], results[4]] == [[0], [10], [20]]
    assert isinstance(results[2], ValueError)
    assert isinstance(results[3], RuntimeError)


async def test_a_batch_that_breaks_keeps_what_is_done(
    make: Callable[..., Batcher[np.ndarray, float]], held: Held
) -> None:
    send = sender(make())
    tasks = [send(0)]
    await held.begun()
    tasks += [send(1), send(-1), send(2)]
    held.go.release(3)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:3] == [[0], [10], [-10]]
    assert isinstance(results[3], MemoryError)
    assert await send(5) == [50]


async def test_closing_lets_the_running_batch_end(make: Callable[..., Batcher[np.ndarray, float]], held: Held) -> None:
    batcher = make()
    task = asyncio.create_task(batcher([item(1)]))
    await held.begun()
    held.go.release()
    await asyncio.to_thread(batcher.close)
    assert await task == [10]
