"""How a network is applied to a photo: refinement, sizes and mirroring, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dpst.v1 import labels_pb2

from services.common.errors import InvalidArgument

__all__ = ["MAX_SCALE", "MAX_SCALES", "MIN_SCALE", "Options", "Refinement", "options_of"]

Refinement = Literal["none", "guided", "crf"]

MAX_SCALES = 4
MIN_SCALE, MAX_SCALE = 0.5, 2.0
_REFINEMENTS: dict[int, Refinement] = {
    labels_pb2.REFINEMENT_UNSPECIFIED: "guided",
    labels_pb2.REFINEMENT_NONE: "none",
    labels_pb2.REFINEMENT_GUIDED: "guided",
    labels_pb2.REFINEMENT_CRF: "crf",
}


@dataclass(frozen=True)
class Options:
    """Defaults are the contract's. ``scales`` are relative to the network's own input size."""

    refinement: Refinement = "guided"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def views(self) -> tuple[tuple[float, bool], ...]:
        """Every way in which the photo enters the network: scale, and whether it is mirrored."""
        sides = (False, True) if self.flip else (False,)
        return tuple((scale, flipped) for scale in self.scales for flipped in sides)


def options_of(message: labels_pb2.SegmentationOptions, field: str) -> Options:
    """Read and check a message; unset fields are the defaults, scales are sorted and those named twice count once.

    Raises InvalidArgument naming the field, the value and the limit.
    """
    if message.refinement not in _REFINEMENTS:
        names = "unspecified, none, guided or crf"
        raise InvalidArgument(f"{field}.refinement", message.refinement, f"{names} (0..3)")
    for position, scale in enumerate(message.scales):
        if not (math.isfinite(scale) and MIN_SCALE <= scale <= MAX_SCALE):
            raise InvalidArgument(f"{field}.scales[{position}]", scale, f"{MIN_SCALE}..{MAX_SCALE}")
    scales = tuple(sorted(set(message.scales))) or (1.0,)
    if len(scales) > MAX_SCALES:
        raise InvalidArgument(f"{field}.scales", f"{len(scales)} of them", f"at most {MAX_SCALES}")
    return Options(_REFINEMENTS[message.refinement], scales, message.flip)
