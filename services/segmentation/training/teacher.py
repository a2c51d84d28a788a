"""The network that is learned from, with a view of what goes on inside it.

What a network says in the end of a thousand photos is little to learn from; its features on the way are a lesson of
hundreds of values per place (hints: Romero et al. 2015), and the teacher gives it for any view that it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from services.common.models import Model
from services.segmentation.convention import Convention

__all__ = ["BLOCKS", "STAGES", "Teacher"]

BLOCKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        f"block {n}": tensor
        for n, tensor in enumerate(
            (
                *("/convs.2/Conv_output_0", "/convs.5/Conv_output_0", "/Add_output_0"),
                *("/convs.11/Conv_output_0", "/Add_1_output_0", "/Add_2_output_0"),
                *("/convs.20/Conv_output_0", "/Add_4_output_0", "/Add_6_output_0", "/Add_8_output_0"),
                *("/convs.32/Conv_output_0", "/Add_11_output_0", "/Add_13_output_0"),
                *("/convs.41/Conv_output_0", "/Add_16_output_0", "/Add_18_output_0"),
                "/convs.50/Conv_output_0",
            )
        )
    }
)
"""What leaves the blocks of the trunk of ``deeplabv3-mnv2-ade20k/1``, as its ``model.onnx`` calls it."""

STAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        **BLOCKS,
        "here": "/convs.52/Conv_output_0",
        "scene": "/convs.53/Conv_output_0",
        "border": "/convs.54/Conv_output_0",
        "join": "/convs.56/Conv_output_0",
        "decode": "/convs.58/Conv_output_0",
        "head": "logits",
    }
)
"""All that a student is shown; behind the trunk, what leaves convolutions before the ReLU."""


class Teacher:
    """The network of a model's folder. ``labels`` are its classes.

    Raises ValueError if the network lacks a tensor of ``STAGES``.
    """

    def __init__(self, model: Model, threads: int) -> None:
        self._convention = Convention(model)
        self._kept: dict[str, Tensor] = {}
        self.labels = self._convention.labels
        network = onnx.load(model.file("model.onnx"))
        known = {name for node in network.graph.node for name in node.output}
        if missing := sorted(set(STAGES.values()) - known):
            raise ValueError(f"{model.folder} has no tensors {missing}; training knows deeplabv3-mnv2-ade20k/1 only")
        shown = set(STAGES.values()) - {each.name for each in network.graph.output}
        network.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(shown))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the student's threads need the cores
        self._session = onnxruntime.InferenceSession(network.SerializeToString(), options, ["CPUExecutionProvider"])

    def show_of(self, widths: Mapping[str, int], photos: Tensor) -> None:
        """From now on show only so many channels of these stages: those that vary most in these, past the ReLU."""
        shown = self(photos)
        for name, width in widths.items():
            spread = shown[name].relu().var(dim=(0, 2, 3))
            self._kept[name] = spread.argsort(descending=True)[:width].sort().values

    def __call__(self, photos: Tensor) -> dict[str, Tensor]:
        """Its features (N, C, h, w) of each stage, scores of its classes as ``head``.

        For (N, 3, H, W) RGB 0..1, sides 8k+1.
        """
        images = np.stack([self._convention.in_units(photo) for photo in photos.numpy()])
        found = self._session.run(list(STAGES.values()), {self._convention.input_name: images})
        shown = {name: torch.from_numpy(each) for name, each in zip(STAGES, found, strict=True)}
        return {name: each[:, self._kept[name]] if name in self._kept else each for name, each in shown.items()}
