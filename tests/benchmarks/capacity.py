"""How many stylizers for so many photos a day: measured seconds, a queue simulated with them, and a run that checks it.

    python -m tests.benchmarks.capacity [--photos 40] [--load 0.7] [--seconds 240] [--edge 256] [--evaluations 20]
        [--price 0.10] [--patience 30] [--out docs/benchmarks]

1. Seconds of single transfers, one after the other, on a stack with one stylizer of one slot.
2. A simulated queue (SimPy) with arrivals at random, ``--load`` of the capacity, and these seconds as service times.
3. The same arrivals at the real stack; both waits side by side.
4. For 10^3 to 10^7 photos a day: replicas with which 95 % of the photos wait less than ``--patience`` seconds in the
   busiest hour, when twice as many come as in the mean; and replicas for as many photos between midnight and eight.
   Cost at ``--price`` a replica and hour.

Writes ``capacity.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import simpy

from tests.benchmarks.load import Load
from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT
from tests.benchmarks.report import report
from tests.faults.cluster import Cluster, cluster, picture

_PEAK = 2.0
"""Arrivals of the busiest hour, relative to the day's mean."""

_NIGHT_HOURS, _NIGHT_LOAD = 8, 0.9
_SIMULATED = 20_000
"""Photos in a simulation, a fifth of them to fill the queue first."""


@dataclass(frozen=True)
class _Checked:
    """Seconds from request to answer under load: simulated, and measured; processor time meanwhile, by process."""

    rate: float
    simulated: Sequence[float]
    measured: Sequence[float]
    processor: Mapping[str, float]


def waits(service: Sequence[float], rate: float, replicas: int, photos: int = _SIMULATED, seed: int = 0) -> list[float]:
    """Seconds that photos wait for a free replica; arrivals are a Poisson process of ``rate`` a second.

    Args:
        service: seconds that were measured; each photo takes one of them, whichever chance picks.
        rate: photos a second.
        replicas: of one slot each, with one queue before them.
        photos: how many come.
        seed: of chance.
    """
    chance = random.Random(seed)
    environment = simpy.Environment()
    slots = simpy.Resource(environment, replicas)
    found: list[float] = []

    def photo():
        came = environment.now
        with slots.request() as slot:
            yield slot
            found.append(environment.now - came)
            yield environment.timeout(chance.choice(service))

    def arrivals():
        for _ in range(photos):
            yield environment.timeout(chance.expovariate(rate))
            environment.process(photo())

    environment.process(arrivals())
    environment.run()
    return found[photos // 5 :]


def replicas_for(service: Sequence[float], rate: float, patience: float) -> int:
    """Fewest replicas with which 95 % wait less than ``patience`` seconds."""
    least = max(1, math.ceil(rate * float(np.mean(service))))
    for replicas in range(least, 2 * least + 10):
        if rate * float(np.mean(service)) >= replicas:
            continue
        photos = max(_SIMULATED, 40 * replicas)
        if np.percentile(waits(service, rate, replicas, photos), 95) < patience:
            return replicas
    raise AssertionError("twice the least suffices for any patience worth the name")


async def _measured(options: argparse.Namespace) -> tuple[list[float], _Checked]:
    params = {"solve_edge_px": options.edge, "max_evaluations": options.evaluations, "preview_every": 0}
    with tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), stylizers=1, queue_limit="10000") as found:
            content, style = picture(1, 1280, 960), picture(2, 1280, 960)
            load = Load(found.ports["gateway"], content, style, 3600.0, params=params)
            await load.keep_busy(1, 10.0)
            alone: list[float] = []
            while len(alone) < options.photos:
                alone += (await load.keep_busy(1, 5.0)).seconds["OK"]
            rate = options.load / float(np.mean(alone))
            before = _processor_seconds(found)
            record = await load.arrive(rate, options.seconds, seed=1)
            used = {name: seconds - before[name] for name, seconds in _processor_seconds(found).items()}
            assert record.seconds.keys() == {"OK"}, record.seconds.keys()
    chance = random.Random(2)
    simulated = [wait + chance.choice(alone) for wait in waits(alone, rate, 1)]
    return alone, _Checked(rate, simulated, record.seconds["OK"], used)


def _processor_seconds(found: Cluster) -> dict[str, float]:
    """By process, its workers included."""
    seconds: dict[str, float] = {}
    for name, child in found.children.items():
        process = psutil.Process(child.pid)
        seconds[name] = sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))
    return seconds


def _percentiles(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in np.percentile(values, [50, 90, 95]))


def _table(service: Sequence[float], checked: _Checked, options: argparse.Namespace) -> list[str]:
    mean, stylizer = float(np.mean(service)), checked.processor["stylizer-0"]
    lines = [
        "# Replicas for so many photos a day",
        "",
        f"Made by `python -m tests.benchmarks.capacity`. {described()}.",
        f"1280x960 px photos, {options.edge} px and {options.evaluations} evaluations, built-in networks; a replica is",
        "a stylizer with one slot on these cores, with its share of segmentation and gateway.",
        "",
        "| | |",
        "|---|---|",
        f"| seconds of one transfer alone, mean of {len(service)} | {mean:.2f} |",
        f"| p50, p90, p95 of them | {_percentiles(service)} |",
        f"| arrivals a second, {options.load:.0%} of the capacity, for {options.seconds:.0f} s | {checked.rate:.3f} |",
        f"| seconds with waiting, p50, p90, p95, as simulated | {_percentiles(checked.simulated)} |",
        f"| the same as measured, {len(checked.measured)} transfers | {_percentiles(checked.measured)} |",
        *(
            f"| processor time of the {name} meanwhile, of the stylizer's | {checked.processor[name] / stylizer:.1%} |"
            for name in ("gateway", "segmentation")
        ),
        "",
        f"Day: 95 % wait less than {options.patience:.0f} s when {_PEAK:.0f} times the mean comes. Night: all within "
        f"{_NIGHT_HOURS} hours at {_NIGHT_LOAD:.0%} load. Cost at {options.price:.2f} a replica and hour, of a day, "
        "replicas for the busiest hour kept all day.",
        "",
        "| photos a day | replicas, day | load then | cost | replicas, night | cost |",
        "|---|---|---|---|---|---|",
    ]
    for power in range(3, 8):
        photos = 10**power
        rate = _PEAK * photos / 86_400
        day = replicas_for(service, rate, options.patience)
        night = math.ceil(photos * mean / (_NIGHT_HOURS * 3600 * _NIGHT_LOAD))
        costs = [replicas * hours * options.price for replicas, hours in ((day, 24), (night, _NIGHT_HOURS))]
        lines.append(f"| 10^{power} | {day} | {rate * mean / day:.0%} | {costs[0]:.2f} | {night} | {costs[1]:.2f} |")
    return lines


def main() -> None:
    """Measure, simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--price", type=float, default=0.10)
    parser.add_argument("--patience", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    service, checked = asyncio.run(_measured(options))
    lines = _table(service, checked, options)
    report(lines, options.out, "capacity")


if __name__ == "__main__":
    main()
