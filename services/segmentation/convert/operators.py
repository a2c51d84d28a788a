"""TFLite's operators in ONNX: NHWC becomes NCHW, fixed sizes become those of other values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.segmentation.convert.failure import ConvertError
from services.segmentation.convert.onnx_writer import OnnxWriter
from services.segmentation.convert.tflite_graph import Graph, Operator

__all__ = ["Translation"]

# Of TFLite's enumerations Padding and ActivationFunctionType.
_SAME = 0
_ACTIVATIONS: Mapping[int, tuple[float, float]] = {
    0: (-np.inf, np.inf),
    1: (0.0, np.inf),
    2: (-1.0, 1.0),
    3: (0.0, 6.0),
}
_BINARY = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul"}
_AXES = {0: 0, 1: 2, 2: 3, 3: 1, -1: 1, -2: 3, -3: 2, -4: 0}


class Translation:
    """Translates the operators of one graph in order into a writer; ``value`` gives the ONNX name of a tensor.

    A quantised computed tensor becomes float32, held to the range that its quantisation can represent: TensorFlow
    leaves ReLU6 to that range. Rounding to 8 bits between operators is not repeated.
    """

    def __init__(self, graph: Graph, writer: OnnxWriter, image: int, image_name: str) -> None:
        self._graph, self._writer = graph, writer
        self._constants = {i: t.constant for i, t in enumerate(graph.tensors) if t.constant is not None}
        self._values = {image: image_name}

    def value(self, index: int) -> str:
        """Name of a computed tensor. Raises ConvertError if nothing has computed it."""
        if index not in self._values:
            raise ConvertError(f"tensor {self._graph.tensors[index].name!r} is used before anything computes it")
        return self._values[index]

    def add(self, operator: Operator) -> None:
        """Translate one operator. Raises ConvertError, naming operator and tensor, if it is not known."""
        output = operator.outputs[0]
        if operator.kind in ("DEQUANTIZE", "QUANTIZE"):
            source = operator.inputs[0]
            if source in self._constants:
                self._constants[output] = self._constants[source]
            else:
                self._values[output] = self._within(self.value(source), output, 0)
            return
        translate = _KNOWN.get(operator.kind)
        if translate is None:
            raise self._error(operator, f"is not supported; known are {', '.join(sorted(_KNOWN))}")
        name = translate(self, operator)
        self._values[output] = self._within(name, output, operator.options.get("FusedActivationFunction", 0))

    def _error(self, operator: Operator, reason: str) -> ConvertError:
        return ConvertError(
            f"operator {operator.kind} of tensor {self._graph.tensors[operator.outputs[0]].name!r} {reason}"
        )

    def _shape(self, index: int, operator: Operator) -> tuple[int, ...]:
        shape = self._graph.tensors[index].shape
        if len(shape) != 4:
            raise self._error(operator, f"works on the shape {shape}; images (batch, height, width, channels) expected")
        return shape

    def _weights(self, operator: Operator, position: int) -> NDArray[Any]:
        index = operator.inputs[position]
        if index not in self._constants:
            raise self._error(
                operator, f"has the computed input {self._graph.tensors[index].name!r}; constant expected"
            )
        return self._constants[index]

    def _within(self, name: str, output: int, activation: int) -> str:
        """Apply a fused activation, and the limits of a quantised result."""
        tensor = self._graph.tensors[output]
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
            return self._writer.node("Relu", [name])
        return self._writer.node("Clip", [name, self._scalar(low), self._scalar(high)])

    def _scalar(self, number: float) -> str:
        return self._writer.constant(np.array(number, np.float32))

    def _convolution(self, operator: Operator) -> str:
        options, channels = operator.options, self._shape(operator.inputs[0], operator)[3]
        weights = self._weights(operator, 1)
        if operator.kind == "DEPTHWISE_CONV_2D":
            weights, groups = weights.transpose(3, 0, 1, 2), channels
        else:
            weights = weights.transpose(0, 3, 1, 2)
            groups = channels // max(1, weights.shape[1])
        if weights.shape[1] * groups != channels or weights.shape[0] % groups:
            raise self._error(operator, f"has weights {weights.shape} (OIHW) for {channels} channels")
        inputs = [self.value(operator.inputs[0]), self._writer.constant(weights.astype(np.float32))]
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            inputs.append(self._writer.constant(self._weights(operator, 2).astype(np.float32)))
        strides = [options["StrideH"], options["StrideW"]]
        dilations = [options["DilationHFactor"], options["DilationWFactor"]]
        return self._writer.node(
            "Conv",
            inputs,
            kernel_shape=list(weights.shape[2:]),
            strides=strides,
            dilations=dilations,
            group=groups,
            **_padding(options, weights.shape[2:], strides, dilations),
        )

    def _binary(self, operator: Operator) -> str:
        names = [self._operand(index, operator) for index in operator.inputs]
        return self._writer.node(_BINARY[operator.kind], names)

    def _operand(self, index: int, operator: Operator) -> str:
        if index in self._constants:
            array = self._constants[index].astype(np.float32)
            return self._writer.constant(array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(0, 3, 1, 2))
        self._shape(index, operator)
        return self.value(index)

    def _concatenation(self, operator: Operator) -> str:
        axis = operator.options["Axis"]
        if axis not in _AXES:
            raise self._error(operator, f"joins along axis {axis}; -4 to 3 expected")
        names = [self._operand(index, operator) for index in operator.inputs]
        return self._writer.node("Concat", names, axis=_AXES[axis])

    def _average(self, operator: Operator) -> str:
        """Average over the whole picture at any size if it is so at the file's size."""
        options, shape = operator.options, self._shape(operator.inputs[0], operator)
        kernel = [options["FilterHeight"], options["FilterWidth"]]
        if tuple(kernel) == shape[1:3] and self._shape(operator.outputs[0], operator)[1:3] == (1, 1):
            return self._writer.node("GlobalAveragePool", [self.value(operator.inputs[0])])
        strides = [options["StrideH"], options["StrideW"]]
        padding = _padding(options, tuple(kernel), strides, [1, 1])
        # TensorFlow, too, divides by the number of pixels that are inside.
        return self._writer.node(
            "AveragePool", [self.value(operator.inputs[0])], kernel_shape=kernel, strides=strides, **padding
        )

    def _mean(self, operator: Operator) -> str:
        rank = len(self._shape(operator.inputs[0], operator))
        axes = sorted(int(axis) % rank for axis in self._weights(operator, 1).ravel())
        if axes != [1, 2]:
            raise self._error(operator, f"averages over the axes {axes}; height and width, [1, 2], expected")
        return self._writer.node("GlobalAveragePool", [self.value(operator.inputs[0])])

    def _reshape(self, operator: Operator) -> str:
        """Pass on what a mean made: it never loses its axes of one pixel here."""
        before, after = (self._graph.tensors[index].shape for index in (operator.inputs[0], operator.outputs[0]))
        if after != (before[0], 1, 1, before[-1]) or np.prod(before) != np.prod(after):
            raise self._error(operator, f"makes {after} of {before}; only (batch, 1, 1, channels) of a mean is known")
        return self.value(operator.inputs[0])

    def _activation(self, operator: Operator) -> str:
        return self._within(self.value(operator.inputs[0]), operator.outputs[0], 3 if operator.kind == "RELU6" else 1)

    def _resize(self, operator: Operator) -> str:
        """Resize to the size of another value that has the same size in the file."""
        source, target = (self._shape(i, operator)[1:3] for i in (operator.inputs[0], operator.outputs[0]))
        name = self.value(operator.inputs[0])
        if source == target:
            return name
        like = next((v for i, v in self._values.items() if self._graph.tensors[i].shape[1:3] == target), None)
        if like is None:
            raise self._error(operator, f"resizes to {target}; no value before it has that size")
        size = self._writer.node("Shape", [like], start=2)
        if source == (1, 1):
            ones = self._writer.constant(np.array([1, 1], np.int64))
            return self._writer.node("Expand", [name, self._writer.node("Concat", [ones, size], axis=0)])
        sizes = self._writer.node("Concat", [self._writer.node("Shape", [name], end=2), size], axis=0)
        options = operator.options
        mode = "align_corners" if options["AlignCorners"] else "asymmetric"
        mode = "half_pixel" if options["HalfPixelCenters"] else mode
        return self._writer.node("Resize", [name, "", "", sizes], mode="linear", coordinate_transformation_mode=mode)


def _padding(
    options: Mapping[str, Any], kernel: tuple[int, ...], strides: list[int], dilations: list[int]
) -> dict[str, Any]:
    """Give TensorFlow's padding as ONNX's attributes.

    With stride 1, SAME does not depend on the size. With stride 2 it does: TensorFlow pads an odd side by 1 and 1
    for a kernel of 3, an even side by 0 and 1. ONNX's SAME_UPPER is the same rule at run time. For sides of the form
    8k+1 all three strides of a DeepLab meet odd sides, where symmetric pads, as other converters write them, are exact.
    """
    if "Pads" in options:
        return {"pads": list(options["Pads"])}
    if options["Padding"] != _SAME:
        return {"pads": [0, 0, 0, 0]}
    if strides != [1, 1]:
        return {"auto_pad": "SAME_UPPER"}
    totals = [dilation * (taps - 1) for dilation, taps in zip(dilations, kernel, strict=True)]
    return {"pads": [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]}


_KNOWN: Mapping[str, Callable[[Translation, Operator], str]] = {
    "CONV_2D": Translation._convolution,
    "DEPTHWISE_CONV_2D": Translation._convolution,
    "ADD": Translation._binary,
    "SUB": Translation._binary,
    "MUL": Translation._binary,
    "AVERAGE_POOL_2D": Translation._average,
    "MEAN": Translation._mean,
    "RESHAPE": Translation._reshape,
    "RELU": Translation._activation,
    "RELU6": Translation._activation,
    "CONCATENATION": Translation._concatenation,
    "RESIZE_BILINEAR": Translation._resize,
}
