"""A TFLite file as plain tensors and operators."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tflite

from services.segmentation.convert.failure import ConvertError
from services.segmentation.convert.tflite_tensor import Tensor, read_tensor

__all__ = ["Graph", "Operator", "read_graph"]

_KINDS = {code: kind for kind, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
_CONVOLUTION = ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction")
# Operator -> table of its options, and the fields of it that matter here.
_OPTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": ("Conv2DOptions", _CONVOLUTION),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", _CONVOLUTION),
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "SUB": ("SubOptions", ("FusedActivationFunction",)),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
    "AVERAGE_POOL_2D": (
        "Pool2DOptions",
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", ("AlignCorners", "HalfPixelCenters")),
}


@dataclass(frozen=True)
class Operator:
    """One operator: TFLite's name for it, indices of tensors (-1 = left out), and its options by TFLite's names."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """A network; operators are in an order in which they can run."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_graph(path: Path) -> Graph:
    """Read the one subgraph of a file. Raises ConvertError if it cannot be read, is no TFLite, or is damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read ({error.strerror})") from error
    if data[4:8] != b"TFL3":
        raise ConvertError(f"{path}: is no TFLite file; bytes 4 to 8 are {data[4:8]!r}, not b'TFL3'")
    try:
        return _graph(tflite.Model.GetRootAs(data, 0), len(data), path)
    # Flatbuffers follow offsets without checking them; a damaged file fails in whatever reads beyond its end.
    except (struct.error, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ConvertError(f"{path}: is damaged or truncated ({error})") from error


def _graph(model: Any, file_bytes: int, path: Path) -> Graph:
    if model.SubgraphsLength() != 1:
        raise ConvertError(f"{path}: has {model.SubgraphsLength()} subgraphs, 1 expected")
    graph = model.Subgraphs(0)
    for length in (graph.TensorsLength(), graph.OperatorsLength()):
        if not 0 < length < file_bytes:
            raise ValueError(f"{length} tensors or operators in {file_bytes} bytes")
    tensors = tuple(read_tensor(model, graph.Tensors(index), path) for index in range(graph.TensorsLength()))
    operators = tuple(_operator(model, graph.Operators(index)) for index in range(graph.OperatorsLength()))
    used = [*_indices(graph.InputsAsNumpy()), *_indices(graph.OutputsAsNumpy())]
    used += [index for operator in operators for index in (*operator.inputs, *operator.outputs)]
    if not all(-1 <= index < len(tensors) for index in used):
        raise ValueError("an operator uses a tensor that is not there")
    return Graph(tensors, operators, _indices(graph.InputsAsNumpy()), _indices(graph.OutputsAsNumpy()))


def _indices(vector: Any) -> tuple[int, ...]:
    return tuple(int(index) for index in vector) if isinstance(vector, np.ndarray) else ()  # absent vectors read as 0


def _operator(model: Any, operator: Any) -> Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    # Files of before 2020 have the code in an 8-bit field of its own.
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    kind = _KINDS.get(number, f"number {number}")
    if kind == "CUSTOM":
        kind = f"CUSTOM {code.CustomCode().decode()}"
    options: dict[str, Any] = {}
    if kind in _OPTIONS:
        table_name, fields = _OPTIONS[kind]
        table, raw = getattr(tflite, table_name)(), operator.BuiltinOptions()
        if raw is not None:
            table.Init(raw.Bytes, raw.Pos)
            options = {field: getattr(table, field)() for field in fields}
        elif kind not in ("ADD", "SUB", "MUL"):  # theirs may be left out
            raise ValueError(f"{kind} has no options")
    return Operator(kind, _indices(operator.InputsAsNumpy()), _indices(operator.OutputsAsNumpy()), options)
