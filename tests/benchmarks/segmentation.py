"""The segmentation service: seconds of a 12 MP photo, throughput with and without batches, answers from the cache.

    python -m tests.benchmarks.segmentation [--model NAME] [--models-dir FOLDER] [--repetitions 5] [--photos 96]

Starts real servers on free ports: one for latencies, then two side by side, with batches and without, that are measured
in turns. The callers share the cores with the server. Writes ``docs/benchmarks/segmentation.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyvips
from dpst.v1 import segmentation_pb2

from tests.benchmarks.machine import described, pairs_dir
from tests.benchmarks.report import report
from tests.benchmarks.segmentation_server import MAP_EDGE_PX, STAGES, Load, Server, running, twelve_megapixels

_ROOT = Path(__file__).parents[2]
_MODES = {"batches": {}, "no batches": {"segmentation_max_batch_size": "1"}}
_NO_CACHE = {"segmentation_cache_bytes": "0"}

_PHOTOS = pairs_dir().parent / "photos/bsds"


def main() -> None:
    """Run and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="network of the models folder; without it the service's default")
    parser.add_argument("--models-dir", type=Path, help="without it DPST_MODELS_DIR, or what is built in")
    parser.add_argument("--photo-dir", type=Path, default=_PHOTOS, help="JPEG files")
    parser.add_argument("--repetitions", type=int, default=5, help="of each mode")
    parser.add_argument("--photos", type=int, default=96, help="in one repetition")
    parser.add_argument("--latencies", type=int, default=20, help="requests with the 12 MP photo")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--out", type=Path, default=_ROOT / "docs/benchmarks")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    settings = _settings(options)
    photos = _photos_of_one_size(options.photo_dir, min(options.photos, 64))
    large = twelve_megapixels(photos[0])
    with running({**settings, **_NO_CACHE}) as server:
        model = server.model()
        if model.model.built_in and not model.input_edge_px:
            raise SystemExit("the default is the single region, there is no network to measure; give --models-dir")
        latencies = server.latencies(large, options.latencies, cached=False)
    with running(settings) as server:
        kept = server.latencies(large, options.latencies, cached=True)["total"]
    with (
        running({**settings, **_NO_CACHE, **_MODES["batches"]}) as on,
        running({**settings, **_NO_CACHE, **_MODES["no batches"]}) as off,
    ):
        loads = _in_turns({"batches": on, "no batches": off}, photos, options)
    page = _page(options, model, large, latencies, kept, loads, photos)
    record = {
        "machine": _machine(),
        "model": f"{model.model.name}/{model.model.version}",
        "latency_seconds": latencies,
        "cached_seconds": kept,
        "loads": {mode: [asdict(load) for load in each] for mode, each in loads.items()},
    }
    report(page, options.out, "segmentation", record)


def _settings(options: argparse.Namespace) -> dict[str, str]:
    models_dir = options.models_dir or os.environ.get("DPST_MODELS_DIR")
    settings = {"models_dir": str(models_dir)} if models_dir else {}
    return {**settings, "segmentation_model": options.model} if options.model else settings


def _photos_of_one_size(folder: Path, count: int) -> list[bytes]:
    """The first photos of the folder that are as large as the very first landscape."""
    found: list[bytes] = []
    size: tuple[int, int] | None = None
    for path in sorted(folder.glob("*.jpg")):
        header = pyvips.Image.new_from_file(str(path))
        if header.width > header.height and size in (None, (header.width, header.height)):
            size = (header.width, header.height)
            found.append(path.read_bytes())
        if len(found) == count:
            break
    if not found:
        raise SystemExit(f"{folder}: no landscape JPEG there; give --photo-dir")
    return found


def _in_turns(
    servers: dict[str, Server], photos: Sequence[bytes], options: argparse.Namespace
) -> dict[str, list[Load]]:
    loads: dict[str, list[Load]] = {mode: [] for mode in servers}
    for server in servers.values():
        server.load(photos, options.callers, 2 * options.callers)  # connects and allocates
    for repetition in range(options.repetitions):
        # The order changes, so that what happens to the machine does not always hit the same one.
        for mode in list(servers)[:: 1 if repetition % 2 == 0 else -1]:
            load = servers[mode].load(photos, options.callers, options.photos)
            print(f"{repetition} {mode}: {load.photos_per_second:.2f} photos/s", flush=True)
            loads[mode].append(load)
    return loads


def _page(
    options: argparse.Namespace,
    model: segmentation_pb2.SegmentationModel,
    large: bytes,
    latencies: dict[str, list[float]],
    kept: list[float],
    loads: dict[str, list[Load]],
    photos: Sequence[bytes],
) -> list[str]:
    small = pyvips.Image.new_from_buffer(photos[0], "")
    arguments = f" --model {options.model}" if options.model else ""
    arguments += f" --models-dir {options.models_dir}" if options.models_dir else ""
    arguments += f" --photo-dir {options.photo_dir}" if options.photo_dir != _PHOTOS else ""
    command = (
        f"python -m tests.benchmarks.segmentation{arguments} --repetitions {options.repetitions} "
        f"--photos {options.photos} --latencies {options.latencies} --callers {options.callers}"
    )
    ratios = [
        on.photos_per_second / off.photos_per_second
        for on, off in zip(loads["batches"], loads["no batches"], strict=True)
    ]
    return [
        "# The segmentation service",
        "",
        f"Made by `{command}`.",
        f"{_machine()}. Network {model.model.name}/{model.model.version}, {model.input_edge_px} px, "
        f"{model.execution_provider}. Maps of at most {MAP_EDGE_PX} px, default refinement, one machine for "
        "callers and server.",
        "",
        "## One photo of 12 MP",
        f"A JPEG of 4000x3000 px, {len(large) / 1e6:.1f} MB, one request after the other, {options.latencies} of "
        "them. Milliseconds; total is what the caller sees, segment is everything between network and encoding, "
        "refinement included.",
        "",
        "| | median | p95 | slowest |",
        "|---|---|---|---|",
        *(_seconds_row(name, latencies[name]) for name in (*STAGES, "total")),
        _seconds_row("total, from the cache", kept),
        "",
        f"## {options.callers} callers at once",
        f"{options.repetitions} times {options.photos} photos of {small.width}x{small.height} px for each mode, in "
        "turns on two servers, cache off. `no batches` is DPST_SEGMENTATION_MAX_BATCH_SIZE=1: one photo at a time "
        "on all cores. Processor seconds are the server's, for one photo.",
        "",
        "| mode | photos/s: min | median | max | mean batch | processor s: median |",
        "|---|---|---|---|---|---|",
        *(_load_row(mode, each) for mode, each in loads.items()),
        "",
        f"Throughput with batches, relative to none, repetition by repetition: min {min(ratios):.2f}, median "
        f"{np.median(ratios):.2f}, max {max(ratios):.2f}.",
    ]


def _seconds_row(name: str, seconds: Sequence[float]) -> str:
    median, p95, slowest = (float(np.quantile(seconds, q)) * 1e3 for q in (0.5, 0.95, 1.0))
    return f"| {name} | {median:.1f} | {p95:.1f} | {slowest:.1f} |"


def _load_row(mode: str, loads: Sequence[Load]) -> str:
    rates: Any = [load.photos_per_second for load in loads]
    batch = float(np.median([load.batch_size for load in loads]))
    cpu = float(np.median([load.cpu_seconds for load in loads]))
    return f"| {mode} | {min(rates):.2f} | {np.median(rates):.2f} | {max(rates):.2f} | {batch:.1f} | {cpu:.3f} |"


def _machine() -> str:
    return f"{described()}, ONNX Runtime {onnxruntime.__version__}"


if __name__ == "__main__":
    main()
