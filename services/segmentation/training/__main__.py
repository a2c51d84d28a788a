"""Trains the embedded segmentation network ``scene-student``.

    curl -O https://registry.npmjs.org/@codait/max-image-segmenter/-/max-image-segmenter-0.3.0.tgz
    python -m services.segmentation.training --teacher <models>/deeplabv3-mnv2-ade20k/1 --photos <folder>
        --labels <folder of MSRC index PNGs> --start max-image-segmenter-0.3.0.tgz --out <folder>

The teacher is asked about views of the photos of ``split.json`` (its list ``train``); its features at each stage, its
classes and the common labels that these are grouped into are learned, and people's labels where there are any. The
trunk starts from a DeepLab for PASCAL VOC, by the weights of that package. Writes ``model.onnx`` and ``manifest.json``;
``<folder>.pt`` beside keeps the weights on the way. An hour and 52 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Final

import torch

from services.common.config import SegmentationSettings
from services.common.images import ImageLimits
from services.common.models import find_model
from services.segmentation.training.data import checks, grouping, known, photos
from services.segmentation.training.deployed import write
from services.segmentation.training.fit import Fit
from services.segmentation.training.lessons import WHOLE, Lessons
from services.segmentation.training.scene import WIDTHS, SceneNetwork
from services.segmentation.training.schedule import trained
from services.segmentation.training.teacher import Teacher
from services.segmentation.training.trunk import read_package

_FITTED: Final = 100
"""Batches of views whose features are fitted."""


def main() -> None:
    """Train and write the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="model folder <models>/<name>/<version>")
    parser.add_argument("--photos", type=Path, required=True, help="folder that split.json's paths are relative to")
    parser.add_argument("--labels", type=Path, help="index PNGs of the MSRC photos")
    parser.add_argument("--more", type=Path, help="folder of further JPEGs, such as those of training.wallpapers")
    parser.add_argument("--start", type=Path, required=True, help="max-image-segmenter-0.3.0.tgz, see above")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the model; must not exist")
    parser.add_argument(
        "--minutes",
        type=float,
        nargs=3,
        default=(25.0, 70.0, 13.0),
        help="of the trunk, of all, and of what follows the trunk (default: 25 70 13)",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    folder = options.teacher
    model = find_model(folder.parent.parent, "segmentation", f"{folder.parent.name}/{folder.name}")
    assert model is not None, "an explicit name is found or refused"  # noqa: S101
    threads = len(os.sched_getaffinity(0))
    split = json.loads((Path(__file__).parent / "split.json").read_text(encoding="utf-8"))
    limits = ImageLimits.of(SegmentationSettings())
    train = photos(split["train"], options.photos, options.labels, limits)
    teacher = Teacher(model, threads)
    groups = grouping(teacher.labels)
    if options.more:
        further = sorted(path.name for path in options.more.glob("*.jpg"))
        train += known(photos(further, options.more, None, limits), teacher, groups)
    held_out = checks(photos(split["held_out"], options.photos, None, limits), teacher, groups)
    print(f"{len(train)} photos to train on, {len(held_out)} held out", flush=True)
    network = SceneNetwork(len(teacher.labels))
    network.trunk.start_from(read_package(options.start))
    kept = options.out.with_name(f"{options.out.name}.pt")
    kept.parent.mkdir(parents=True, exist_ok=True)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    lessons = Lessons(train, teacher, options.seed)
    teacher.show_of(WIDTHS, lessons.batch(WHOLE).photos)
    fit = Fit(teacher, [photo for _ in range(_FITTED) for photo in lessons.batch(WHOLE).photos])
    seconds = [60 * each for each in options.minutes]
    best = trained(network, lessons, fit, held_out, groups, seconds, lambda mean: torch.save(mean.state_dict(), kept))
    write(best, groups, options.out)


if __name__ == "__main__":
    main()
