"""Trains the embedded feature network ``vgg19-student``.

    python -m services.stylizer.training --teacher <models>/vgg19-caffe/1 --photos <folder> --out <folder>

Each convolution starts as a least-squares fit. Then the student learns VGG-19's features of photos, whose targets are
made once; then of pictures that it is itself driven to, as a solve will drive it, so that it has no blind spots that an
optimiser would find. Writes
``student.safetensors`` (float16) and ``manifest.json``. Under two hours on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

from services.common.config import StylizerSettings
from services.common.images import ImageLimits
from services.common.models import find_model
from services.stylizer.core.student import COMPONENTS, STUDENT_LAYERS, Student, channels_last
from services.stylizer.core.vgg import VGG19
from services.stylizer.features import load_features, pick_device
from services.stylizer.training.photos import Crops, photo_files
from services.stylizer.training.schedule import Schedule, driven, learned
from services.stylizer.training.start import fitted
from services.stylizer.training.targets import Targets, gram_errors

_CONTENT: Final = "conv4_2"
_CROP_PX: Final = 160
_FITTED_ON: Final = 112


def main() -> None:
    """Train and write the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--teacher", type=Path, required=True, help="model folder <models>/<name>/<version> of a VGG-19"
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos, searched to its depth")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the model")
    parser.add_argument("--minutes", type=float, nargs=2, default=(20.0, 25.0), help="of each half of the training")
    parser.add_argument("--crops", type=int, default=2000, help="crops whose targets are kept, 2 MB each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_flush_denormal(True)

    limits = ImageLimits.of(StylizerSettings())
    folder = options.teacher
    model = find_model(folder.parent.parent, "features", f"{folder.parent.name}/{folder.name}")
    assert model is not None, "an explicit name is found or refused"  # noqa: S101
    teacher = load_features(model, pick_device("cpu")).trunk
    if not isinstance(teacher, VGG19):
        parser.error(f"--teacher {folder} is no VGG-19")
    train, held_out = photo_files(options.photos)
    print(f"{len(train)} photos to train on, {len(held_out)} held out", flush=True)
    crops = Crops(train, _CROP_PX, options.seed, limits)
    trunk = channels_last(Student())
    targets = Targets.of(teacher, [crops.varied() for _ in range(96)], COMPONENTS)
    checks = Crops(held_out, _CROP_PX, 1, limits)
    pairs = [(checks.varied(), checks.varied()) for _ in range(24)]

    def report(text: str, found: Student) -> None:
        errors = gram_errors(found, targets, pairs)
        print(f"{text}: difference of Gram matrices off by", {n: round(e, 4) for n, e in errors.items()}, flush=True)
        _write(found, targets, options.out)

    def said(text: str) -> None:
        report(text, schedule.mean)

    began = time.monotonic()
    fitted(trunk, targets, [crops.varied() for _ in range(_FITTED_ON)], options.seed)
    report("fitted", trunk)
    schedule = Schedule(trunk, [60 * minutes for minutes in options.minutes])
    learned(schedule, targets, crops, options.crops, said)
    driven(schedule, targets, crops, said)
    report(f"trained for {time.monotonic() - began:.0f} s", schedule.mean)


def _write(trunk: Student, targets: Targets, out: Path) -> None:
    """Save in the teacher's units.

    A style distance divides by the channels to the fourth, a content distance by the channels; a tap has fewer.
    """
    weights = {key: value.clone() for key, value in trunk.state_dict().items()}
    for name in STUDENT_LAYERS:
        K, C = targets.directions[name].shape
        for part in ("weight", "bias"):
            weights[f"taps.{name}.{part}"] *= targets.scales[name] * (K / C) ** (0.5 if name == _CONTENT else 1.0)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "student.safetensors"
    save_file({key: value.half().contiguous() for key, value in weights.items()}, path)
    manifest = {
        "name": "vgg19-student",
        "version": "1",
        "task": "features",
        "architecture": "student",
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()},
        "licence": "Apache-2.0; distilled from VGG-19 of Simonyan & Zisserman (CC BY 4.0)",
        "source": "Slim trunk distilled from VGG-19 by python -m services.stylizer.training; docs/training.md",
        "input": {"channels": "RGB", "range": "0..1", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
