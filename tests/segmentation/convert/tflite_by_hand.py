"""What the operators of a TFLite graph mean, in plain NumPy, written from TensorFlow's documentation."""

from __future__ import annotations

import itertools

import numpy as np

from tests.segmentation.convert.tflite_files import Op, Spec

__all__ = ["evaluated"]

_RANGES = {0: (-np.inf, np.inf), 1: (0, np.inf), 3: (0, 6)}


def evaluated(spec: Spec, image: np.ndarray, wanted: str) -> np.ndarray:
    """Run the graph on an NHWC image and return one tensor; quantised weights as the real numbers they stand for."""
    values = {name: tensor.real() for name, tensor in spec.tensors.items() if tensor.values is not None}
    values[spec.inputs[0]] = image.astype(np.float64)
    for op in spec.ops:
        result = _operation(op, [values[name] for name in op.inputs])
        tensor = spec.tensors[op.output]
        assert result.shape == tuple(tensor.shape), op
        result = np.clip(result, *_RANGES[op.options.get("FusedActivationFunction", 0)])
        if tensor.scale and tensor.dtype == "int8":
            limits = tensor.scale[0] * (np.array([-128, 127]) - tensor.zero[0])
            result = np.clip(result, *limits)
        values[op.output] = result
    return values[wanted]


def _operation(op: Op, x: list[np.ndarray]) -> np.ndarray:
    o = op.options
    match op.kind:
        case "DEQUANTIZE" | "QUANTIZE":
            return x[0]
        case "RELU" | "RELU6":
            return np.clip(x[0], 0, 6 if op.kind == "RELU6" else None)
        case "MEAN":
            return x[0].mean(axis=tuple(x[1]))
        case "RESHAPE":
            return x[0].reshape(x[1])
        case "SUB":
            return x[0] - x[1]
        case "ADD":
            return x[0] + x[1]
        case "MUL":
            return x[0] * x[1]
        case "CONCATENATION":
            return np.concatenate(x, axis=o["Axis"])
        case "CONV_2D":
            return _convolved(x[0], x[1].transpose(1, 2, 3, 0), o, "nhwijc,ijco->nhwo") + x[2]
        case "DEPTHWISE_CONV_2D":
            return _convolved(x[0], x[1][0], o, "nhwijc,ijc->nhwc") + x[2]
        case "AVERAGE_POOL_2D":
            return _averaged(x[0], o)
        case "SPACE_TO_BATCH_ND":
            return _space_to_batch(x[0], x[1].tolist(), x[2].tolist())
        case "BATCH_TO_SPACE_ND":
            return _batch_to_space(x[0], x[1].tolist(), x[2].tolist())
        case "RESIZE_BILINEAR":
            for axis, size in enumerate(x[1].tolist(), start=1):
                x[0] = _resized(x[0], axis, size, o)
            return x[0]
    raise AssertionError(op.kind)


def _windows(image: np.ndarray, o: dict, kernel: tuple[int, int], outside: float) -> np.ndarray:
    """All windows, (n, h, w, kernel height, kernel width, c), padded as the TensorFlow documentation says."""
    stride, dilation = o["StrideH"], o.get("DilationHFactor", 1)
    reach = [dilation * (taps - 1) + 1 for taps in kernel]
    if o["Padding"] == 0:
        pads = [(0, 0)]
        for size, taps in zip(image.shape[1:3], reach, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + taps - size)
            pads.append((total // 2, total - total // 2))
        image = np.pad(image, [*pads, (0, 0)], constant_values=outside)
    windows = np.lib.stride_tricks.sliding_window_view(image, reach, axis=(1, 2))
    return windows[:, ::stride, ::stride, :, ::dilation, ::dilation].transpose(0, 1, 2, 4, 5, 3)


def _convolved(image: np.ndarray, weights: np.ndarray, o: dict, subscripts: str) -> np.ndarray:
    return np.einsum(subscripts, _windows(image, o, weights.shape[:2], 0.0), weights)


def _averaged(image: np.ndarray, o: dict) -> np.ndarray:
    """Pixels outside do not count."""
    return np.nanmean(_windows(image, o, (o["FilterHeight"], o["FilterWidth"]), np.nan), axis=(3, 4))


def _space_to_batch(image: np.ndarray, block: list[int], paddings: list[list[int]]) -> np.ndarray:
    image = np.pad(image, [(0, 0), *paddings, (0, 0)])
    return np.concatenate([image[:, i :: block[0], j :: block[1]] for i, j in itertools.product(*map(range, block))])


def _batch_to_space(images: np.ndarray, block: list[int], crops: list[list[int]]) -> np.ndarray:
    count = images.shape[0] // (block[0] * block[1])
    woven = np.empty((count, images.shape[1] * block[0], images.shape[2] * block[1], images.shape[3]))
    for number, (i, j) in enumerate(itertools.product(*map(range, block))):
        woven[:, i :: block[0], j :: block[1]] = images[number * count : (number + 1) * count]
    (top, bottom), (left, right) = crops
    return woven[:, top : woven.shape[1] - bottom, left : woven.shape[2] - right]


def _resized(image: np.ndarray, axis: int, size: int, o: dict) -> np.ndarray:
    old, at = image.shape[axis], np.arange(size, dtype=np.float64)
    if o.get("AlignCorners"):
        at *= (old - 1) / (size - 1)
    elif o.get("HalfPixelCenters"):
        at = (at + 0.5) * old / size - 0.5
    else:
        at *= old / size
    at = np.clip(at, 0, old - 1)
    low = np.floor(at).astype(int)
    share = (at - low).reshape([-1 if position == axis else 1 for position in range(4)])
    below, above = image.take(low, axis), image.take(np.minimum(low + 1, old - 1), axis)
    return below * (1 - share) + above * share
