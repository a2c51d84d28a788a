"""The classes of public data sets, in the order of their indices, which is the order of a network's outputs."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from services.segmentation.convert.failure import ConvertError

__all__ = ["VOC", "label_set_of", "labels_from"]

# Everingham et al., "The PASCAL Visual Object Classes Challenge"; the names are those of its devkit.
VOC: tuple[str, ...] = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# Cordts et al., "The Cityscapes Dataset", CVPR 2016, in the order of its train ids.
_CITYSCAPES: tuple[str, ...] = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)


def label_set_of(classes: int) -> tuple[str, tuple[str, ...]]:
    """Tell the label set from the number of outputs: its name and its labels. Raises ConvertError if none has it.

    ADE20K's 150 classes (Zhou et al., CVPR 2017) go by the first word of their names, behind "others" at 0; two of
    them share the name "screen".
    """
    text = resources.files(__package__).joinpath("ade20k.txt").read_text(encoding="utf-8")
    sets = {
        "ade20k-150 with 0 = others": tuple(text.split()),
        "pascal-voc-21": VOC,
        "cityscapes-19": _CITYSCAPES,
    }
    for name, labels in sets.items():
        if len(labels) == classes:
            return name, labels
    known = ", ".join(f"{len(labels)} ({name})" for name, labels in sets.items())
    raise ConvertError(f"the network has {classes} outputs, known are {known}; give --labels FILE, one name a line")


def labels_from(path: Path, classes: int) -> tuple[str, ...]:
    """Read one label a line. Raises ConvertError if the file cannot be read or its number is not ``classes``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConvertError(f"{path}: cannot be read as text ({error})") from error
    labels = tuple(line.strip() for line in lines if line.strip())
    if len(labels) != classes:
        raise ConvertError(f"{path}: has {len(labels)} labels, the network {classes} outputs")
    return labels
