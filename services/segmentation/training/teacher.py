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

__all__ = ["HINTS", "Teacher"]

HINTS: Final[Mapping[str, str]] = MappingProxyType({"context": "/Relu_2_output_0", "decoded": "/Relu_7_output_0"})
"""The stages of ``deeplabv3-mnv2-ade20k/1`` that a student is shown, and their tensors in its ``model.onnx``."""


class Teacher:
    """The network of a model's folder. ``labels`` are its classes.

    Raises ValueError if the network lacks a tensor of ``HINTS``.
    """

    def __init__(self, model: Model, threads: int) -> None:
        self._convention = Convention(model)
        self.labels = self._convention.labels
        network = onnx.load(model.file("model.onnx"))
        known = {name for node in network.graph.node for name in node.output}
        if missing := sorted(set(HINTS.values()) - known):
            raise ValueError(f"{model.folder} has no tensors {missing}; training knows deeplabv3-mnv2-ade20k/1 only")
        network.graph.output.extend(onnx.ValueInfoProto(name=name) for name in HINTS.values())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the student's threads need the cores
        self._session = onnxruntime.InferenceSession(network.SerializeToString(), options, ["CPUExecutionProvider"])

    def __call__(self, photos: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores of its classes and its hints, for (N, 3, H, W) RGB 0..1 with sides 16k+1.

        Scores (N, C, (H-1)/4+1, (W-1)/4+1) and the hint ``decoded`` are of pixels 0, 4, 8 ... of the photo, the hint
        ``context`` is of pixels 0, 16, 32 ...: those that the student's features are of.
        """
        images = np.stack([self._convention.in_units(photo) for photo in photos.numpy()])
        wanted = [self._convention.output_name, *HINTS.values()]
        found = self._session.run(wanted, {self._convention.input_name: images})
        scores, context, decoded = (torch.from_numpy(each) for each in found)
        return scores, {"context": context[:, :, ::2, ::2], "decoded": decoded}
