"""The network ``scene-student``: a slim trunk, a context module with exponentially growing dilation, a light decoder.

The trunk's convolutions are those of ``vgg19-student`` up to conv4_1, which training starts from: its features come
from ImageNet by way of VGG-19. The pooling before block 4 is the last one, so that conv4_1 works at an eighth of the
size. The context module is that of Yu & Koltun 2016 (dilations 1, 2, 4, 8, 16), with residual connections and a global
mean beside it (Chen et al. 2017) for the kind of scene. The decoder joins it with conv3_3 at a quarter of the size
(Chen et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["OUTPUT_STRIDE", "STEP_PX", "Deployed", "SceneNetwork"]

OUTPUT_STRIDE: Final = 4
STEP_PX: Final = 8
"""Sides of photos are multiples of this: the context module works at an eighth of the size."""

_CONVS: Final = (
    ("conv1_1", 16),
    ("conv1_2", 32),
    ("conv2_1", 48),
    ("conv2_2", 64),
    ("conv3_1", 112),
    ("conv3_2", 112),
    ("conv3_3", 112),
    ("conv4_1", 256),
)
_CONTEXT_CHANNELS: Final = 128
_DILATIONS: Final = (1, 2, 4, 8, 16)
_SKIP_CHANNELS: Final = 32
_DECODER_CHANNELS: Final = 64


class _Dilated(nn.Module):
    """A residual 3x3 convolution with a dilation, normalised."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return functional.relu(x + self.norm(self.conv(x)))


class SceneNetwork(nn.Module):
    """Photos to scores of labels at a quarter of their size.

    Args:
        classes: labels of the result.
        fine_classes: classes of a second result that only training looks at; 0 = none.
    """

    def __init__(self, classes: int, fine_classes: int = 0) -> None:
        super().__init__()
        self.convs = nn.ModuleDict()
        channels, skip_channels = 3, 0
        for name, width in _CONVS:
            self.convs[name] = nn.Conv2d(channels, width, 3, padding=1)
            channels = width
            skip_channels = width if name == "conv3_3" else skip_channels
        self.enter = nn.Sequential(
            nn.Conv2d(channels, _CONTEXT_CHANNELS, 1, bias=False), nn.BatchNorm2d(_CONTEXT_CHANNELS), nn.ReLU()
        )
        self.context = nn.Sequential(*[_Dilated(_CONTEXT_CHANNELS, d) for d in _DILATIONS])
        self.scene = nn.Sequential(nn.Linear(_CONTEXT_CHANNELS, _CONTEXT_CHANNELS), nn.ReLU())
        self.skip = nn.Sequential(
            nn.Conv2d(skip_channels, _SKIP_CHANNELS, 1, bias=False), nn.BatchNorm2d(_SKIP_CHANNELS), nn.ReLU()
        )
        self.decode = nn.Sequential(
            nn.Conv2d(_CONTEXT_CHANNELS + _SKIP_CHANNELS, _DECODER_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(_DECODER_CHANNELS),
            nn.ReLU(),
            nn.Dropout2d(0.1),
        )
        self.head = nn.Conv2d(_DECODER_CHANNELS, classes, 1)
        self.fine_head = nn.Conv2d(_DECODER_CHANNELS, fine_classes, 1) if fine_classes else None

    def start_from(self, student: Mapping[str, Tensor]) -> None:
        """Take the trunk's convolutions from the weights of ``vgg19-student``."""
        own = {key: value.float() for key, value in student.items() if key in self.state_dict()}
        wanted = {f"convs.{name}.{part}" for name, _ in _CONVS for part in ("weight", "bias")}
        if own.keys() != wanted:
            raise ValueError(f"these weights lack {sorted(wanted - own.keys())}")
        self.load_state_dict(own, strict=False)

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 3, H, W) normalised photos, sides divisible by 8, to (N, classes, H/4, W/4) before the softmax."""
        scores: Tensor = self.head(self.decoded(photos))
        return scores

    def both(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the scores of the fine classes."""
        assert self.fine_head is not None  # noqa: S101
        decoded = self.decoded(photos)
        return self.head(decoded), self.fine_head(decoded)

    def decoded(self, photos: Tensor) -> Tensor:
        """What the heads look at: (N, 64, H/4, W/4)."""
        x = photos
        for name, conv in self.convs.items():
            if name.endswith("_1") and name != "conv1_1":
                x = functional.max_pool2d(x, 2, 2)
            x = functional.relu(conv(x))
            if name == "conv3_3":
                fine = x
        x = self.context(self.enter(x))
        x = x + self.scene(x.mean(dim=(2, 3)))[:, :, None, None]
        x = functional.interpolate(x, size=fine.shape[2:], mode="bilinear", align_corners=False)
        decoded: Tensor = self.decode(torch.cat([x, self.skip(fine)], dim=1))
        return decoded


class Deployed(nn.Module):
    """The network as the exporter of ``convert`` wants one: ``{"out": scores}``."""

    def __init__(self, network: SceneNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, photos: Tensor) -> dict[str, Tensor]:
        """As ``SceneNetwork``."""
        return {"out": self.network(photos)}
