"""Speckles of a label map: pieces too small to be regions go to what surrounds them.

The loops are compiled: SciPy's labelling works on one label at a time and took ten times as long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["connected_pieces", "without_speckles"]


def without_speckles(indices: NDArray[np.uint8], min_pixels: int) -> NDArray[np.uint8]:
    """Give connected pieces (4 neighbours) of fewer than ``min_pixels`` the label that most of their border touches.

    Only neighbours that are large enough count; a speckle inside a speckle waits until the outer one has joined its
    surroundings. Takes and returns (H, W) uint8; a map without a large enough piece is returned as it is.
    """
    while True:
        pieces, count = connected_pieces(indices)
        sizes = np.bincount(pieces.ravel(), minlength=count)
        small = np.flatnonzero(sizes < min_pixels)
        if len(small) in (0, count):
            return indices
        rank = np.full(count, -1, np.int32)
        rank[small] = np.arange(len(small))
        contacts = np.zeros((len(small), int(indices.max()) + 1), np.int32)
        _count_contacts(indices, pieces, rank, contacts)
        joins = contacts.any(axis=1)
        indices = _joined(indices, pieces, rank, np.where(joins, contacts.argmax(axis=1), -1))
        if joins.all():
            return indices


@njit(cache=True, nogil=True)
def connected_pieces(indices: Any) -> Any:
    """Number the connected pieces (4 neighbours) of equal values from 0: (H, W) int32, and how many there are."""
    height, width = indices.shape
    pieces = np.empty((height, width), np.int32)
    parents = np.empty(height * width, np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            value = indices[y, x]
            piece = -1
            if x > 0 and indices[y, x - 1] == value:
                piece = _root(parents, pieces[y, x - 1])
            if y > 0 and indices[y - 1, x] == value:
                above = _root(parents, pieces[y - 1, x])
                if piece < 0:
                    piece = above
                elif piece != above:
                    parents[max(piece, above)] = min(piece, above)
                    piece = min(piece, above)
            if piece < 0:
                piece = count
                parents[count] = count
                count += 1
            pieces[y, x] = piece
    numbers = np.empty(count, np.int32)
    found = 0
    for piece in range(count):  # a parent's number is never the larger one
        if parents[piece] == piece:
            numbers[piece] = found
            found += 1
        else:
            numbers[piece] = numbers[parents[piece]]
    for y in range(height):
        for x in range(width):
            pieces[y, x] = numbers[pieces[y, x]]
    return pieces, found


@njit(cache=True, nogil=True)
def _root(parents: Any, piece: Any) -> Any:
    while parents[piece] != piece:
        parents[piece] = parents[parents[piece]]
        piece = parents[piece]
    return piece


@njit(cache=True, nogil=True)
def _count_contacts(indices: Any, pieces: Any, rank: Any, contacts: Any) -> None:
    """Count, for each small piece and label, the borders that it has with large pieces of that label."""
    height, width = indices.shape
    for y in range(height):
        for x in range(width):
            here = rank[pieces[y, x]]
            for dy, dx in ((0, 1), (1, 0)):
                if y + dy < height and x + dx < width:
                    there = rank[pieces[y + dy, x + dx]]
                    if here >= 0 and there < 0:
                        contacts[here, indices[y + dy, x + dx]] += 1
                    elif here < 0 and there >= 0:
                        contacts[there, indices[y, x]] += 1


@njit(cache=True, nogil=True)
def _joined(indices: Any, pieces: Any, rank: Any, targets: Any) -> Any:
    joined = indices.copy()
    height, width = indices.shape
    for y in range(height):
        for x in range(width):
            small = rank[pieces[y, x]]
            if small >= 0 and targets[small] >= 0:
                joined[y, x] = targets[small]
    return joined
