"""Hours of everything at once: what grows?

    python -m tests.benchmarks.soak [--minutes 60] [--out docs/benchmarks]

A stack with the built-in networks is kept busy by callers of every kind: transfers of 8 and 16 bits, of several formats
and sizes, renderings of a look, label maps, files that are none, callers that leave. Resident memory of every process,
after a tenth of the time to warm up, is fitted with a line. Writes ``soak.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from dpst_client import AsyncClient, TransferFailed
from PIL import Image

from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT
from tests.benchmarks.report import report
from tests.benchmarks.resident import growth_table, resident_bytes
from tests.faults.cluster import Cluster, cluster, picture

_PARAMS = {"solve_edge_px": 96, "max_evaluations": 6, "preview_every": 3}
_CALLERS = 3
_READINGS = 120


def _photos() -> list[bytes]:
    photos = [picture(seed, 64 * seed, 48 * seed) for seed in range(2, 12)]
    for format_ in ("JPEG", "WEBP", "TIFF"):
        file = io.BytesIO()
        Image.open(io.BytesIO(photos[3])).save(file, format_)
        photos.append(file.getvalue())
    deep = io.BytesIO()
    Image.fromarray(np.arange(120 * 160, dtype=np.uint16).reshape(120, 160) * 3).save(deep, "PNG")
    return [*photos, deep.getvalue()]


async def _caller(client: AsyncClient, chance: random.Random, until: float, codes: Counter[str]) -> None:
    photos = _photos()
    while time.monotonic() < until:
        content, style = chance.choice(photos), chance.choice(photos)
        kind = chance.choice(("transfer", "transfer", "render", "leave", "broken", "late"))
        try:
            if kind == "broken":
                cut = chance.randrange(len(content))
                await client.transfer(content[:cut], style, **_PARAMS)
            elif kind == "leave":
                async with asyncio.timeout(chance.uniform(0.01, 1.0)):
                    await client.transfer(content, style, **_PARAMS)
            else:
                result = await client.transfer(content, style, timeout=5.0 if kind == "late" else None, **_PARAMS)
                if kind == "render":
                    await client.render(result.look, content)
            codes[f"{kind} OK"] += 1
        except TransferFailed as error:
            codes[f"{kind} {error.code.name}"] += 1
        except TimeoutError:
            codes[f"{kind} left"] += 1


async def _readings(found: Cluster, minutes: float) -> list[tuple[float, dict[str, int]]]:
    rows = []
    await asyncio.sleep(6 * minutes)
    for _ in range(_READINGS):
        await asyncio.sleep(54 * minutes / _READINGS)
        rows.append((time.monotonic() / 60, resident_bytes(found)))
    return rows


async def _measured(minutes: float) -> tuple[list[tuple[float, dict[str, int]]], Counter[str]]:
    codes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), stylizers=1) as found, AsyncClient(found.ports["gateway"]) as client:
            until = time.monotonic() + 60 * minutes
            async with asyncio.TaskGroup() as group:
                readings = group.create_task(_readings(found, minutes))
                for seed in range(_CALLERS):
                    group.create_task(_caller(client, random.Random(seed), until, codes))
    return readings.result(), codes


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    machine = described()  # before an hour in which the tree may change
    rows, codes = asyncio.run(_measured(options.minutes))
    lines = [
        "# Everything at once, for a while",
        "",
        f"Made by `python -m tests.benchmarks.soak --minutes {options.minutes:g}`. {machine}.",
        "",
        f"{sum(codes.values())} calls: {', '.join(f'{name} {count}' for name, count in sorted(codes.items()))}.",
        "",
        *growth_table([minute for minute, _ in rows], [row for _, row in rows], "minute", 60),
    ]
    report(lines, options.out, "soak")


if __name__ == "__main__":
    main()
