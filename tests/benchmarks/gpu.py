"""How near the solver comes to what the machine can do: floors, evaluations, solves, rendering, on a card or a CPU.

    python -m tests.benchmarks.gpu [--device cuda:0|cpu] [--edges 256 512 700] [--megapixels 12 24 45]
        [--slots 1 4 16] [--paper-evaluations 2000] [--out docs/benchmarks]

First the machine: dense matrix products in each precision, and copies. Then one evaluation at each size, beside its two
floors: operations (counted) over the product's rate, and bytes (of every operator's inputs and outputs, as if nothing
were fused) over the copy's rate. Then solves at standard quality and, on the same photos, ``mode = paper``; then many
solves at once, in so many threads as a worker has slots, which share the network (``core/evaluator.py``); then
rendering. Memory stands beside what ``footprint.py`` foretells. Photos are those of the demo, one region. Without a
card use small sizes, e.g. ``--edges 128 --slots 1 2 --megapixels 3 --paper-evaluations 20``. Writes ``gpu.md`` and
``gpu.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from services.common.images import OutputFormat, open_photo
from services.common.models import embedded_models_dir, find_model
from services.stylizer.core.affine_render import render
from services.stylizer.core.evaluator import Evaluator
from services.stylizer.core.local_affine import applied
from services.stylizer.core.params import TransferParams
from services.stylizer.core.transfer import Regions, Transfer
from services.stylizer.core.variables import PixelProblem, State
from services.stylizer.features import FeatureNetwork, load_features
from services.stylizer.footprint import predicted
from services.stylizer.jobs import StylizeJob
from tests.benchmarks.machine import described, models_dir
from tests.benchmarks.pairs import LIMITS, ROOT, tensor
from tests.demo import CONTENT, STYLE

__all__ = [
    "Evaluation",
    "Machine",
    "Solve",
    "Throughput",
    "evaluation",
    "machine",
    "rendered",
    "report",
    "solved",
    "throughput",
    "transfer",
]

_REPEATS = 7
_KINDS = {
    "convolution": ("convolution", "conv2d", "conv_"),
    "matrix product": ("::mm", "bmm", "addmm", "matmul"),
    "pooling": ("pool",),
    "resampling": ("grid_sampl", "upsample", "interpolate"),
}
"""Kinds of operators in a profile, by parts of their names; the rest is element by element, or ours."""


@dataclass(frozen=True)
class Machine:
    """Measured: operations a second of a dense product (a multiplication and an addition are two), bytes a second."""

    name: str
    flops: dict[str, float]
    copy_bytes: float


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, forward and backward, on pixels.

    Attributes:
        edge_px: long edge.
        seconds: median.
        operations: of convolutions and matrix products.
        bytes: of all operators' inputs and outputs.
        floor_operations: seconds that these would take at the rate of the network's precision.
        floor_bytes: seconds that those would.
        shares: of the time, by kind of operator.
        peak_bytes: memory at its peak, beyond the network; 0 on a CPU.
    """

    edge_px: int
    seconds: float
    operations: int
    bytes: int
    floor_operations: float
    floor_bytes: float
    shares: dict[str, float]
    peak_bytes: int


@dataclass(frozen=True)
class Solve:
    """``paper_seconds`` is for as many evaluations as it says; style and affine of both are the scores after output."""

    edge_px: int
    seconds: float
    evaluations: int
    style: float
    affine: float
    paper_seconds: float
    paper_evaluations: int
    paper_style: float
    paper_affine: float


@dataclass(frozen=True)
class Throughput:
    """Solves at standard quality, so many at a time, the same photos.

    Attributes:
        edge_px: long edge.
        slots: solves at a time, and most pictures in a batch.
        per_second: solves.
        batch: mean number of pictures in the batch that an evaluation was made in.
        peak_bytes: of the card's memory beyond the network; 0 on a CPU.
        foretold_bytes: what admission would count for these solves.
        difference: mean difference of the pictures from the one that was solved alone, 0..1.
        largest: the largest of a channel of a pixel. L-BFGS makes much of the last bit of a sum: even the same solve in
            another thread, whose arrays begin at other addresses, ends a little elsewhere.
    """

    edge_px: int
    slots: int
    per_second: float
    batch: float
    peak_bytes: int
    foretold_bytes: int
    difference: float
    largest: float


def _finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _median_seconds(work: Callable[[], object], device: torch.device, repeats: int = _REPEATS) -> float:
    seconds = []
    for repeat in range(repeats + 1):
        _finished(device)
        began = time.perf_counter()
        work()
        _finished(device)
        if repeat:  # the first one warms up
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def machine(device: torch.device, size: int) -> Machine:
    """What dense products of ``size`` x ``size`` and copies of as many floats times 16 reach."""
    flops = {}
    for name, dtype, tf32 in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        if name == "tf32" and device.type != "cuda":
            continue
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        flops[name] = 2 * size**3 / _median_seconds(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
        torch.backends.cuda.matmul.allow_tf32 = before
    source = torch.empty(16 * size * size, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / _median_seconds(lambda: target.copy_(source), device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Machine(name, flops, copied)


class _Moved(TorchDispatchMode):
    """Counts the bytes that operators read and write; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor))
        return found


def transfer(network: FeatureNetwork, edge_px: int, **params: Any) -> Transfer:
    """The demo's photos at a long edge, one region each."""
    files = (CONTENT.needed(), STYLE.needed())
    I, S = (tensor(open_photo(f.read_bytes(), f.name, LIMITS).proxy(edge_px, None)).to(network.device) for f in files)
    regions = [Regions(torch.zeros(p.shape[1:], dtype=torch.long, device=network.device), ("",)) for p in (I, S)]
    return Transfer(network.trunk, TransferParams(solve_edge_px=edge_px, **params), I, S, *regions, {})


def evaluation(network: FeatureNetwork, edge_px: int, found: Machine) -> Evaluation:
    """Measure one evaluation on pixels at the finest level."""
    job = transfer(network, edge_px)
    matches = job.match()
    objective = job.objective(edge_px, matches, job.goal(matches), reference=1.0)
    start = State.warm_start(network.device)
    problem = PixelProblem(objective, job.I, job.warm_field(matches).base, start)
    x = problem.start.detach().clone().requires_grad_(True)

    def work() -> None:
        x.grad = None
        problem(x)[0].backward()  # type: ignore[no-untyped-call]

    device = network.device
    work()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    seconds = _median_seconds(work, device)
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    with FlopCounterMode(display=False) as counted:
        work()
    with _Moved() as moved:
        work()
    operations = counted.get_total_flops()
    rate = found.flops.get("tf32", found.flops["fp32"])
    return Evaluation(
        edge_px,
        seconds,
        operations,
        moved.bytes,
        operations / rate,
        moved.bytes / found.copy_bytes,
        _shares(work, device),
        peak,
    )


def _shares(work: Callable[[], None], device: torch.device) -> dict[str, float]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_card = device.type == "cuda"
    if on_card:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        _finished(device)
    times: dict[str, float] = defaultdict(float)
    for row in profile.key_averages():
        own = row.self_device_time_total if on_card else row.self_cpu_time_total
        times[next((kind for kind, parts in _KINDS.items() if any(p in row.key for p in parts)), "other")] += own
    total = sum(times.values())
    return {kind: times[kind] / total for kind in (*_KINDS, "other")}


def solved(network: FeatureNetwork, edge_px: int, paper_evaluations: int) -> Solve:
    """Solve twice, the second time counts; then the published method once."""
    found = [_run(transfer(network, edge_px)) for _ in range(2)][-1]
    paper = _run(transfer(network, edge_px, mode="paper", max_evaluations=paper_evaluations))
    return Solve(edge_px, *found, paper[0], *paper[1:])


def _run(job: Transfer) -> tuple[float, int, float, float]:
    _finished(job.I.device)
    began = time.perf_counter()
    result = job.run(lambda _: None, lambda _: None, lambda: False)
    _finished(job.I.device)
    seconds = time.perf_counter() - began
    return seconds, result.outcome.evaluations, result.quality.style_relative, result.quality.affine_per_pixel_e6


def throughput(network: FeatureNetwork, edge_px: int, slots: int) -> Throughput:
    """Measure ``slots`` solves at a time until each slot has made three, of which the first does not count."""
    device = network.device
    alone = _picture(transfer(network, edge_px))
    evaluator = Evaluator(network.trunk, slots)
    job = replace(transfer(network, edge_px), evaluator=evaluator)
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with ThreadPoolExecutor(slots) as threads:
        list(threads.map(_picture, [job] * slots))
        evaluator.batches.clear()
        _finished(device)
        began = time.perf_counter()
        pictures = list(threads.map(_picture, [job] * 2 * slots))
        _finished(device)
        seconds = time.perf_counter() - began
    evaluations = sum(size * count for size, count in evaluator.batches.items())
    squares = sum(size**2 * count for size, count in evaluator.batches.items())
    of_one = predicted(_as_sent(job), network.info.name, on_card=True).card
    return Throughput(
        edge_px,
        slots,
        2 * slots / seconds,
        squares / evaluations if evaluations else 1.0,
        torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0,
        slots * of_one,
        float((torch.stack(pictures) - alone).abs().mean()),
        float((torch.stack(pictures) - alone).abs().max()),
    )


def _picture(job: Transfer) -> Tensor:
    result = job.run(lambda _: None, lambda _: None, lambda: False)
    return applied(result.outcome.coefficients, job.I).clamp(0, 1)


def _as_sent(job: Transfer) -> StylizeJob:
    return StylizeJob("", b"", b"", None, None, job.params, OutputFormat(), job.I[0].numel())


def rendered(device: torch.device, megapixels: int) -> float:
    """Seconds to render noise of so many megapixels, 8 bits, by maps of a solve at 1024 px."""
    width = round((megapixels * 1.5e6) ** 0.5)
    photo = np.random.default_rng(0).integers(0, 255, (round(width / 1.5), width, 3), np.uint8)
    maps = torch.eye(3, 4, device=device)[:, :, None, None].repeat(1, 1, 683, 1024)
    return _median_seconds(lambda: render(maps, photo, 1.0, "none", 8, lambda: False), device, 3)


def report(
    found: Machine,
    network: str,
    evaluations: Sequence[Evaluation],
    solves: Sequence[Solve],
    throughputs: Sequence[Throughput],
    renders: Mapping[int, float],
    command: str,
) -> list[str]:
    """As Markdown."""
    kinds = list(evaluations[0].shares)
    products = ", ".join(f"{rate / 1e12:.2f} TFLOP/s in {name}" for name, rate in found.flops.items())
    return [
        "# What the machine could do, and what the solver does",
        "",
        f"Made by `{command}`. {described()}. {found.name}, {network}.",
        f"Dense products: {products}; copies: {found.copy_bytes / 1e9:.0f} GB/s.",
        "",
        "## One evaluation on pixels, forward and backward",
        "| long edge | ms | GFLOP | TFLOP/s | of the product's rate | floor of operations, ms | GB "
        f"| floor of bytes, ms | peak MiB | {' | '.join(kinds)} |",
        f"|{'---|' * (9 + len(kinds))}",
        *(
            f"| {e.edge_px} px | {1e3 * e.seconds:.2f} | {e.operations / 1e9:.1f} "
            f"| {e.operations / e.seconds / 1e12:.3f} | {e.floor_operations / e.seconds:.0%} "
            f"| {1e3 * e.floor_operations:.2f} | {e.bytes / 1e9:.2f} | {1e3 * e.floor_bytes:.2f} "
            f"| {e.peak_bytes / 2**20:.0f} | {' | '.join(f'{e.shares[kind]:.0%}' for kind in kinds)} |"
            for e in evaluations
        ),
        "",
        "## Solves, and the published method on the same photos",
        "| long edge | s | evaluations | style | affine, e-6 | paper: s | evaluations | style | affine, e-6 "
        "| times faster than 2000 evaluations |",
        f"|{'---|' * 10}",
        *(
            f"| {s.edge_px} px | {s.seconds:.3f} | {s.evaluations} | {s.style:.3f} | {s.affine:.1f} "
            f"| {s.paper_seconds:.2f} | {s.paper_evaluations} | {s.paper_style:.3f} | {s.paper_affine:.1f} "
            f"| {2000 / s.paper_evaluations * s.paper_seconds / s.seconds:.0f} |"
            for s in solves
        ),
        "",
        "## Many solves at once",
        "Differences are those of pictures, in levels of 255, from the one that was solved alone.",
        "",
        "| long edge | slots | solves/s | times one slot | mean batch | peak MiB | foretold MiB | mean difference "
        "| largest |",
        f"|{'---|' * 9}",
        *(
            f"| {t.edge_px} px | {t.slots} | {t.per_second:.2f} "
            f"| {t.per_second / _first(throughputs, t).per_second:.2f} | {t.batch:.1f} | {t.peak_bytes / 2**20:.0f} "
            f"| {t.foretold_bytes / 2**20:.0f} | {255 * t.difference:.2f} "
            f"| {255 * t.largest:.1f} |"
            for t in throughputs
        ),
        "",
        "## Rendering, 8 bits",
        "| MP | ms |",
        "|---|---|",
        *(f"| {megapixels} | {1e3 * seconds:.0f} |" for megapixels, seconds in renders.items()),
        "",
    ]


def _first(throughputs: Sequence[Throughput], like: Throughput) -> Throughput:
    return next(each for each in throughputs if each.edge_px == like.edge_px)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--edges", type=int, nargs="+", default=[256, 512, 700])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--megapixels", type=int, nargs="+", default=[12, 24, 45])
    parser.add_argument("--paper-evaluations", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    options = parser.parse_args()
    device = torch.device(options.device)
    model = find_model(models_dir(), "features", "auto", embedded_models_dir("features"))
    assert model is not None, "the package carries one"
    network = load_features(model, device)
    found = machine(device, 8192 if device.type == "cuda" else 1024)
    evaluations = [evaluation(network, edge, found) for edge in options.edges]
    solves = [solved(network, edge, options.paper_evaluations) for edge in options.edges]
    throughputs = [throughput(network, edge, slots) for edge in options.edges for slots in options.slots]
    renders = {megapixels: rendered(device, megapixels) for megapixels in options.megapixels}
    lists = {"edges": options.edges, "slots": options.slots, "megapixels": options.megapixels}
    command = " ".join(
        [
            f"python -m tests.benchmarks.gpu --device {options.device}",
            *(f"--{name} {' '.join(map(str, values))}" for name, values in lists.items()),
            f"--paper-evaluations {options.paper_evaluations}",
        ]
    )
    lines = report(found, f"{model.name}/{model.version}", evaluations, solves, throughputs, renders, command)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.md").write_text("\n".join(lines), encoding="utf-8")
    record = {
        "machine": asdict(found),
        "evaluations": [asdict(each) for each in evaluations],
        "solves": [asdict(each) for each in solves],
        "throughputs": [asdict(each) for each in throughputs],
        "render_seconds": renders,
    }
    (options.out / "gpu.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
