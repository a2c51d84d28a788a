"""A submitted transfer whose gateway or stylizer is killed at 80 % of its solve: how much is solved once more?

    python -m tests.benchmarks.resume [--rounds 2] [--edge 512] [--quality standard] [--out docs/benchmarks]

One gateway, a segmentation service and two stylizers with the built-in networks, and the photos of the demo. A solve
is left alone first. In each round the gateway is killed at 80 % of that solve's evaluations and started again, then
the stylizer that works on it. Work is counted where it is done: evaluations of both stylizers, as their metrics say,
beyond those that the result needed. Writes ``resume.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from dpst_client import AsyncClient, TransferResult

from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT
from tests.benchmarks.report import report
from tests.benchmarks.scraped import scraped
from tests.demo import CONTENT, STYLE
from tests.faults.cluster import Cluster, fleet, levels

_SHARE = 0.8
_POLL_SECONDS = 0.02
_LIMIT_SECONDS = 300.0
_STYLIZERS = ("stylizer-0", "stylizer-1")


def _counted(processes: Cluster, name: str) -> int:
    """Evaluations that a stylizer has made since it was started."""
    return int(scraped(processes.children[name].address().http)["dpst_evaluations_total"])


async def _solved(
    processes: Cluster, params: dict[str, Any], victim: str, at: int
) -> tuple[TransferResult, int, float]:
    """The result, evaluations made for it, seconds; ``victim`` is killed after so many ("" = nobody)."""
    before = {name: _counted(processes, name) for name in _STYLIZERS}
    began = time.monotonic()
    async with AsyncClient(processes.ports["gateway-0"]) as client:
        name = await client.submit(CONTENT.needed(), STYLE.needed(), **params)
        lost = 0
        while victim:
            await asyncio.sleep(_POLL_SECONDS)
            made = {each: _counted(processes, each) - before[each] for each in _STYLIZERS}
            if sum(made.values()) < at:
                continue
            killed = max(made, key=lambda each: made[each]) if victim == "stylizer" else "gateway-0"
            processes.signal(killed, signal.SIGKILL)
            if killed != "gateway-0":
                lost, before[killed] = made[killed], 0
            await processes.ended(killed)
            await processes.start(killed)
            break
        result = await client.watch(name, timeout=_LIMIT_SECONDS)
    seconds = time.monotonic() - began
    await processes.ready(*_STYLIZERS)
    return result, lost + sum(_counted(processes, each) - before[each] for each in _STYLIZERS), seconds


async def _measured(params: dict[str, Any], rounds: int) -> list[str]:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        jobs = {"jobs_url": f"sqlite:{folder}/jobs", "job_lease_seconds": "2", "device": "cpu"}
        async with fleet(Path(folder), 1, stylizers=len(_STYLIZERS), **jobs) as processes:
            await _solved(processes, params, "", 0)
            whole, _, seconds = await _solved(processes, params, "", 0)
            needed = whole.report.evaluations
            lines.append(f"| nobody | {needed} | 0 | | {seconds:.1f} | |")
            for victim in ("gateway", "stylizer") * rounds:
                result, made, seconds = await _solved(processes, params, victim, round(_SHARE * needed))
                again = made - result.report.evaluations
                difference = np.abs(levels(result.picture) - levels(whole.picture)).mean()
                lines.append(
                    f"| {victim} | {result.report.evaluations} | {again} | {again / needed:.1%} | {seconds:.1f} "
                    f"| {difference:.2f} |"
                )
                print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    params = {"solve_edge_px": options.edge, "quality": options.quality, "preview_every": 0}
    lines = [
        "# Killed at 80 % of a solve",
        "",
        f"Made by `python -m tests.benchmarks.resume --rounds {options.rounds} --edge {options.edge} "
        f"--quality {options.quality}`. {described()}.",
        "One gateway on SQLite, two stylizers, built-in networks, the photos of the demo.",
        "",
        "| killed | evaluations of the result | made twice | share | seconds | mean difference to the first, levels |",
        "|---|---|---|---|---|---|",
        *asyncio.run(_measured(params, options.rounds)),
    ]
    report(lines, options.out, "resume")


if __name__ == "__main__":
    main()
