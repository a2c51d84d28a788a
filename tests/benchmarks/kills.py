"""Processes killed at random moments under load: is every request answered, with a picture or a code to try again on?

    python -m tests.benchmarks.kills [--kills 50] [--pause 4] [--seed 0] [--out docs/benchmarks]

Starts a gateway, a segmentation service and two stylizers with the built-in networks. Three callers always have a
request under way, each tried once, so that nothing is hidden by a client that tries again. ``--kills`` times, after a
pause around ``--pause`` seconds, SIGKILL goes to a stylizer or to the worker of one, whichever chance picks of those
that are able to work; a stylizer that died is started again as an orchestrator would. Writes ``kills.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path

import psutil

from tests.benchmarks.load import Load, Record
from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT
from tests.benchmarks.report import report
from tests.faults.cluster import Cluster, cluster, picture

_PARAMS = {"solve_edge_px": 128, "max_evaluations": 40, "preview_every": 0}
_CALLERS = 3
_TIMEOUT_SECONDS = 120.0
_RETRYABLE = {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}


async def _measured(kills: int, pause: float, seed: int) -> tuple[Record, Counter[str], list[str]]:
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), stylizers=2) as found, asyncio.TaskGroup() as group:
            load = Load(found.ports["gateway"], picture(1), picture(2), _TIMEOUT_SECONDS, params=_PARAMS)
            stop = asyncio.Event()
            answers = group.create_task(load.keep_busy_until(_CALLERS, stop))
            for _ in range(kills):
                await asyncio.sleep(pause * chance.uniform(0.2, 1.8))
                name, victim = f"stylizer-{chance.randrange(2)}", chance.choice(["stylizer", "worker"])
                await found.ready(name)
                await _killed(found, name, victim)
                done[victim] += 1
                print(f"{victim} of {name}", flush=True)
            stop.set()
            await answers
            await found.ready("stylizer-0", "stylizer-1")
            left = [child.status() for child in psutil.Process().children(recursive=True)]
    return answers.result(), done, [status for status in left if status == psutil.STATUS_ZOMBIE]


async def _killed(found: Cluster, name: str, victim: str) -> None:
    if victim == "worker":
        psutil.Process(found.worker_of(name)).kill()
        return
    found.signal(name, signal.SIGKILL)
    await found.ended(name)
    await found.start(name)


def _table(record: Record, kills: Counter[str], zombies: int) -> list[str]:
    codes = {code: len(values) for code, values in record.seconds.items()}
    latency = record.summary()["latency_seconds"]
    bad = sum(count for code, count in codes.items() if code not in _RETRYABLE | {"OK"})
    return [
        "# Killed at random moments",
        "",
        f"Made by `python -m tests.benchmarks.kills --kills {sum(kills.values())}`. {described()}.",
        f"Two stylizers, {_CALLERS} callers that try once, 320x240 px photos, {_PARAMS['solve_edge_px']} px and "
        f"{_PARAMS['max_evaluations']} evaluations.",
        "",
        "| | |",
        "|---|---|",
        f"| kills | {', '.join(f'{count} of a {victim}' for victim, count in sorted(kills.items()))} |",
        f"| answers | {', '.join(f'{code} {count}' for code, count in sorted(codes.items()))} |",
        f"| neither a picture nor a code to try again on | {bad} |",
        *(
            f"| seconds until {code}: p50, p90, p99, most | {', '.join(map(str, v.values()))} |"
            for code, v in latency.items()
        ),
        f"| zombies at the end | {zombies} |",
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pause", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    record, kills, zombies = asyncio.run(_measured(options.kills, options.pause, options.seed))
    lines = _table(record, kills, len(zombies))
    report(lines, options.out, "kills")


if __name__ == "__main__":
    main()
