"""The network ``scene-student``: a slim trunk, a context module with exponentially growing dilation, a light decoder.

Three convolutions with a stride bring a photo to an eighth of its size, where residual blocks with dilations of 1 to 16
look at more and more of it (the context module of Yu & Koltun 2016), with a global mean beside them for the kind of
scene (Chen et al. 2017). The decoder joins them with what was seen at a quarter of the size (Chen et al. 2018).

All samples lie on pixels: sides are 8k+1, and each stride keeps the first and the last, as in TensorFlow's DeepLab, so
that a student's features and its teacher's are of the same places.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["INPUT_EDGE_PX", "OUTPUT_STRIDE", "STAGES", "STEP_PX", "SceneNetwork"]

INPUT_EDGE_PX: Final = 513
"""Long edge at which photos enter the network: the teacher's, whose answers depend on it."""

OUTPUT_STRIDE: Final = 4
STEP_PX: Final = 8
"""Sides of photos are multiples of this and 1."""

_DETAIL_CHANNELS: Final = 64
_CHANNELS: Final = 160
_DECODER_CHANNELS: Final = 128
_DILATIONS: Final = {"early": (1, 1), "parts": (2, 2), "middle": (2, 4), "late": (4, 8), "deep": (16,)}

STAGES: Final = {
    "detail": _DETAIL_CHANNELS,
    **dict.fromkeys(_DILATIONS, _CHANNELS),
    "context": _CHANNELS,
    "decoded": _DECODER_CHANNELS,
}
"""Channels of the features that a teacher's hints are compared with; the first and the last at a quarter of the size,
the others at an eighth."""


def _conv(channels: int, width: int, size: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
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
        self.to_half = nn.Sequential(_conv(3, 32, stride=2), nn.ReLU(), _conv(32, 32), nn.ReLU())
        self.to_quarter = nn.Sequential(_conv(32, _DETAIL_CHANNELS, stride=2), nn.ReLU(), _Block(_DETAIL_CHANNELS, 1))
        self.to_eighth = nn.Sequential(_conv(_DETAIL_CHANNELS, _CHANNELS, stride=2), nn.ReLU())
        self.blocks = nn.ModuleDict(
            {name: nn.Sequential(*[_Block(_CHANNELS, d) for d in row]) for name, row in _DILATIONS.items()}
        )
        self.scene = nn.Sequential(nn.Linear(_CHANNELS, _CHANNELS), nn.ReLU(), nn.Linear(_CHANNELS, _CHANNELS))
        self.context = nn.Sequential(_conv(_CHANNELS, _CHANNELS, 1), nn.ReLU())
        self.decode = nn.Sequential(
            _conv(_CHANNELS + _DETAIL_CHANNELS, _DECODER_CHANNELS),
            nn.ReLU(),
            _conv(_DECODER_CHANNELS, _DECODER_CHANNELS),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(_DECODER_CHANNELS, classes, 1)

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 3, H, W) normalised photos, sides 8k+1, to (N, classes, (H+3)/4, (W+3)/4) before the softmax."""
        return self.stages(photos)[0]

    def stages(self, photos: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, and the features of :data:`STAGES`."""
        found = {"detail": self.to_quarter(self.to_half(photos))}
        x = self.to_eighth(found["detail"])
        for name, blocks in self.blocks.items():
            found[name] = x = blocks(x)
        x = x + self.scene(x.mean(dim=(2, 3)))[:, :, None, None]
        found["context"] = x = self.context(x)
        x = functional.interpolate(x, size=found["detail"].shape[2:], mode="bilinear", align_corners=True)
        found["decoded"] = x = self.decode(torch.cat([x, found["detail"]], dim=1))
        scores: Tensor = self.head(x)
        return scores, found
