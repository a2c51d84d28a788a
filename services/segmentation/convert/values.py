"""What is known of a TFLite graph's tensors while its operators are translated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.segmentation.convert.failure import ConvertError
from services.segmentation.convert.onnx_writer import OnnxWriter
from services.segmentation.convert.tflite_graph import Graph, Operator

__all__ = ["Values", "misfit"]

# Of TFLite's enumeration ActivationFunctionType: none, RELU, RELU_N1_TO_1, RELU6.
_ACTIVATIONS: Mapping[int, tuple[float, float]] = {
    0: (-np.inf, np.inf),
    1: (0.0, np.inf),
    2: (-1.0, 1.0),
    3: (0.0, 6.0),
}


def misfit(graph: Graph, operator: Operator, reason: str) -> ConvertError:
    """Make the error of an operator that cannot be translated."""
    return ConvertError(f"operator {operator.kind} of tensor {graph.tensors[operator.outputs[0]].name!r} {reason}")


class Values:
    """Constants, and the ONNX names of what has been computed, by TFLite's indices of tensors.

    Shapes are TFLite's, NHWC, at the size that the file fixes; computed values are NCHW, constants NHWC.
    """

    def __init__(self, graph: Graph, writer: OnnxWriter, image: int, image_name: str) -> None:
        self.graph, self.writer = graph, writer
        self.constants = {i: t.constant for i, t in enumerate(graph.tensors) if t.constant is not None}
        self._names = {image: image_name}

    def put(self, index: int, name: str, activation: int) -> None:
        """Note what computes a tensor, behind its fused activation."""
        self._names[index] = self.within(name, index, activation)

    def name(self, index: int) -> str:
        """Name of a computed tensor. Raises ConvertError if nothing has computed it."""
        if index not in self._names:
            raise ConvertError(f"tensor {self.graph.tensors[index].name!r} is used before anything computes it")
        return self._names[index]

    def of_size(self, size: tuple[int, ...]) -> str | None:
        """Name of the first value whose height and width are this size in the file; None if none is."""
        return next((name for i, name in self._names.items() if self.graph.tensors[i].shape[1:3] == size), None)

    def shape(self, index: int, operator: Operator) -> tuple[int, ...]:
        """Shape of a picture. Raises ConvertError if it is none."""
        shape = self.graph.tensors[index].shape
        if len(shape) != 4:
            reason = f"works on the shape {shape}; pictures (batch, height, width, channels) expected"
            raise misfit(self.graph, operator, reason)
        return shape

    def weights(self, operator: Operator, position: int) -> NDArray[Any]:
        """Constant input of an operator. Raises ConvertError if it is computed."""
        index = operator.inputs[position]
        if index not in self.constants:
            reason = f"has the computed input {self.graph.tensors[index].name!r}; a constant expected"
            raise misfit(self.graph, operator, reason)
        return self.constants[index]

    def operand(self, index: int, operator: Operator) -> str:
        """Name of an input that may be a constant, which then broadcasts as in TFLite: along channels first."""
        if index in self.constants:
            array = self.constants[index].astype(np.float32)
            return self.writer.constant(array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(0, 3, 1, 2))
        self.shape(index, operator)
        return self.name(index)

    def within(self, name: str, output: int, activation: int) -> str:
        """Apply a fused activation, and the limits of a quantised result: TensorFlow leaves ReLU6 to these."""
        tensor = self.graph.tensors[output]
        if activation not in _ACTIVATIONS:
            raise ConvertError(
                f"tensor {tensor.name!r} has the fused activation {activation}; known are none and ReLUs"
            )
        low, high = _ACTIVATIONS[activation]
        if tensor.limits is not None:
            low, high = max(low, tensor.limits[0]), min(high, tensor.limits[1])
        if (low, high) == (-np.inf, np.inf):
            return name
        if (low, high) == (0.0, np.inf):
            return self.writer.node("Relu", [name])
        limits = [self.writer.constant(np.array(limit, np.float32)) for limit in (low, high)]
        return self.writer.node("Clip", [name, *limits])
