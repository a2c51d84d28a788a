"""A stack under ten times its capacity: does accepted work keep its deadline, is the rest refused at once?

    python -m tests.benchmarks.overload [--seconds 180] [--times 10] [--together] [--quality draft|standard|high]
        [--out build/benchmarks/overload]

Starts a stack with the built-in networks on all cores but one, for the callers have that one: what their thirty photos
a second cost them is not the services' to pay (``--together`` lets all share all). Measures its capacity with two
callers that always have a request under way, then lets requests arrive at ``--times`` that rate, then measures the
capacity again. All the while a caller asks for health a hundred times a second, which costs the services' core the same
before, meanwhile and after. The requests are for thumbnails, so that as many as can be are refused for each that is
answered; with ``--quality`` they are of that preset. Writes ``overload.md`` and ``overload.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.benchmarks.load import Load, percentiles
from tests.benchmarks.machine import described
from tests.benchmarks.report import report
from tests.benchmarks.resident import processor_seconds, resident_bytes
from tests.faults.cluster import Cluster, cluster, picture

_READING_SECONDS = 15
_SECONDS = 180.0

_THUMBNAIL = {"solve_edge_px": 128, "max_evaluations": 12, "preview_every": 0}


async def _measured(seconds: float, times: float, together: bool, quality: str | None) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    params: dict[str, Any] = {"quality": quality} if quality else _THUMBNAIL
    if not together:
        os.sched_setaffinity(0, cores[1:])  # children inherit it
    with tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), stylizers=1) as found:
            if not together:
                for thread in os.listdir("/proc/self/task"):
                    os.sched_setaffinity(int(thread), cores[:1])
            content, style = picture(1, 640, 480), picture(2, 640, 480)
            busy = Load(found.ports["gateway"], content, style, 60.0, params=params)
            await busy.keep_busy(1, 5.0)  # so that it knows how fast it is
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                health = group.create_task(_health(found, stop))
                used = [processor_seconds(found)]
                before = await busy.keep_busy(2, seconds / 3)
                used.append(processor_seconds(found))
                rate = before.summary()["answers_a_second"]
                patience = max(4.0, 6 / rate)
                memory = [_memory(found)]
                watch = group.create_task(_memories(found, stop))
                over = await Load(found.ports["gateway"], content, style, patience, params=params).arrive(
                    times * rate, seconds
                )
                used.append(processor_seconds(found))
                after = await busy.keep_busy(2, seconds / 3)
                used.append(processor_seconds(found))
                stop.set()
            memory += [*watch.result(), _memory(found)]
            return {
                "machine": described(cores=len(cores)),
                "together": together,
                "seconds": seconds,
                "params": params,
                "capacity_before": before.summary(),
                "rate": round(times * rate, 3),
                "deadline_seconds": round(patience, 2),
                "overload": over.summary(),
                "capacity_after": after.summary(),
                "health_ms": {name: round(1000 * value, 2) for name, value in percentiles(health.result()).items()},
                "memory_mib": memory,
                "processor_seconds": [
                    {name: round(end[name] - start[name], 2) for name in start} for start, end in pairwise(used)
                ],
            }


async def _health(found: Cluster, stop: asyncio.Event) -> list[float]:
    """Seconds of health checks of the stylizer."""
    seconds = []
    async with grpc.aio.insecure_channel(found.ports["stylizer-0"]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while not stop.is_set():
            began = time.monotonic()
            await stub.Check(health_pb2.HealthCheckRequest(service="dpst.v1.Stylizer"))
            seconds.append(time.monotonic() - began)
            await asyncio.sleep(0.01)
    return seconds


async def _memories(found: Cluster, stop: asyncio.Event) -> list[dict[str, int]]:
    rows = []
    while not stop.is_set():
        await asyncio.sleep(_READING_SECONDS)
        rows.append(_memory(found))
    return rows


def _memory(found: Cluster) -> dict[str, int]:
    return {name: size >> 20 for name, size in resident_bytes(found).items()}


def _table(found: dict[str, Any]) -> list[str]:
    over, codes = found["overload"], found["overload"]["codes"]
    before, after = (found[name]["answers_a_second"] for name in ("capacity_before", "capacity_after"))
    accepted = sum(codes.get(code, 0) for code in ("OK", "DEADLINE_EXCEEDED"))
    series = " ".join(str(reading["gateway"]) for reading in found["memory_mib"])
    options = f" --seconds {found['seconds']:g}" if found["seconds"] != _SECONDS else ""
    options += f" --quality {found['params']['quality']}" if "quality" in found["params"] else ""
    refused = over["latency_seconds"].get("RESOURCE_EXHAUSTED", {})
    return [
        "# Ten times too much",
        "",
        f"Made by `python -m tests.benchmarks.overload{options}`. {found['machine']}.",
        f"One stylizer with one slot, built-in networks, 640x480 px photos, "
        f"{', '.join(f'`{name}` {value}' for name, value in found['params'].items())}; "
        + ("all share all cores." if found["together"] else "the callers have a core of their own."),
        "",
        "| | |",
        "|---|---|",
        f"| capacity before, answers a second | {before:.2f} |",
        f"| arrivals a second, for {over['seconds']:.0f} s | {found['rate']:.1f} |",
        f"| deadline of each | {found['deadline_seconds']} s |",
        f"| answers a second meanwhile | {over['answers_a_second']:.2f} |",
        f"| capacity after | {after:.2f} |",
        f"| codes | {', '.join(f'{code} {count}' for code, count in codes.items())} |",
        f"| accepted work that kept its deadline | {100 * codes.get('OK', 0) / max(1, accepted):.1f} % |",
        f"| seconds until a refusal: p50, p90, p99, most | {', '.join(str(refused.get(p)) for p in refused)} |",
        f"| health of the stylizer, ms: p50, p90, p99, most | {', '.join(map(str, found['health_ms'].values()))} |",
        f"| resident MiB of the gateway, every {_READING_SECONDS} s | {series} |",
        f"| resident MiB, first | {found['memory_mib'][0]} |",
        f"| resident MiB, last | {found['memory_mib'][-1]} |",
        "",
        "Share of a core that each process had, and the worker's processor seconds for an answer:",
        "",
        "| | before | meanwhile | after |",
        "|---|---|---|---|",
        *(_shares(found, name) for name in found["processor_seconds"][0]),
        _row("worker, seconds an answer", _of_each_part(found, "worker", _answers)),
    ]


def _shares(found: dict[str, Any], name: str) -> str:
    return _row(name, _of_each_part(found, name, lambda part: float(part["seconds"])))


def _of_each_part(found: dict[str, Any], name: str, per: Callable[[dict[str, Any]], float]) -> list[float]:
    """A process's processor seconds for each unit of a part: before, meanwhile, after."""
    parts = (found[part] for part in ("capacity_before", "overload", "capacity_after"))
    return [used[name] / per(part) for used, part in zip(found["processor_seconds"], parts, strict=True)]


def _answers(part: dict[str, Any]) -> float:
    return float(part["codes"].get("OK", 1))


def _row(name: str, values: list[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/overload"))
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--quality", choices=("draft", "standard", "high"))
    options = parser.parse_args()
    found = asyncio.run(_measured(options.seconds, options.times, options.together, options.quality))
    report(_table(found), options.out, "overload", found)


if __name__ == "__main__":
    main()
