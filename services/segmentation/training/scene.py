"""The network ``scene-student``: a dilated trunk that has seen many pictures, a view of the scene, a light decoder.

Dilations of 2 and 4 look at more and more of the photo (Yu & Koltun 2016) without a step coarser than 8 px; a global
mean says what kind of scene it is (Chen et al. 2017); the decoder joins that with borders at 4 px (Chen et al. 2018).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.segmentation.training.trunk import DETAIL_CHANNELS, TOP_CHANNELS, DilatedTrunk, passed

__all__ = ["INPUT_EDGE_PX", "OUTPUT_STRIDE", "STEP_PX", "WIDTHS", "SceneNetwork", "Separable"]

INPUT_EDGE_PX: Final = 513
"""Long edge at which photos enter the network: the teacher's, whose answers depend on it."""

OUTPUT_STRIDE: Final = 4
STEP_PX: Final = 8
"""Sides of photos are multiples of this and one more: samples of every stride then lie on the first and last pixel."""

WIDTHS: Final = {"here": 176, "scene": 176, "border": 32, "join": 176, "decode": 176}
"""Channels of the stages between the trunk and the scores: two thirds of the teacher's."""


class Separable(nn.Module):
    """A 3x3 convolution of each channel, and a mixture of them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.mix = nn.Conv2d(channels, width, 1)
        nn.init.dirac_(self.look.weight, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, width, H, W), before the ReLU."""
        found: Tensor = self.mix(self.seen(x))
        return found

    def seen(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same: what is mixed."""
        return functional.relu(self.look(x))


class SceneNetwork(nn.Module):
    """Photos to scores of classes at a quarter of their size.

    Args:
        classes: of the result.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = DilatedTrunk()
        self.here = nn.Conv2d(TOP_CHANNELS, WIDTHS["here"], 1)
        self.everywhere = nn.Conv2d(TOP_CHANNELS, WIDTHS["here"], 1)
        self.scene = nn.Conv2d(WIDTHS["here"], WIDTHS["scene"], 1)
        self.kind = nn.Conv2d(WIDTHS["here"], WIDTHS["scene"], 1, bias=False)
        nn.init.zeros_(self.kind.weight)
        self.border = nn.Conv2d(DETAIL_CHANNELS, WIDTHS["border"], 1)
        self.join = Separable(WIDTHS["scene"] + WIDTHS["border"], WIDTHS["join"])
        self.decode = Separable(WIDTHS["join"], WIDTHS["decode"])
        self.head = nn.Conv2d(WIDTHS["decode"], classes, 1)

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 3, H, W) of -1..1, sides 8k+1, to (N, classes, (H-1)/4+1, (W-1)/4+1) before the softmax."""
        return self.stages(photos)["head"]

    def stages(self, photos: Tensor, *, with_head: bool = True) -> dict[str, Tensor]:
        """What leaves each stage, before its ReLU, by the names in ``teacher.STAGES``; or each of ``BLOCKS`` only."""
        blocks, detail = self.trunk(photos)
        found = {f"block {n}": each for n, each in enumerate(blocks)}
        if not with_head:
            return found
        top = passed(blocks[-1])
        found["here"] = self.here(top)
        everywhere = functional.relu(self.everywhere(top.mean(dim=(2, 3), keepdim=True)))
        found["scene"] = self.scene(functional.relu(found["here"])) + self.kind(everywhere)
        found["border"] = self.border(detail)
        found["join"] = self.join(self.joined(found["scene"], found["border"]))
        found["decode"] = self.decode(functional.relu(found["join"]))
        found["head"] = self.head(functional.relu(found["decode"]))
        return found

    @staticmethod
    def joined(scene: Tensor, border: Tensor) -> Tensor:
        """Both before their ReLU, the scene at 8 px, to what the decoder sees at 4 px."""
        enlarged = functional.interpolate(
            functional.relu(scene), size=border.shape[2:], mode="bilinear", align_corners=True
        )
        return torch.cat([enlarged, functional.relu(border)], dim=1)
