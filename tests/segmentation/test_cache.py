"""Equal requests are computed once, whoever leaves; what is kept is bounded by bytes and seconds."""

from __future__ import annotations

import asyncio

import pytest

from services.common.metrics import Metrics
from services.segmentation.cache import ResultCache


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def cache(metrics: Metrics, max_bytes: int = 100, max_seconds: float = 60.0) -> ResultCache[bytes]:
    return ResultCache("test", max_bytes, max_seconds, len, metrics)


class Work:
    """Computes when it is told to, and counts."""

    def __init__(self, result: bytes = b"result") -> None:
        self.go = asyncio.Event()
        self.runs = 0
        self.cancelled = 0
        self.result = result

    async def __call__(self) -> bytes:
        self.runs += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if not self.result:
            raise ValueError("nothing")
        return self.result


def done(result: bytes = b"result") -> Work:
    work = Work(result)
    work.go.set()
    return work


def counted(metrics: Metrics, result: str) -> float | None:
    return metrics.registry.get_sample_value("dpst_cache_requests_total", {"cache": "test", "result": result})


def kept_bytes(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("dpst_cache_bytes", {"cache": "test"})


async def test_a_result_is_kept(metrics: Metrics) -> None:
    kept, work = cache(metrics), done()
    assert await kept.get("a", work) == (b"result", "miss")
    assert await kept.get("a", work) == (b"result", "hit")
    assert await kept.get("b", work) == (b"result", "miss")
    assert work.runs == 2
    assert (counted(metrics, "hit"), counted(metrics, "miss"), counted(metrics, "shared")) == (1, 2, 0)
    assert kept_bytes(metrics) == 12


async def test_bytes_are_bounded_and_the_longest_unused_goes(metrics: Metrics) -> None:
    kept = cache(metrics, max_bytes=20)
    for key in "ab":
        await kept.get(key, done(bytes(10)))
    await kept.get("a", done(bytes(10)))
    await kept.get("c", done(bytes(10)))
    assert kept_bytes(metrics) == 20
    assert [(await kept.get(key, done(bytes(10))))[1] for key in "acb"] == ["hit", "hit", "miss"]
    assert await kept.get("large", done(bytes(21))) == (bytes(21), "miss")
    assert (await kept.get("large", done(bytes(21))))[1] == "miss"


async def test_seconds_are_bounded(metrics: Metrics) -> None:
    now = 1000.0
    kept: ResultCache[bytes] = ResultCache("test", 100, 60.0, len, metrics, lambda: now)
    await kept.get("a", done())
    now += 59
    assert (await kept.get("a", done()))[1] == "hit"
    now += 2
    assert kept_bytes(metrics) == 0
    assert (await kept.get("a", done()))[1] == "miss"


@pytest.mark.parametrize(("max_bytes", "max_seconds"), [(0, 60.0), (100, 0.0)])
async def test_off_is_off(metrics: Metrics, max_bytes: int, max_seconds: float) -> None:
    kept, work = cache(metrics, max_bytes, max_seconds), done()
    assert not kept.is_on
    for _ in range(2):
        assert await kept.get("a", work) == (b"result", "miss")
    assert work.runs == 2


async def test_equal_requests_at_once_are_computed_once(metrics: Metrics) -> None:
    kept, work = cache(metrics), Work()
    tasks = [asyncio.create_task(kept.get("a", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(*tasks) == [(b"result", "miss"), (b"result", "shared"), (b"result", "shared")]
    assert work.runs == 1
    assert counted(metrics, "shared") == 2


async def test_a_cancelled_first_caller_does_not_fail_the_second(metrics: Metrics) -> None:
    kept, work = cache(metrics), Work()
    first, second = (asyncio.create_task(kept.get("a", work)) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.go.set()
    assert await second == (b"result", "shared")
    assert work.cancelled == 0


async def test_the_last_to_leave_cancels_the_work_and_the_next_starts_anew(metrics: Metrics) -> None:
    kept, work = cache(metrics), Work()
    tasks = [asyncio.create_task(kept.get("a", work)) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    again = asyncio.create_task(kept.get("a", done()))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert (await again)[0] == b"result"
    await asyncio.sleep(0)
    assert work.cancelled == 1


async def test_errors_reach_all_callers_and_are_not_kept(metrics: Metrics) -> None:
    kept, work = cache(metrics), Work(b"")
    tasks = [asyncio.create_task(kept.get("a", work)) for _ in range(2)]
    await asyncio.sleep(0)
    work.go.set()
    for task in tasks:
        with pytest.raises(ValueError, match="nothing"):
            await task
    assert await kept.get("a", done()) == (b"result", "miss")
