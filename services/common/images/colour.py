"""ICC conversions between RGB spaces, with the profiles as bytes.

libvips takes target profiles by file name only; it does use an *attached* one when none is named, so the target
is attached between import and export. Relative colorimetric with black-point compensation: what is inside both
gamuts keeps its colour, and black stays black.
"""

from __future__ import annotations

from functools import cache

import pyvips

__all__ = ["PROFILE", "attached", "convert", "is_usable", "profile_space", "srgb_profile"]

PROFILE = "icc-profile-data"
_HEADER_BYTES = 128
_INTENT = {"intent": "relative", "black_point_compensation": True}


@cache
def srgb_profile() -> bytes:
    """Give the sRGB profile that is built into libvips."""
    return bytes(pyvips.Operation.call("profile_load", "srgb"))


def profile_space(profile: bytes) -> str | None:
    """Colour space of a profile's device side ("RGB", "CMYK", "GRAY", "Lab"), None if its header is damaged."""
    if len(profile) < _HEADER_BYTES or profile[36:40] != b"acsp":
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


def is_usable(profile: bytes, space: str) -> bool:
    """Whether the profile belongs to the space and one pixel can be converted with it."""
    if profile_space(profile) != space:
        return False
    try:
        if space == "RGB":  # must work as a target too
            convert(_pixel("srgb", 3), "srgb", profile, 8).avg()
        else:
            convert(
                _pixel("cmyk" if space == "CMYK" else "b-w", 4 if space == "CMYK" else 1), profile, srgb_profile(), 8
            ).avg()
    except pyvips.Error:
        return False
    return True


def _pixel(interpretation: str, bands: int) -> pyvips.Image:
    return pyvips.Image.black(1, 1, bands=bands).copy(interpretation=interpretation)
