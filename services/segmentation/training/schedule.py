"""The training of ``scene-student``: losses, learning rates, averaging, and how it is checked on the way."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.segmentation.training.data import Check
from services.segmentation.training.lessons import SMALL, WHOLE, Lesson, Lessons, places
from services.segmentation.training.optimiser import Optimiser, Rates
from services.segmentation.training.scene import STAGES, SceneNetwork

__all__ = ["Hints", "agreement", "trained"]


class _Part(NamedTuple):
    """A part of the training. Rates rise over the first steps and fall as a cosine does.

    Attributes:
        rates: the greatest.
        warm_steps: in which they rise.
        trunk_stays: share of its time in which the trunk stays as it is, while what is new learns to read it.
        small: share of its time in which small views are learned: a step takes half as long.
        hints: weight of each hint, first and last; it falls as the rates do.
        averaging: of the weights that are returned, an exponential mean: 0.997 is one over about 330 steps.
    """

    rates: Rates
    warm_steps: int
    trunk_stays: float
    small: float
    hints: tuple[float, float]
    averaging: float


_WITH_NORMS: Final = _Part(Rates(2e-2, 1.5e-3, 6e-5), 60, 0.1, 0.35, (0.5, 0.05), 0.997)
"""The trunk's rate is small: at 3e-4 it forgets ImageNet faster than it learns scenes (docs/training.md)."""

_FOLDED: Final = _Part(Rates(3e-3, 3e-4, 1.5e-4), 100, 0.0, 0.0, (0.05, 0.05), 0.995)
"""Norms count over four views, which is noise: without them the network gets on where it stood still with them."""

_EXAMPLES: Final = 4
"""Lessons whose hints say what deviation is theirs."""

_CLASSES_WEIGHT: Final = 1.0
_LABELS_WEIGHT: Final = 2.0
_PEOPLE_WEIGHT: Final = 0.1
_REPORT_SECONDS: Final = 300.0


class Hints(nn.Module):
    """Compares a student's stages with its teacher's hints, which 1x1 convolutions make of them.

    Args:
        examples: hints of some batches; each channel is compared in units of its deviation on these.
    """

    def __init__(self, examples: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.maps = nn.ModuleDict()
        for name, channels in STAGES.items():
            deviation, mean = torch.std_mean(torch.cat([each[name].float() for each in examples]), dim=0)
            self.register_buffer(f"{name}_mean", mean)
            self.register_buffer(f"{name}_unit", 1 / deviation.clamp_min(1e-3 * float(deviation.mean())))
            self.maps[name] = nn.Conv2d(channels, len(mean), 1)

    def forward(self, stages: Mapping[str, Tensor], hints: Mapping[str, Tensor]) -> Tensor:
        """Mean squared errors of all stages: about 1 for a student that knows nothing."""
        errors = []
        for name, to_hint in self.maps.items():
            wanted = (hints[name].float() - self.get_buffer(f"{name}_mean")) * self.get_buffer(f"{name}_unit")
            errors.append(functional.mse_loss(places(to_hint(stages[name])), wanted))
        return torch.stack(errors)


def trained(
    network: SceneNetwork,
    lessons: Lessons,
    checks: Sequence[Check],
    groups: Tensor,
    seconds: tuple[float, float],
    keep: Callable[[SceneNetwork], None],
) -> SceneNetwork:
    """Train, first with norms, then with these folded into the convolutions.

    Args:
        network: where training starts, in memory order ``channels_last``; changed.
        lessons: what is learned.
        checks: looked at for the reports only.
        groups: (common labels, classes) of 0 and 1, see ``grouping``.
        seconds: of wall clock, of the two parts.
        keep: is given the mean of the weights with each report.

    Returns:
        The mean of the last weights, in evaluation mode, without norms.
    """
    hints = Hints([lessons.new(WHOLE).hints for _ in range(_EXAMPLES)])
    for part, length in zip((_WITH_NORMS, _FOLDED), seconds, strict=True):
        network = _trained(network, hints, lessons, checks, groups, part, length, keep)
        network.fold_norms()
    return network


def _trained(
    network: SceneNetwork,
    hints: Hints,
    lessons: Lessons,
    checks: Sequence[Check],
    groups: Tensor,
    part: _Part,
    seconds: float,
    keep: Callable[[SceneNetwork], None],
) -> SceneNetwork:
    network.trunk.learns(True)
    optimiser = Optimiser(network, hints, part.rates)
    mean = copy.deepcopy(network)
    steps, since, sums = 0, 0, torch.zeros(len(STAGES) + 3)
    began = reported = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        falling = max(0.01, (1 + math.cos(math.pi * elapsed / seconds)) / 2)
        network.train()
        network.trunk.learns(elapsed >= part.trunk_stays * seconds)
        lesson = lessons.new(SMALL if elapsed < part.small * seconds else WHOLE)
        terms = _losses(network, hints, lesson, groups)
        weights = torch.full_like(terms, part.hints[1] + (part.hints[0] - part.hints[1]) * falling)
        weights[-3:] = torch.tensor([_CLASSES_WEIGHT, _LABELS_WEIGHT, _PEOPLE_WEIGHT])
        optimiser.step((weights * terms).sum(), falling * min(1.0, (steps + 1) / part.warm_steps))
        steps, since = steps + 1, since + 1
        sums += terms.detach()
        _average(mean, network, min(part.averaging, steps / (steps + 10)))
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            names = (*STAGES, "classes", "labels", "people")
            means = " ".join(f"{n} {v:.3f}" for n, v in zip(names, (sums / since).tolist(), strict=True))
            keep(mean)
            share = agreement(mean, checks, groups)
            print(f"{reported - began:.0f} s, {steps} steps: {means}; agreement {share:.4f}", flush=True)
            since, sums = 0, torch.zeros_like(sums)
    print(f"{steps} steps, agreement on held-out photos {agreement(mean, checks, groups):.4f}", flush=True)
    return mean.eval()


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


def _losses(network: SceneNetwork, hints: Hints, lesson: Lesson, groups: Tensor) -> Tensor:
    """Errors of the stages; divergences of classes and common labels from the teacher's; people's cross entropy."""
    scores, stages = network.stages(lesson.edges, lesson.offset)
    classes, wanted = (functional.log_softmax(each.float(), dim=1) for each in (places(scores), lesson.scores))
    labels, wanted_labels = ((each.exp() @ groups.T).clamp_min(1e-6) for each in (classes, wanted))
    people = functional.nll_loss(labels.log(), lesson.people, ignore_index=-1, reduction="sum")
    apart = [
        (wanted.exp() * (wanted - classes)).sum(dim=1).mean(),
        (wanted_labels * (wanted_labels.log() - labels.log())).sum(dim=1).mean(),
        people / len(labels),
    ]
    return torch.cat([hints(stages, lesson.hints), torch.stack(apart)])


@torch.no_grad()
def _average(mean: SceneNetwork, network: SceneNetwork, share: float) -> None:
    for own, new in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(new, 1 - share)
        else:
            own.copy_(new)
