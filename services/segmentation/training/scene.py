"""The network ``scene-student``: a trunk that knows ImageNet, a context module with growing dilation, a light decoder.

The context module is residual blocks at a sixteenth of the size, whose dilations of 1, 2, 4 and 8 look at more and more
of the photo (Yu & Koltun 2016), with a global mean for the kind of scene (Chen et al. 2017). It is joined with the
trunk at an eighth and at a quarter of the size (Chen et al. 2018).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from services.segmentation.training.trunk import CHANNELS, DilatedTrunk

__all__ = ["INPUT_EDGE_PX", "OUTPUT_STRIDE", "STAGES", "STEP_PX", "Edges", "SceneNetwork"]

INPUT_EDGE_PX: Final = 513
"""Long edge at which photos enter the network: the teacher's, whose answers depend on it."""

OUTPUT_STRIDE: Final = 4
STEP_PX: Final = 16
"""Sides of photos are multiples of this and one more: samples of every stride then lie on the first and last pixel."""

_DILATIONS: Final = (1, 2, 4, 8)
_CONTEXT_CHANNELS: Final = 160
_JOINED_CHANNELS: Final = 96
_DECODED_CHANNELS: Final = 64

STAGES: Final = {"context": _CONTEXT_CHANNELS, "decoded": _DECODED_CHANNELS}
"""Channels of the features that a teacher's hints are compared with."""


class Edges(NamedTuple):
    """What training does not change, of a batch: features (N, C, h, w) at 4 and at 8 px."""

    quarter: Tensor
    eighth: Tensor


def _conv(channels: int, width: int, size: int = 1, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, size, 1, dilation * (size // 2), dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


class _Context(nn.Module):
    """A residual block: a 3x3 convolution with a dilation, and a mixture of its channels."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.look = _conv(channels, channels, 3, dilation)
        self.mix = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return functional.relu(x + self.mix(functional.relu(self.look(x))))


class SceneNetwork(nn.Module):
    """Photos to scores of classes at a quarter of their size.

    Args:
        classes: of the result.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = DilatedTrunk()
        self.enter = _conv(CHANNELS[16] + CHANNELS["top"], _CONTEXT_CHANNELS)
        self.context = nn.Sequential(*[_Context(_CONTEXT_CHANNELS, dilation) for dilation in _DILATIONS])
        self.scene = nn.Sequential(
            nn.Linear(_CONTEXT_CHANNELS, _CONTEXT_CHANNELS), nn.ReLU(), nn.Linear(_CONTEXT_CHANNELS, _CONTEXT_CHANNELS)
        )
        self.low = _conv(_CONTEXT_CHANNELS, _JOINED_CHANNELS)
        self.high = _conv(CHANNELS[8], _JOINED_CHANNELS)
        self.join = _conv(_JOINED_CHANNELS, _JOINED_CHANNELS, 3)
        self.joined = _conv(_JOINED_CHANNELS, _DECODED_CHANNELS)
        self.detail = _conv(CHANNELS[4], _DECODED_CHANNELS)
        self.decode = nn.Sequential(
            _conv(_DECODED_CHANNELS, _DECODED_CHANNELS, 3, groups=_DECODED_CHANNELS),
            _conv(_DECODED_CHANNELS, _DECODED_CHANNELS),
        )
        self.head = nn.Conv2d(_DECODED_CHANNELS, classes, 1)

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 3, H, W) of -1..1, sides 16k+1, to (N, classes, (H-1)/4+1, (W-1)/4+1) before the softmax."""
        return self.stages(self.edges(photos))[0]

    def edges(self, photos: Tensor) -> Edges:
        """What training leaves as it is, of (N, 3, H, W)."""
        return Edges(*self.trunk.fixed(photos))

    def stages(self, edges: Edges, offset: tuple[int, int] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The scores, and the features of :data:`STAGES`.

        With an offset (0 or 1 each), scores and ``decoded`` are of each second row and column from there on only.
        """
        sixteenth, top = self.trunk(edges.eighth)
        x = self.context(functional.relu(self.enter(torch.cat([sixteenth, top], dim=1))))
        x = x + self.scene(x.mean(dim=(2, 3)))[:, :, None, None]
        found = {"context": functional.relu(x)}
        high = self.high(edges.eighth)
        x = functional.relu(self.join(functional.relu(_enlarged(self.low(x), high) + high)))
        detail = self.detail(edges.quarter)
        x = functional.relu(_enlarged(self.joined(x), detail) + detail)
        x = functional.relu(x + self.decode(x))
        if offset:
            x = x[:, :, offset[0] :: 2, offset[1] :: 2]
        found["decoded"] = x
        scores: Tensor = self.head(x)
        return scores, found

    def fold_norms(self) -> None:
        """Make each norm part of its convolution, as it is in evaluation: from then on it is learned, not counted."""
        self.eval()
        for part in list(self.modules()):
            if not isinstance(part, nn.Sequential) or len(part) != 2:
                continue
            conv, norm = part
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                part[0] = fuse_conv_bn_eval(conv, norm)
                del part[1]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _enlarged(features: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(features, size=like.shape[2:], mode="bilinear", align_corners=True)
