"""The sizes at which photos are solved: few, so that photos meet in batches and a card has seen every size before.

The long edge is what the caller chose. The short one is a multiple of a forty-eighth of it, which 1:1, 4:3, 3:2, 16:9
and 2:1 are exactly: a photo's proxy is stretched by 2 % at most, and the look, which knows no pixels, undoes that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

__all__ = ["ASPECT_STEPS", "MOST_STRETCH", "camera_shapes", "solve_size"]

ASPECT_STEPS: Final = 48
MOST_STRETCH: Final = 1 / ASPECT_STEPS
"""By how much a proxy's aspect ratio differs from its photo's at most: half a step of a short edge of 24."""

_LEAST_SHORT_EDGE_PX: Final = 32
"""Short edge of a proxy: conv5_1 sees two pixels of it."""

_CAMERA_STEPS: Final = (48, 38, 36, 32, 27, 24)
"""Short edges of 1:1, 5:4, 4:3, 3:2, 16:9 and 2:1."""


def solve_size(width: int, height: int, edge_px: int, *, of_few: bool = True) -> tuple[int, int]:
    """Width and height of a photo's proxy.

    Without ``of_few`` the aspect ratio is the photo's own to the pixel.

    Panoramas beyond 2:1 keep their aspect ratio, and at least 32 px of short edge however long they become; photos that
    are smaller than ``edge_px`` keep their size.
    """
    long_edge, short_edge = max(width, height), min(width, height)
    long = max(edge_px, math.ceil(_LEAST_SHORT_EDGE_PX * long_edge / short_edge))
    if long >= long_edge:
        return width, height
    steps = round(ASPECT_STEPS * short_edge / long_edge)
    share = steps / ASPECT_STEPS if of_few and 2 * short_edge >= long_edge else short_edge / long_edge
    short = max(1, round(long * share))
    return (long, short) if width >= height else (short, long)


def camera_shapes(edge_px: int) -> Iterator[tuple[int, int]]:
    """Width and height of the proxies of what cameras make, upright ones too."""
    for steps in _CAMERA_STEPS:
        short = round(edge_px * steps / ASPECT_STEPS)
        yield edge_px, short
        if short != edge_px:
            yield short, edge_px
