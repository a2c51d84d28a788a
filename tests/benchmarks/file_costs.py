"""What it costs to read and write a large photo's file in each format, one process a row.

    python -m tests.benchmarks.file_costs KIND BIT_DEPTH WIDTH      one row as JSON

``tests.benchmarks.photographs`` puts the rows into its table.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyvips

from services.common.images import ImageLimits, OutputFormat, encode_photo, open_photo
from tests.benchmarks.photograph_files import photograph

__all__ = ["KINDS", "cost_table"]

KINDS = (("jpeg", 8), ("png", 8), ("png", 16), ("tiff", 8), ("tiff", 16), ("webp", 8), ("avif", 8))
_SAVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("jpegsave_buffer", {"Q": 92}),
    "png": ("pngsave_buffer", {"compression": 2, "filter": "sub"}),
    "tiff": ("tiffsave_buffer", {"compression": "deflate", "predictor": "horizontal"}),
    "webp": ("webpsave_buffer", {"Q": 92, "effort": 0}),
    "avif": ("heifsave_buffer", {"Q": 92, "effort": 0, "compression": "av1"}),
}
_LIMITS = ImageLimits(1 << 30, 1 << 30, 32, 1 << 16)
_PROXY_EDGE_PX = 700
_REPEATS = 3


def cost_table(width_px: int) -> list[str]:
    """Lines of a Markdown table."""
    lines = [
        "| format | bits | MB | header, ms | proxy, s | all pixels, s | encode, s | reading, MB | writing, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, bits in KINDS:
        command = [sys.executable, "-m", "tests.benchmarks.file_costs", kind, str(bits), str(width_px)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True)
        row = json.loads(done.stdout)
        print(row, file=sys.stderr, flush=True)
        lines.append(
            f"| {kind} | {bits} | {row['megabytes']:.1f} | {row['header_seconds'] * 1e3:.1f}"
            f" | {row['proxy_seconds']:.2f} | {row['pixels_seconds']:.2f} | {row['encode_seconds']:.2f}"
            f" | {row['reading_megabytes']:.0f} | {row['writing_megabytes']:.0f} |"
        )
    return lines


def _row(kind: str, bits: int, width_px: int) -> dict[str, Any]:
    data = _file(kind, bits, width_px)
    content = open_photo(data, "content", _LIMITS)

    def timed(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    header = timed(lambda: open_photo(data, "content", _LIMITS))
    proxy = timed(lambda: content.proxy(_PROXY_EDGE_PX, None))
    before = _forget_peak()
    pixels = content.pixels()
    reading = _status_megabytes("VmHWM") - before
    before = _forget_peak()
    encode_photo(pixels, content, OutputFormat())
    writing = _status_megabytes("VmHWM") - before
    return {
        "megabytes": len(data) / 1e6,
        "header_seconds": header,
        "proxy_seconds": proxy,
        "pixels_seconds": timed(content.pixels),
        "encode_seconds": timed(lambda: encode_photo(pixels, content, OutputFormat())),
        "reading_megabytes": reading,
        "writing_megabytes": writing,
    }


def _file(kind: str, bits: int, width_px: int) -> bytes:
    """Made by a child, because peak memory never falls."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        image = pyvips.Image.new_from_array(photograph(bits, width_px))
        image = image.copy(interpretation="srgb" if bits == 8 else "rgb16")
        save, options = _SAVERS[kind]
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(getattr(image, save)(**options))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return data


def _forget_peak() -> float:
    """Let the peak of memory begin anew; give what is resident now, in MB. See proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_megabytes("VmRSS")


def _status_megabytes(field: str) -> float:
    """Resident memory of this process: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    print(json.dumps(_row(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
