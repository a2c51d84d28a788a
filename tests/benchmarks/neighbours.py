"""What a solve takes beside other solves on the same cores, for each way in which OpenMP's threads may wait.

    python -m tests.benchmarks.neighbours [--edges 160 512] [--counts 1 2] [--solves 3] [--out docs/benchmarks]

Each row starts its processes, lets all of them warm up, and has them solve pair 09 with ``vgg19-student`` over and
over, from the same moment on. The row of the services is what ``services.common.openmp`` sets. Writes
``neighbours.md``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from services.common.openmp import SHORT_WAITS, WAITS
from services.stylizer.core.params import TransferParams
from tests.benchmarks.judged import transfer_of
from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT, Pair, feature_network
from tests.benchmarks.report import report

_PAIR = "09"
_WAYS: Final[Mapping[str, Mapping[str, str]]] = {
    "as GCC's OpenMP has it": {},
    "as the services have it": SHORT_WAITS,
    "asleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs="+", default=[160, 512])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--solves", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        _solve(options.one, options.solves)
        return
    lines = [
        "# Solves beside solves",
        "",
        f"Made by `python -m tests.benchmarks.neighbours`. {described()}.",
        f"Seconds of a solve of pair {_PAIR}, 30 evaluations, in so many processes at the same time: median of "
        f"{options.solves} in each, and the longest.",
        "",
        "| edge, px | processes | " + " | ".join(_WAYS) + " |",
        "|---" * (2 + len(_WAYS)) + "|",
    ]
    for edge in options.edges:
        for count in options.counts:
            found = [_together(edge, count, options.solves, way) for way in _WAYS.values()]
            cells = [f"{statistics.median(seconds):.2f} ({max(seconds):.2f})" for seconds in found]
            lines.append(f"| {edge} | {count} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    report(lines, options.out, "neighbours")


def _together(edge: int, count: int, solves: int, way: Mapping[str, str]) -> list[float]:
    command = [sys.executable, "-m", "tests.benchmarks.neighbours", "--one", str(edge), "--solves", str(solves)]
    others = {name: value for name, value in os.environ.items() if name not in WAITS}
    processes = [
        subprocess.Popen(command, cwd=ROOT, env={**others, **way}, text=True, stdin=-1, stdout=-1) for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "warm\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [float(line) for process in processes for line in process.communicate()[0].split()]


def _solve(edge: int, solves: int) -> None:
    torch.set_flush_denormal(True)
    network, pair = feature_network("builtin"), Pair.load(_PAIR, edge)
    params = TransferParams.chosen(quality="standard", solve_edge_px=edge)

    def solved() -> float:
        began = time.perf_counter()
        transfer_of(pair, network, params).run(lambda _: None, lambda _: None, lambda: False)
        return time.perf_counter() - began

    solved()
    print("warm", flush=True)
    sys.stdin.readline()
    for _ in range(solves):
        print(solved(), flush=True)


if __name__ == "__main__":
    main()
