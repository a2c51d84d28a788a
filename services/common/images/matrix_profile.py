"""ICC profiles of RGB spaces, made from published primaries and transfer curves.

ICC.1:2001-04 (version 2.4), "three-component matrix-based display profile". Chromaticities are adapted from the
space's white to D50 by the Bradford transform (ICC.1:2022, annex E).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["BT2020", "D65", "DISPLAY_P3", "adobe_rgb_profile", "matrix_profile", "srgb_curve"]

Chromaticities = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

D65 = (0.3127, 0.3290)
ADOBE_RGB: Chromaticities = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))  # Adobe RGB (1998) Color Image Encoding, 4.3
DISPLAY_P3: Chromaticities = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))  # SMPTE EG 432-1 with D65
BT2020: Chromaticities = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))  # ITU-R BT.2020

_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_ADOBE_GAMMA = 563 / 256  # the specification's 2.19921875, exact in a profile


def matrix_profile(
    name: str, primaries: Chromaticities, white: tuple[float, float], curve: float | Sequence[float]
) -> bytes:
    """Make a profile.

    Args:
        name: ASCII description.
        primaries: xy of red, green and blue.
        white: xy of the white point.
        curve: exponent of the transfer curve, or the curve itself: linear light 0..1 at equidistant code values.
    """
    matrix = _to_d50(primaries, white)
    tags = {
        b"desc": _description(name),
        b"cprt": b"text" + bytes(4) + b"Made from published figures; no rights reserved.\0",
        b"wtpt": _xyz(_D50),
        **{f"{channel}XYZ".encode(): _xyz(matrix[:, index]) for index, channel in enumerate("rgb")},
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve))
    at = 128 + 4 + 12 * len(tags)
    table, body, places = b"", b"", {}
    for signature, value in tags.items():
        if value not in places:
            places[value] = at + len(body)
            body += value + bytes(-len(value) % 4)
        table += struct.pack(">4sII", signature, places[value], len(value))
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp").ljust(44, b"\0") + struct.pack(">3i", *_fixed(_D50))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


@cache
def adobe_rgb_profile() -> bytes:
    """Make a profile with the colours of Adobe RGB (1998), for cameras that name the space without a profile."""
    return matrix_profile("Compatible with Adobe RGB (1998)", ADOBE_RGB, D65, _ADOBE_GAMMA)


def srgb_curve(points: int = 1024) -> NDArray[np.float64]:
    """Linear light at equidistant code values, IEC 61966-2-1."""
    codes = np.linspace(0, 1, points)
    return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)


def _to_d50(primaries: Chromaticities, white: tuple[float, float]) -> NDArray[np.float64]:
    """Matrix from linear RGB to XYZ of the profile connection space."""
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    white_xyz = np.array([white[0] / white[1], 1.0, (1 - white[0] - white[1]) / white[1]])
    scaled = columns * np.linalg.solve(columns, white_xyz)
    gains = (_BRADFORD @ _D50) / (_BRADFORD @ white_xyz)
    adapted: NDArray[np.float64] = np.linalg.solve(_BRADFORD, gains[:, None] * (_BRADFORD @ scaled))
    return adapted


def _fixed(values: NDArray[np.float64]) -> list[int]:
    return [round(float(value) * 65536) for value in values]


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *_fixed(values))


def _curve(curve: float | Sequence[float] | NDArray[np.float64]) -> bytes:
    if isinstance(curve, int | float):
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(curve * 256))
    table = np.round(np.asarray(curve) * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(table)) + table.tobytes()


def _description(name: str) -> bytes:
    """A version 2 description: ASCII, then empty Unicode and Macintosh texts."""
    text = name.encode("ascii") + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
