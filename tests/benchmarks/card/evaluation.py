"""One evaluation of the objective beside its two floors, and what it spends its time with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from services.stylizer.core.variables import PixelProblem, State
from services.stylizer.features import FeatureNetwork
from tests.benchmarks.card.photos import transfer
from tests.benchmarks.card.rates import Machine, finished, median_seconds

__all__ = ["Evaluation", "Moved", "evaluation"]

_KINDS = {
    "convolution": ("convolution", "conv2d", "conv_"),
    "matrix product": ("::mm", "bmm", "addmm", "matmul"),
    "pooling": ("pool",),
    "resampling": ("grid_sampl", "upsample", "interpolate"),
}
"""Kinds of operators in a profile, by parts of their names; the rest is element by element, or ours."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, forward and backward, on pixels.

    Attributes:
        edge_px: long edge.
        seconds: median.
        operations: of convolutions and matrix products.
        bytes: of all operators' inputs and outputs.
        operators: how many there were, views left out: about as many kernels a card is asked for.
        floor_operations: seconds that these would take at the rate of the network's precision.
        floor_bytes: seconds that those would.
        shares: of the time, by kind of operator.
        peak_bytes: memory at its peak, beyond the network; 0 on a CPU.
    """

    edge_px: int
    seconds: float
    operations: int
    bytes: int
    operators: int
    floor_operations: float
    floor_bytes: float
    shares: dict[str, float]
    peak_bytes: int


class Moved(TorchDispatchMode):
    """Counts operators and the bytes that they read and write; views move none and do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.count = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.count += 1
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor))
        return found


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
    seconds = median_seconds(work, device)
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    with FlopCounterMode(display=False) as counted:
        work()
    with Moved() as moved:
        work()
    operations = counted.get_total_flops()
    rate = found.flops.get("tf32", found.flops["fp32"])
    return Evaluation(
        edge_px,
        seconds,
        operations,
        moved.bytes,
        moved.count,
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
        finished(device)
    times: dict[str, float] = defaultdict(float)
    for row in profile.key_averages():
        own = row.self_device_time_total if on_card else row.self_cpu_time_total
        times[next((kind for kind, parts in _KINDS.items() if any(p in row.key for p in parts)), "other")] += own
    total = sum(times.values())
    return {kind: times[kind] / total for kind in (*_KINDS, "other")}
