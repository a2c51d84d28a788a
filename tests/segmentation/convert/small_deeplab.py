"""A DeepLab in small: strides, a dilated depthwise convolution, image pooling and a decoder, weights from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.segmentation.convert.tflite_files import Op, Spec, Stored

__all__ = ["ALIGNED", "ASYMMETRIC", "HALF_PIXEL", "small_deeplab", "small_with_the_other_operators"]

ALIGNED, HALF_PIXEL, ASYMMETRIC = {"AlignCorners": True}, {"HalfPixelCenters": True}, {"AlignCorners": False}
_RELU, _RELU6 = 1, 3
_SAME, _VALID = 0, 1


def small_deeplab(
    height: int, width: int, *, resize: dict[str, bool] | None = None, block: int = 2, classes: int = 21
) -> Spec:
    """Make the graph for one size of picture; the weights are the same at every size. Logits are at half the size."""
    made = _Graph()
    resize = ALIGNED if resize is None else resize
    h2, w2 = -(-height // 2), -(-width // 2)
    h4, w4 = -(-h2 // 2), -(-w2 // 2)
    made.tensors["image"] = Stored((1, height, width, 3))
    made.convolution("stem", "image", (h2, w2), 8, 3, stride=2, activation=_RELU6)
    made.depthwise("down", "stem", (h4, w4), 8, stride=2, activation=_RELU6)
    made.dilated("wide", "down", (h4, w4), 8, block)
    made.constant("gain", made.random.uniform(0.5, 1.5, 8))
    made.constant("shift", made.random.normal(0, 0.3, 8))
    made.op("MUL", ["wide", "gain"], "scaled", (1, h4, w4, 8))
    made.op("ADD", ["scaled", "shift"], "normal", (1, h4, w4, 8), FusedActivationFunction=_RELU6)
    made.convolution("narrow", "normal", (h4, w4), 8, 1, quantised="tensor")
    made.op("ADD", ["narrow", "down"], "sum", (1, h4, w4, 8))
    made.op(
        "AVERAGE_POOL_2D", ["sum"], "mean", (1, 1, 1, 8),
        FilterHeight=h4, FilterWidth=w4, StrideH=1, StrideW=1, Padding=_VALID,
    )  # fmt: skip
    made.convolution("pooled", "mean", (1, 1), 4, 1, quantised="channel", activation=_RELU)
    made.resized("spread", "pooled", (h4, w4), 4, ALIGNED)
    made.op("CONCATENATION", ["spread", "sum"], "both", (1, h4, w4, 12), Axis=3)
    made.resized("up", "both", (h2, w2), 12, resize)
    made.op("CONCATENATION", ["up", "stem"], "decoder", (1, h2, w2, 20), Axis=-1)
    made.convolution("logits", "decoder", (h2, w2), classes, 1, quantised="channel")
    made.resized("again", "logits", (h2, w2), classes, resize)
    made.resized("output", "again", (height, width), classes, resize)
    return Spec(made.tensors, made.ops, ["image"], ["output"])


def small_with_the_other_operators(height: int, width: int) -> Spec:
    """Make a graph of the operators and forms that ``small_deeplab`` has not. Logits are at half the size."""
    made, size = _Graph(), (-(-height // 2), -(-width // 2))
    full = (1, *size, 8)
    made.tensors["image"] = Stored((1, height, width, 3))
    made.convolution("stem", "image", size, 8, 3, stride=2, quantised="channel")
    made.op("RELU6", ["stem"], "bounded", full)
    made.op(
        "AVERAGE_POOL_2D", ["bounded"], "smooth", full,
        FilterHeight=3, FilterWidth=3, StrideH=1, StrideW=1, Padding=_SAME,
    )  # fmt: skip
    made.op("SUB", ["bounded", "smooth"], "detail", full)
    made.constant("half", made.random.normal(1, 0.3, (1, 1, 1, 8)), np.float16)
    made.op("DEQUANTIZE", ["half"], "gain", (1, 1, 1, 8))
    made.op("MUL", ["gain", "detail"], "scaled", full, FusedActivationFunction=_RELU)
    made.weights("wide/w", (8, 3, 3, 8), "tensor", 0)
    options = {**_options(1, 0), "DilationHFactor": 3, "DilationWFactor": 3}
    made.op("CONV_2D", ["scaled", "wide/w", "none"], "wide", full, **options)
    made.constant("axes", [1, 2], np.int32)
    made.op("MEAN", ["wide", "axes"], "flat", (1, 8))
    made.constant("to", [1, 1, 1, 8], np.int32)
    made.op("RESHAPE", ["flat", "to"], "mean", (1, 1, 1, 8))
    made.op("ADD", ["wide", "mean"], "both", full)
    made.op("RELU", ["both"], "kept", full)
    made.op("QUANTIZE", ["kept"], "rounded", full)
    made.tensors["rounded"] = Stored(full, "int8", scale=[0.02], zero=[-128])
    made.op("DEQUANTIZE", ["rounded"], "again", full)
    made.convolution("logits", "again", size, 19, 1)
    return Spec(made.tensors, made.ops, ["image"], ["logits"])


class _Graph:
    def __init__(self) -> None:
        self.tensors: dict[str, Stored] = {}
        self.ops: list[Op] = []
        self.random = np.random.default_rng(7)
        self.constant("none", np.zeros(8))

    def constant(self, name: str, values: Any, dtype: type = np.float32) -> None:
        array = np.asarray(values, dtype)
        self.tensors[name] = Stored(array.shape, str(array.dtype), array)

    def op(self, kind: str, inputs: list[str], output: str, shape: tuple[int, ...], **options: Any) -> None:
        self.tensors[output] = Stored(shape)
        self.ops.append(Op(kind, inputs, output, options))

    def weights(self, name: str, shape: tuple[int, ...], quantised: str, axis: int) -> None:
        if quantised == "float":
            self.constant(name, self.random.normal(0, 0.4, shape))
            return
        count = shape[axis] if quantised == "channel" else 1
        self.tensors[name] = Stored(
            shape,
            "int8",
            self.random.integers(-127, 128, shape).astype(np.int8),
            np.float32(self.random.uniform(0.002, 0.008, count)).tolist(),
            self.random.integers(-3, 4, count).tolist(),
            axis,
        )

    def convolution(
        self, name: str, source: str, size: tuple[int, int], channels: int, taps: int, *, stride: int = 1,
        quantised: str = "float", activation: int = 0,
    ) -> None:  # fmt: skip
        self.weights(f"{name}/w", (channels, taps, taps, self.tensors[source].shape[3]), quantised, 0)
        self.constant(f"{name}/b", self.random.normal(0, 0.2, channels))
        self.op(
            "CONV_2D", [source, f"{name}/w", f"{name}/b"], name, (1, *size, channels), **_options(stride, activation)
        )

    def depthwise(
        self, name: str, source: str, size: tuple[int, int], channels: int, *, stride: int, activation: int
    ) -> None:
        """Its weights pass through a DEQUANTIZE, as in releases."""
        self.weights(f"{name}/q", (1, 3, 3, channels), "channel", 3)
        self.op("DEQUANTIZE", [f"{name}/q"], f"{name}/w", (1, 3, 3, channels))
        self.constant(f"{name}/b", self.random.normal(0, 0.2, channels))
        inputs = [source, f"{name}/w", f"{name}/b"]
        self.op(
            "DEPTHWISE_CONV_2D", inputs, name, (1, *size, channels), DepthMultiplier=1, **_options(stride, activation)
        )

    def dilated(self, name: str, source: str, size: tuple[int, int], channels: int, block: int) -> None:
        filled = [-(-edge // block) * block for edge in size]
        rest = [full - edge for full, edge in zip(filled, size, strict=True)]
        cut = tuple(full // block for full in filled)
        self.constant(f"{name}/block", [block, block], np.int32)
        self.constant(f"{name}/pads", [[block, block + more] for more in rest], np.int32)
        self.constant(f"{name}/crops", [[0, more] for more in rest], np.int32)
        inside = (block**2, cut[0] + 2, cut[1] + 2, channels)
        self.op("SPACE_TO_BATCH_ND", [source, f"{name}/block", f"{name}/pads"], f"{name}/cut", inside)
        self.weights(f"{name}/w", (1, 3, 3, channels), "tensor", 3)
        self.constant(f"{name}/b", self.random.normal(0, 0.2, channels))
        options = {**_options(1, 0), "Padding": _VALID, "DepthMultiplier": 1}
        inputs = [f"{name}/cut", f"{name}/w", f"{name}/b"]
        self.op("DEPTHWISE_CONV_2D", inputs, f"{name}/conv", (block**2, *cut, channels), **options)
        self.op("BATCH_TO_SPACE_ND", [f"{name}/conv", f"{name}/block", f"{name}/crops"], name, (1, *size, channels))

    def resized(self, name: str, source: str, size: tuple[int, int], channels: int, resize: dict[str, bool]) -> None:
        self.constant(f"{name}/size", size, np.int32)
        self.op("RESIZE_BILINEAR", [source, f"{name}/size"], name, (1, *size, channels), **resize)


def _options(stride: int, activation: int) -> dict[str, int]:
    return {
        "Padding": _SAME, "StrideH": stride, "StrideW": stride, "DilationHFactor": 1, "DilationWFactor": 1,
        "FusedActivationFunction": activation,
    }  # fmt: skip
