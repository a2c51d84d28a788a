"""Rendering a photo at camera resolution: seconds, memory, and what the dither leaves to be seen.

    python -m tests.benchmarks.render [--repeats 5]

Writes ``docs/benchmarks/render.md`` and ``render.svg``. Every row is measured in a process of its own, so that its peak
memory is its own; ratios are measured in turn in one process. Linux only: memory is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.stylizer.core.affine_render import render
from services.stylizer.core.affine_strip import Samples, strip_by_kernel, strip_by_torch
from services.stylizer.core.dither import dither_thresholds
from tests.benchmarks.dither import dither_table
from tests.benchmarks.grid_renderer import GridRenderer
from tests.benchmarks.machine import described
from tests.benchmarks.report import report

_ROOT = Path(__file__).parents[2]
_PROXY = (683, 1024)
"""The largest that a solve may have."""
_MEGAPIXELS = (1, 3, 6, 12, 24, 45)
_DEPTHS = ((8, 8), (16, 16), (16, 8), (8, 16))
_RATIO_MEGAPIXELS = 3
_DTYPES: dict[int, type[np.uint8] | type[np.uint16]] = {8: np.uint8, 16: np.uint16}


def main() -> None:
    """Run everything and write the tables, or with ``--one`` a single row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=_ROOT / "docs/benchmarks")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, megapixels, source, target = options.one
        print(json.dumps(_row(way, int(megapixels), int(source), int(target), options.repeats)))
        return
    if options.first:
        print(json.dumps(_first_call()))
        return
    _child("--one", "maps", 1, 8, 8, "--repeats", 1)  # compiles the kernel, if it is not in the cache
    sizes = [_child("--one", "maps", size, 8, 8, "--repeats", options.repeats) for size in _MEGAPIXELS]
    depths = [_child("--one", "maps", 24, *depths, "--repeats", options.repeats) for depths in _DEPTHS]
    grid = _child("--one", "grid", _RATIO_MEGAPIXELS, 8, 8, "--repeats", 1)
    with tempfile.TemporaryDirectory() as cache:
        firsts = [_child("--first", cache=cache) for _ in range(2)]
    page = _page(sizes, depths, grid, firsts, _ratios(options.repeats), dither_table())
    report(page, options.out, "render")
    (options.out / "render.svg").write_text(_plot(sizes))


def _child(*arguments: object, cache: str | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.render", *(str(argument) for argument in arguments)]
    environment = {**os.environ, **({"NUMBA_CACHE_DIR": cache} if cache else {})}
    done = subprocess.run(command, cwd=_ROOT, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(found, file=sys.stderr, flush=True)
    return found


def _row(way: str, megapixels: int, source: int, target: int, repeats: int) -> dict[str, Any]:
    """Seconds and memory of one size; the first, small call is not counted."""
    pixels, maps = _photo(megapixels, source), _maps()
    renderer: Callable[[NDArray[Any]], NDArray[Any]]
    if way == "maps":

        def renderer(photo: NDArray[Any]) -> NDArray[Any]:
            return render(maps, photo, 1.0, "none", target, lambda: False)
    else:
        renderer = GridRenderer(_PROXY)
    renderer(pixels[:16, :16])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, wall, processor = _mebibytes("VmRSS"), [], []
    for _ in range(repeats):
        began, began_processor = time.perf_counter(), time.process_time()
        result = renderer(pixels)
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - began_processor)
        output = result.nbytes / 2**20
        del result
    peak = _mebibytes("VmHWM")
    return {
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "source": source,
        "target": target,
        "seconds": statistics.median(wall),
        "fastest": min(wall),
        "processor": statistics.median(processor),
        "peak": peak,
        "growth": peak - before - output,
        "arrays": pixels.nbytes / 2**20 + output,
    }


def _first_call() -> dict[str, Any]:
    pixels, maps = _photo(1, 8), _maps()
    before, began = _mebibytes("VmRSS"), time.process_time()
    render(maps, pixels[:16, :16], 1.0, "none", 8, lambda: False)
    return {"processor": time.process_time() - began, "growth": _mebibytes("VmRSS") - before}


def _mebibytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def _photo(megapixels: int, depth: int) -> NDArray[Any]:
    """Noise of 3:2; made row by row, so that making it takes no memory."""
    width = round((megapixels * 1.5e6) ** 0.5)
    generator, dtype = np.random.default_rng(0), _DTYPES[depth]
    pixels = np.empty((round(width / 1.5), width, 3), dtype)
    for row in pixels:
        row[:] = generator.integers(0, np.iinfo(dtype).max, row.shape, dtype, endpoint=True)
    return pixels


def _maps() -> Tensor:
    noise = torch.randn(3, 4, *_PROXY, generator=torch.Generator().manual_seed(0))
    return torch.eye(3, 4)[:, :, None, None] + 0.1 * noise


def _ratios(repeats: int) -> dict[str, float]:
    """Seconds on one core of ours, of the same in torch and of the grid, in turn; ratios are medians of pairs."""
    threads = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    pixels, maps, grid = _photo(_RATIO_MEGAPIXELS, 8), _maps(), GridRenderer(_PROXY)
    change = (maps - torch.eye(3, 4)[:, :, None, None]).permute(2, 3, 0, 1).flatten(2).contiguous()
    height, width, _ = pixels.shape
    rows, columns, result = Samples.of(height, _PROXY[0]), Samples.of(width, _PROXY[1]), np.empty_like(pixels)

    def strips(by: Callable[..., None], field: Any) -> None:
        step = (1 << 19) // width
        for top in range(0, height, step):
            part = slice(top, min(top + step, height))
            by(field, pixels[part], rows.part(part.start, part.stop), columns, 1.0, 255.0, tile, True, result[part])

    tile = dither_thresholds(0, 0.5)
    ways: dict[str, Callable[[], object]] = {
        "whole": lambda: render(maps, pixels, 1.0, "none", 8, lambda: False),
        "kernel": lambda: strips(strip_by_kernel, change.numpy()),
        "torch": lambda: strips(strip_by_torch, change),
        "grid": lambda: grid(pixels),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if repeat:
                times[name].append(time.process_time() - began)
    numba.set_num_threads(threads[0])
    torch.set_num_threads(threads[1])

    def ratio(slow: str, fast: str) -> float:
        return statistics.median(s / f for s, f in zip(times[slow], times[fast], strict=True))

    medians = {name: statistics.median(values) for name, values in times.items()}
    return {**medians, "torch_over_kernel": ratio("torch", "kernel"), "grid_over_whole": ratio("grid", "whole")}


def _page(
    sizes: list[dict[str, Any]],
    depths: list[dict[str, Any]],
    grid: dict[str, Any],
    firsts: list[dict[str, Any]],
    ratios: dict[str, float],
    dither: list[tuple[str, list[float]]],
) -> list[str]:
    def line(row: dict[str, Any], name: str) -> str:
        megapixels = row["width"] * row["height"] / 1e6
        figures = (
            *(f"{row['width']} x {row['height']}", f"{megapixels:.1f}", f"{row['seconds']:.2f}"),
            *(f"{row['fastest']:.2f}", f"{row['processor']:.2f}", f"{row['processor'] * 1e3 / megapixels:.0f}"),
            *(f"{row['arrays']:.0f}", f"{row['growth']:.0f}", f"{row['peak']:.0f}"),
        )
        return f"| {name} | {' | '.join(figures)} |"

    head = [
        "| bits | pixels | MP | s | fastest s | processor s | processor ms/MP | arrays MiB | more MiB | process MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return [
        "# Rendering at camera resolution",
        "",
        f"Made by `python -m tests.benchmarks.render`. {described()}, numba {numba.__version__},",
        f"{numba.get_num_threads()} threads. Maps of {_PROXY[1]} x {_PROXY[0]}, the largest; noise as photo.",
        "Each row in a process of its own: seconds are medians; *processor* is their sum over threads; *arrays* are",
        "the photo and the result, *more* is what rendering takes beyond them at its peak, *process* is the peak of",
        "the whole process with torch in it. Where seconds exceed processor seconds, other programs had the cores.",
        "",
        "![processor seconds over megapixels](render.svg)",
        "",
        *head,
        *(line(row, "8 to 8") for row in sizes),
        *(line(row, f"{row['source']} to {row['target']}") for row in depths[1:]),
        "",
        f"On one core, in turn in one process, at {_RATIO_MEGAPIXELS} MP, in processor seconds:",
        "",
        "| what | s | over the line above |",
        "|---|---|---|",
        f"| kernel alone | {ratios['kernel']:.3f} | |",
        f"| the same operations in torch, same bits | {ratios['torch']:.3f} | {ratios['torch_over_kernel']:.1f} |",
        f"| whole rendering | {ratios['whole']:.3f} | |",
        f"| what was before | {ratios['grid']:.3f} | {ratios['grid_over_whole']:.1f} |",
        "",
        "What was before is a bilateral grid over label warm starts, read at every pixel in torch",
        f"(`tests/benchmarks/grid_renderer.py`); it takes {grid['growth']:.0f} MiB beyond photo and result.",
        "",
        f"The first call of a fresh installation compiles for {firsts[0]['processor']:.1f} processor seconds a pair of",
        f"depths, and {firsts[0]['growth']:.0f} MiB stay; that of a later process takes {firsts[1]['processor']:.1f} s",
        f"and {firsts[1]['growth']:.0f} MiB.",
        "",
        "## Dither",
        "",
        "Standard deviation of the error of luma on a dark gradient of about 4 levels, in 8-bit levels, after a blur",
        "that stands for the eye.",
        "",
        "| pattern | lossless, 1 px | 2 px | 4 px | JPEG 92, 2 px | JPEG 97, 2 px |",
        "|---|---|---|---|---|---|",
        *(f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |" for name, row in dither),
        "",
        "Looked at with the contrast raised 14 times, enlarged and from afar: white noise is grainy, more so in bands",
        "half-way between levels; interleaved gradient noise shows a slanted weave; void and cluster shows an even,",
        "fine grain when enlarged and none from afar. JPEG at the usual quality of 92 has coarser steps than any of",
        "these patterns and draws bands of its own, whatever it is given; a gradient that must survive wants PNG, TIFF",
        "or 16 bits.",
    ]


def _plot(rows: list[dict[str, Any]]) -> str:
    """Processor seconds over megapixels, with the straight line through the origin that fits them best."""
    points = [(row["width"] * row["height"] / 1e6, row["processor"]) for row in rows]
    slope = sum(x * y for x, y in points) / sum(x * x for x, _ in points)
    top = max(y for _, y in points) * 1.15

    def at(x: float, y: float) -> str:
        return f"{40 + x * 7:.1f},{190 - y / top * 170:.1f}"

    marks = "".join(
        f'<circle cx="{at(x, y).split(",")[0]}" cy="{at(x, y).split(",")[1]}" r="3"/>'
        f'<text x="{40 + x * 7:.1f}" y="205" text-anchor="middle">{x:.0f}</text>'
        for x, y in points
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 225" font-family="sans-serif" font-size="10">\n'
        '<rect width="400" height="225" fill="#fff"/>\n'
        f'<path d="M{at(0, top)} L{at(0, 0)} L{at(48, 0)}" fill="none" stroke="#888"/>\n'
        f'<path d="M{at(0, 0)} L{at(46, 46 * slope)}" stroke="#36c"/>\n'
        f"{marks}\n"
        '<text x="215" y="220" text-anchor="middle">megapixels</text>\n'
        f'<text x="45" y="15">processor seconds; the line is {slope * 1e3:.0f} ms a megapixel</text>\n'
        "</svg>\n"
    )


if __name__ == "__main__":
    main()
