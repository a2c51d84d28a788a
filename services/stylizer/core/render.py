"""A look onto a photo of any size, strip by strip in float, so that memory does not grow with the photo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.field import Window, luma
from services.stylizer.core.look import LookField

__all__ = ["preserved", "render"]

_STRIP_PIXELS: Final = 1 << 19
"""Pixels a strip: about 200 bytes each are alive at once, so 100 MB."""


def preserved(O: Tensor, I: Tensor, preserve: str) -> Tensor:
    """Put back what is to survive of the content.

    ``none`` is nothing, ``luminance`` its luma, ``chroma`` its colour differences. Both pictures are (3, H, W), RGB
    0..1; luma is BT.601 of the gamma-encoded values.
    """
    if preserve == "luminance":
        return O + (luma(I) - luma(O))
    if preserve == "chroma":
        return I + (luma(O) - luma(I))
    return O


def render(
    field: LookField,
    pixels: NDArray[Any],
    strength: float,
    preserve: str,
    bit_depth: int,
    should_stop: Callable[[], bool],
    strip_pixels: int = _STRIP_PIXELS,
) -> NDArray[Any]:
    """Render a look.

    Args:
        field: the look, tied to this photo.
        pixels: (H, W, 3) uint8 or uint16, the photo at full size.
        strength: share of the look, 0..1; 0 gives the photo back.
        preserve: see :func:`preserved`.
        bit_depth: 8 or 16, of the result.
        should_stop: polled before each strip.
        strip_pixels: pixels rendered at once.

    Returns:
        (H, W, 3) uint8 or uint16. The result does not depend on how it is cut into strips.

    Raises:
        SolveCancelled: ``should_stop`` said so.
    """
    height, width, _ = pixels.shape
    source_range = float(np.iinfo(pixels.dtype).max)
    target = np.uint8 if bit_depth == 8 else np.uint16
    target_range = float(np.iinfo(target).max)
    rows = max(1, strip_pixels // width)
    result = np.empty(pixels.shape, target)
    device = field.look.grid.device
    for top in range(0, height, rows):
        if should_stop():
            raise SolveCancelled
        strip = pixels[top : top + rows]
        I = torch.from_numpy(strip.astype(np.float32)).to(device).permute(2, 0, 1) / source_range
        O = field(I, Window(top, strip.shape[0], height, width), strength)
        O = preserved(O, I, preserve).clamp(0, 1)
        levels = (O * target_range).round().permute(1, 2, 0).cpu().numpy()
        result[top : top + rows] = levels.astype(target)
    return result
