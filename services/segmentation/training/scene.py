"""The network ``scene-student``: a slim trunk, a context module with exponentially growing dilation, a light decoder.

The trunk is that of ``vgg19-student``, which training starts from: what it sees comes from ImageNet by way of VGG-19.
The context module is residual blocks at a sixteenth of the size, whose dilations of 1 to 8 look at more and more of the
photo (Yu & Koltun 2016), with a global mean beside them for the kind of scene (Chen et al. 2017). It is joined with the
trunk at an eighth and at a quarter of the size (Chen et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["INPUT_EDGE_PX", "OUTPUT_STRIDE", "STAGES", "STAGE_STRIDES", "STEP_PX", "SceneNetwork", "Window"]

INPUT_EDGE_PX: Final = 512
"""Long edge at which photos enter the network: about the teacher's, whose answers depend on it."""

OUTPUT_STRIDE: Final = 4
STEP_PX: Final = 16
"""Sides of photos are multiples of this."""

_CONVS: Final = (
    ("conv1_1", 16),
    ("conv1_2", 32),
    ("conv2_1", 48),
    ("conv2_2", 64),
    ("conv3_1", 112),
    ("conv3_2", 112),
    ("conv3_3", 112),
    ("conv4_1", 256),
    ("conv4_2", 96),
)
_AS_THEY_ARE: Final = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")
"""Of the trunk, what training does not change: edges and textures are what they are, and they cost the most."""

_DETAIL, _TOP = "conv3_3", ("conv4_1", "conv4_2")
_TOP_CHANNELS: Final = 352
_CHANNELS: Final = 256
_DILATIONS: Final = {"parts": (1, 1, 2), "middle": (2, 4), "late": (4, 8), "deep": (1,)}
_JOINED_CHANNELS: Final = 128
_SKIP_CHANNELS: Final = 32
_DECODER_CHANNELS: Final = 96

STAGES: Final = {
    "detail": dict(_CONVS)[_DETAIL],
    "early": _TOP_CHANNELS,
    **dict.fromkeys(_DILATIONS, _CHANNELS),
    "context": _CHANNELS,
    "decoded": _DECODER_CHANNELS,
}
"""Channels of the features that a teacher's hints are compared with."""

STAGE_STRIDES: Final = {**dict.fromkeys(STAGES, 16), "detail": 4, "early": 8, "decoded": 4}
"""Pixels of the photo per sample of these features."""


class Window(NamedTuple):
    """A square of the joined features, in samples of 8 px: what is decoded of it is worth a whole photo's decoding."""

    top: int
    left: int
    edge: int

    def of(self, features: Tensor, stride: int) -> Tensor:
        """The same square of (N, C, H, W) features with another stride."""
        top, left, edge = (each * 8 // stride for each in self)
        return features[:, :, top : top + edge, left : left + edge]


def _conv(channels: int, width: int, size: int = 3, dilation: int = 1, stride: int = 1) -> nn.Sequential:
    padding = dilation * (size // 2)
    conv = nn.Conv2d(channels, width, size, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


class _Block(nn.Module):
    """A residual block: a 3x3 convolution with a dilation, and a mixture of its channels."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.look = _conv(channels, channels, dilation=dilation)
        self.mix = _conv(channels, channels, 1)

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
        widths = dict(_CONVS)
        self.convs = nn.ModuleDict()
        channels = 3
        for name, width in _CONVS:
            self.convs[name] = nn.Conv2d(channels, width, 3, padding=1).requires_grad_(name not in _AS_THEY_ARE)
            channels = width
        self.enter = nn.Sequential(_conv(_TOP_CHANNELS, _CHANNELS, stride=2), nn.ReLU())
        self.blocks = nn.ModuleDict(
            {name: nn.Sequential(*[_Block(_CHANNELS, d) for d in row]) for name, row in _DILATIONS.items()}
        )
        self.scene = nn.Sequential(nn.Linear(_CHANNELS, _CHANNELS), nn.ReLU(), nn.Linear(_CHANNELS, _CHANNELS))
        self.context = nn.Sequential(_conv(_CHANNELS, _CHANNELS, 1), nn.ReLU())
        self.low = _conv(_CHANNELS, _JOINED_CHANNELS, 1)
        self.high = _conv(_TOP_CHANNELS, _JOINED_CHANNELS, 1)
        self.join = nn.Sequential(_conv(_JOINED_CHANNELS, _JOINED_CHANNELS), nn.ReLU())
        self.skip = nn.Sequential(_conv(widths[_DETAIL], _SKIP_CHANNELS, 1), nn.ReLU())
        self.decode = nn.Sequential(_conv(_JOINED_CHANNELS + _SKIP_CHANNELS, _DECODER_CHANNELS), nn.ReLU())
        self.head = nn.Conv2d(_DECODER_CHANNELS, classes, 1)

    def start_from(self, student: Mapping[str, Tensor]) -> None:
        """Take the trunk's convolutions from the weights of ``vgg19-student``."""
        own = {key: value.float() for key, value in student.items() if key in self.state_dict()}
        wanted = {f"convs.{name}.{part}" for name, _ in _CONVS for part in ("weight", "bias")}
        if own.keys() != wanted:
            raise ValueError(f"these weights lack {sorted(wanted - own.keys())}")
        self.load_state_dict(own, strict=False)

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 3, H, W) normalised photos, sides divisible by 16, to (N, classes, H/4, W/4) before the softmax."""
        return self.stages(self.edges(photos))[0]

    def edges(self, photos: Tensor) -> Tensor:
        """What training leaves as it is: (N, 3, H, W) normalised photos to (N, C, H/4, W/4)."""
        x = photos
        for name in _AS_THEY_ARE:
            x = functional.relu(self.convs[name](x))
            if name.endswith("_2"):
                x = functional.max_pool2d(x, 2, 2)
        return x

    def stages(self, edges: Tensor, window: Window | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The scores, and the features of :data:`STAGES`; of a window only where they have the scores' size."""
        seen: dict[str, Tensor] = {}
        x = edges
        for name, conv in self.convs.items():
            if name in _AS_THEY_ARE:
                continue
            if name == "conv4_1":
                x = functional.max_pool2d(x, 2, 2)
            seen[name] = x = functional.relu(conv(x))
        detail, top = seen[_DETAIL], torch.cat([seen[name] for name in _TOP], dim=1)
        found = {"early": top}
        x = self.enter(top)
        for name, blocks in self.blocks.items():
            found[name] = x = blocks(x)
        x = x + self.scene(x.mean(dim=(2, 3)))[:, :, None, None]
        found["context"] = x = self.context(x)
        x = self.join(functional.relu(_enlarged(self.low(x), top) + self.high(top)))
        if window:
            x, detail = window.of(x, 8), window.of(detail, OUTPUT_STRIDE)
        found["detail"] = detail
        found["decoded"] = x = self.decode(torch.cat([_enlarged(x, detail), self.skip(detail)], dim=1))
        scores: Tensor = self.head(x)
        return scores, {name: found[name] for name in STAGES}


def _enlarged(features: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(features, size=like.shape[2:], mode="bilinear", align_corners=False)
