"""The training of ``scene-student``: losses, learning rates, averaging, and how it is checked on the way."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from services.segmentation.training.data import Check
from services.segmentation.training.fit import Fit
from services.segmentation.training.lessons import SMALL, WHOLE, Lesson, Lessons, places
from services.segmentation.training.scene import SceneNetwork
from services.segmentation.training.teacher import BLOCKS, STAGES

__all__ = ["agreement", "trained"]

_TRUNK_RATE: Final = 5e-3
_RATE: Final = 1.5e-3
"""The greatest step of a weight, of the trunk alone and of all, in units of the root mean square of its tensor at the
start: folded norms have left tensors of very different sizes. What follows the trunk errs by more than 1 at 5e-3."""

_LEAST_SIZE: Final = 1e-2
"""Of a tensor: one begins with zeros."""

_WARM_STEPS: Final = 30
_MOMENTS: Final = 0.9, 0.99
_AVERAGING: Final = 0.99
"""Of the weights that are returned, an exponential mean over about 100 steps."""

_SMALL_SHARE: Final = 0.8
"""Share of the time in which small views are learned: a step takes half as long."""

_EXAMPLES: Final = 3
"""Lessons whose hints say what variance is theirs."""

_LEAST_VARIANCE: Final = 0.01
"""Of a channel, relative to that of all of its stage."""

_CLASSES_WEIGHT: Final = 6.0
_LABELS_WEIGHT: Final = 12.0
_PEOPLE_WEIGHT: Final = 0.3
"""These three beside each stage's error, which has 1."""

_REPORT_SECONDS: Final = 600.0

_HALF: Final = any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
"""Whether convolutions are computed in bfloat16: where the processor multiplies it."""


class _Hints:
    """Compares a student's stages with its teacher's; each channel in units of its variance in these examples."""

    def __init__(self, examples: Sequence[Mapping[str, Tensor]]) -> None:
        self._scales = {}
        for name in STAGES:
            variance = torch.cat([each[name].float() for each in examples]).var(dim=0)
            self._scales[name] = 1 / (variance + _LEAST_VARIANCE * variance.mean())

    def errors(self, stages: Mapping[str, Tensor], hints: Mapping[str, Tensor]) -> Tensor:
        """Mean squared errors of these stages (places, channels): about 1 for a student that knows nothing."""
        squares = ((stages[name] - hints[name].float()).square().mean(dim=0) * self._scales[name] for name in stages)
        return torch.stack([each.mean() for each in squares])


def trained(
    network: SceneNetwork,
    lessons: Lessons,
    fit: Fit,
    checks: Sequence[Check],
    groups: Tensor,
    seconds: tuple[float, float],
    keep: Callable[[SceneNetwork], None],
) -> SceneNetwork:
    """Train the trunk, then all.

    Each part begins with what can be fitted, and goes on with Adam, whose rate rises over the first steps and falls as
    a cosine does.

    Args:
        network: where training starts, in memory order ``channels_last``; changed.
        lessons: what is learned.
        fit: what is fitted.
        checks: looked at for the reports only.
        groups: (common labels, classes) of 0 and 1, see ``grouping``.
        seconds: of wall clock, of the two parts.
        keep: is given the mean of the weights with each report.

    Returns:
        The mean of the last weights, in evaluation mode.
    """
    hints = _Hints([lessons.new(WHOLE).hints for _ in range(_EXAMPLES)])
    fit.blocks(network)
    trunk = _trained(network, hints, lessons, checks, groups, seconds[0], keep, with_head=False)
    fit.blocks(trunk)
    fit.head(trunk)
    print(f"fitted: agreement on held-out photos {agreement(trunk, checks, groups):.4f}", flush=True)
    found = _trained(trunk, hints, lessons, checks, groups, seconds[1], keep, with_head=True)
    print(f"agreement on held-out photos {agreement(found, checks, groups):.4f}", flush=True)
    return found.eval()


def _trained(
    network: SceneNetwork,
    hints: _Hints,
    lessons: Lessons,
    checks: Sequence[Check],
    groups: Tensor,
    seconds: float,
    keep: Callable[[SceneNetwork], None],
    *,
    with_head: bool,
) -> SceneNetwork:
    """Train the trunk by its hints, or all stages by theirs and by what the teacher says in the end."""
    parameters = [*(network if with_head else network.trunk).parameters()]
    rate = _RATE if with_head else _TRUNK_RATE
    rates = [rate * max(_LEAST_SIZE, float(each.detach().square().mean().sqrt())) for each in parameters]
    optimiser = torch.optim.Adam([{"params": [each]} for each in parameters], betas=_MOMENTS, fused=True)
    mean = copy.deepcopy(network)
    terms = [*STAGES, "classes", "labels", "people"] if with_head else [*BLOCKS]
    steps, since, sums = 0, 0, torch.zeros(len(terms))
    began = reported = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        falling = max(0.01, (1 + math.cos(math.pi * elapsed / seconds)) / 2)
        network.train()
        lesson = lessons.new(SMALL if elapsed < _SMALL_SHARE * seconds else WHOLE)
        losses = _losses(network, hints, lesson, groups, with_head=with_head)
        weights = torch.ones_like(losses)
        if with_head:
            weights[-3:] = torch.tensor([_CLASSES_WEIGHT, _LABELS_WEIGHT, _PEOPLE_WEIGHT])
        optimiser.zero_grad(set_to_none=True)
        (weights * losses).sum().backward()  # type: ignore[no-untyped-call]
        for group, greatest in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = greatest * falling * min(1.0, (steps + 1) / _WARM_STEPS)
        optimiser.step()  # type: ignore[no-untyped-call,unused-ignore]
        steps, since = steps + 1, since + 1
        sums += losses.detach()
        _average(mean, network, min(_AVERAGING, steps / (steps + 5)))
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            means = ", ".join(f"{name} {value:.3f}" for name, value in zip(terms, (sums / since).tolist(), strict=True))
            keep(mean)
            print(f"{reported - began:.0f} s, {steps} steps: {means}", flush=True)
            if with_head:
                print(f"agreement on held-out photos {agreement(mean, checks, groups):.4f}", flush=True)
            since, sums = 0, torch.zeros_like(sums)
    print(f"{steps} steps", flush=True)
    return mean


@torch.no_grad()
def agreement(network: SceneNetwork, checks: Sequence[Check], groups: Tensor) -> float:
    """Share of pixels, each photo counted alike, at which student and teacher give the same common label."""
    network.eval()
    shares = []
    for check in checks:
        scores = network(check.photo)[0]
        found = torch.einsum("kc,chw->khw", groups, scores.softmax(dim=0)).argmax(dim=0)
        shares.append(float((found == check.labels).float().mean()))
    return sum(shares) / len(shares)


def _losses(network: SceneNetwork, hints: _Hints, lesson: Lesson, groups: Tensor, *, with_head: bool) -> Tensor:
    """Errors of the stages; with the head, also divergences of classes and common labels, people's cross entropy."""
    with torch.autocast("cpu", torch.bfloat16, enabled=_HALF):
        found = network.stages(lesson.photos, with_head=with_head)
    height = lesson.photos.shape[2]
    stages = {name: places(each, height, lesson.offset).float() for name, each in found.items()}
    errors = hints.errors(stages, lesson.hints)
    if not with_head:
        return errors
    classes, wanted = (functional.log_softmax(each["head"].float(), dim=1) for each in (stages, lesson.hints))
    labels, wanted_labels = ((each.exp() @ groups.T).clamp_min(1e-6) for each in (classes, wanted))
    people = functional.nll_loss(labels.log(), lesson.people, ignore_index=-1, reduction="sum")
    apart = [
        (wanted.exp() * (wanted - classes)).sum(dim=1).mean(),
        (wanted_labels * (wanted_labels.log() - labels.log())).sum(dim=1).mean(),
        people / len(labels),
    ]
    return torch.cat([errors, torch.stack(apart)])


@torch.no_grad()
def _average(mean: SceneNetwork, network: SceneNetwork, share: float) -> None:
    for own, new in zip(mean.parameters(), network.parameters(), strict=True):
        own.lerp_(new, 1 - share)
