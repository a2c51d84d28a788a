"""Classes become common labels by the sum of their probabilities; doubtful and tiny labels give way."""

from __future__ import annotations

import numpy as np
import pytest

from services.common.taxonomy import COMMON_LABELS
from services.segmentation.labels import common_labels_of, group_probabilities, keep_credible, membership

SKY, BUILDING, WATER = (COMMON_LABELS.index(name) for name in ("sky", "building", "water"))


def test_membership() -> None:
    groups = membership(["others", "sky", "skyscraper", "house", "never heard of", "water"])
    assert [COMMON_LABELS[group] for group in groups] == ["object", "sky", "building", "building", "object", "water"]
    assert common_labels_of(["house", "sky", "tower"]) == ("sky", "building")


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


def picture(*rows: tuple[int, list[float]]) -> np.ndarray:
    """Columns of pixels: how many, and their probabilities."""
    return np.concatenate([np.tile(np.array(p, np.float32)[:, None, None], (1, 1, n)) for n, p in rows], axis=2)


def test_tiny_labels_go_to_the_next_best() -> None:
    probabilities = picture((96, [0.9, 0.1, 0.0]), (3, [0.1, 0.2, 0.7]), (1, [0.3, 0.7, 0.0]))
    kept, left = keep_credible(probabilities, min_share=0.04, min_confidence=0.6)
    # label 1 is the smallest; its pixel goes to 0, then label 2 with 3 of 100 goes too
    assert kept == [0]
    np.testing.assert_allclose(left, 1)
    kept, left = keep_credible(probabilities, min_share=0.02, min_confidence=0.6)
    assert kept == [0, 2]
    np.testing.assert_allclose(left.sum(axis=0), 1, rtol=1e-6)
    assert left[:, 0, 99].argmax() == 0


def test_doubtful_labels_go_however_large() -> None:
    probabilities = picture((50, [0.9, 0.0, 0.1]), (50, [0.2, 0.5, 0.3]))
    kept, left = keep_credible(probabilities, min_share=0.01, min_confidence=0.6)
    assert kept == [0]
    assert left.shape == (1, 1, 100)


def test_something_is_always_left() -> None:
    kept, left = keep_credible(picture((60, [0.4, 0.3, 0.3]), (40, [0.3, 0.4, 0.3])), 0.01, 0.99)
    assert kept == [0]
    assert np.isfinite(left).all()
    kept, _ = keep_credible(picture((10, [0.0, 1.0])), 0.5, 0.6)
    assert kept == [1]


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_always_sum_to_one(seed: int) -> None:
    noise = np.random.default_rng(seed).dirichlet(np.full(6, 0.2), (20, 30)).astype(np.float32)
    kept, left = keep_credible(np.moveaxis(noise, 2, 0), 0.1, 0.5)
    assert len(left) == len(kept) > 0
    np.testing.assert_allclose(left.sum(axis=0), 1, rtol=1e-5)
