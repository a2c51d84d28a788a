"""The trained network as a model of the segmentation service: what it says in common labels, its kernels as bytes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from services.common.taxonomy import COMMON_LABELS
from services.segmentation.convert.model_folder import manifest_of, write_model_folder
from services.segmentation.convert.torch_export import export_onnx
from services.segmentation.training.data import DEVIATION, MEAN
from services.segmentation.training.scene import INPUT_EDGE_PX, OUTPUT_STRIDE, STEP_PX, SceneNetwork

__all__ = ["Deployed", "in_bytes", "write"]

_SHARPNESS: Final = 2.1
"""Factor of the logarithms. Learned from soft answers, the network is less sure of itself than its teacher, in whose
units the confidence rule's limits are; chosen on the pairs, as these were."""

_LOOKS_PERCENT: Final = (70, 100, 140)
"""Sizes at which the network looks at a photo, of that which it is given. It errs differently at each: the mean of its
answers is nearer to its teacher's one: 0.774 of held-out photos instead of 0.769 (docs/training.md)."""

_GREATEST_SCORE: Final = 60.0
"""And least, so that no exponential is infinite and their sum is never 0; of held-out photos they lie in -11..18."""

_LEAST_WEIGHTS = 1000
"""Of a tensor that is worth a conversion when the model is loaded."""


class Deployed(nn.Module):
    """The network as the exporter of ``convert`` wants one: ``{"out": logarithms of the common labels' shares}``.

    The shares are the mean of those at three sizes of the photo.

    Args:
        network: what was trained.
        groups: (common labels, classes) of 0 and 1, see ``grouping``.
    """

    def __init__(self, network: SceneNetwork, groups: Tensor) -> None:
        super().__init__()
        # What asks for no gradient has no hook (trunk.passed), whose view would be an operator that parts the layers.
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.groups = nn.Buffer(groups[:, :, None, None].clone())

    def forward(self, photos: Tensor) -> dict[str, Tensor]:
        """As ``SceneNetwork``."""
        height, width = photos.shape[2:]
        size = [(edge - 1) // OUTPUT_STRIDE + 1 for edge in (height, width)]
        looks = [
            _resized(self._shares(_resized(photos, [_side(height, percent), _side(width, percent)])), size)
            for percent in _LOOKS_PERCENT
        ]
        return {"out": _SHARPNESS * torch.stack(looks).mean(dim=0).clamp_min(1e-6).log()}

    def _shares(self, photos: Tensor) -> Tensor:
        """As sums of a softmax, which takes a fifth of the time in ONNX Runtime if channels are not the last axis."""
        sums = functional.conv2d(self.network(photos).clamp(-_GREATEST_SCORE, _GREATEST_SCORE).exp(), self.groups)
        return sums / sums.sum(dim=1, keepdim=True)


def _resized(planes: Tensor, size: list[int]) -> Tensor:
    """First and last samples stay on the border, as those of every stride do (``scene.STEP_PX``)."""
    return functional.interpolate(planes, size=size, mode="bilinear", align_corners=True)


def _side(edge: int, percent: int) -> int:
    """Of the form that ``scene.STEP_PX`` tells."""
    return (percent * (edge - 1) + 50 * STEP_PX) // (100 * STEP_PX) * STEP_PX + 1


def in_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its kernels stored as int8 and a scale per output, of which the runtime makes float32 on loading.

    Rounded to nearest, the greatest weight of an output being 127; a quarter of the size, computed as before.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    nodes = []
    for stored in list(graph.initializer):
        values = numpy_helper.to_array(stored)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < _LEAST_WEIGHTS:
            continue
        name = stored.name
        scales = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True).clip(1e-12) / 127
        stored.CopyFrom(numpy_helper.from_array(np.rint(values / scales).astype(np.int8), f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), f"{name}.scale"))
        nodes.append(helper.make_node("Cast", [f"{name}.int8"], [f"{name}.float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]))
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(small, full_check=True)
    return small


def write(network: SceneNetwork, groups: Tensor, folder: Path) -> None:
    """Write the model's folder. Raises ConvertError if it cannot be written, or exists and is not empty."""
    manifest = manifest_of(
        name="scene-student",
        version="1",
        licence="Apache-2.0",
        source="Dilated network for the common labels, from MobileNetV2 of DeepLab for PASCAL VOC (Apache-2.0), taught "
        "by DeepLab for ADE20K (Apache-2.0), by python -m services.segmentation.training; docs/training.md",
        scale="x/255",
        size=f"any; best with the long side at {INPUT_EDGE_PX}, sides of the form {STEP_PX}k+1",
        stride=OUTPUT_STRIDE,
        align_corners=True,
        label_set="common labels of dpst",
        labels=COMMON_LABELS,
    )
    exported = in_bytes(export_onnx(Deployed(network, groups), len(COMMON_LABELS), MEAN, DEVIATION))
    write_model_folder(folder, manifest, exported.SerializeToString())
