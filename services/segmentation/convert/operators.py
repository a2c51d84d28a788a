"""TFLite's operators in ONNX: NHWC becomes NCHW, fixed sizes become those of other values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from services.segmentation.convert.padding import padding_attributes
from services.segmentation.convert.tflite_graph import Operator
from services.segmentation.convert.values import Values, misfit

__all__ = ["translate"]

_BINARY = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul"}
_AXES = {0: 0, 1: 2, 2: 3, 3: 1, -1: 1, -2: 3, -3: 2, -4: 0}
_RELU, _RELU6 = 1, 3  # of TFLite's enumeration ActivationFunctionType


def translate(values: Values, operator: Operator) -> None:
    """Write one operator and note its result. Raises ConvertError, naming operator and tensor, if it is not known.

    A quantised computed tensor becomes float32; rounding to 8 bits between operators is not repeated.
    """
    output = operator.outputs[0]
    if operator.kind == "DEQUANTIZE" and operator.inputs[0] in values.constants:
        values.constants[output] = values.constants[operator.inputs[0]]
        return
    known = _KNOWN.get(operator.kind)
    if known is None:
        raise misfit(values.graph, operator, f"is not supported; known are {', '.join(sorted(_KNOWN))}")
    values.put(output, known(values, operator), operator.options.get("FusedActivationFunction", 0))


def _same(values: Values, operator: Operator) -> str:
    return values.name(operator.inputs[0])


def _convolution(values: Values, operator: Operator) -> str:
    options, channels = operator.options, values.shape(operator.inputs[0], operator)[3]
    weights = values.weights(operator, 1)
    if operator.kind == "DEPTHWISE_CONV_2D":
        weights, groups = weights.transpose(3, 0, 1, 2), channels
    else:
        weights = weights.transpose(0, 3, 1, 2)
        groups = channels // max(1, weights.shape[1])
    if weights.shape[1] * groups != channels or weights.shape[0] % groups:
        raise misfit(values.graph, operator, f"has weights {weights.shape} (OIHW) for {channels} channels")
    inputs = [values.name(operator.inputs[0]), values.writer.constant(weights.astype(np.float32))]
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        inputs.append(values.writer.constant(values.weights(operator, 2).astype(np.float32)))
    strides = [options["StrideH"], options["StrideW"]]
    dilations = [options["DilationHFactor"], options["DilationWFactor"]]
    kernel = list(weights.shape[2:])
    padding = padding_attributes(options, kernel, strides, dilations)
    return values.writer.node(
        "Conv", inputs, kernel_shape=kernel, strides=strides, dilations=dilations, group=groups, **padding
    )


def _binary(values: Values, operator: Operator) -> str:
    names = [values.operand(index, operator) for index in operator.inputs]
    return values.writer.node(_BINARY[operator.kind], names)


def _concatenation(values: Values, operator: Operator) -> str:
    axis = operator.options["Axis"]
    if axis not in _AXES:
        raise misfit(values.graph, operator, f"joins along axis {axis}; -4 to 3 expected")
    names = [values.operand(index, operator) for index in operator.inputs]
    return values.writer.node("Concat", names, axis=_AXES[axis])


def _average(values: Values, operator: Operator) -> str:
    """Average over the whole picture at any size if it is so at the file's size."""
    options, shape = operator.options, values.shape(operator.inputs[0], operator)
    name, kernel = values.name(operator.inputs[0]), [options["FilterHeight"], options["FilterWidth"]]
    if tuple(kernel) == shape[1:3] and values.shape(operator.outputs[0], operator)[1:3] == (1, 1):
        return values.writer.node("GlobalAveragePool", [name])
    strides = [options["StrideH"], options["StrideW"]]
    padding = padding_attributes(options, kernel, strides, [1, 1])
    # By default ONNX divides by the number of pixels that are inside, as TensorFlow does.
    return values.writer.node("AveragePool", [name], kernel_shape=kernel, strides=strides, **padding)


def _mean(values: Values, operator: Operator) -> str:
    rank = len(values.shape(operator.inputs[0], operator))
    axes = sorted(int(axis) % rank for axis in values.weights(operator, 1).ravel())
    if axes != [1, 2]:
        raise misfit(values.graph, operator, f"averages over the axes {axes}; height and width, [1, 2], expected")
    return values.writer.node("GlobalAveragePool", [values.name(operator.inputs[0])])


def _reshape(values: Values, operator: Operator) -> str:
    """Pass on what a mean made: it never loses its axes of one pixel here."""
    before, after = (values.graph.tensors[index].shape for index in (operator.inputs[0], operator.outputs[0]))
    if after != (before[0], 1, 1, before[-1]) or np.prod(before) != np.prod(after):
        reason = f"makes {after} of {before}; only (batch, 1, 1, channels) of a mean is known"
        raise misfit(values.graph, operator, reason)
    return values.name(operator.inputs[0])


def _relu(values: Values, operator: Operator) -> str:
    activation = _RELU6 if operator.kind == "RELU6" else _RELU
    return values.within(values.name(operator.inputs[0]), operator.outputs[0], activation)


def _resize(values: Values, operator: Operator) -> str:
    """Resize to the size of another value that has the same size in the file."""
    source, target = (values.shape(i, operator)[1:3] for i in (operator.inputs[0], operator.outputs[0]))
    name, like = values.name(operator.inputs[0]), values.of_size(target)
    if source == target:
        return name
    if like is None:
        raise misfit(values.graph, operator, f"resizes to {target}; no value before it has that size")
    writer, options = values.writer, operator.options
    size = writer.node("Shape", [like], start=2)
    if source == (1, 1):
        ones = writer.constant(np.array([1, 1], np.int64))
        return writer.node("Expand", [name, writer.node("Concat", [ones, size], axis=0)])
    sizes = writer.node("Concat", [writer.node("Shape", [name], end=2), size], axis=0)
    mode = "align_corners" if options["AlignCorners"] else "asymmetric"
    mode = "half_pixel" if options["HalfPixelCenters"] else mode
    return writer.node("Resize", [name, "", "", sizes], mode="linear", coordinate_transformation_mode=mode)


_KNOWN: Mapping[str, Callable[[Values, Operator], str]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "ADD": _binary,
    "SUB": _binary,
    "MUL": _binary,
    "AVERAGE_POOL_2D": _average,
    "MEAN": _mean,
    "RESHAPE": _reshape,
    "RELU": _relu,
    "RELU6": _relu,
    "CONCATENATION": _concatenation,
    "RESIZE_BILINEAR": _resize,
    "QUANTIZE": _same,
    "DEQUANTIZE": _same,
}
