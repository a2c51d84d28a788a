"""Classes become common labels by the sum of their probabilities."""

from __future__ import annotations

import numpy as np

from services.common.taxonomy import COMMON_LABELS
from services.segmentation.labels import common_labels_of, group_probabilities, membership

SKY, BUILDING, WATER = (COMMON_LABELS.index(name) for name in ("sky", "building", "water"))


def test_membership() -> None:
    groups = membership(["others", "sky", "skyscraper", "house", "never heard of", "water"])
    assert [COMMON_LABELS[group] for group in groups] == ["object", "sky", "building", "building", "object", "water"]
    assert common_labels_of(["house", "sky", "tower"]) == ("sky", "building")
    assert common_labels_of(COMMON_LABELS) == COMMON_LABELS


def test_probabilities_are_summed_before_deciding() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.3], np.float32))[:, None, None].repeat(2, 1)
    grouped = group_probabilities(logits, membership(["sky", "house", "tower"]))
    assert grouped.shape == (len(COMMON_LABELS), 2, 1)
    np.testing.assert_allclose(grouped[[SKY, BUILDING], 0, 0], [0.4, 0.6], rtol=1e-6)
    np.testing.assert_allclose(grouped.sum(axis=0), 1, rtol=1e-6)


def test_huge_logits_do_not_overflow() -> None:
    logits = np.array([1e4, -1e4], np.float32)[:, None, None]
    grouped = group_probabilities(logits, membership(["sky", "water"]))
    np.testing.assert_allclose(grouped[[SKY, WATER], 0, 0], [1, 0])
