"""From a network's classes to common labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.common.taxonomy import COMMON_LABELS, common_label

__all__ = ["common_labels_of", "group_probabilities", "keep_credible", "membership"]

_UNKNOWN = "object"


def membership(classes: Sequence[str]) -> NDArray[np.intp]:
    """Give each class's common label as a position in ``COMMON_LABELS``; classes that nobody knows are objects."""
    return np.array([COMMON_LABELS.index(common_label(name) or _UNKNOWN) for name in classes], np.intp)


def common_labels_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Give the common labels that a network with these classes can return, in their usual order."""
    return tuple(COMMON_LABELS[position] for position in np.unique(membership(classes)))


def group_probabilities(logits: NDArray[np.float32], groups: NDArray[np.intp]) -> NDArray[np.float32]:
    """Softmax over the classes, then the sum over each common label: (classes, h, w) to (common labels, h, w).

    Summing before deciding lets a house, a tower and a skyscraper that each are unlikely win together.
    """
    powers = np.exp(logits - logits.max(axis=0))
    powers /= powers.sum(axis=0)
    summed = np.zeros((len(COMMON_LABELS), *logits.shape[1:]), np.float32)
    np.add.at(summed, groups, powers)
    return summed


def keep_credible(
    probabilities: NDArray[np.float32], min_share: float, min_confidence: float
) -> tuple[list[int], NDArray[np.float32]]:
    """Drop labels that are doubtful or tiny; their pixels go to the next best label.

    A label is doubtful if its mean probability where it wins is under ``min_confidence``, and tiny if it wins less
    than ``min_share`` of the picture. Takes (labels, h, w); returns the labels that are left, ascending, at least
    one, and their probabilities, which sum to 1 again.
    """
    winners, best = probabilities.argmax(axis=0).ravel(), probabilities.max(axis=0).ravel()
    wins = np.bincount(winners, minlength=len(probabilities))
    sums = np.bincount(winners, weights=best, minlength=len(probabilities))
    # Measured before anything is dropped, so that one label's doubts do not spread to the next best.
    kept = [label for label in np.flatnonzero(wins).tolist() if sums[label] >= min_confidence * wins[label]]
    kept = kept or [int(wins.argmax())]
    while len(kept) > 1:
        shares = np.bincount(probabilities[kept].argmax(axis=0).ravel(), minlength=len(kept)) / winners.size
        smallest = int(shares.argmin())
        if shares[smallest] >= min_share:
            break
        del kept[smallest]  # the smallest first: its pixels may lift another one over the threshold
    left = probabilities[kept] + np.float32(1e-7)  # where all that is left was impossible, they share equally
    return kept, left / left.sum(axis=0)
