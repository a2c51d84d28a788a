"""CIELAB values of RGB pixels, by their ICC profile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from services.common.images.colour import attached, srgb_profile

__all__ = ["cielab"]


def cielab(pixels: NDArray[Any], profile: bytes | None) -> NDArray[np.float64]:
    """Convert pixels to CIELAB by the profile, relative colorimetric.

    Args:
        pixels: (N, 3), 0..1, gamma-encoded, in the space of ``profile``; values outside are clipped.
        profile: an RGB profile that libvips can read, such as a photo's ``working_profile``; None = sRGB.

    Returns:
        (N, 3): L* 0..100, a*, b*, for ICC's white point D50.
    """
    whole = (np.clip(pixels, 0.0, 1.0)[None] * 65535.0 + 0.5).astype(np.uint16)
    image = pyvips.Image.new_from_array(np.ascontiguousarray(whole)).copy(interpretation="rgb16")
    connected = attached(image, profile or srgb_profile()).icc_import(embedded=True, intent="relative", pcs="lab")
    return np.asarray(connected.numpy()[0], np.float64)
