"""Memory of a cluster's processes, resident and allocated, how it grows, and their processor time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import psutil

from tests.benchmarks.scraped import scraped
from tests.faults.cluster import Cluster

__all__ = ["allocated_bytes", "growth_table", "processor_seconds", "resident_bytes"]


def resident_bytes(found: Cluster) -> dict[str, int]:
    """Of each process and of the worker of its only stylizer, by name."""
    return {name: process.memory_info().rss for name, process in _processes(found).items()}


def allocated_bytes(found: Cluster) -> dict[str, int]:
    """What each process, workers apart, says that it has allocated and not freed."""
    return {name: int(scraped(child.address().http)["dpst_allocated_bytes"]) for name, child in found.children.items()}


def processor_seconds(found: Cluster) -> dict[str, float]:
    """That each of them has had so far, in the system's calls too."""
    return {name: sum(process.cpu_times()[:2]) for name, process in _processes(found).items()}


def growth_table(at: Sequence[float], rows: Sequence[Mapping[str, int]], unit: str, per: float) -> list[str]:
    """A table of first, last and slopes: of a line through all rows, and of one through their second half.

    Args:
        at: where the rows were taken, in ``unit``.
        rows: see ``resident_bytes`` and ``allocated_bytes``.
        unit: "stream", "minute".
        per: so many units make the last two columns, KiB.
    """
    lines = [
        f"| process | first, MiB | last, MiB | slope, bytes a {unit} | over {per:g} {unit}s, KiB | by the later half |",
        "|---|---|---|---|---|---|",
    ]
    for name in rows[0]:
        values = [row[name] for row in rows]
        half = len(values) // 2
        slope, late = (float(np.polyfit(at[start:], values[start:], 1)[0]) for start in (0, half))
        first, last = values[0] / 2**20, values[-1] / 2**20
        lines.append(
            f"| {name} | {first:.1f} | {last:.1f} | {slope:.0f} | {per * slope / 1024:.0f} | {per * late / 1024:.0f} |"
        )
    return lines


def _processes(found: Cluster) -> dict[str, psutil.Process]:
    pids = {name: child.pid for name, child in found.children.items()} | {"worker": found.worker_of("stylizer-0")}
    return {name: psutil.Process(pid) for name, pid in pids.items()}
