"""What the gateway and the way to it add to a 12 MP request beyond the services' own time.

    python -m tests.benchmarks.transport [--requests 15] [--out docs/benchmarks]

Starts the stack with the built-in networks, sends a 12 MP JPEG and a style of 3 MP, and lets it be solved briefly at
128 px. The services log the seconds of each call; what the caller waited beyond the longer of the two segmentations and
the stylizer's call is what transport, queues and gateway took. Writes ``transport.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dpst_client import AsyncClient
from PIL import Image

from tests.benchmarks.machine import described
from tests.benchmarks.pairs import ROOT
from tests.benchmarks.report import report
from tests.faults.cluster import Cluster, cluster

_PARAMS = {"solve_edge_px": 128, "max_evaluations": 4, "preview_every": 0}


@dataclass(frozen=True)
class _Row:
    """Seconds of one request."""

    waited: float
    segmented: float
    stylized: float
    photo_bytes: int
    result_bytes: int

    @property
    def added(self) -> float:
        return self.waited - self.segmented - self.stylized


def _jpeg(seed: int, width: int, height: int) -> bytes:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = random.normal(0, 5, (height, width, 1)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def _logged(found: Cluster, name: str, request_id: str, rpc: str) -> list[float]:
    lines = [json.loads(line) for line in found.logs(name).splitlines() if request_id in line]
    return [line["seconds"] for line in lines if line["event"] == "rpc finished" and line["method"].endswith(rpc)]


async def _measured(requests: int) -> list[_Row]:
    content, style = _jpeg(1, 4000, 3000), _jpeg(2, 2048, 1536)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        async with cluster(Path(folder), stylizers=1) as found, AsyncClient(found.ports["gateway"]) as client:
            for n in range(requests + 2):
                request_id = f"measured-{n:04d}"
                # Another file each time: a segmentation that was kept would have no seconds of its own.
                photos = content + bytes([n]), style + bytes([n])
                began = time.monotonic()
                result = await client.transfer(*photos, request_id=request_id, **_PARAMS)
                waited = time.monotonic() - began
                await asyncio.sleep(0.3)
                segmented = _logged(found, "segmentation", request_id, "/Segment")
                (stylized,) = _logged(found, "stylizer-0", request_id, "/Stylize")
                rows.append(_Row(waited, max(segmented), stylized, len(content), len(result.picture)))
    return rows[2:]


def _table(rows: list[_Row]) -> list[str]:
    lines = [
        "# Beyond the services' own time",
        "",
        f"Made by `python -m tests.benchmarks.transport`. {described()}.",
        f"{len(rows)} requests, one at a time: a photo of 12 MP ({rows[0].photo_bytes / 1e6:.1f} MB) and a style of "
        f"3 MP in, 12 MP ({rows[0].result_bytes / 1e6:.1f} MB) out.",
        "",
        "| ms | median | least | most |",
        "|---|---|---|---|",
    ]
    columns = {
        "the caller waited": [row.waited for row in rows],
        "segmentation, the longer of the two calls": [row.segmented for row in rows],
        "stylizer": [row.stylized for row in rows],
        "added by gateway and transport": [row.added for row in rows],
    }
    for name, seconds in columns.items():
        median, least, most = (1000 * f(seconds) for f in (statistics.median, min, max))
        lines.append(f"| {name} | {median:.0f} | {least:.0f} | {most:.0f} |")
    return lines


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    lines = _table(asyncio.run(_measured(options.requests)))
    report(lines, options.out, "transport")


if __name__ == "__main__":
    main()
