"""Closed forms to start from: convolutions that are fitted to what the teacher has in their place.

The trunk's weights and the teacher's have an ancestor in common, so that what a block sees of a photo is much alike,
and a linear map of it is near to what leaves the teacher's block. Ridge regression finds the map, one convolution
after the other, each on what the ones before it give now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.segmentation.training.data import normalised
from services.segmentation.training.scene import SceneNetwork
from services.segmentation.training.teacher import Teacher

__all__ = ["Fit", "ridge"]

_RIDGE: Final = 1e-4
"""Relative to the mean square of the features."""

_PLACES: Final = 800
"""Of each view that are regressed on."""


class Fit:
    """Views, and the teacher's features at some places of each.

    Args:
        teacher: is asked about each view once.
        photos: views (3, H, W) RGB 0..1, sides 8k+1.
    """

    def __init__(self, teacher: Teacher, photos: Sequence[Tensor]) -> None:
        self._photos, self._picks, self._wanted = photos, [], []
        for photo in photos:
            found = teacher(photo[None])
            picks = {each.shape[2:]: torch.randperm(each[0, 0].numel())[:_PLACES] for each in found.values()}
            self._picks.append(picks)
            self._wanted.append({name: _picked(each, picks).bfloat16() for name, each in found.items()})

    @torch.no_grad()
    def blocks(self, network: SceneNetwork) -> None:
        """Fit the last convolution of each block of the trunk."""
        network.eval()
        xs = [functional.relu6(network.trunk.stem(normalised(photo[None]))).bfloat16() for photo in self._photos]
        for n, block in enumerate(network.trunk.blocks):
            seen = [block.seen(x.float()).bfloat16() for x in xs]
            self._regress(block.project, f"block {n}", seen, xs if block.adds else None)
            pairs = zip(xs, seen, strict=True)
            xs = [block.narrowed(x.float(), each.float()).bfloat16() for x, each in pairs]

    @torch.no_grad()
    def head(self, network: SceneNetwork) -> None:
        """Fit what follows the trunk."""
        network.eval()
        tops, details = [], []
        for photo in self._photos:
            found, detail = network.trunk(normalised(photo[None]))
            tops.append(found[-1].bfloat16())
            details.append(detail.bfloat16())
        self._regress(network.here, "here", tops)
        xs = [functional.relu(network.here(top.float())).bfloat16() for top in tops]
        self._regress(network.scene, "scene", xs)
        self._regress(network.border, "border", details)
        xs = [
            network.joined(network.scene(x.float()), network.border(detail.float())).bfloat16()
            for x, detail in zip(xs, details, strict=True)
        ]
        for part, name in ((network.join, "join"), (network.decode, "decode")):
            xs = [part.seen(x.float()).bfloat16() for x in xs]
            self._regress(part.mix, name, xs)
            xs = [functional.relu(part.mix(x.float())).bfloat16() for x in xs]
        self._regress(network.head, "head", xs)

    def _regress(
        self, conv: nn.Conv2d, stage: str, seen: Sequence[Tensor], added: Sequence[Tensor] | None = None
    ) -> None:
        def pairs() -> Iterable[tuple[Tensor, Tensor]]:
            for n, (features, picks, wanted) in enumerate(zip(seen, self._picks, self._wanted, strict=True)):
                aim = wanted[stage].float()
                yield _picked(features, picks), aim if added is None else aim - _picked(added[n], picks)

        ridge(conv, pairs())


def _picked(features: Tensor, picks: dict[torch.Size, Tensor]) -> Tensor:
    return features[0].flatten(start_dim=1).T[picks[features.shape[2:]]].float()


def ridge(conv: nn.Conv2d, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set a 1x1 convolution to the regression of the second (places, outputs) on the first (places, channels)."""
    size = conv.in_channels
    sums = torch.zeros(size + 1, size + 1 + conv.out_channels, dtype=torch.float64)
    for x, y in pairs:
        x = functional.pad(x, (0, 1), value=1.0)
        sums += x.T @ torch.cat([x, y], dim=1)
    gram, both = sums[:, : size + 1], sums[:, size + 1 :]
    gram.diagonal()[:size].add_(_RIDGE * gram.diagonal()[:size].mean())
    found = torch.linalg.solve(gram, both)
    assert conv.bias is not None, "every fitted convolution has a bias"  # noqa: S101
    conv.weight.data.copy_(found[:size].T[:, :, None, None])
    conv.bias.data.copy_(found[size])
