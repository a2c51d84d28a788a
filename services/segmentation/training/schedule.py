"""The training of ``scene-student``: losses, learning rates, averaging, and how it is checked on the way."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.segmentation.training.data import Check
from services.segmentation.training.lessons import Lesson
from services.segmentation.training.optimiser import Optimiser
from services.segmentation.training.scene import STAGES, SceneNetwork, Taught

__all__ = ["Scales", "agreement", "trained"]

_WARM_STEPS: Final = 100
_LED: Final = (0.1, 0.4)
"""Shares of the time between which stages begin to stand on what the student's own stages before them made."""

_EXAMPLES: Final = 20
"""Lessons whose hints say what deviation is theirs."""

_STAGES_WEIGHT: Final = 1.0
_SCORES_WEIGHT: Final = 0.5
_CLASSES_WEIGHT: Final = 1.0
_LABELS_WEIGHT: Final = 2.0
_PEOPLE_WEIGHT: Final = 0.1
_TERMS: Final = {
    **dict.fromkeys(STAGES, _STAGES_WEIGHT),
    "scores": _SCORES_WEIGHT,
    "classes": _CLASSES_WEIGHT,
    "labels": _LABELS_WEIGHT,
    "people": _PEOPLE_WEIGHT,
}
_AVERAGING: Final = 0.995
"""Of the weights that are returned: an exponential mean over about 200 steps."""

_REPORT_SECONDS: Final = 300.0
_HALF: Final = any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
"""Whether this processor multiplies bfloat16: about twice as many steps in the same time."""


class Scales(nn.Module):
    """Brings the teacher's features into the units of the student's: deviation 1, and mean 0 unless it is a ReLU's.

    Args:
        examples: some lessons; means and deviations are theirs, channel by channel.
    """

    def __init__(self, examples: Sequence[Lesson]) -> None:
        super().__init__()
        for name in (*STAGES, "scores"):
            shown = [each.scores if name == "scores" else each.hints[name] for each in examples]
            deviation, mean = (
                each.view(1, -1, 1, 1) for each in torch.std_mean(torch.cat([_places(each) for each in shown]), dim=0)
            )
            is_rectified = all(float(each.min()) == 0 for each in shown)
            self.register_buffer(f"{name}_mean", torch.zeros_like(mean) if is_rectified else mean)
            self.register_buffer(f"{name}_unit", 1 / deviation.clamp_min(1e-2 * float(deviation.mean())))

    def of(self, name: str, features: Tensor) -> Tensor:
        """(N, C, h, w) of a stage, or the scores, in these units."""
        return (features - self.get_buffer(f"{name}_mean")) * self.get_buffer(f"{name}_unit")


def trained(
    network: SceneNetwork,
    lessons: Iterator[Lesson],
    checks: Sequence[Check],
    groups: Tensor,
    seconds: float,
    keep: Callable[[SceneNetwork], None],
    seed: int = 0,
) -> SceneNetwork:
    """Train for so many seconds.

    At first each stage is given the teacher's features and learns on its own to make those of the next; later more and
    more photos go through the student's own stages all the way (blockwise: Li et al. 2020; from teacher to student:
    Bengio et al. 2015).

    Args:
        network: where training starts, in memory order ``channels_last``; changed.
        lessons: what is learned.
        checks: looked at for the reports only.
        groups: (common labels, classes) of 0 and 1, see ``grouping``.
        seconds: of wall clock.
        keep: is given the mean of the weights with each report.
        seed: of which photos are led.

    Returns:
        The mean of the last weights, in evaluation mode.
    """
    examples = list(itertools.islice(lessons, _EXAMPLES))
    scales = Scales(examples)
    optimiser, random = Optimiser(network), np.random.default_rng(seed)
    mean = copy.deepcopy(network)
    weights = torch.tensor([*_TERMS.values()])
    steps, since, sums = 0, 0, torch.zeros(len(_TERMS))
    began = reported = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        falling = max(0.01, (1 + math.cos(math.pi * elapsed / seconds)) / 2)
        led = float(np.clip((_LED[1] - elapsed / seconds) / (_LED[1] - _LED[0]), 0, 1))
        network.train()
        lesson = examples.pop() if examples else next(lessons)
        terms = _losses(network, scales, lesson, groups, led, random)
        optimiser.step((weights * terms).sum(), falling * min(1.0, (steps + 1) / _WARM_STEPS))
        steps, since = steps + 1, since + 1
        sums += terms.detach()
        _average(mean, network, min(_AVERAGING, steps / (steps + 10)))
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            means = " ".join(f"{n} {v:.3f}" for n, v in zip(_TERMS, (sums / since).tolist(), strict=True))
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
        with torch.autocast("cpu", torch.bfloat16, enabled=_HALF):
            scores = network(check.photo)
        found = torch.einsum("kc,chw->khw", groups, scores[0].float().softmax(dim=0)).argmax(dim=0)
        shares.append(float((found == check.labels).float().mean()))
    return sum(shares) / len(shares)


def _losses(
    network: SceneNetwork, scales: Scales, lesson: Lesson, groups: Tensor, led: float, random: np.random.Generator
) -> Tensor:
    """Errors of the stages and scores; divergences of classes and common labels; people's cross entropy."""
    wanted = {name: scales.of(name, hint) for name, hint in lesson.hints.items()}
    count = len(lesson.photos)
    taught = {name: Taught(each, torch.from_numpy(random.random(count) < led)) for name, each in wanted.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=_HALF):
        scores, made = network.stages(lesson.photos, taught, lesson.window)
    errors = [functional.mse_loss(made[name].float(), wanted[name]) for name in STAGES]
    errors.append(functional.mse_loss(scales.of("scores", scores.float()), scales.of("scores", lesson.scores)))
    apart = _divergences(scores, lesson, groups)
    return torch.stack([*errors, *apart])


def _divergences(scores: Tensor, lesson: Lesson, groups: Tensor) -> list[Tensor]:
    classes, wanted = (functional.log_softmax(_places(each).float(), dim=1) for each in (scores, lesson.scores))
    labels, wanted_labels = ((each.exp() @ groups.T).clamp_min(1e-6) for each in (classes, wanted))
    people = functional.nll_loss(labels.log(), lesson.people.flatten(), ignore_index=-1, reduction="sum")
    return [
        (wanted.exp() * (wanted - classes)).sum(dim=1).mean(),
        (wanted_labels * (wanted_labels.log() - labels.log())).sum(dim=1).mean(),
        people / len(labels),
    ]


def _places(features: Tensor) -> Tensor:
    """(N, C, H, W) to (N·H·W, C)."""
    return features.permute(0, 2, 3, 1).flatten(end_dim=2)


@torch.no_grad()
def _average(mean: SceneNetwork, network: SceneNetwork, share: float) -> None:
    for own, new in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(new, 1 - share)
        else:
            own.copy_(new)
