"""Scores of label maps are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.label_scores import BORDER_PX, borders, matched_share, pooled, score


def halves(at: int, left: int = 3, right: int = 8) -> np.ndarray:
    indices = np.full((20, 40), left, np.uint8)
    indices[:, at:] = right
    return indices


def test_other_names_agree_in_full() -> None:
    result = score(halves(20), halves(20, left=8, right=1))
    assert (result.agreement, result.recall, result.precision, result.regions) == (1, 1, 1, 2)


def test_regions_are_matched_one_to_one() -> None:
    three = halves(20)
    three[:, 30:] = 5  # the right half in two parts: only the better one counts
    assert matched_share(three, halves(20)) == pytest.approx(0.75)
    assert matched_share(halves(20), three) == pytest.approx(0.75)
    assert matched_share(np.zeros((20, 40), np.uint8), halves(10)) == pytest.approx(0.75)


@pytest.mark.parametrize(("off", "found"), [(BORDER_PX, 1), (BORDER_PX + 1, 0)])
def test_borders_count_within_their_distance(off: int, found: float) -> None:
    result = score(halves(20 + off), halves(20))
    assert (result.recall, result.precision) == (found, found)


def test_a_map_without_borders_misses_all_and_is_never_wrong() -> None:
    result = score(np.zeros((20, 40), np.uint8), halves(20))
    assert (result.recall, result.precision, result.regions) == (0, 1, 1)
    assert not borders(np.zeros((4, 4), np.uint8)).any()
    both = pooled([result, score(halves(20), halves(20))])
    assert (both.recall, both.agreement, both.regions) == (0.5, 0.75, 1.5)
