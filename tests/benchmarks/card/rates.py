"""What the machine can do: dense products in each precision, and copies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Machine", "finished", "machine", "median_seconds"]

_REPEATS = 7


@dataclass(frozen=True)
class Machine:
    """Measured: operations a second of a dense product (a multiplication and an addition are two), bytes a second."""

    name: str
    flops: dict[str, float]
    copy_bytes: float


def finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int = _REPEATS) -> float:
    seconds = []
    for repeat in range(repeats + 1):
        finished(device)
        began = time.perf_counter()
        work()
        finished(device)
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
        flops[name] = 2 * size**3 / median_seconds(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
        torch.backends.cuda.matmul.allow_tf32 = before
    source = torch.empty(16 * size * size, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Machine(name, flops, copied)
