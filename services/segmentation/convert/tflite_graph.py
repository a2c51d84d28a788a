"""A TFLite file as plain tensors and operators, its stored weights dequantised to float32."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from services.segmentation.convert.failure import ConvertError

__all__ = ["Graph", "Operator", "Tensor", "read_graph"]

_KINDS = {code: kind for kind, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
_TYPES = {code: name for name, code in vars(tflite.TensorType).items() if isinstance(code, int)}
_STORED = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT16": np.int16,
}
_QUANTISED: Mapping[str, tuple[int, int]] = {"UINT8": (0, 255), "INT8": (-128, 127), "INT16": (-32768, 32767)}
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


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor.

    Attributes:
        name: as the file says.
        shape: NHWC where it is an image.
        constant: its stored values: float32 if they stand for real numbers, else integers; None if it is computed.
        limits: the range that a quantised computed tensor can represent, real numbers; None if it is not quantised.
    """

    name: str
    shape: tuple[int, ...]
    constant: NDArray[Any] | None
    limits: tuple[float, float] | None


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
    tensors = tuple(_tensor(model, graph.Tensors(index), path) for index in range(graph.TensorsLength()))
    operators = tuple(_operator(model, graph.Operators(index)) for index in range(graph.OperatorsLength()))
    used = [*_indices(graph.InputsAsNumpy()), *_indices(graph.OutputsAsNumpy())]
    used += [index for operator in operators for index in (*operator.inputs, *operator.outputs)]
    if not all(-1 <= index < len(tensors) for index in used):
        raise ValueError("an operator uses a tensor that is not there")
    return Graph(tensors, operators, _indices(graph.InputsAsNumpy()), _indices(graph.OutputsAsNumpy()))


def _indices(vector: Any) -> tuple[int, ...]:
    return tuple(int(index) for index in vector) if isinstance(vector, np.ndarray) else ()  # absent vectors read as 0


def _tensor(model: Any, tensor: Any, path: Path) -> Tensor:
    name, shape = tensor.Name().decode(), _indices(tensor.ShapeAsNumpy())
    kind = _TYPES[tensor.Type()]
    quantization = tensor.Quantization()
    scaled = quantization is not None and quantization.ScaleLength() > 0
    buffer = model.Buffers(tensor.Buffer())
    if buffer.DataLength() == 0:
        limits = _limits(kind, quantization, path, name) if kind in _QUANTISED and scaled else None
        return Tensor(name, shape, None, limits)
    if kind not in _STORED or tensor.Sparsity() is not None:
        raise ConvertError(f"{path}: tensor {name!r} stores {kind} or is sparse; known are dense {', '.join(_STORED)}")
    values = buffer.DataAsNumpy().view(_STORED[kind]).reshape(shape)
    if kind == "FLOAT16" or (scaled and kind != "INT64"):
        values = _real(values, quantization if scaled else None, path, name)
    return Tensor(name, shape, _finite(values, path, name), None)


def _limits(kind: str, quantization: Any, path: Path, name: str) -> tuple[float, float]:
    low, high = _finite(_real(np.array(_QUANTISED[kind]), quantization, path, name), path, name).tolist()
    return low, high


def _finite(values: NDArray[Any], path: Path, name: str) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise ConvertError(f"{path}: tensor {name!r} holds values that are not finite")
    return values


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is refused by the caller
def _real(values: NDArray[Any], quantization: Any, path: Path, name: str) -> NDArray[np.float32]:
    """Dequantise: scale · (value - zero point), per tensor or along one axis (TFLite quantisation specification)."""
    if quantization is None:
        return values.astype(np.float32)
    scale = quantization.ScaleAsNumpy().astype(np.float64)
    zero = quantization.ZeroPointAsNumpy() if quantization.ZeroPointLength() else np.zeros(len(scale), np.int64)
    if len(scale) > 1:
        axis = quantization.QuantizedDimension()
        if values.ndim <= axis or values.shape[axis] != len(scale) or len(zero) != len(scale):
            raise ConvertError(
                f"{path}: tensor {name!r} of shape {values.shape} has {len(scale)} scales on axis {axis}"
            )
        along = [len(scale) if position == axis else 1 for position in range(values.ndim)]
        scale, zero = scale.reshape(along), zero.reshape(along)
    return np.asarray(scale * (values.astype(np.int64) - zero), np.float32)


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
