"""The network ``scene-student``: a dilated network whose stages say what its teacher's stages say.

Stages of residual blocks with linear outputs (Sandler et al. 2018), whose 3x3 convolutions are dense, because that is
what a CPU multiplies fast; from an eighth of the size on they widen by dilation, 1, 2, 4, instead of by strides (Yu &
Koltun 2016). A global mean adds the kind of scene (Chen et al. 2017), and the first stage the contours (Chen et al.
2018). Each stage ends in as many channels as one of the teacher's, and learns from what the teacher's stage before it
gave: a few convolutions at a time, with thousands of examples in each photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["INPUT_EDGE_PX", "OUTPUT_STRIDE", "STAGES", "STEP_PX", "SceneNetwork", "Taught", "Window"]

INPUT_EDGE_PX: Final = 513
"""Long edge at which photos enter the network: the teacher's, whose answers depend on it."""

OUTPUT_STRIDE: Final = 4
STEP_PX: Final = 8
"""Sides of photos are multiples of this, plus 1: samples of all stages lie on the pixels 0, 4, 8 ... or 0, 8, 16 ..."""

STAGES: Final = ("detail", "early", "parts", "middle", "late", "deep", "context")
"""In their order; the first at a quarter of the photo's size, the others at an eighth."""

_ENTRY_CHANNELS: Final = 24
_DETAIL_CHANNELS: Final = 24
_ROWS: Final = {
    # (channels inside, channels, stride, dilation) of each block
    "early": ((144, 32, 2, 1), (128, 32, 1, 1), (128, 32, 1, 1)),
    "parts": ((256, 64, 1, 1), (256, 64, 1, 2), (256, 64, 1, 2), (256, 64, 1, 2)),
    "middle": ((384, 96, 1, 2), (384, 96, 1, 2), (384, 96, 1, 2)),
    "late": ((384, 160, 1, 2), (512, 160, 1, 4), (512, 160, 1, 4)),
    "deep": ((640, 320, 1, 4),),
}
_CONTEXT_CHANNELS: Final = 256
_LOW_CHANNELS: Final = 128
_SKIP_CHANNELS: Final = 48
_DECODER_CHANNELS: Final = 128


class Window(NamedTuple):
    """A square of the features, in samples of 8 px: what is decoded of it is worth a whole photo's decoding."""

    top: int
    left: int
    edge: int

    def of(self, features: Tensor, stride: int) -> Tensor:
        """The same square of (..., H, W) features with another stride; its corners are samples of both."""
        top, left = (each * 8 // stride for each in self[:2])
        edge = (self.edge - 1) * 8 // stride + 1
        return features[..., top : top + edge, left : left + edge]


class Taught(NamedTuple):
    """The teacher's (N, C, h, w) features of a stage, and for which of the photos, (N,), the next stage takes them."""

    features: Tensor
    chosen: Tensor


def _conv(channels: int, width: int, size: int = 1, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (size // 2)
    conv = nn.Conv2d(channels, width, size, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


class _Block(nn.Module):
    """A 3x3 convolution with a dilation, and a linear mixture of its channels; residual where the shape stays."""

    def __init__(self, channels: int, inside: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.look = _conv(channels, inside, 3, stride, dilation)
        self.mix = _conv(inside, width)
        self._adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, width, H/stride, W/stride)."""
        change: Tensor = self.mix(functional.relu(self.look(x)))
        return x + change if self._adds else change


class _Context(nn.Module):
    """Each place with the mean of all places beside it."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.here = _conv(channels, width)
        self.all = nn.Linear(channels, width)
        self.joined, self.scene = nn.Conv2d(width, width, 1, bias=False), nn.Linear(width, width, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, width, H, W), not negative."""
        scene = self.scene(functional.relu(self.all(x.mean(dim=(2, 3)))))
        joined = self.joined(functional.relu(self.here(x)))
        return functional.relu(self.norm(joined + scene[:, :, None, None]))


class SceneNetwork(nn.Module):
    """Photos to scores of classes at a quarter of their size.

    Args:
        classes: of the result.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {
                "detail": nn.Sequential(
                    *_conv(3, _ENTRY_CHANNELS, 3, stride=2),
                    nn.ReLU(),
                    *_conv(_ENTRY_CHANNELS, _ENTRY_CHANNELS, 3),
                    nn.ReLU(),
                    _Block(_ENTRY_CHANNELS, 96, _DETAIL_CHANNELS, 2, 1),
                    _Block(_DETAIL_CHANNELS, 96, _DETAIL_CHANNELS, 1, 1),
                )
            }
        )
        channels = _DETAIL_CHANNELS
        for name, row in _ROWS.items():
            blocks = []
            for inside, width, stride, dilation in row:
                blocks.append(_Block(channels, inside, width, stride, dilation))
                channels = width
            self.parts[name] = nn.Sequential(*blocks)
        self.parts["context"] = _Context(channels, _CONTEXT_CHANNELS)
        self.low = _conv(_CONTEXT_CHANNELS, _LOW_CHANNELS)
        self.skip = nn.Sequential(*_conv(_DETAIL_CHANNELS, _SKIP_CHANNELS, 3), nn.ReLU())
        self.decode = nn.Sequential(
            *_conv(_LOW_CHANNELS + _SKIP_CHANNELS, _DECODER_CHANNELS, 3),
            nn.ReLU(),
            *_conv(_DECODER_CHANNELS, _DECODER_CHANNELS, 3),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(_DECODER_CHANNELS, classes, 1)

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 3, H, W) normalised photos, sides of the form 8k+1, to (N, classes, h, w) before the softmax.

        Samples lie on the pixels 0, 4, 8 ...: h = (H - 1) / 4 + 1.
        """
        return self.stages(photos)[0]

    def stages(
        self, photos: Tensor, taught: Mapping[str, Taught] | None = None, window: Window | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scores, of a window if there is one, and what each stage made of what it was given."""
        made: dict[str, Tensor] = {}
        passed: dict[str, Tensor] = {}
        x = photos
        for name, stage in self.parts.items():
            made[name] = x = stage(x)
            if taught is not None:
                features, chosen = taught[name]
                x = torch.where(chosen[:, None, None, None], features.to(x.dtype), x)
            passed[name] = x
        low, detail = self.low(x), passed["detail"]
        if window:
            low, detail = window.of(low, 8), window.of(detail, OUTPUT_STRIDE)
        low = functional.interpolate(low, size=detail.shape[2:], mode="bilinear", align_corners=True)
        scores: Tensor = self.head(self.decode(torch.cat([functional.relu(low), self.skip(detail)], dim=1)))
        return scores, made
