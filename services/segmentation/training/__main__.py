"""Trains the embedded segmentation network ``scene-student``.

    python -m services.segmentation.training --teacher <models>/deeplabv3-mnv2-ade20k/1 --photos <folder>
        --labels <folder of MSRC index PNGs> --trunk services/stylizer/models/vgg19-student/1/student.safetensors
        --out <folder>

The teacher's probabilities on the photos of ``split.json`` (its list ``train``) are what is learned, for its own classes
beside their sums for the common labels, because what looks alike to the teacher is worth knowing; people's labels count
where there are any. Writes ``model.onnx`` and ``manifest.json``. Under two hours on two cores.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from services.common.config import SegmentationSettings
from services.common.images import ImageLimits
from services.common.models import find_model
from services.common.taxonomy import COMMON_LABELS
from services.segmentation.network import Network
from services.segmentation.training.data import Batch, Example, batch_of, examples, grouping, whole
from services.segmentation.training.scene import SceneNetwork

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


def main() -> None:
    """Train and write the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="model folder <models>/<name>/<version>")
    parser.add_argument("--photos", type=Path, required=True, help="folder that split.json's paths are relative to")
    parser.add_argument("--labels", type=Path, help="index PNGs of the MSRC photos")
    parser.add_argument("--trunk", type=Path, required=True, help="weights of vgg19-student to start from")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the weights and the model")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    limits = ImageLimits.of(SegmentationSettings())
    folder = options.teacher
    model = find_model(folder.parent.parent, "segmentation", f"{folder.parent.name}/{folder.name}")
    assert model is not None, "an explicit name is found or refused"  # noqa: S101
    teacher = Network(model, "cpu", len(os.sched_getaffinity(0)))
    split = json.loads((Path(__file__).parent / "split.json").read_text(encoding="utf-8"))
    kept = options.out / "targets.pt"  # of an earlier run with the same teacher and split
    options.out.mkdir(parents=True, exist_ok=True)
    if not kept.exists():
        found = [
            examples(split[part], options.photos, options.labels, teacher, limits) for part in ("train", "held_out")
        ]
        torch.save([[vars(example) for example in part] for part in found], kept)
    train, held_out = ([Example(**fields) for fields in part] for part in torch.load(kept))
    print(f"{len(train)} photos to train on, {len(held_out)} held out", flush=True)

    network = SceneNetwork(len(COMMON_LABELS), len(teacher.labels))
    network.start_from(load_file(options.trunk))
    network.to(memory_format=torch.channels_last)
    trained = _trained(network, train, held_out, grouping(teacher.labels), 60 * options.minutes, options.seed)
    torch.save(trained.state_dict(), options.out / "scene.pt")


def _trained(
    network: SceneNetwork,
    train: Sequence[Example],
    held_out: Sequence[Example],
    groups: Tensor,
    seconds: float,
    seed: int,
) -> SceneNetwork:
    for name in _FROZEN:
        network.convs[name].requires_grad_(False)
    trunk = [p for p in network.convs.parameters() if p.requires_grad]
    rest = [p for name, p in network.named_parameters() if not name.startswith("convs.")]
    optimiser = torch.optim.AdamW(
        [{"params": trunk, "peak": _TRUNK_RATE}, {"params": rest, "peak": _RATE}], weight_decay=1e-2
    )
    mean = copy.deepcopy(network)
    random = np.random.default_rng(seed)
    began = reported = time.monotonic()
    steps, sums, order = 0, torch.zeros(3), []
    while (elapsed := time.monotonic() - began) < seconds:
        if len(order) < _BATCH:
            order = random.permutation(len(train)).tolist()
        batch = batch_of([train[order.pop()] for _ in range(_BATCH)], _CROP_PX, random)
        falling = (1 + math.cos(math.pi * elapsed / seconds)) / 2
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * max(falling, 0.01) * min(1.0, (steps + 1) / _WARM_STEPS)
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
            common, fine, people = (sums / steps).tolist()
            agreement = _agreement(mean, held_out, groups)
            print(
                f"{reported - began:.0f} s, {steps} steps: losses {common:.3f} {fine:.3f} {people:.3f}, agreement with "
                f"the teacher on held-out photos {agreement:.4f}",
                flush=True,
            )
    print(f"{steps} steps, agreement {_agreement(mean, held_out, groups):.4f}", flush=True)
    return mean.eval()


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


@torch.no_grad()
def _agreement(network: SceneNetwork, held_out: Sequence[Example], groups: Tensor) -> float:
    """Share of pixels, each photo counted alike, at which student and teacher give the same common label."""
    network.eval()
    shares = []
    for example in held_out:
        photo, classes = whole(example)
        wanted = torch.einsum("kc,chw->khw", groups, classes.float()).argmax(dim=0)
        scores = functional.interpolate(network(photo), size=wanted.shape, mode="bilinear", align_corners=False)
        shares.append(float((scores[0].argmax(dim=0) == wanted).float().mean()))
    return sum(shares) / len(shares)


if __name__ == "__main__":
    main()
