"""Doubtful and tiny labels and pixels give way by the rule, and the verdicts say what happened."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.common.taxonomy import COMMON_LABELS
from services.segmentation.confidence import MIN_JUDGED_SHARE, MIN_PHOTO_CONFIDENCE, Judgement, judge


def picture(*blocks: tuple[int, dict[str, float]]) -> NDArray[np.float32]:
    """Columns of pixels, ten rows high: how many columns, and their labels' probabilities; the rest is for objects."""
    columns = []
    for count, named in blocks:
        column = np.zeros(len(COMMON_LABELS), np.float32)
        column[COMMON_LABELS.index("object")] = 1 - sum(named.values())
        for name, probability in named.items():
            column[COMMON_LABELS.index(name)] = probability
        columns.append(np.repeat(column[:, None], count, axis=1))
    return np.repeat(np.concatenate(columns, axis=1)[:, None], 10, axis=1)


def judged(*blocks: tuple[int, dict[str, float]]) -> Judgement:
    probabilities = picture(*blocks)
    return judge(probabilities, np.ones(probabilities.shape[1:], bool))


def names(judgement: Judgement) -> list[str]:
    return [COMMON_LABELS[label] for label in judgement.kept]


def winner(judgement: Judgement, column: int) -> str:
    return names(judgement)[int(judgement.probabilities[:, 0, column].argmax())]


def told(judgement: Judgement) -> dict[str, tuple[str, str]]:
    return {verdict.label: (verdict.verdict, verdict.merged_into) for verdict in judgement.verdicts}


def test_sure_labels_stand() -> None:
    result = judged((60, {"sky": 0.95}), (40, {"grass": 0.9}))
    assert told(result) == {"sky": ("kept", ""), "grass": ("kept", "")}
    sky, grass = result.verdicts
    assert (sky.area_share, sky.confidence) == pytest.approx((0.6, 0.95))
    assert (grass.area_share, grass.confidence) == pytest.approx((0.4, 0.9))
    assert not any(verdict.reason for verdict in result.verdicts)
    assert names(result) == ["sky", "grass"]


def test_a_doubtful_label_merges_with_a_related_one_if_both_together_are_credible() -> None:
    result = judged((50, {"sky": 1.0}), (30, {"grass": 0.9}), (20, {"plant": 0.5, "grass": 0.3}))
    assert told(result)["plant"] == ("merged", "grass")
    assert winner(result, 90) == "grass"
    assert "0.50 sure" in next(v.reason for v in result.verdicts if v.label == "plant")


def test_of_the_related_labels_the_most_probable_there_is_taken() -> None:
    result = judged(
        (30, {"building": 0.95}), (50, {"road": 0.95}), (20, {"vehicle": 0.55, "road": 0.35, "building": 0.02})
    )
    assert told(result)["vehicle"] == ("merged", "road")


def test_a_doubtful_label_without_a_credible_relative_is_dropped_for_what_lies_around() -> None:
    result = judged((60, {"sky": 1.0}), (30, {"grass": 0.95}), (10, {"person": 0.55}))
    assert told(result)["person"] == ("dropped", "")
    assert winner(result, 99) == "grass"  # the nearest pixels that are sure, not the label next by a hair


def test_tiny_labels_go_smallest_first() -> None:
    result = judged((970, {"sky": 0.99}), (26, {"grass": 0.99}), (4, {"tree": 0.8, "grass": 0.2}))
    assert told(result) == {"sky": ("kept", ""), "grass": ("kept", ""), "tree": ("merged", "grass")}
    assert "0.40% of the photo, 0.5% is asked for" in result.verdicts[-1].reason
    result = judged((993, {"sky": 0.99}), (4, {"grass": 0.99}), (3, {"tree": 0.8, "grass": 0.2}))
    # the tree's pixels lift the grass over the threshold
    assert told(result) == {"sky": ("kept", ""), "grass": ("kept", ""), "tree": ("merged", "grass")}


def test_a_related_label_that_nobody_sees_there_takes_nothing() -> None:
    result = judged((900, {"sky": 0.99}), (80, {"road": 0.99}), (20, {"water": 0.68, "road": 0.32}))
    assert told(result)["water"] == ("dropped", "")
    assert winner(result, 999) == "road"  # the sky is related to water, but has no part in these pixels


@pytest.mark.parametrize(("columns", "one_region"), [(24, False), (26, True)])
def test_a_photo_of_which_too_much_would_be_dropped_is_one_region(columns: int, one_region: bool) -> None:
    beside = ((80 - columns, {"sky": 0.99}), (20, {"water": 0.99}))
    result = judged(*beside, (columns, {"person": 0.6, "grass": 0.39}))
    assert (not result.kept) == one_region
    if one_region:
        assert "labels that are not credible have 26% of the photo" in result.verdicts[0].reason


@pytest.mark.parametrize(("columns", "one_region"), [(4, False), (6, True)])
def test_a_label_that_stands_alone_has_nothing_else_in_it(columns: int, one_region: bool) -> None:
    result = judged((100 - columns, {"sky": 0.99}), (columns, {"building": 0.6, "grass": 0.39}))
    assert (not result.kept) == one_region
    if one_region:
        assert "those that are not have 6% of the photo, at most 5% is allowed beside it" in result.verdicts[0].reason


def test_doubtful_pixels_of_a_label_that_stands_go_to_those_around() -> None:
    result = judged((40, {"sky": 0.99}), (30, {"water": 0.99}), (10, {"sky": 0.35, "water": 0.3, "person": 0.2}))
    assert told(result)["sky"][0] == "softened"
    assert "20% of its pixels were doubtful" in result.verdicts[0].reason
    assert winner(result, 79) == "water"


@pytest.mark.parametrize("visible", [True, False])
def test_a_photo_without_light_is_one_region(visible: bool) -> None:
    probabilities = picture((80, {"sky": 0.95}), (20, {"tree": 0.95}))
    light = np.ones((10, 100), bool)
    light[:, : 20 if visible else 90] = False
    result = judge(probabilities, light)
    assert bool(result.kept) == visible
    if not visible:
        assert {verdict.verdict for verdict in result.verdicts} == {"dropped"}
        assert "10% of the photo is neither black nor blown out" in result.verdicts[0].reason


def test_a_photo_that_the_network_is_unsure_of_is_one_region() -> None:
    result = judged((70, {"interior": 0.71}), (30, {"water": 0.71}))
    assert result.kept == ()
    assert result.probabilities.shape == (1, 1, 1)
    assert f"0.71 sure of the photo, {MIN_PHOTO_CONFIDENCE:g} is asked for" in result.verdicts[0].reason


def test_a_third_of_the_photo_must_be_judged() -> None:
    light = np.zeros((10, 90), bool)
    light[:, : int(90 * MIN_JUDGED_SHARE) + 1] = True
    probabilities = picture((90, {"sky": 0.95}))
    assert judge(probabilities, light).kept
    light[:, 29:] = False
    assert not judge(probabilities, light).kept


@given(st.integers(0, 9999), st.floats(0.02, 2))
@settings(deadline=None)
def test_whatever_comes_the_result_is_one(seed: int, spread: float) -> None:
    generator = np.random.default_rng(seed)
    coarse = generator.dirichlet(np.full(len(COMMON_LABELS), spread), (4, 5)).astype(np.float32)
    probabilities = np.moveaxis(coarse, 2, 0).repeat(3, axis=1).repeat(3, axis=2)
    result = judge(probabilities, generator.random((12, 15)) < 0.9)
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1, atol=1e-5)
    assert list(result.kept) == sorted(set(result.kept))
    assert sum(verdict.area_share for verdict in result.verdicts) == pytest.approx(1)
    standing = {verdict.label for verdict in result.verdicts if verdict.verdict in ("kept", "softened")}
    assert standing == set(names(result))
    shares = [verdict.area_share for verdict in result.verdicts]
    assert shares == sorted(shares, reverse=True)
    for verdict in result.verdicts:
        assert bool(verdict.reason) == (verdict.verdict != "kept")
        assert bool(verdict.merged_into) == (verdict.verdict == "merged")
