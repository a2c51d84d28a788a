"""Open-loop load on a gateway: requests arrive when they arrive, whether or not earlier ones are answered.

    python -m tests.benchmarks.load --target 127.0.0.1:50051 --rate 0.5 --seconds 60 --timeout 30
        [--content FILE --style FILE] [--quality draft] [--priority normal] [--token KEY] [--out load.json]

Arrivals are a Poisson process of ``--rate`` a second. Each request is tried once, so that refusals are seen. Writes
JSON: counts by code, percentiles of the seconds of answers and of refusals, answers a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpst_client import AsyncClient, Overloaded, TransferFailed, Unavailable
from dpst_client.requests import Priority

from tests.faults.cluster import picture

__all__ = ["Load", "Record", "percentiles"]

_PERCENTILES = (50, 90, 99, 100)
_LEAST_PAUSE_SECONDS = 0.5
"""Where nobody answers, nobody says when to come back."""


@dataclass
class Record:
    """What became of the requests: seconds until each answer or refusal, by gRPC code."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    over: float = 0.0

    def add(self, code: str, seconds: float) -> None:
        """One request has ended."""
        self.seconds.setdefault(code, []).append(seconds)

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        counts = Counter({code: len(values) for code, values in self.seconds.items()})
        elapsed = (self.over or time.monotonic()) - self.began
        return {
            "seconds": round(elapsed, 3),
            "sent": sum(counts.values()),
            "codes": dict(counts),
            "answers_a_second": round(counts["OK"] / elapsed, 4),
            "latency_seconds": {code: percentiles(values) for code, values in self.seconds.items()},
        }


@dataclass(frozen=True)
class Load:
    """Requests for one gateway, all alike."""

    target: str
    content: bytes
    style: bytes
    timeout: float
    priority: Priority = "normal"
    token: str | None = None
    params: dict[str, Any] = field(default_factory=dict)

    async def arrive(self, rate: float, seconds: float, seed: int = 0) -> Record:
        """Let requests arrive at ``rate`` a second for so long; return when all have ended."""
        clock = random.Random(seed)
        record = Record()
        async with AsyncClient(self.target, token=self.token, retries=0) as client, asyncio.TaskGroup() as group:
            due = record.began
            while (due := due + clock.expovariate(rate)) < record.began + seconds:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._one(client, record))
        record.over = time.monotonic()
        return record

    async def keep_busy(self, callers: int, seconds: float) -> Record:
        """The other way round: so many callers, each of whom asks again as soon as it is answered (closed loop)."""
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        return await self.keep_busy_until(callers, stop)

    async def keep_busy_until(self, callers: int, stop: asyncio.Event) -> Record:
        """The same, until ``stop``; what is under way then is waited for.

        Who is refused asks again when it is told to.
        """
        record = Record()

        async def caller() -> None:
            while not stop.is_set():
                pause = await self._one(client, record)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await stop.wait()

        async with AsyncClient(self.target, token=self.token, retries=0) as client, asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        record.over = time.monotonic()
        return record

    async def _one(self, client: AsyncClient, record: Record) -> float:
        """One request; after how many seconds the server wants to be asked again, 0 = it has answered."""
        began = time.monotonic()
        code, pause = "OK", 0.0
        try:
            await client.transfer(self.content, self.style, timeout=self.timeout, priority=self.priority, **self.params)
        except TransferFailed as error:
            code = error.code.name
            if isinstance(error, Overloaded | Unavailable):
                pause = max(_LEAST_PAUSE_SECONDS, error.retry_after_seconds)
        record.add(code, time.monotonic() - began)
        return pause


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and the largest."""
    ordered = sorted(values)
    return {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 4) for p in _PERCENTILES}


def main() -> None:
    """Run the load and write its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--content", type=Path)
    parser.add_argument("--style", type=Path)
    parser.add_argument("--quality", default="draft")
    parser.add_argument("--priority", default="normal", choices=["low", "normal", "high"])
    parser.add_argument("--token")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load = Load(
        options.target,
        options.content.read_bytes() if options.content else picture(1),
        options.style.read_bytes() if options.style else picture(2),
        options.timeout,
        options.priority,
        options.token,
        {"quality": options.quality, "preview_every": 0},
    )
    record = asyncio.run(load.arrive(options.rate, options.seconds))
    text = json.dumps(record.summary(), indent=1)
    print(text)
    if options.out:
        options.out.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
