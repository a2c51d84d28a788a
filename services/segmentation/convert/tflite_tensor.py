"""A tensor of a TFLite file, its stored values dequantised to float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from services.segmentation.convert.failure import ConvertError

__all__ = ["Tensor", "read_tensor"]

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


def read_tensor(model: Any, tensor: Any, path: Path) -> Tensor:
    """Read one of the flatbuffer's tensors.

    Raises ConvertError for values that are not dense, not finite, or of an unknown type; whatever reading beyond the
    end of a damaged file raises.
    """
    name, shape = tensor.Name().decode(), tuple(tensor.Shape(axis) for axis in range(tensor.ShapeLength()))
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
