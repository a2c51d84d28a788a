"""What a caller that leaves costs: seconds until its slot works for the next one, and bytes that stay behind.

    python -m tests.benchmarks.cancel [--jobs 20] [--streams 10000] [--out docs/benchmarks]

Slots: in a stylizer with one slot a long solve runs and a second one waits; the first is cancelled, and the clock runs
until the second one has the slot. Beside it stands the time of one evaluation of the solve that was cancelled.

Streams: ``--streams`` transfers are begun at a gateway, some while they wait, some while they compute, and cancelled.
After as many again to warm up, what every process has allocated and not freed (``dpst_allocated_bytes``) is fitted with
a line over the streams: what grows with each stream is what one leaves behind. The same for resident memory, which
holes between what is allocated make larger, and less sure. Before each reading what is under way ends and Python
collects its garbage. It takes each object from the C library meanwhile, and that gives freed memory back, as ours do
not let it (``services.common.allocator``). Beside it stands what calls of ``grpc.aio`` alone leave behind. Writes
``cancel.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
from dpst.v1 import image_pb2, params_pb2, photo_style_pb2, photo_style_pb2_grpc, stylizer_pb2, stylizer_pb2_grpc

from tests.benchmarks.grpc_alone import grpc_alone
from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT
from tests.benchmarks.report import report
from tests.benchmarks.resident import allocated_bytes, growth_table, resident_bytes
from tests.faults.cluster import Cluster, cluster, picture

_JOBS = 20
_SAMPLES = 50
"""Readings of the memory over all streams."""

_SETTLE_SECONDS = 1.0
"""Until what is under way has ended, and until garbage is collected."""

_COLLECTING = Path(__file__).parent / "collecting"

_GIVE_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # what a thread keeps for itself counts as allocated
    "PYTHONMALLOC": "malloc",
}


def _params(edge: int) -> params_pb2.TransferParams:
    """Of the published method, because its solves end at no plateau."""
    return params_pb2.TransferParams(
        mode=params_pb2.MODE_PAPER, solve_edge_px=edge, max_evaluations=4000, preview_every=0
    )


async def _slot_seconds(found: Cluster, jobs: int) -> list[tuple[float, float]]:
    """For each cancelled job: seconds until the next one has its slot, seconds of an evaluation before."""
    content, style = (image_pb2.Image(data=picture(seed)) for seed in (1, 2))
    request = stylizer_pb2.StylizeRequest(content=content, style=style, params=_params(256))
    rows = []
    async with grpc.aio.insecure_channel(found.ports["stylizer-0"]) as channel:
        stub = stylizer_pb2_grpc.StylizerStub(channel)
        for job in range(jobs):
            first = stub.Stylize(request)
            evaluation = await _evaluation_seconds(aiter(first))
            waiting = stub.Stylize(request)
            second = aiter(waiting)
            while not (await anext(second)).HasField("queued"):
                pass
            await asyncio.sleep(0.5 + 0.37 * (job % 7) * evaluation)
            began = time.monotonic()
            first.cancel()
            async for event in second:
                if event.HasField("stage"):
                    break
            rows.append((time.monotonic() - began, evaluation))
            waiting.cancel()
            await _idle(stub, request)
    return rows


async def _evaluation_seconds(events: AsyncIterator[stylizer_pb2.StylizeResponse]) -> float:
    seen: list[float] = []
    async for event in events:
        if event.HasField("iteration"):
            seen.append(event.iteration.elapsed_seconds)
        if len(seen) == 12:
            break
    return statistics.median(np.diff(seen[2:]))


async def _idle(stub: stylizer_pb2_grpc.StylizerStub, request: stylizer_pb2.StylizeRequest) -> None:
    """Wait until a job is not queued behind another."""
    call = stub.Stylize(request)
    async for event in call:
        if event.HasField("iteration"):
            break
    call.cancel()


_Rows = list[tuple[int, dict[str, int], dict[str, int]]]
"""Number of streams so far, bytes that each process has allocated, resident ones."""


async def _streams(found: Cluster, count: int) -> _Rows:
    """The memory of each process while so many streams are begun and cancelled."""
    transfer = photo_style_pb2.Transfer(
        content=image_pb2.Image(data=picture(1, 160, 120)),
        style=image_pb2.Image(data=picture(2, 160, 120)),
        params=_params(96),
    )
    request = photo_style_pb2.TransferStreamRequest(transfer=transfer)
    rows: _Rows = []
    async with grpc.aio.insecure_channel(found.ports["gateway"]) as channel:
        stub = photo_style_pb2_grpc.PhotoStyleStub(channel)

        async def one(number: int) -> None:
            call = stub.TransferStream(request)
            wanted = ("accepted", "queued", "iteration")[number % 3]
            async for event in call:
                if event.HasField(wanted) or event.HasField("iteration"):
                    break
            call.cancel()

        for n in range(0, count, 4):
            await asyncio.gather(*(one(n + k) for k in range(4)))
            if n % max(4, count // _SAMPLES // 4 * 4) == 0:
                await _settle(found)
                rows.append((n, await asyncio.to_thread(allocated_bytes, found), resident_bytes(found)))
    return rows


async def _settle(found: Cluster) -> None:
    await asyncio.sleep(_SETTLE_SECONDS)
    for name in found.children:
        found.signal(name, signal.SIGUSR2)
    await asyncio.sleep(_SETTLE_SECONDS)


async def _measured(jobs: int, streams: int) -> tuple[list[tuple[float, float]], _Rows]:
    with tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), stylizers=1) as found:
            slots = await _slot_seconds(found, jobs)
    path = os.pathsep.join(filter(None, (str(_COLLECTING), os.environ.get("PYTHONPATH"))))
    os.environ |= {**_GIVE_BACK, "PYTHONPATH": path}  # children inherit it
    with tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), stylizers=1) as found:
            await _streams(found, streams)
            return slots, await _streams(found, streams)


def _table(slots: list[tuple[float, float]], rows: _Rows, alone: dict[str, tuple[float, float]]) -> list[str]:
    took, evaluations = ([1000 * row[column] for row in slots] for column in (0, 1))
    beyond = [1000 * (seconds - evaluation) for seconds, evaluation in slots]
    options = f" --jobs {len(slots)}" if len(slots) != _JOBS else ""
    return [
        "# Callers that leave",
        "",
        f"Made by `python -m tests.benchmarks.cancel{options}`. {described()}.",
        "",
        f"One slot, {len(slots)} solves at 256 px cancelled with another one waiting:",
        "",
        "| ms | median | most |",
        "|---|---|---|",
        f"| one evaluation | {statistics.median(evaluations):.0f} | {max(evaluations):.0f} |",
        f"| cancelled to slot taken | {statistics.median(took):.0f} | {max(took):.0f} |",
        f"| of it beyond one evaluation | {statistics.median(beyond):.0f} | {max(beyond):.0f} |",
        "",
        f"{rows[-1][0]} streams begun and cancelled, after as many to warm up "
        "(" + ", ".join(f"`{name}={value}`" for name, value in _GIVE_BACK.items()) + "), garbage collected before each "
        "reading. Allocated and not freed:",
        "",
        *growth_table([n for n, _, _ in rows], [row for _, row, _ in rows], "stream", 2000),
        "",
        "Resident:",
        "",
        *growth_table([n for n, _, _ in rows], [row for _, _, row in rows], "stream", 2000),
        "",
        f"What `grpc.aio` {grpc.__version__} alone leaves behind when a call is cancelled "
        "([grpc#43360](https://github.com/grpc/grpc/issues/43360)), and the same call through a `SettledChannel`:",
        "",
        "| cancelled | bytes a call | settled |",
        "|---|---|---|",
        *[f"| {kind} | {before:.0f} | {settled:.0f} |" for kind, (before, settled) in alone.items()],
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=_JOBS)
    parser.add_argument("--streams", type=int, default=10000)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    alone = asyncio.run(grpc_alone())
    lines = _table(*asyncio.run(_measured(options.jobs, options.streams)), alone)
    report(lines, options.out, "cancel")


if __name__ == "__main__":
    main()
