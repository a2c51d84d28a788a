"""From a network's classes to common labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.common.taxonomy import COMMON_LABELS, common_label

__all__ = ["common_labels_of", "group_probabilities", "membership"]

_UNKNOWN = "object"


def membership(classes: Sequence[str]) -> NDArray[np.intp]:
    """Give each class's common label as a position in ``COMMON_LABELS``; classes that nobody knows are objects."""
    every = frozenset(classes)
    return np.array([COMMON_LABELS.index(common_label(name, every) or _UNKNOWN) for name in classes], np.intp)


def common_labels_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Give the common labels that a network with these classes can return, in their usual order."""
    return tuple(COMMON_LABELS[position] for position in np.unique(membership(classes)))


def group_probabilities(logits: NDArray[np.float32], groups: NDArray[np.intp]) -> NDArray[np.float32]:
    """Softmax over the classes, then the sum over each common label: (classes, h, w) to (common labels, h, w).

    Summing before deciding lets a house, a tower and a skyscraper that each are unlikely win together.
    """
    powers = np.exp(logits - logits.max(axis=0))
    powers /= powers.sum(axis=0)
    belongs = (np.arange(len(COMMON_LABELS))[:, None] == groups).astype(np.float32)
    return np.asarray(np.tensordot(belongs, powers, axes=1), np.float32)
