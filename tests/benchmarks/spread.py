"""A batch of submitted transfers in one stylizer and in two: how much faster, and who has done how much.

    python -m tests.benchmarks.spread [--engine sqlite|nats] [--jobs 80] [--rounds 3] [--out docs/benchmarks]

One gateway, and stubs that solve one photo at a time in 250 ms, so that it is they who are waited for. The time is that
from the first submission to the last end, of one stub and then of two, ``--rounds`` times. Writes ``spread.md`` or
``spread-nats.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections import Counter
from pathlib import Path

import grpc.aio
from dpst.v1 import jobs_pb2

from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT
from tests.benchmarks.report import report
from tests.benchmarks.submissions import ENGINES, ended, page, request, store, submitted
from tests.faults.cluster import fleet

_SECONDS = 0.25
_LIMIT_SECONDS = 300.0


async def _batch(engine: str, jobs: int, stubs: int) -> tuple[float, list[int]]:
    """Seconds that a batch took, and how many jobs each stub has done."""
    with store(engine) as (folder, settings, _):
        async with (
            fleet(folder, 1, stubs, jobs_at_once=str(2 * stubs), **settings) as processes,
            grpc.aio.insecure_channel(processes.ports["gateway-0"]) as channel,
        ):
            requests = [request(number, True) for number in range(jobs)]
            began = time.monotonic()
            names = await asyncio.gather(*(submitted([channel], n, each) for n, each in enumerate(requests)))
            done: Counter[str] = Counter()
            async for operation in ended([channel], {name for name, _ in names}, _LIMIT_SECONDS, 0.05):
                result = jobs_pb2.TransferResult()
                assert operation.response.Unpack(result), operation
                done[result.report.notes[0]] += 1
            seconds = time.monotonic() - began
    assert done.total() == jobs, f"{jobs - done.total()} jobs are left"
    return seconds, sorted(done.values())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=ENGINES, default="sqlite")
    parser.add_argument("--jobs", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    os.environ["STUB_SECONDS"] = str(_SECONDS)
    lines = [
        "# One stylizer and two",
        "",
        f"Made by `python -m tests.benchmarks.spread --engine {options.engine} --jobs {options.jobs} "
        f"--rounds {options.rounds}`. {described()}.",
        f"{ENGINES[options.engine]}, one gateway, stubs with solves of {1000 * _SECONDS:.0f} ms, one at a time.",
        "",
        "| seconds with one | with two | times faster | jobs of each of the two |",
        "|---|---|---|---|",
    ]
    ratios = []
    for _ in range(options.rounds):
        (one, _), (two, shares) = (asyncio.run(_batch(options.engine, options.jobs, stubs)) for stubs in (1, 2))
        ratios.append(one / two)
        lines.append(f"| {one:.1f} | {two:.1f} | {one / two:.2f} | {', '.join(map(str, shares))} |")
    lines += ["", f"Median: {statistics.median(ratios):.2f} times faster."]
    report(lines, options.out, page("spread", options.engine))


if __name__ == "__main__":
    main()
