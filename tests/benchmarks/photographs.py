"""Photographs as cameras make them through the whole stack: what comes back beside the pixels, seconds, memory.

    python -m tests.benchmarks.photographs [--width 6000] [--edge 256] [--evaluations 10] [--no-costs]

Starts the stack on free ports with the models of ``DPST_MODELS_DIR``, restyles a JPEG in Adobe RGB with EXIF and a
16-bit TIFF in Display P3, and writes ``docs/benchmarks/photographs.md``: the headers of both files before and after as
``exiftool`` (if it is installed) and libvips read them. The pictures go to ``build/benchmarks/``. Linux only: memory is
read from ``/proc``.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
from dpst.v1 import image_pb2, params_pb2, photo_style_pb2, photo_style_pb2_grpc, report_pb2
from numpy.typing import NDArray

from gateway.stack import Stack, local_stack
from services.common.client import channel_options
from services.common.images import ImageLimits, open_photo
from tests.benchmarks.file_costs import cost_table
from tests.benchmarks.machine import described, models_dir
from tests.benchmarks.photograph_files import (
    adobe_jpeg,
    deep_tiff,
    exiftool_lines,
    sample,
    vips_lines,
)
from tests.benchmarks.report import report

_ROOT = Path(__file__).parents[2]
_MESSAGE_BYTES = 512 << 20
_SETTINGS = {"device": "cpu"}
_LIMITS = ImageLimits(_MESSAGE_BYTES, 1 << 30, 32, 1 << 16)


@dataclass(frozen=True)
class Passage:
    """One photo's way through the stack."""

    title: str
    suffix: str
    before: bytes
    after: bytes
    report: report_pb2.TransferReport
    seconds: float
    peak_megabytes: dict[str, float]


def main() -> None:
    """Run and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=6000, help="of the photos, in pixels; they are 3:2")
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--no-costs", action="store_true", help="leave the table of reading and writing alone out")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs/benchmarks")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    photos = (("JPEG, 8 bits, Adobe RGB", "jpg", adobe_jpeg), ("TIFF, 16 bits, Display P3", "tif", deep_tiff))
    params = params_pb2.TransferParams(solve_edge_px=options.edge, max_evaluations=options.evaluations, preview_every=0)
    passages = [_passage(title, suffix, make(options.width), params) for title, suffix, make in photos]
    pictures = _ROOT / "build/benchmarks"
    pictures.mkdir(parents=True, exist_ok=True)
    for passage in passages:
        (pictures / f"photographs-before.{passage.suffix}").write_bytes(passage.before)
        (pictures / f"photographs-after.{passage.suffix}").write_bytes(passage.after)
    lines = [*_head(options), *_summary(passages)]
    for passage in passages:
        lines += _section(passage)
    if not options.no_costs:
        lines += ["## Reading and writing alone", "", *_COSTS_NOTE, "", *cost_table(options.width)]
    report(lines, options.out, "photographs")


def _passage(title: str, suffix: str, photo: bytes, params: params_pb2.TransferParams) -> Passage:
    """In a stack of its own, because peak memory never falls."""
    transfer = photo_style_pb2.Transfer(
        content=image_pb2.Image(data=photo),
        style=image_pb2.Image(data=sample("skimage", "data/coffee.png")),
        params=params,
    )
    pieces = []
    with TemporaryDirectory() as logs, _stack(Path(logs)) as stack:
        with grpc.insecure_channel(stack.addresses["gateway"].grpc, options=channel_options(_MESSAGE_BYTES)) as channel:
            began = time.perf_counter()
            request = photo_style_pb2.TransferStreamRequest(transfer=transfer)
            for event in photo_style_pb2_grpc.PhotoStyleStub(channel).TransferStream(request):
                pieces.append(event.chunk.data)
                report = event.done.report
            seconds = time.perf_counter() - began
        peaks = _peaks(stack)
    return Passage(title, suffix, photo, b"".join(pieces), report, seconds, peaks)


def _stack(logs: Path) -> AbstractContextManager[Stack]:
    settings = {**_SETTINGS, "models_dir": str(models_dir())}
    return local_stack(logs, gateway={"segment_timeout_seconds": "600"}, every=settings)


def _peaks(stack: Stack) -> dict[str, float]:
    """Peak resident memory of each process of the stack and of its children together, in MB."""
    parents, peaks = {}, {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue  # it has ended
        pid = int(status.parent.name)
        parents[pid] = int(fields["PPid"])
        peaks[pid] = int(fields.get("VmHWM", "0 kB").split()[0]) * 1024 / 1e6
    result = {}
    for name, child in stack.children.items():
        result[name] = peaks[child.pid]
        below = sum(peaks[pid] for pid, parent in parents.items() if parent == child.pid)
        if below:
            result[f"{name}'s worker"] = below
    return result


def _head(options: argparse.Namespace) -> list[str]:
    width = options.width
    flags = f"--width {width} --edge {options.edge} --evaluations {options.evaluations}"
    return [
        "# Photographs through the whole stack",
        "",
        f"Made by `python -m tests.benchmarks.photographs {flags}`. {described()}.",
        f"Two photos of {width}×{width * 2 // 3} px, made from scikit-learn's china.jpg (danielbuechele, CC BY 2.0)",
        "enlarged, with grain; style: scikit-image's coffee (Rachel Michetti, CC0). Caller, gateway, segmentation and",
        "stylizer share the machine, with default settings. The solve is small on purpose: this page is about files.",
        "",
    ]


def _summary(passages: list[Passage]) -> list[str]:
    stages = [stage.stage for stage in passages[0].report.stages]
    names = [report_pb2.Stage.Name(stage).removeprefix("STAGE_").lower().replace("_", " ") for stage in stages]
    lines = [
        f"| seconds | {' | '.join(names)} | as the caller saw it |",
        f"|---|{'---|' * (len(names) + 1)}",
    ]
    for passage in passages:
        seconds = {stage.stage: stage.seconds for stage in passage.report.stages}
        cells = [f"{seconds.get(stage, math.nan):.2f}" for stage in stages]
        lines.append(f"| {passage.title} | {' | '.join(cells)} | {passage.seconds:.2f} |")
    processes = list(passages[0].peak_megabytes)
    lines += ["", f"| peak resident memory, MB | {' | '.join(processes)} |", f"|---|{'---|' * len(processes)}"]
    for passage in passages:
        cells = [f"{passage.peak_megabytes[name]:.0f}" for name in processes]
        lines.append(f"| {passage.title} | {' | '.join(cells)} |")
    return [*lines, ""]


def _section(passage: Passage) -> list[str]:
    before, after = (open_photo(data, "photo", _LIMITS).pixels() for data in (passage.before, passage.after))
    lines = [f"## {passage.title}", "", *_levels(before, after), ""]
    tables = {
        "exiftool": [exiftool_lines(data, passage.suffix) for data in (passage.before, passage.after)],
        "vipsheader": [vips_lines(data) for data in (passage.before, passage.after)],
    }
    for tool, (old, new) in tables.items():
        if old is None or new is None:
            lines += [f"`{tool}` is not installed here.", ""]
            continue
        lines += [f"| {tool} | before | after |", "|---|---|---|"]
        for name in dict.fromkeys([*old, *new]):
            was, now = old.get(name, "—"), new.get(name, "—")
            cell = "the same" if now == was else f"**{now}**"
            lines.append(f"| {name} | {was} | {cell} |")
        lines.append("")
    return lines


def _levels(before: NDArray[np.generic], after: NDArray[np.generic]) -> list[str]:
    """Distinct values of each channel, and for 16 bits how many are none that 8 bits have."""
    lines = ["| | red | green | blue |", "|---|---|---|---|"]
    for name, pixels in (("before", before), ("after", after)):
        counts = [len(np.unique(pixels[..., channel])) for channel in range(3)]
        lines.append(f"| distinct levels {name} | {' | '.join(map(str, counts))} |")
        if pixels.dtype == np.uint16:
            shares = [np.mean(pixels[..., channel] % 257 != 0) for channel in range(3)]
            lines.append(
                f"| share of values between those of 8 bits | {' | '.join(f'{share:.3f}' for share in shares)} |"
            )
    return lines


_COSTS_NOTE = [
    "The same photo as a file of each format, each in a process of its own: median of three; *proxy* is the small copy"
    " that is analysed (700 px), memory is what the peak of the process grew by, with the pixels that were asked for"
    " (72 MB, or 144 MB of 16 bits) in *reading* and the encoded file in *writing*.",
]


if __name__ == "__main__":
    main()
