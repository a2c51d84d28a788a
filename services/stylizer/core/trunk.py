"""What a solve needs of a feature network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

__all__ = ["Trunk"]


class Trunk(Protocol):
    """Pictures in, features out; :class:`VGG19` and :class:`Student` are two.

    Attributes:
        feature_scale: how many times larger the features would be if the network took differences of 0..255, the unit
            that the published weights presuppose.
    """

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers it has."""

    @property
    def feature_scale(self) -> float:
        """See the class."""

    def __call__(self, O: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of (N, 3, H, W) pictures, RGB 0..1, at the wanted layers: (N, C, H', W') each."""
