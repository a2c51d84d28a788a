"""The two halves of the training, each as long as it was given, with one learning rate that falls over both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from services.stylizer.core.student import STUDENT_LAYERS, Student
from services.stylizer.training.photos import Crops, recoloured
from services.stylizer.training.targets import Targets, losses

__all__ = ["Schedule", "driven", "learned"]

_BATCH: Final = 4
_RATES: Final = (7e-4, 1e-5)
_WARM_STEPS: Final = 100
_REPORT_SECONDS: Final = 240.0
_IMPORTANCE: Final = {"conv1_1": 0.3, "conv2_1": 0.7, "conv3_1": 0.7, "conv4_1": 3.0, "conv4_2": 0.5}
"""conv4_1 has 94 to 98 % of the style distance of photographs (tests.benchmarks.students)."""

_GRAM_WEIGHT: Final = 2.0
_POOL: Final = 48
_LIFE: Final = 24
"""Pictures that are being driven, and after how many steps each is replaced by a new one."""

_STEP: Final = 0.02
"""Root mean square of a step of a driven picture."""


class Schedule:
    """Adam with a learning rate that falls by a cosine over the seconds of all phases."""

    def __init__(self, trunk: Student, seconds: Sequence[float]) -> None:
        self.trunk, self._seconds = trunk, list(seconds)
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
            self._steps, steps = self._steps + 1, steps + 1
            means += table.detach()
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                errors = zip(STUDENT_LAYERS, (means / steps).tolist(), strict=True)
                rows = " ".join(f"{name} {f:.3f}/{g:.4f}" for name, (f, g) in errors)
                report(f"{reported - began:.0f} s, {self._steps} steps, {rows}")
                means, steps = torch.zeros_like(means), 0
        self._done += limit


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


def driven(schedule: Schedule, targets: Targets, crops: Crops, report: Callable[[str], None]) -> None:
    """Second phase: pictures that the student itself is driven to, by the style distance that it sees."""
    pool: list[tuple[Tensor, Tensor, int]] = []

    def fresh() -> tuple[Tensor, Tensor, int]:
        S = crops.crop()
        return recoloured(crops.crop(), S), S, 0

    def batch() -> tuple[Tensor, dict[str, Tensor]]:
        while len(pool) < _POOL:
            pool.append(fresh())
        slots = torch.randperm(_POOL)[: _BATCH // 2].tolist()
        O, S = (torch.stack([pool[slot][part] for slot in slots]) for part in (0, 1))
        for _ in range(2):
            O = _step(schedule.trunk, O, S)
        for slot, picture in zip(slots, O, strict=True):
            age = pool[slot][2] + 2
            pool[slot] = fresh() if age >= _LIFE else (picture, pool[slot][1], age)
        pictures = torch.cat([O, S])
        return pictures.contiguous(memory_format=torch.channels_last), targets(pictures)

    schedule.phase(batch, report)


def _step(trunk: Student, O: Tensor, S: Tensor) -> Tensor:
    """Move pictures against the gradient of the style distance, as seen by the student: (N, 3, H, W)."""
    with torch.no_grad():
        goal = {name: _whole_grams(F) for name, F in trunk(S, STUDENT_LAYERS).items()}
    O = O.clone().requires_grad_(True)
    features = trunk(O, STUDENT_LAYERS)
    distance = sum(
        (_whole_grams(features[name]) - goal[name]).square().sum(dim=(1, 2)) / goal[name].square().sum(dim=(1, 2))
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
