"""Speckles of a label map: pieces too small to be regions go to what surrounds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

__all__ = ["without_speckles"]


def without_speckles(indices: NDArray[np.uint8], min_pixels: int) -> NDArray[np.uint8]:
    """Give connected pieces (4 neighbours) of fewer than ``min_pixels`` the label that most of their border touches.

    Only neighbours that are large enough count; a speckle inside a speckle waits until the outer one has joined its
    surroundings. Takes and returns (H, W) uint8; a map without a large enough piece is returned as it is.
    """
    while True:
        pieces, owners = _pieces(indices)
        small = np.bincount(pieces.ravel(), minlength=len(owners)) < min_pixels
        if small.all() or not small.any():
            return indices
        contacts = np.zeros(len(owners) * 256, np.intp)
        for one, other in ((pieces[:, 1:], pieces[:, :-1]), (pieces[1:], pieces[:-1])):
            for piece, around in ((one, other), (other, one)):
                touches = small[piece] & ~small[around]
                contacts += np.bincount(
                    piece[touches].astype(np.intp) * 256 + owners[around[touches]], minlength=len(contacts)
                )
        by_label = contacts.reshape(-1, 256)
        joins = by_label.any(axis=1)
        owners[joins] = by_label[joins].argmax(axis=1)
        indices = owners.astype(np.uint8)[pieces]


def _pieces(indices: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Number the connected pieces from 0, and tell the label of each."""
    pieces = np.zeros(indices.shape, np.int32)
    owners: list[int] = []
    for value in np.flatnonzero(np.bincount(indices.ravel(), minlength=256)).tolist():
        inside = indices == value
        numbered, count = label(inside)
        pieces[inside] = numbered[inside] - 1 + len(owners)
        owners += [value] * count
    return pieces, np.array(owners, np.intp)
