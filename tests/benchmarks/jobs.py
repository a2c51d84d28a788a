"""Submitted transfers in a fleet that is killed, stopped and restarted: is each one done, and done once?

    python -m tests.benchmarks.jobs [--engine sqlite|nats] [--jobs 1000] [--rate 100] [--pause 1.5] [--seed 0]
        [--out docs/benchmarks]

Three gateways on one store; that of NATS is a real server, which is killed and stopped like the others. First
``--rate`` submissions a second for ten seconds, which nobody works on: with solves of many seconds that is what a
gateway has to do. Then ten seconds in which nothing happens. Then ``--jobs`` submissions at a fifth of that rate to
gateways with four stubs, whose solves take 20 ms, while every ``--pause`` seconds or so a gateway, a stub or the
server, whichever chance picks, gets SIGKILL and is started again, or is stopped for three seconds. Each submission is
tried until it is answered, under the same request id.
Writes ``jobs.md`` or ``jobs-nats.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import numpy as np
import psutil
from dpst.v1 import image_pb2, jobs_pb2, labels_pb2, photo_style_pb2, photo_style_pb2_grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from PIL import Image

from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT
from tests.faults.cluster import Cluster, fleet, picture
from tests.nats_server import NatsServer, nats_server

_GATEWAYS, _STUBS = 3, 4
_QUIET_SECONDS = 10.0
_BUSY_SHARE = 0.2
"""Of the rate, while jobs are worked on: these cores do about 25 a second, callers, gateways and stubs together."""

_NAMES = {"sqlite": "SQLite", "nats": "NATS JetStream"}
_STOPPED_SECONDS = 3.0
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


def _request(number: int, has_labels: bool) -> photo_style_pb2.SubmitTransferRequest:
    file = io.BytesIO()
    Image.new("L", (160, 120), 1).save(file, "PNG")
    labels = labels_pb2.LabelMap(png=file.getvalue(), labels=[labels_pb2.Label(index=1, name="sky", area_share=1)])
    transfer = photo_style_pb2.Transfer(
        content=image_pb2.Image(data=picture(number, 160, 120)),
        style=image_pb2.Image(data=picture(0, 160, 120)),
        content_labels=labels if has_labels else None,
        style_labels=labels if has_labels else None,
        request_id=f"request-{number}",
    )
    return photo_style_pb2.SubmitTransferRequest(transfer=transfer)


async def _submitted(
    channels: list[grpc.aio.Channel], number: int, request: photo_style_pb2.SubmitTransferRequest, found: _Found
) -> str:
    """Name of the operation; tried at one gateway after the other."""
    tries = 0
    while True:
        stub = photo_style_pb2_grpc.PhotoStyleStub(channels[(number + tries) % len(channels)])
        tries += 1
        try:
            reply = await stub.SubmitTransfer(request, timeout=5)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.2)
            continue
        found.tries[tries] += 1
        return reply.name


async def _arriving(
    channels: list[grpc.aio.Channel], count: int, rate: float, has_labels: bool, found: _Found
) -> list[str]:
    """Submissions in even distances, whatever became of those before; their requests are made first."""
    requests = [_request(number, has_labels) for number in range(count)]

    async def timed(number: int) -> str:
        began = time.monotonic()
        name = await _submitted(channels, number, requests[number], found)
        found.latencies.append(time.monotonic() - began)
        return name

    began, tasks = time.monotonic(), []
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(timed(number)))
    return list(await asyncio.gather(*tasks))


async def _chaos(
    processes: Cluster,
    server: NatsServer | None,
    pause: float,
    chance: random.Random,
    found: _Found,
    stop: asyncio.Event,
) -> None:
    names = [*(f"gateway-{n}" for n in range(_GATEWAYS)), *(f"stub-{n}" for n in range(_STUBS))]
    names += ["nats"] if server else []
    while not stop.is_set():
        await asyncio.sleep(pause * chance.uniform(0.5, 1.5))
        name, fault = chance.choice(names), chance.choice(["killed", "stopped"])
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


async def _all_ended(channels: list[grpc.aio.Channel], names: set[str], found: _Found) -> None:
    """Look until every operation has ended; count how."""
    limit = time.monotonic() + _PATIENCE_SECONDS
    left = set(names)
    while left and time.monotonic() < limit:
        for at, name in enumerate(sorted(left)):
            stub = operations_pb2_grpc.OperationsStub(channels[at % len(channels)])
            try:
                operation = await stub.GetOperation(operations_pb2.GetOperationRequest(name=name), timeout=5)
            except grpc.aio.AioRpcError:
                continue
            if operation.done:
                metadata = jobs_pb2.TransferMetadata()
                operation.metadata.Unpack(metadata)
                found.states[jobs_pb2.TransferState.Name(metadata.state).removeprefix("TRANSFER_STATE_")] += 1
                found.attempts[metadata.attempts] += 1
                left.discard(name)
        await asyncio.sleep(0.5)
    if left:
        found.states["stuck"] = len(left)


@contextmanager
def _store(engine: str) -> Iterator[tuple[Path, dict[str, str], NatsServer | None]]:
    """A folder, the settings of a store that is there, and its server."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if engine == "sqlite":
            yield folder, {"jobs_url": f"sqlite:{folder}/jobs"}, None
            return
        with nats_server(folder / "nats") as server:
            yield folder, {"jobs_url": server.url}, server


async def _quiet(engine: str, rate: float, found: _Found) -> None:
    """Submissions to gateways that have nothing else to do, and gateways that have nothing at all to do."""
    with _store(engine) as (folder, settings, _):
        async with fleet(folder, _GATEWAYS, 1, jobs_at_once="0", **settings) as processes:
            channels = [grpc.aio.insecure_channel(processes.ports[f"gateway-{n}"]) for n in range(_GATEWAYS)]
            for channel in channels:
                await _submitted([channel], 0, _request(0, False), _Found())
            await _arriving(channels, int(rate * _QUIET_SECONDS), rate, False, found)
    with _store(engine) as (folder, settings, _):
        async with fleet(folder, _GATEWAYS, 1, **settings) as processes:
            await asyncio.sleep(3)
            gateways = [psutil.Process(processes.children[f"gateway-{n}"].pid) for n in range(_GATEWAYS)]
            before = sum(sum(process.cpu_times()[:2]) for process in gateways)
            await asyncio.sleep(_QUIET_SECONDS)
            used = sum(sum(process.cpu_times()[:2]) for process in gateways) - before
            found.idle_share = used / _QUIET_SECONDS / _GATEWAYS


async def _broken(engine: str, jobs: int, rate: float, pause: float, seed: int, found: _Found) -> None:
    chance = random.Random(seed)
    with _store(engine) as (folder, settings, server):
        limits = {"job_lease_seconds": "2", "job_attempts": "20"}
        async with fleet(folder, _GATEWAYS, _STUBS, **settings, **limits) as processes:
            channels = [grpc.aio.insecure_channel(processes.ports[f"gateway-{n}"]) for n in range(_GATEWAYS)]
            stop, began = asyncio.Event(), time.monotonic()
            chaos = asyncio.create_task(_chaos(processes, server, pause, chance, found, stop))
            names = await _arriving(channels, jobs, rate, True, found)
            found.names = set(names)
            stop.set()
            await chaos
            await _all_ended(channels, found.names, found)
            found.seconds = time.monotonic() - began
            for channel in channels:
                await channel.close()


async def _measured(engine: str, jobs: int, rate: float, pause: float, seed: int) -> tuple[_Found, _Found]:
    quiet, broken = _Found(), _Found()
    await _quiet(engine, rate, quiet)
    await _broken(engine, jobs, rate * _BUSY_SHARE, pause, seed, broken)
    return quiet, broken


def _table(engine: str, quiet: _Found, found: _Found, jobs: int, rate: float) -> list[str]:
    latencies = np.percentile(np.array(quiet.latencies) * 1000, [50, 90, 99, 100])
    return [
        "# Submitted transfers in a fleet that breaks",
        "",
        f"Made by `python -m tests.benchmarks.jobs --engine {engine} --jobs {jobs} --rate {rate:.0f}`. {described()}.",
        f"{_NAMES[engine]}, {_GATEWAYS} gateways, {_STUBS} stubs with solves of 20 ms, 160x120 px photos.",
        "",
        "| | |",
        "|---|---|",
        f"| submissions at {rate:.0f} a second, undisturbed, ms: p50, p90, p99, most "
        f"| {', '.join(f'{value:.1f}' for value in latencies)} |",
        f"| processor time of an idle gateway | {quiet.idle_share:.2%} of a core |",
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
    parser.add_argument("--engine", choices=_NAMES, default="sqlite")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--pause", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    quiet, found = asyncio.run(_measured(options.engine, options.jobs, options.rate, options.pause, options.seed))
    lines = _table(options.engine, quiet, found, options.jobs, options.rate)
    name = "jobs.md" if options.engine == "sqlite" else f"jobs-{options.engine}.md"
    (options.out / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
