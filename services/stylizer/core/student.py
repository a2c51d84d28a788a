"""A slim trunk that stands in for VGG-19: its Gram matrices approximate those of VGG-19 at an eighth of the operations.

Features leave through 1x1 maps ("taps") into the principal components of VGG-19's own features, scaled so that style
distances come out in VGG-19's units. After Wang et al. 2020 (Collaborative Distillation) and Chiu & Gurari 2022
(PCA-based distillation), with two departures: the maps are kept, because a Gram matrix behind them *is* that of VGG-19
projected onto its strongest directions; and conv5_1 is left out, which has next to nothing of the style distance of
photographs (docs/training.md). Trained by ``python -m services.stylizer.training``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["COMPONENTS", "STUDENT_LAYERS", "Student", "channels_last", "student"]

_CONVS: Final[tuple[tuple[str, int], ...]] = (
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
"""3x3 convolutions with their channels, each followed by a ReLU; a new block begins behind a 2x2 maximum."""

COMPONENTS: Final[Mapping[str, int]] = {"conv1_1": 16, "conv2_1": 32, "conv3_1": 64, "conv4_1": 256, "conv4_2": 96}
"""Components that leave at each layer."""

STUDENT_LAYERS: Final = tuple(COMPONENTS)

_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


class Student(nn.Module):
    """The slim trunk, called like :class:`~services.stylizer.core.vgg.VGG19`; RGB 0..1 in."""

    mean: Tensor
    std: Tensor
    layers = STUDENT_LAYERS
    feature_scale = 1.0  # its targets are features of the Caffe network, which takes 0..255

    def __init__(self) -> None:
        super().__init__()
        convs, taps = {}, {}
        channels = 3
        for name, width in _CONVS:
            convs[name] = nn.Conv2d(channels, width, 3, padding=1)
            if name in COMPONENTS:
                taps[name] = nn.Conv2d(width, COMPONENTS[name], 1)
            channels = width
        self.convs, self.taps = nn.ModuleDict(convs), nn.ModuleDict(taps)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, O: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of pictures.

        Args:
            O: (N, 3, H, W) RGB, gamma-encoded, 0..1 (values outside are allowed).
            layers: names of the wanted layers, of :data:`STUDENT_LAYERS`.

        Returns:
            For each wanted layer the (N, K, H', W') components of VGG-19's features, which may be negative.

        Raises:
            ValueError: a wanted layer is not in this trunk.
        """
        missing = set(layers) - set(self.layers)
        if missing:
            raise ValueError(f"layers {sorted(missing)} are not in a trunk of {', '.join(self.layers)}")
        x = ((O - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        found: dict[str, Tensor] = {}
        for name, conv in self.convs.items():
            if name.endswith("_1") and name != "conv1_1":
                x = functional.max_pool2d(x, 2, 2, ceil_mode=True)
            x = functional.relu(conv(x), inplace=True)
            if name in layers:
                found[name] = self.taps[name](x)
                if len(found) == len(layers):
                    break
        return found


def channels_last(trunk: Student) -> Student:
    """The trunk with the weights of its convolutions in the memory order that is fastest."""
    for parameter in trunk.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return trunk


def student(weights: Mapping[str, Tensor]) -> Student:
    """A trunk with trained weights, of any float dtype, ready for use: no gradients, channels last.

    Raises:
        RuntimeError: a key is missing or has another shape.
    """
    trunk = Student()
    trunk.load_state_dict({key: value.float() for key, value in weights.items()})
    trunk.requires_grad_(False)
    return channels_last(trunk.eval())
