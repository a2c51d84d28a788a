"""ICC conversions between RGB spaces, with the profiles as bytes.

libvips takes target profiles by file name only; it does use an *attached* one when none is named, so the target
is attached between import and export. Relative colorimetric with black-point compensation: what is inside both
gamuts keeps its colour, and black stays black.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import pyvips

__all__ = ["PROFILE", "attached", "can_read", "can_write", "convert", "is_srgb", "profile_space", "srgb_profile"]

PROFILE = "icc-profile-data"
_HEADER_BYTES = 128
_INTENT = {"intent": "relative", "black_point_compensation": True}
_MOST_BYTES = 16 << 20  # real profiles have 6 MB at most; four of them are remembered below
_SAME_LEVELS = 2  # of 255; versions of sRGB's profile differ by this much


@cache
def srgb_profile() -> bytes:
    """Give the sRGB profile that is built into libvips."""
    return bytes(pyvips.Operation.call("profile_load", "srgb"))


def profile_space(profile: bytes) -> str | None:
    """Colour space of a profile's device side ("RGB", "CMYK", "GRAY", "Lab"), None if it is damaged or huge."""
    if not _HEADER_BYTES <= len(profile) <= _MOST_BYTES or profile[36:40] != b"acsp":
        return None
    return profile[16:20].decode("ascii", "replace").strip()


def attached(image: pyvips.Image, profile: bytes) -> pyvips.Image:
    """Attach another profile; pixels stay as they are."""
    copy = image.copy()
    copy.set_type(pyvips.GValue.blob_type, PROFILE, profile)
    return copy


def convert(image: pyvips.Image, source: bytes | str, target: bytes, bit_depth: int) -> pyvips.Image:
    """Convert pixels (uint8 or uint16, full range) to the RGB space of ``target``.

    ``source`` is a profile, or the name of one that is built into libvips. Returns 3 bands of ``bit_depth`` bits
    with ``target`` attached. Raises pyvips.Error if a profile cannot be used.
    """
    if isinstance(source, bytes):
        connected = attached(image, source).icc_import(embedded=True, **_INTENT)
    else:
        connected = image.icc_import(input_profile=source, **_INTENT)
    return attached(connected, target).icc_export(depth=bit_depth, **_INTENT)


@lru_cache(maxsize=4)
def can_read(profile: bytes, space: str) -> bool:
    """Whether the profile belongs to the space ("RGB", "CMYK", "GRAY") and pixels can be converted from it.

    Photos of one camera have the same profile, so that the last answers are remembered.
    """
    if profile_space(profile) != space:
        return False
    interpretation, bands = {"RGB": ("srgb", 3), "CMYK": ("cmyk", 4), "GRAY": ("b-w", 1)}[space]
    pixel = pyvips.Image.black(1, 1, bands=bands).copy(interpretation=interpretation)
    try:
        convert(pixel, profile, srgb_profile(), 8).avg()
    except pyvips.Error:
        return False
    return True


@lru_cache(maxsize=4)
def can_write(profile: bytes) -> bool:
    """Whether pixels can be converted to an RGB profile; profiles of scanners and cameras work one way only."""
    pixel = pyvips.Image.black(1, 1, bands=3).copy(interpretation="srgb")
    try:
        convert(pixel, "srgb", profile, 8).avg()
    except pyvips.Error:
        return False
    return True


@lru_cache(maxsize=4)
def is_srgb(profile: bytes) -> bool:
    """Whether an RGB profile that can be read gives every colour the numbers of sRGB, to two levels of 255."""
    levels = np.linspace(0, 255, 6).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    image = pyvips.Image.new_from_array(colours).copy(interpretation="srgb")
    converted = convert(image, profile, srgb_profile(), 8).numpy()
    return int(np.abs(converted.astype(int) - colours).max()) <= _SAME_LEVELS
