"""CIEDE2000: how different two colours look."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["ciede2000"]

_25_TO_THE_7: Final = 25.0**7


def ciede2000(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colour difference ΔE00 of pairs of CIELAB colours, with k_L = k_C = k_H = 1.

    Args:
        one: (..., 3) L* 0..100, a*, b*.
        other: the same, of the same white point.

    Returns:
        (...): 0 for equal colours; about 1 is just noticeable side by side.

    Source: Sharma, Wu, Dalal, *The CIEDE2000 Color-Difference Formula: Implementation Notes, Supplementary Test Data,
    and Mathematical Observations*, Color Research and Application 30(1), 2005, equations 2 to 22.
    """
    L1, a1, b1 = np.moveaxis(np.asarray(one, np.float64), -1, 0)
    L2, a2, b2 = np.moveaxis(np.asarray(other, np.float64), -1, 0)
    mean_chroma_7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * np.sqrt(mean_chroma_7 / (mean_chroma_7 + _25_TO_THE_7))
    C1, C2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = C1 * C2 == 0  # a grey has no hue: the other colour's counts

    dh = h2 - h1
    dh = np.where(grey, 0.0, dh - 360 * (dh > 180) + 360 * (dh < -180))
    dL, dC, dH = L2 - L1, C2 - C1, 2 * np.sqrt(C1 * C2) * np.sin(np.radians(dh) / 2)

    L, C, h_sum = (L1 + L2) / 2, (C1 + C2) / 2, h1 + h2
    around = np.where(h_sum < 360, h_sum + 360, h_sum - 360)  # the mean over the shorter arc
    h = np.where(grey, h_sum, np.where(np.abs(h1 - h2) <= 180, h_sum, around) / 2)
    T = 1 - 0.17 * _cos(h - 30) + 0.24 * _cos(2 * h) + 0.32 * _cos(3 * h + 6) - 0.20 * _cos(4 * h - 63)
    turn = 30 * np.exp(-(((h - 275) / 25) ** 2))
    S_L = 1 + 0.015 * (L - 50) ** 2 / np.sqrt(20 + (L - 50) ** 2)
    S_C, S_H = 1 + 0.045 * C, 1 + 0.015 * C * T
    R_T = -2 * np.sqrt(C**7 / (C**7 + _25_TO_THE_7)) * np.sin(np.radians(2 * turn))
    l, c, k = dL / S_L, dC / S_C, dH / S_H
    result: NDArray[np.float64] = np.sqrt(np.maximum(l**2 + c**2 + k**2 + R_T * c * k, 0.0))
    return result


def _cos(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    cosine: NDArray[np.float64] = np.cos(np.radians(degrees))
    return cosine
