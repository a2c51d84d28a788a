"""The training of ``scene-student``: losses, learning rates, averaging, and how it is checked on the way."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from services.segmentation.training.data import Batch, Example, batch_of, whole
from services.segmentation.training.scene import SceneNetwork

__all__ = ["agreement", "trained"]

_BATCH: Final = 6
_CROP_PX: Final = 224
_RATE: Final = 1.5e-3
_TRUNK_RATE: Final = 5e-4
_WARM_STEPS: Final = 60
_FINE_WEIGHT: Final = 0.5
_PEOPLE_WEIGHT: Final = 0.2
_AVERAGING: Final = 0.995
"""Of the weights that are returned: an exponential mean over about 200 steps."""

_FROZEN: Final = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")
"""Edges and colours are the same in any photo; not training them saves a third of the time."""

_REPORT_SECONDS: Final = 300.0


def trained(
    network: SceneNetwork,
    train: Sequence[Example],
    held_out: Sequence[Example],
    groups: Tensor,
    seconds: float,
    seed: int,
) -> SceneNetwork:
    """Train for so many seconds.

    Args:
        network: where training starts; changed.
        train: to be learned.
        held_out: looked at for the reports only.
        groups: (common labels, classes) of 0 and 1, see ``grouping``.
        seconds: of wall clock.
        seed: of the order and the crops.

    Returns:
        The mean of the last weights, in evaluation mode.
    """
    for name in _FROZEN:
        network.convs[name].requires_grad_(False)
    trunk = [p for p in network.convs.parameters() if p.requires_grad]
    rest = [p for name, p in network.named_parameters() if not name.startswith("convs.")]
    optimiser = torch.optim.AdamW(
        [{"params": trunk, "peak": _TRUNK_RATE}, {"params": rest, "peak": _RATE}], weight_decay=1e-2
    )
    mean = copy.deepcopy(network)
    random = np.random.default_rng(seed)
    order: list[int] = []
    steps, sums = 0, torch.zeros(3)
    began = reported = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        if len(order) < _BATCH:
            order = random.permutation(len(train)).tolist()
        batch = batch_of([train[order.pop()] for _ in range(_BATCH)], _CROP_PX, random)
        falling = max(0.01, (1 + math.cos(math.pi * elapsed / seconds)) / 2)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * falling * min(1.0, (steps + 1) / _WARM_STEPS)
        network.train()
        terms = _losses(network, batch, groups)
        optimiser.zero_grad(set_to_none=True)
        (terms[0] + _FINE_WEIGHT * terms[1] + _PEOPLE_WEIGHT * terms[2]).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        steps += 1
        sums += terms.detach()
        _average(mean, network, min(_AVERAGING, steps / (steps + 10)))
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            losses = " ".join(f"{value:.3f}" for value in (sums / steps).tolist())
            share = agreement(mean, held_out, groups)
            print(f"{reported - began:.0f} s, {steps} steps: mean losses {losses}, agreement {share:.4f}", flush=True)
    print(f"{steps} steps, agreement on held-out photos {agreement(mean, held_out, groups):.4f}", flush=True)
    return mean.eval()


@torch.no_grad()
def agreement(network: SceneNetwork, photos: Sequence[Example], groups: Tensor) -> float:
    """Share of pixels, each photo counted alike, at which student and teacher give the same common label."""
    network.eval()
    shares = []
    for example in photos:
        photo, classes = whole(example)
        wanted = torch.einsum("kc,chw->khw", groups, classes.float()).argmax(dim=0)
        scores = functional.interpolate(network(photo), size=wanted.shape, mode="bilinear", align_corners=False)
        shares.append(float((scores[0].argmax(dim=0) == wanted).float().mean()))
    return sum(shares) / len(shares)


def _losses(network: SceneNetwork, batch: Batch, groups: Tensor) -> Tensor:
    """Cross entropies of common labels and fine classes with the teacher, and of common labels with people: (3,)."""
    scores, fine = network.both(batch.photos)
    wanted = torch.einsum("kc,nchw->nkhw", groups, batch.classes)
    common = -(wanted * functional.log_softmax(scores, dim=1)).sum(dim=1).mean()
    classes = -(batch.classes * functional.log_softmax(fine, dim=1)).sum(dim=1).mean()
    people = functional.cross_entropy(scores, batch.people, ignore_index=-1, reduction="none").mean()
    return torch.stack([common, classes, people])


@torch.no_grad()
def _average(mean: SceneNetwork, network: SceneNetwork, share: float) -> None:
    for own, new in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(new, 1 - share)
        else:
            own.copy_(new)
