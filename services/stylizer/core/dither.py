"""Rounding to 8 bits without bands: an ordered dither with a blue spectrum (void and cluster, Ulichney 1993)."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["TILE_EDGE", "dither_thresholds", "plain_thresholds", "void_and_cluster"]

TILE_EDGE: Final = 64
"""Edge in pixels of the tile that repeats over the picture."""

_MARGIN: Final = 0.001
"""Distance of the thresholds from 0 and 1: far more than float32 errs by at 255, so a value on a level stays there."""

_CHANNEL_SHIFTS: Final = ((0, 0), (22, 41), (45, 26))
"""Rows and columns by which R, G and B see the tile shifted, so that their errors do not add up to grey noise."""

_FIRST_SHARE: Final = 10
"""One pixel in so many is set in the pattern that the ranking starts from, as Ulichney does."""

_SIGMA_PX: Final = 1.5
"""Of the Gaussian that measures crowding; Ulichney's choice."""


def dither_thresholds(seed: int, amplitude: float = 1.0) -> NDArray[np.float32]:
    """What is added to a value in 8-bit levels before it is truncated, so that it is rounded up as often as it should.

    Rectangular, not triangular, noise: the mean of its error is below 0.001 levels at any value, and a value that sits
    on a level stays there, so that what a look leaves alone stays bit-identical; triangular noise would move every
    fourth such value, and its error has half as much variance again. Its price, noise that comes and goes between two
    levels, cannot be seen where the noise is blue. On a dark gradient of 4 levels with its contrast raised 14 times,
    white noise is grainy, and in bands; interleaved gradient noise (Jimenez 2014) shows a slanted weave; this shows an
    even, fine grain when enlarged and none from afar. docs/benchmarks/render.md has figures, also of JPEG, which undoes
    any of them.

    Args:
        seed: moves the tile, so that the frames of a burst need not share their noise; 4096 positions are told apart.
        amplitude: 1 for the whole of a level; less leaves a band's edge a step of what is missing, 0 is plain rounding.

    Returns:
        (TILE_EDGE, TILE_EDGE, 3) float32 in 0.001..0.999, around 0.5; row, column and channel of a pixel, modulo the
        shape, find its threshold.
    """
    tile = _MARGIN + (1 - 2 * _MARGIN) * (void_and_cluster(TILE_EDGE) + 0.5) / TILE_EDGE**2
    mixed = seed * 0x9E3779B97F4A7C15 % 2**64  # 2^64 over the golden ratio spreads neighbouring seeds
    row, column = divmod(mixed >> 52, TILE_EDGE)
    channels = [np.roll(tile, (row + down, column + right), (0, 1)) for down, right in _CHANNEL_SHIFTS]
    return (0.5 + amplitude * (np.stack(channels, axis=-1) - 0.5)).astype(np.float32)


def plain_thresholds() -> NDArray[np.float32]:
    """The same for plain rounding: 0.5 everywhere, (1, 1, 3)."""
    return np.full((1, 1, 3), 0.5, np.float32)


@functools.cache
def void_and_cluster(edge: int) -> NDArray[np.int64]:
    """Order in which the pixels of a tile are to be set so that those set are always spread evenly.

    Ulichney's method on a torus: rank by taking the most crowded pixels away from an even first pattern, then by
    filling the largest voids. His third phase, which ranks the last half by clusters of unset pixels, is the second
    continued, since on a torus both crowdings sum to a constant. The Gaussian is held in integers, so that no
    rounding decides between two pixels; the random start is a stream that NumPy keeps frozen.

    Args:
        edge: of the tile in pixels.

    Returns:
        (edge, edge) int64, read-only, each of 0 .. edge² − 1 once.
    """
    distance = np.minimum(np.arange(edge), edge - np.arange(edge))
    gaussian = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * _SIGMA_PX**2))
    crowd = np.tile((gaussian * 2**32).round().astype(np.int64), (2, 2))
    most = np.iinfo(np.int64).max
    is_set = np.zeros(edge * edge, bool)
    is_set[np.random.RandomState(0).permutation(is_set.size)[: max(1, is_set.size // _FIRST_SHARE)]] = True
    crowding = np.zeros(is_set.size, np.int64)

    def flip(index: int) -> None:
        row, column = divmod(index, edge)
        share = crowd[edge - row : 2 * edge - row, edge - column : 2 * edge - column].reshape(-1)
        np.add(crowding, -share if is_set[index] else share, out=crowding)
        is_set[index] = not is_set[index]

    def tightest() -> int:
        return int(np.where(is_set, crowding, -1).argmax())

    def emptiest() -> int:
        return int(np.where(is_set, most, crowding).argmin())

    first = np.flatnonzero(is_set)
    is_set[:] = False
    for index in first.tolist():
        flip(index)
    while True:
        removed = tightest()
        flip(removed)
        void = emptiest()
        flip(void)
        if void == removed:
            break
    ranks = np.empty(is_set.size, np.int64)
    even, even_crowding = is_set.copy(), crowding.copy()
    for rank in range(int(is_set.sum()) - 1, -1, -1):
        index = tightest()
        flip(index)
        ranks[index] = rank
    is_set[:], crowding[:] = even, even_crowding
    for rank in range(int(is_set.sum()), is_set.size):
        index = emptiest()
        flip(index)
        ranks[index] = rank
    ranks.flags.writeable = False
    return ranks.reshape(edge, edge)
