"""The training of ``scene-student``: losses, learning rates, averaging, and how it is checked on the way."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.segmentation.training.data import Check
from services.segmentation.training.fit import Fit
from services.segmentation.training.lessons import SMALL, WHOLE, Lessons, places
from services.segmentation.training.scene import SceneNetwork
from services.segmentation.training.teacher import BLOCKS, STAGES

__all__ = ["agreement", "trained"]

_TRUNK_RATE: Final = 5e-3
_RATE: Final = 1.5e-3
_HEAD_RATE: Final = 1e-3
"""The greatest step of a weight, of the trunk alone, of all and of what follows the trunk, in units of the root mean
square of its tensor at the start: folded norms have left tensors of very different sizes. What follows the trunk errs
by more than 1 at 5e-3."""

_LEAST_SIZE: Final = 1e-2
"""Of a tensor: one begins with zeros."""

_WARM_STEPS: Final = 30
_MOMENTS: Final = 0.9, 0.99
_AVERAGING: Final = 0.99
"""Of the weights that are returned, an exponential mean over about 100 steps."""

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


@dataclass(frozen=True)
class _Part:
    """A part of the training: for how long, how fast at most, and of the trunk, of what follows it, or of both."""

    seconds: float
    rate: float
    of_trunk: bool = True
    of_head: bool = True

    def parameters(self, network: SceneNetwork) -> list[nn.Parameter]:
        """Those that move; the others ask for no gradient from now on."""
        network.trunk.requires_grad_(self.of_trunk)
        moving = network if self.of_head else network.trunk
        return [each for each in moving.parameters() if each.requires_grad]


class _Training:
    """What all parts share; arguments are those of :func:`trained`."""

    def __init__(
        self, lessons: Lessons, checks: Sequence[Check], groups: Tensor, keep: Callable[[SceneNetwork], None]
    ) -> None:
        self._lessons, self._checks, self._groups, self._keep = lessons, checks, groups, keep
        self._hints = _Hints([lessons.new(WHOLE).hints for _ in range(_EXAMPLES)])

    def check(self, network: SceneNetwork, title: str = "") -> None:
        """Print how it does on the photos that were held out."""
        print(f"{title}agreement on held-out photos {agreement(network, self._checks, self._groups):.4f}", flush=True)

    def run(self, network: SceneNetwork, part: _Part) -> SceneNetwork:
        """Train by the hints, and with the head by what the teacher says in the end, too; return the weights' mean."""
        parameters = part.parameters(network)
        rates = [part.rate * max(_LEAST_SIZE, float(each.detach().square().mean().sqrt())) for each in parameters]
        optimiser = torch.optim.Adam([{"params": [each]} for each in parameters], betas=_MOMENTS, fused=True)
        mean = copy.deepcopy(network)
        terms = [*STAGES, "classes", "labels", "people"] if part.of_head else [*BLOCKS]
        steps, since, sums = 0, 0, torch.zeros(len(terms))
        began = reported = time.monotonic()
        while (elapsed := time.monotonic() - began) < part.seconds:
            falling = max(0.01, (1 + math.cos(math.pi * elapsed / part.seconds)) / 2)
            network.train()
            losses = self._losses(network, with_head=part.of_head)
            weights = torch.ones_like(losses)
            if part.of_head:
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
                means = zip(terms, (sums / since).tolist(), strict=True)
                self._keep(mean)
                print(
                    f"{reported - began:.0f} s, {steps} steps: {', '.join(f'{n} {x:.3f}' for n, x in means)}",
                    flush=True,
                )
                if part.of_head:
                    self.check(mean)
                since, sums = 0, torch.zeros_like(sums)
        print(f"{steps} steps", flush=True)
        return mean

    def _losses(self, network: SceneNetwork, *, with_head: bool) -> Tensor:
        """Of a new lesson: errors of the stages; with the head, also divergences of classes and common labels.

        The last is people's cross entropy.
        """
        lesson = self._lessons.new(SMALL)
        with torch.autocast("cpu", torch.bfloat16, enabled=_HALF):
            found = network.stages(lesson.photos, with_head=with_head)
        height = lesson.photos.shape[2]
        stages = {name: places(each, height, lesson.offset).float() for name, each in found.items()}
        errors = self._hints.errors(stages, lesson.hints)
        if not with_head:
            return errors
        classes, wanted = (functional.log_softmax(each["head"].float(), dim=1) for each in (stages, lesson.hints))
        labels, wanted_labels = ((each.exp() @ self._groups.T).clamp_min(1e-6) for each in (classes, wanted))
        people = functional.nll_loss(labels.log(), lesson.people, ignore_index=-1, reduction="sum")
        apart = [
            (wanted.exp() * (wanted - classes)).sum(dim=1).mean(),
            (wanted_labels * (wanted_labels.log() - labels.log())).sum(dim=1).mean(),
            people / len(labels),
        ]
        return torch.cat([errors, torch.stack(apart)])


def trained(
    network: SceneNetwork,
    lessons: Lessons,
    fit: Fit,
    checks: Sequence[Check],
    groups: Tensor,
    seconds: Sequence[float],
    keep: Callable[[SceneNetwork], None],
) -> SceneNetwork:
    """Train the trunk, then all, then what follows the trunk, which stands still then.

    The first two parts begin with what can be fitted. Each goes on with Adam, whose rate rises over the first steps and
    falls as a cosine does.

    Args:
        network: where training starts, in memory order ``channels_last``; changed.
        lessons: what is learned.
        fit: what is fitted.
        checks: looked at for the reports only.
        groups: (common labels, classes) of 0 and 1, see ``grouping``.
        seconds: of wall clock, of the three parts.
        keep: is given the mean of the weights with each report.

    Returns:
        The mean of the last weights, in evaluation mode.
    """
    of_trunk, of_all, of_head = seconds
    training = _Training(lessons, checks, groups, keep)
    fit.blocks(network)
    found = training.run(network, _Part(of_trunk, _TRUNK_RATE, of_head=False))
    fit.blocks(found)
    fit.head(found)
    training.check(found, "fitted: ")
    found = training.run(found, _Part(of_all, _RATE))
    training.check(found)
    found = training.run(found, _Part(of_head, _HEAD_RATE, of_trunk=False))
    training.check(found)
    return found.eval()


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


@torch.no_grad()
def _average(mean: SceneNetwork, network: SceneNetwork, share: float) -> None:
    for own, new in zip(mean.parameters(), network.parameters(), strict=True):
        own.lerp_(new, 1 - share)
