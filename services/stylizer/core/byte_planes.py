"""Pictures of bytes, lossless and small: differences modulo 256 of neighbours and of channels, deflated (RFC 1951)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["correlated", "decorrelated", "deflated", "inflated"]

_LEVEL: Final = 6


def decorrelated(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Red and blue as differences from green, with which they move: (3, h, w) to the same shape."""
    red, green, blue = planes
    return np.stack([red - green, green, blue - green])


def correlated(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Inverse of :func:`decorrelated`."""
    red, green, blue = planes
    return np.stack([red + green, green, blue + green])


def deflated(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each byte less the one before it in its row, in a zlib stream: (..., w) gives (n,)."""
    differences = np.diff(planes, axis=-1, prepend=np.uint8(0))
    return np.frombuffer(zlib.compress(differences.tobytes(), _LEVEL), np.uint8)


def inflated(data: NDArray[Any], shape: Sequence[int]) -> NDArray[np.uint8]:
    """Inverse of :func:`deflated`; never more than ``shape`` is unpacked, whatever the data would give.

    Raises:
        ValueError: the data is no whole zlib stream of that many bytes.
    """
    size = math.prod(shape)
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(data.tobytes(), size + 1)
    except zlib.error as error:
        raise ValueError(f"no zlib stream: {error}") from error
    if len(unpacked) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"must inflate to {size} bytes")
    return np.cumsum(np.frombuffer(unpacked, np.uint8).reshape(shape), axis=-1, dtype=np.uint8)
