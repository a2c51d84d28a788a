"""From a DeepLab release as TFLite to an ONNX network with true dilated convolutions, at any size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from services.segmentation.convert.dilation import fold_dilations
from services.segmentation.convert.failure import ConvertError
from services.segmentation.convert.onnx_writer import OnnxWriter
from services.segmentation.convert.operators import translate
from services.segmentation.convert.tflite_graph import Graph, Operator, read_graph
from services.segmentation.convert.values import Values

__all__ = ["Converted", "convert_deeplab"]

# What stands between the logits and the output of a release; dpst takes the logits and enlarges them itself.
_AFTER_LOGITS = ("RESIZE_BILINEAR", "SOFTMAX", "ARG_MAX", "RESHAPE", "SQUEEZE", "CAST", "DEQUANTIZE", "QUANTIZE")
_RANGE_TOLERANCE = 0.02  # quantised inputs end at 127/128 or at 1.0079, not at 1


@dataclass(frozen=True, eq=False)
class Converted:
    """A converted network and what its manifest says.

    Attributes:
        model: input ``image``, NCHW float32 RGB, x/127.5 - 1 of 0..255; output ``logits``; batch and size are free.
        classes: number of channels of the logits.
        stride: input pixels per sample of the logits.
        align_corners: where the release's own enlarging of the logits puts the samples.
        edge_px: side of the square for which the release was made, or its longer side.
        step, offset: sides of the form step·k + offset keep the release's alignment through all strides.
    """

    model: onnx.ModelProto
    classes: int
    stride: int
    align_corners: bool
    edge_px: int
    step: int
    offset: int


def convert_deeplab(path: Path) -> Converted:
    """Convert a file whose input is a picture of -1..1. Raises ConvertError if it is no such network."""
    graph = read_graph(path)
    try:
        return _converted(graph, path)
    # Operators that lack inputs, weights without axes, strides of 0: every check of them would be one of another check.
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise ConvertError(f"{path}: is damaged; its operators do not fit together ({error})") from error


def _converted(graph: Graph, path: Path) -> Converted:
    image = _image(graph, path)
    logits, enlarged = _logits(graph, path)
    graph = fold_dilations(graph)
    needed = _needed(graph, logits)
    writer = OnnxWriter()
    values = Values(graph, writer, image, "image")
    for operator in needed:
        translate(values, operator)
    height, width = graph.tensors[image].shape[1:3]
    classes = graph.tensors[logits].shape[3]
    steps = [_stride(height, graph.tensors[o.outputs[0]].shape) for o in needed if not o.kind.endswith("QUANTIZE")]
    step = max(steps)
    return Converted(
        model=writer.model(path.stem, "image", values.name(logits), classes),
        classes=classes,
        stride=_stride(height, graph.tensors[logits].shape),
        align_corners=enlarged,
        edge_px=max(height, width),
        step=step,
        offset=max(height, width) % step,
    )


def _stride(height: int, shape: tuple[int, ...]) -> int:
    """Input rows per row; each stride of 2 makes ⌈n/2⌉ of n rows, so that 513 rows become 65 at 8. 1 if pooled."""
    return (height - 1) // (shape[1] - 1) if len(shape) == 4 and shape[1] > 1 else 1


def _image(graph: Graph, path: Path) -> int:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ConvertError(f"{path}: has {len(graph.inputs)} inputs, {len(graph.outputs)} outputs; 1 of each expected")
    tensor = graph.tensors[graph.inputs[0]]
    if len(tensor.shape) != 4 or tensor.shape[3] != 3 or min(tensor.shape[1:3]) < 2:
        raise ConvertError(
            f"{path}: input {tensor.name!r} has the shape {tensor.shape}; "
            "(batch, height, width, 3) of a fixed size expected"
        )
    if tensor.limits is not None and not np.allclose(tensor.limits, (-1, 1), atol=_RANGE_TOLERANCE):
        raise ConvertError(f"{path}: input {tensor.name!r} has the range {tensor.limits}, -1 to 1 expected")
    return graph.inputs[0]


def _logits(graph: Graph, path: Path) -> tuple[int, bool]:
    """Walk back from the output to the classifier's convolution: its tensor, and whether corners are aligned."""
    made_by = {index: operator for operator in graph.operators for index in operator.outputs}
    index, align_corners = graph.outputs[0], False
    name = graph.tensors[index].name
    while index in made_by and made_by[index].kind in _AFTER_LOGITS:
        operator = made_by[index]
        index = operator.inputs[0]
        if (
            operator.kind == "RESIZE_BILINEAR"
            and graph.tensors[index].shape != graph.tensors[operator.outputs[0]].shape
        ):
            align_corners = bool(operator.options["AlignCorners"])
    kind = made_by[index].kind if index in made_by else "nothing"
    if kind != "CONV_2D" or len(graph.tensors[index].shape) != 4 or min(graph.tensors[index].shape[1:3]) < 2:
        shape = graph.tensors[index].shape
        raise ConvertError(
            f"{path}: output {name!r} comes from {kind} of shape {shape}; "
            "a classifier's CONV_2D with logits (batch, height, width, classes) expected"
        )
    return index, align_corners


def _needed(graph: Graph, logits: int) -> list[Operator]:
    """Operators that the logits depend on, in their order."""
    wanted, kept = {logits}, []
    for operator in reversed(graph.operators):
        if wanted.intersection(operator.outputs):
            wanted.update(operator.inputs)
            kept.append(operator)
    return kept[::-1]
