"""Nodes and weights of an ONNX network while it is put together."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from services.segmentation.convert.failure import ConvertError

__all__ = ["OnnxWriter", "checked", "dimensions"]

# Old enough for TensorRT and every ONNX Runtime that this project allows; has all operators that are used.
_OPSET, _IR_VERSION = 17, 8


class OnnxWriter:
    """Collects nodes in order. Every value gets a name of its own."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def constant(self, array: NDArray[Any]) -> str:
        """Store an array; returns its name."""
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node; returns the name of its one output. An empty input name means "left out"."""
        name = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=f"{kind}{len(self._nodes)}", **attributes))
        return name

    def model(self, name: str, image: str, logits: str, classes: int) -> onnx.ModelProto:
        """Finish: the value ``logits`` becomes the output of that name. Raises ConvertError if ONNX refuses it."""
        self._nodes.append(helper.make_node("Identity", [logits], ["logits"], name="logits"))
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(image, onnx.TensorProto.FLOAT, dimensions(3, "height", "width"))],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, dimensions(classes, "h", "w"))],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="dpst")
        model.ir_version = _IR_VERSION
        return checked(model)


def dimensions(channels: int, height: str, width: str) -> list[str | int]:
    """Name the axes of an NCHW tensor whose batch and size are free."""
    return ["batch", channels, height, width]


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network if it is valid ONNX, shapes included; raises ConvertError if not."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConvertError(f"the converted network is no valid ONNX: {' '.join(str(error).split())}") from error
    return model
