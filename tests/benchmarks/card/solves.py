"""Solves on a card: alone, beside the published method, and many at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from services.common.images import OutputFormat
from services.stylizer.core.evaluator import Evaluator
from services.stylizer.core.local_affine import applied
from services.stylizer.core.transfer import Transfer
from services.stylizer.features import FeatureNetwork
from services.stylizer.footprint import predicted
from services.stylizer.jobs import StylizeJob
from tests.benchmarks.card.photos import transfer
from tests.benchmarks.card.rates import finished

__all__ = ["Solve", "Throughput", "solved", "throughput"]


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


def solved(network: FeatureNetwork, edge_px: int, paper_evaluations: int) -> Solve:
    """Solve twice, the second time counts; then the published method once."""
    found = [_run(transfer(network, edge_px)) for _ in range(2)][-1]
    paper = _run(transfer(network, edge_px, mode="paper", max_evaluations=paper_evaluations))
    return Solve(edge_px, *found, paper[0], *paper[1:])


def _run(job: Transfer) -> tuple[float, int, float, float]:
    finished(job.I.device)
    began = time.perf_counter()
    result = job.run(lambda _: None, lambda _: None, lambda: False)
    finished(job.I.device)
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
        finished(device)
        began = time.perf_counter()
        pictures = list(threads.map(_picture, [job] * 2 * slots))
        finished(device)
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
