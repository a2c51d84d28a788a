"""The VGG-19 trunk: convolutions, ReLUs and poolings, under torchvision's key names.

Simonyan & Zisserman 2014, configuration E. torchvision itself is not needed at run time: its wheel cannot be
imported beside a CPU-only torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

__all__ = ["LAYERS", "VGG19", "InputConvention", "random_vgg19", "vgg19"]

_WIDTHS: Final = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512))

LAYERS: Final[tuple[str, ...]] = tuple(
    f"conv{block}_{conv}" for block, widths in enumerate(_WIDTHS, 1) for conv in range(1, len(widths) + 1)
)
"""Names of the 16 convolutions; a layer's features are taken after its ReLU."""


@dataclass(frozen=True)
class InputConvention:
    """How pixels enter a trunk: ``(channels(O) * scale - mean) / std`` with O in RGB, 0..1."""

    bgr: bool = False
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def feature_scale(self) -> float:
        """How many times larger a trunk's features would be if it took differences of 0..255.

        A network of convolutions and ReLUs answers k times the input (and k times the biases) with k times the
        features.
        """
        return 255.0 / self.scale * sum(self.std) / 3


class VGG19(nn.Module):
    """Convolutions up to ``depth``, called with pictures, giving features.

    Args:
        depth: name of the deepest layer kept, one of :data:`LAYERS`.
        convention: how pixels enter.

    The pooling is maximum, 2x2, *ceil* mode as in the released Caffe network; at even sizes that is torchvision's too.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, depth: str = "conv5_1", convention: InputConvention | None = None) -> None:
        super().__init__()
        self.convention = convention or InputConvention()
        self.layers = LAYERS[: LAYERS.index(depth) + 1]
        modules: list[nn.Module] = []
        self._taps: dict[int, str] = {}
        channels = 3
        for name in self.layers:
            block, conv = int(name[4]), int(name[6])
            if conv == 1 and block > 1:
                modules.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            width = _WIDTHS[block - 1][conv - 1]
            modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            self._taps[len(modules) - 1] = name
            channels = width
        self.features = nn.Sequential(*modules)
        self.register_buffer("mean", torch.tensor(self.convention.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.convention.std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()
        for parameter in self.parameters():  # faster on CPU and GPU, and what the Gram matrices want
            parameter.data = (
                parameter.data.contiguous(memory_format=torch.channels_last) if parameter.ndim == 4 else parameter.data
            )

    @property
    def feature_scale(self) -> float:
        """See :class:`~services.stylizer.core.trunk.Trunk`."""
        return self.convention.feature_scale

    def forward(self, O: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of pictures.

        Args:
            O: (N, 3, H, W) RGB, gamma-encoded, 0..1 (values outside are allowed).
            layers: names of the wanted layers.

        Returns:
            For each wanted layer the (N, C, H', W') features after its ReLU.

        Raises:
            ValueError: a wanted layer is not in this trunk.
        """
        missing = set(layers) - set(self.layers)
        if missing:
            raise ValueError(f"layers {sorted(missing)} are not in a trunk of {self.layers[0]}..{self.layers[-1]}")
        last = max(LAYERS.index(name) for name in layers)
        x = (O.flip(1) if self.convention.bgr else O) * self.convention.scale
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        found: dict[str, Tensor] = {}
        for index, module in enumerate(self.features):
            x = module(x)
            name = self._taps.get(index)
            if name is None:
                continue
            if name in layers:
                found[name] = x
            if LAYERS.index(name) == last:
                break
        return found


def vgg19(weights: Mapping[str, Tensor], convention: InputConvention, depth: str = "conv5_1") -> VGG19:
    """A trunk with given weights.

    Args:
        weights: torchvision's keys (``features.0.weight`` …), any float dtype; layers beyond ``depth`` are ignored.
        convention: how pixels enter this training run of the network.
        depth: deepest layer kept.

    Raises:
        RuntimeError: a key is missing or has another shape.
    """
    trunk = VGG19(depth, convention)
    wanted = trunk.state_dict()
    trunk.load_state_dict({key: value.float() for key, value in weights.items() if key in wanted})
    return trunk


def random_vgg19(seed: int = 0, depth: str = "conv3_1") -> VGG19:
    """A trunk with seeded random weights (He et al. 2015 initialisation), the default when no model file is given.

    Random features of the first three blocks steer a smooth colour field well; deeper random layers mislead it
    (docs/experiments.md).
    """
    trunk = VGG19(depth)
    generator = torch.Generator().manual_seed(seed)
    for module in trunk.features:
        if isinstance(module, nn.Conv2d):
            fan_in = module.in_channels * 9
            module.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
    return trunk
