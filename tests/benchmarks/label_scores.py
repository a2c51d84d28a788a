"""How well regions agree with hand-made ones that have other names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment

__all__ = ["BORDER_PX", "Score", "borders", "matched_share", "pooled", "score"]

BORDER_PX = 3
"""How far a border may be off and still count as found."""


@dataclass(frozen=True)
class Score:
    """One photo, or several.

    Attributes:
        agreement: share of the pixels on which regions agree that are matched one to one as well as they can be.
        recall: share of the hand-made borders that have a border of ours within ``BORDER_PX``.
        precision: share of our borders that have a hand-made one within ``BORDER_PX``.
        regions: number of ours.
    """

    agreement: float
    recall: float
    precision: float
    regions: float


def score(found: NDArray[np.uint8], hand: NDArray[np.uint8]) -> Score:
    """Score (H, W) indices against others of the same size; a map without borders has precision 1, recall 0."""
    ours, theirs = borders(found), borders(hand)
    return Score(
        matched_share(found, hand), _near(theirs, ours, 0.0), _near(ours, theirs, 1.0), float(len(np.unique(found)))
    )


def pooled(scores: Sequence[Score]) -> Score:
    """Mean of each figure."""
    columns = zip(*((s.agreement, s.recall, s.precision, s.regions) for s in scores), strict=True)
    return Score(*(float(np.mean(column)) for column in columns))


def matched_share(found: NDArray[np.uint8], hand: NDArray[np.uint8]) -> float:
    """Share of the pixels in pairs of regions, each region in one pair at most, that together overlap most."""
    overlaps = np.bincount(found.ravel().astype(np.intp) * 256 + hand.ravel(), minlength=1 << 16).reshape(256, 256)
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return float(overlaps[rows, columns].sum() / found.size)


def borders(indices: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour has another label."""
    edge = np.zeros(indices.shape, bool)
    edge[:, :-1] = indices[:, 1:] != indices[:, :-1]
    edge[:-1] |= indices[1:] != indices[:-1]
    return edge


def _near(of: NDArray[np.bool_], others: NDArray[np.bool_], without: float) -> float:
    if not of.any():
        return 1.0
    if not others.any():
        return without
    distance = np.asarray(distance_transform_edt(~others))
    return float((distance[of] <= BORDER_PX).mean())
