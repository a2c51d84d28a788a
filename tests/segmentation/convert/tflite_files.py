"""TFLite files made in the tests, through the generated schema, from a list of tensors and operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite

__all__ = ["Op", "Spec", "Stored", "written"]

_TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int8": 9}
# Operator -> its options' table and number in the union BuiltinOptions.
_TABLES = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "ADD": "AddOptions",
    "MUL": "MulOptions",
    "SUB": "SubOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
}


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor: its type, values if it has any, and its quantisation."""

    shape: Sequence[int]
    dtype: str = "float32"
    values: np.ndarray | None = None
    scale: Sequence[float] = ()
    zero: Sequence[int] = ()
    axis: int = 0

    def real(self) -> np.ndarray:
        assert self.values is not None
        if not self.scale:
            return self.values
        along = [-1 if position == self.axis and len(self.scale) > 1 else 1 for position in range(self.values.ndim)]
        scale, zero = (np.reshape(np.array(numbers, np.float64), along) for numbers in (self.scale, self.zero))
        return scale * (self.values - zero)


@dataclass(frozen=True)
class Op:
    kind: str
    inputs: Sequence[str]
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    tensors: Mapping[str, Stored]
    ops: Sequence[Op]
    inputs: Sequence[str]
    outputs: Sequence[str]


def written(spec: Spec) -> bytes:
    """Serialise; buffers come last, so that a file cut short lacks weights or tables."""
    b = flatbuffers.Builder(0)
    kinds, names = sorted({op.kind for op in spec.ops}), list(spec.tensors)
    buffers, tensors = [_buffer(b, None)], []
    for name, tensor in spec.tensors.items():
        number = 0
        if tensor.values is not None:
            number = len(buffers)
            buffers.append(_buffer(b, tensor.values))
        tensors.append(_tensor(b, name, tensor, number))
    ops = [_operator(b, op, kinds.index(op.kind), names) for op in spec.ops]
    lists = [_offsets(b, tensors), _offsets(b, ops)]
    ends = [
        b.CreateNumpyVector(np.array([names.index(n) for n in ends], np.int32)) for ends in (spec.inputs, spec.outputs)
    ]
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, lists[0])
    tflite.SubGraphAddOperators(b, lists[1])
    tflite.SubGraphAddInputs(b, ends[0])
    tflite.SubGraphAddOutputs(b, ends[1])
    graphs = _offsets(b, [tflite.SubGraphEnd(b)])
    codes = _offsets(b, [_code(b, kind) for kind in kinds])
    stored = _offsets(b, buffers)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddBuffers(b, stored)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def _offsets(b: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return b.EndVector()


def _buffer(b: flatbuffers.Builder, values: np.ndarray | None) -> int:
    data = None if values is None else b.CreateNumpyVector(np.frombuffer(values.tobytes(), np.uint8))
    tflite.BufferStart(b)
    if data is not None:
        tflite.BufferAddData(b, data)
    return tflite.BufferEnd(b)


def _tensor(b: flatbuffers.Builder, name: str, tensor: Stored, number: int) -> int:
    quantization = None
    if tensor.scale:
        scale = b.CreateNumpyVector(np.array(tensor.scale, np.float32))
        zero = b.CreateNumpyVector(np.array(tensor.zero, np.int64))
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, scale)
        tflite.QuantizationParametersAddZeroPoint(b, zero)
        tflite.QuantizationParametersAddQuantizedDimension(b, tensor.axis)
        quantization = tflite.QuantizationParametersEnd(b)
    label, shape = b.CreateString(name), b.CreateNumpyVector(np.array(tensor.shape, np.int32))
    tflite.TensorStart(b)
    tflite.TensorAddShape(b, shape)
    tflite.TensorAddType(b, _TYPES[tensor.dtype])
    tflite.TensorAddBuffer(b, number)
    tflite.TensorAddName(b, label)
    if quantization is not None:
        tflite.TensorAddQuantization(b, quantization)
    return tflite.TensorEnd(b)


def _operator(b: flatbuffers.Builder, op: Op, code: int, names: list[str]) -> int:
    table, options = _TABLES.get(op.kind), None
    if table is not None:
        getattr(tflite, f"{table}Start")(b)
        for name, value in op.options.items():
            getattr(tflite, f"{table}Add{name}")(b, value)
        options = getattr(tflite, f"{table}End")(b)
    inputs = b.CreateNumpyVector(np.array([names.index(name) for name in op.inputs], np.int32))
    outputs = b.CreateNumpyVector(np.array([names.index(op.output)], np.int32))
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, code)
    tflite.OperatorAddInputs(b, inputs)
    tflite.OperatorAddOutputs(b, outputs)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, table))
        tflite.OperatorAddBuiltinOptions(b, options)
    return tflite.OperatorEnd(b)


def _code(b: flatbuffers.Builder, kind: str) -> int:
    code = getattr(tflite.BuiltinOperator, kind)
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
    tflite.OperatorCodeAddBuiltinCode(b, code)
    return tflite.OperatorCodeEnd(b)
