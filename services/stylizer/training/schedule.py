"""The two halves of the training, each as long as it was given, with one learning rate that falls over both."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.student import STUDENT_LAYERS, Student
from services.stylizer.training.photos import Crops, recoloured
from services.stylizer.training.targets import Targets, features, losses

__all__ = ["Schedule", "driven", "learned"]

_BATCH: Final = 4
_RATES: Final = (2e-4, 5e-6)
"""First and last. Larger first rates undo the least-squares start faster than they learn."""

_AVERAGING: Final = 0.99
"""Of the weights that are returned: an exponential mean over about 100 steps."""

_WARM_STEPS: Final = 100
_REPORT_SECONDS: Final = 240.0
_IMPORTANCE: Final = {"conv1_1": 0.3, "conv2_1": 0.7, "conv3_1": 0.7, "conv4_1": 3.0, "conv4_2": 0.5}
"""conv4_1 has nearly all of the style distance of photographs (tests.benchmarks.layers)."""

_GRAM_WEIGHT: Final = 4.0
_POOL: Final = 48
_LIFE: Final = 24
"""Pictures that are being driven, and after how many steps each is replaced by a new one."""

_STEPS: Final = 2
_STEP: Final = 0.02
"""Root mean square of a step of a driven picture."""


class Schedule:
    """Adam with a learning rate that falls by a cosine over the seconds of all phases.

    Attributes:
        trunk: what is trained.
        mean: the mean of its last weights, which is the result.
    """

    def __init__(self, trunk: Student, seconds: Sequence[float]) -> None:
        self.trunk, self.mean, self._seconds = trunk, copy.deepcopy(trunk), list(seconds)
        self._optimiser = torch.optim.Adam(trunk.parameters(), _RATES[0])
        self._total, self._done, self._steps = sum(seconds), 0.0, 0
        self._importance = torch.tensor([_IMPORTANCE[name] for name in STUDENT_LAYERS])

    def phase(self, batch: Callable[[], tuple[Tensor, dict[str, Tensor]]], report: Callable[[str], None]) -> None:
        """Train for the next phase's seconds."""
        began = reported = time.monotonic()
        limit = self._seconds.pop(0)
        means = torch.zeros(len(STUDENT_LAYERS), 2)
        steps = 0
        while (elapsed := time.monotonic() - began) < limit:
            share = (self._done + elapsed) / self._total
            rate = _RATES[1] + (_RATES[0] - _RATES[1]) * (1 + math.cos(math.pi * share)) / 2
            for group in self._optimiser.param_groups:
                group["lr"] = rate * min(1.0, (self._steps + 1) / _WARM_STEPS)
            pictures, wanted = batch()
            table = losses(self.trunk, pictures, wanted)
            loss = (self._importance * (table[:, 0] + _GRAM_WEIGHT * table[:, 1])).sum()
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.trunk.parameters(), 5.0)
            self._optimiser.step()
            self._average()
            self._steps, steps = self._steps + 1, steps + 1
            means += table.detach()
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                errors = zip(STUDENT_LAYERS, (means / steps).tolist(), strict=True)
                rows = " ".join(f"{name} {f:.3f}/{g:.4f}" for name, (f, g) in errors)
                report(f"{reported - began:.0f} s, {self._steps} steps, {rows}")
                means, steps = torch.zeros_like(means), 0
        self._done += limit

    @torch.no_grad()
    def _average(self) -> None:
        for own, new in zip(self.mean.parameters(), self.trunk.parameters(), strict=True):
            own.lerp_(new, 1 - _AVERAGING)


def learned(schedule: Schedule, targets: Targets, crops: Crops, count: int, report: Callable[[str], None]) -> None:
    """First phase: photos and recoloured photos, whose targets are made once and kept as float16."""
    pictures = torch.stack([crops.varied() for _ in range(count)])
    kept: dict[str, list[Tensor]] = {name: [] for name in STUDENT_LAYERS}
    for part in torch.split(pictures, _BATCH):
        for name, F in targets(part).items():
            kept[name].append(F.half())
    whole = {name: torch.cat(parts).contiguous(memory_format=torch.channels_last) for name, parts in kept.items()}
    print(f"{count} crops have their targets", flush=True)

    def batch() -> tuple[Tensor, dict[str, Tensor]]:
        chosen = torch.randint(count, (_BATCH,))
        wanted = {name: F[chosen].float() for name, F in whole.items()}
        return pictures[chosen].contiguous(memory_format=torch.channels_last), wanted

    schedule.phase(batch, report)


@dataclass(frozen=True)
class _Driven:
    """A picture that is being driven towards a style, what the teacher says of the style, and the steps so far."""

    O: Tensor
    S: Tensor
    style_targets: dict[str, Tensor]
    age: int


def driven(schedule: Schedule, targets: Targets, crops: Crops, report: Callable[[str], None]) -> None:
    """Second phase: pictures that the student itself is driven to, by the style distance that it sees."""
    pool: list[_Driven] = []

    def fresh() -> _Driven:
        S = crops.crop()
        return _Driven(recoloured(crops.crop(), S), S, targets(S[None]), 0)

    def batch() -> tuple[Tensor, dict[str, Tensor]]:
        while len(pool) < _POOL:
            pool.append(fresh())
        slots = torch.randperm(_POOL)[: _BATCH // 2].tolist()
        chosen = [pool[slot] for slot in slots]
        O, S = torch.stack([each.O for each in chosen]), torch.stack([each.S for each in chosen])
        for _ in range(_STEPS):
            O = _step(schedule.trunk, O, S)
        for slot, each, picture in zip(slots, chosen, O, strict=True):
            age = each.age + _STEPS
            pool[slot] = fresh() if age >= _LIFE else replace(each, O=picture, age=age)
        wanted_O = targets(O)
        wanted = {name: torch.cat([F, *[each.style_targets[name] for each in chosen]]) for name, F in wanted_O.items()}
        return torch.cat([O, S]).contiguous(memory_format=torch.channels_last), wanted

    schedule.phase(batch, report)


def _step(trunk: Student, O: Tensor, S: Tensor) -> Tensor:
    """Move pictures against the gradient of the style distance, as seen by the student: (N, 3, H, W)."""
    with torch.no_grad():
        goal = {name: _whole_grams(F) for name, F in features(trunk, S).items()}
    O = O.clone().requires_grad_(True)
    got = features(trunk, O)
    distance = sum(
        (_whole_grams(got[name]) - goal[name]).square().sum(dim=(1, 2)) / goal[name].square().sum(dim=(1, 2))
        for name in ("conv2_1", "conv3_1", "conv4_1")
    )
    assert isinstance(distance, Tensor)  # noqa: S101
    (gradient,) = torch.autograd.grad(distance.sum(), O)
    smooth = functional.avg_pool2d(gradient, 3, 1, 1, count_include_pad=False)  # as the proximal step would
    mixed = 0.5 * gradient + 0.5 * smooth
    rms = mixed.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    return (O.detach() - _STEP * mixed / rms).clamp(0, 1)


def _whole_grams(F: Tensor) -> Tensor:
    flat = F.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]
