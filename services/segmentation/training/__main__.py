"""Trains the embedded segmentation network ``scene-student``.

    python -m services.segmentation.training --teacher <models>/deeplabv3-mnv2-ade20k/1 --photos <folder>
        --labels <folder of MSRC index PNGs> --trunk services/stylizer/models/vgg19-student/1/student.safetensors
        --work <folder> --out <folder>

The teacher's probabilities on the photos of ``split.json`` (its list ``train``) are what is learned, for its own
classes beside their sums for the common labels, because what looks alike to the teacher is worth knowing; people's
labels count where there are any. Writes ``model.onnx`` and ``manifest.json``. Under two hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file

from services.common.config import SegmentationSettings
from services.common.images import ImageLimits
from services.common.models import find_model
from services.common.taxonomy import COMMON_LABELS
from services.segmentation.convert.model_folder import manifest_of, write_model_folder
from services.segmentation.convert.torch_export import export_onnx
from services.segmentation.network import Network
from services.segmentation.training.data import EDGE_PX, Example, examples, grouping
from services.segmentation.training.scene import OUTPUT_STRIDE, STEP_PX, Deployed, SceneNetwork
from services.segmentation.training.schedule import trained


def main() -> None:
    """Train and write the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="model folder <models>/<name>/<version>")
    parser.add_argument("--photos", type=Path, required=True, help="folder that split.json's paths are relative to")
    parser.add_argument("--labels", type=Path, help="index PNGs of the MSRC photos")
    parser.add_argument("--trunk", type=Path, required=True, help="weights of vgg19-student to start from")
    parser.add_argument("--work", type=Path, required=True, help="keeps the teacher's answers for another run: 2 GB")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the model; must not exist")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    folder = options.teacher
    model = find_model(folder.parent.parent, "segmentation", f"{folder.parent.name}/{folder.name}")
    assert model is not None, "an explicit name is found or refused"  # noqa: S101
    teacher = Network(model, "cpu", len(os.sched_getaffinity(0)))
    train, held_out = _examples(options, teacher)
    print(f"{len(train)} photos to train on, {len(held_out)} held out", flush=True)
    network = SceneNetwork(len(COMMON_LABELS), len(teacher.labels))
    network.start_from(load_file(options.trunk))
    best = trained(network, train, held_out, grouping(teacher.labels), 60 * options.minutes, options.seed)
    torch.save(best.state_dict(), options.work / "scene.pt")
    _write(best, options.out)


def _examples(options: argparse.Namespace, teacher: Network) -> tuple[list[Example], list[Example]]:
    split = json.loads((Path(__file__).parent / "split.json").read_text(encoding="utf-8"))
    options.work.mkdir(parents=True, exist_ok=True)
    kept = options.work / "targets.pt"
    if not kept.exists():
        limits = ImageLimits.of(SegmentationSettings())
        parts = (split["train"], split["held_out"])
        found = [examples(names, options.photos, options.labels, teacher, limits) for names in parts]
        torch.save([[vars(example) for example in part] for part in found], kept)
    train, held_out = ([Example(**fields) for fields in part] for part in torch.load(kept))
    return train, held_out


def _write(network: SceneNetwork, folder: Path) -> None:
    manifest = manifest_of(
        name="scene-student",
        version="1",
        licence="Apache-2.0",
        source="Slim dilated network for the common labels, by python -m services.segmentation.training; "
        "docs/training.md",
        scale="x/255",
        size=f"any; best with the long side at {EDGE_PX}, sides of the form {STEP_PX}k+0",
        stride=OUTPUT_STRIDE,
        align_corners=False,
        label_set="common labels of dpst",
        labels=COMMON_LABELS,
    )
    exported = export_onnx(Deployed(network), len(COMMON_LABELS))
    write_model_folder(folder, manifest, exported.SerializeToString())


if __name__ == "__main__":
    main()
