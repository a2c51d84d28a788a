"""Submitted transfers in a fleet that is killed, stopped and restarted: is each one done, and done once?

    python -m tests.benchmarks.jobs [--engine sqlite|nats] [--jobs 1000] [--rate 100] [--pause 1.5] [--seed 0]
        [--out docs/benchmarks]
    python -m tests.benchmarks.jobs --real --jobs 30 --rate 5 --pause 10 [--engine sqlite|nats] [...]

Three gateways on one store; that of NATS is a real server, which is killed and stopped like the others. First
``--rate`` submissions a second for ten seconds, which nobody works on: with solves of many seconds that is what a
gateway has to do. Then ten seconds in which nothing happens. Then ``--jobs`` submissions at a fifth of that rate to
gateways with four stubs, whose solves take 20 ms, while every ``--pause`` seconds or so a gateway, a stub or the
server, whichever chance picks, gets SIGKILL and is started again, or is stopped for three seconds, until all have
ended; the third of these faults is a restart of the server. Each submission is tried until it is answered, under the
same request id. ``--real`` leaves the first two parts out and has a segmentation service and four stylizers, which
break as well, in the place of the stubs.
Writes ``jobs.md``, ``jobs-nats.md``, ``jobs-real.md`` or ``jobs-nats-real.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import numpy as np
import psutil
from dpst.v1 import jobs_pb2

from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT
from tests.benchmarks.report import report
from tests.benchmarks.submissions import ENGINES, ended, page, request, store, submitted
from tests.faults.cluster import Cluster, fleet
from tests.nats_server import NatsServer

_GATEWAYS, _STUBS, _STYLIZERS = 3, 4, 4
_QUIET_SECONDS = 10.0
_BUSY_SHARE = 0.2
"""Of the rate, while jobs are worked on: these cores do about 25 a second, callers, gateways and stubs together."""

_STOPPED_SECONDS = 3.0
_RESTART_AT = 2
"""So many faults come before the one that is a restart of NATS whatever chance would pick."""

_PATIENCE_SECONDS = 300.0


@dataclass
class _Found:
    latencies: list[float] = field(default_factory=list)
    idle_share: float = 0.0
    tries: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Trial:
    jobs: int
    rate: float
    pause: float
    seed: int
    is_real: bool


async def _arriving(
    channels: list[grpc.aio.Channel], count: int, rate: float, has_labels: bool, found: _Found
) -> list[str]:
    """Submissions in even distances, whatever became of those before; their requests are made first."""
    requests = [request(number, has_labels) for number in range(count)]

    async def timed(number: int) -> str:
        began = time.monotonic()
        name, tries = await submitted(channels, number, requests[number])
        found.tries[tries] += 1
        found.latencies.append(time.monotonic() - began)
        return name

    began, tasks = time.monotonic(), []
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(timed(number)))
    return list(await asyncio.gather(*tasks))


async def _all_ended(channels: list[grpc.aio.Channel], names: set[str], found: _Found) -> None:
    """Look until every operation has ended; count how."""
    async for operation in ended(channels, names, _PATIENCE_SECONDS):
        metadata = jobs_pb2.TransferMetadata()
        operation.metadata.Unpack(metadata)
        found.states[jobs_pb2.TransferState.Name(metadata.state).removeprefix("TRANSFER_STATE_")] += 1
        found.attempts[metadata.attempts] += 1
    if left := len(names) - found.states.total():
        found.states["stuck"] = left


async def _chaos(
    processes: Cluster,
    server: NatsServer | None,
    pause: float,
    chance: random.Random,
    found: _Found,
    stop: asyncio.Event,
) -> None:
    names = [*processes.children, *(["nats"] if server else [])]
    while not stop.is_set():
        await asyncio.sleep(pause * chance.uniform(0.5, 1.5))
        name, fault = chance.choice(names), chance.choice(["killed", "stopped"])
        if server and found.faults.total() == _RESTART_AT:
            name, fault = "nats", "killed"
        found.faults[f"{name.partition('-')[0]} {fault}"] += 1
        if name == "nats" and server is not None:
            if fault == "killed":
                await asyncio.to_thread(server.stop, signal.SIGKILL)
                await asyncio.to_thread(server.start)
            else:
                server.send(signal.SIGSTOP)
                await asyncio.sleep(_STOPPED_SECONDS)
                server.send(signal.SIGCONT)
        elif fault == "killed":
            processes.signal(name, signal.SIGKILL)
            await processes.ended(name)
            await processes.start(name)
        else:
            processes.signal(name, signal.SIGSTOP)
            await asyncio.sleep(_STOPPED_SECONDS)
            processes.signal(name, signal.SIGCONT)


async def _quiet(engine: str, rate: float, found: _Found) -> None:
    """Submissions to gateways that have nothing else to do, and gateways that have nothing at all to do."""
    with store(engine) as (folder, settings, _):
        async with fleet(folder, _GATEWAYS, 1, jobs_at_once="0", **settings) as processes:
            channels = [grpc.aio.insecure_channel(processes.ports[f"gateway-{n}"]) for n in range(_GATEWAYS)]
            for channel in channels:
                await submitted([channel], 0, request(0, False))
            await _arriving(channels, int(rate * _QUIET_SECONDS), rate, False, found)
    with store(engine) as (folder, settings, _):
        async with fleet(folder, _GATEWAYS, 1, **settings) as processes:
            await asyncio.sleep(3)
            gateways = [psutil.Process(processes.children[f"gateway-{n}"].pid) for n in range(_GATEWAYS)]
            before = sum(sum(process.cpu_times()[:2]) for process in gateways)
            await asyncio.sleep(_QUIET_SECONDS)
            used = sum(sum(process.cpu_times()[:2]) for process in gateways) - before
            found.idle_share = used / _QUIET_SECONDS / _GATEWAYS


async def _broken(engine: str, trial: _Trial, found: _Found) -> None:
    chance = random.Random(trial.seed)
    with store(engine) as (folder, settings, server):
        limits = {"job_lease_seconds": "2", "job_attempts": "20"}
        behind = {"stylizers": _STYLIZERS} if trial.is_real else {"stubs": _STUBS}
        async with fleet(folder, _GATEWAYS, **behind, **settings, **limits) as processes:
            channels = [grpc.aio.insecure_channel(processes.ports[f"gateway-{n}"]) for n in range(_GATEWAYS)]
            stop, began = asyncio.Event(), time.monotonic()
            chaos = asyncio.create_task(_chaos(processes, server, trial.pause, chance, found, stop))
            names = await _arriving(channels, trial.jobs, trial.rate, not trial.is_real, found)
            found.names = set(names)
            await _all_ended(channels, found.names, found)
            found.seconds = time.monotonic() - began
            stop.set()
            await chaos
            for channel in channels:
                await channel.close()


async def _measured(engine: str, rate: float, trial: _Trial) -> tuple[_Found, _Found]:
    quiet, broken = _Found(), _Found()
    if not trial.is_real:
        await _quiet(engine, rate, quiet)
    await _broken(engine, trial, broken)
    return quiet, broken


def _table(engine: str, rate: float, trial: _Trial, quiet: _Found, found: _Found) -> list[str]:
    command = f"--engine {engine} --jobs {trial.jobs} --rate {rate:g} --pause {trial.pause:g}"
    behind = (
        f"segmentation and {_STYLIZERS} stylizers with the built-in networks"
        if trial.is_real
        else f"{_STUBS} stubs with solves of 20 ms"
    )
    lines = [
        "# Submitted transfers in a fleet that breaks",
        "",
        f"Made by `python -m tests.benchmarks.jobs {command}{' --real' if trial.is_real else ''}`. {described()}.",
        f"{ENGINES[engine]}, {_GATEWAYS} gateways, {behind}, 160x120 px photos.",
        "",
        "| | |",
        "|---|---|",
    ]
    if not trial.is_real:
        latencies = np.percentile(np.array(quiet.latencies) * 1000, [50, 90, 99, 100])
        lines += [
            f"| submissions at {rate:.0f} a second, undisturbed, ms: p50, p90, p99, most "
            f"| {', '.join(f'{value:.1f}' for value in latencies)} |",
            f"| processor time of an idle gateway | {quiet.idle_share:.2%} of a core |",
        ]
    return [
        *lines,
        f"| faults meanwhile | {', '.join(f'{count} {name}' for name, count in sorted(found.faults.items()))} |",
        f"| submitted, different operations | {sum(found.tries.values())}, {len(found.names)} |",
        f"| ended as | {', '.join(f'{name} {count}' for name, count in sorted(found.states.items()))} |",
        f"| attempts | {', '.join(f'{count} in {n}' for n, count in sorted(found.attempts.items()))} |",
        f"| tries of a submission | {', '.join(f'{count} in {n}' for n, count in sorted(found.tries.items()))} |",
        f"| seconds from the first submission to the last end | {found.seconds:.0f} |",
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=ENGINES, default="sqlite")
    parser.add_argument("--real", action="store_true", help="the real solver and segmentation instead of stubs")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--pause", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    trial = _Trial(options.jobs, options.rate * _BUSY_SHARE, options.pause, options.seed, options.real)
    quiet, found = asyncio.run(_measured(options.engine, options.rate, trial))
    lines = _table(options.engine, options.rate, trial, quiet, found)
    name = page("jobs", options.engine) + ("-real" if options.real else "")
    report(lines, options.out, name)


if __name__ == "__main__":
    main()
