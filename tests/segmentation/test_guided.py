"""The guided filter does what its equations say, keeps edges of the guide, and is linear."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.segmentation.refine.guided import guided_fits, guided_plane
from services.segmentation.refine.kernels import box_mean
from services.segmentation.sampling import half_pixel
from tests.segmentation.refine_by_hand import box_mean_by_hand, guided_by_hand


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


def filtered(
    guide: NDArray[np.float32], masks: NDArray[np.float32], radius: int, epsilon: float
) -> NDArray[np.float32]:
    fits = guided_fits(guide, masks, radius, epsilon)
    height, width = guide.shape[:2]
    same = half_pixel(height, height), half_pixel(width, width)
    return np.stack([guided_plane(each, guide, *same) for each in fits])


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 15), st.integers(0, 9))
@settings(deadline=None)
def test_box_mean_is_the_mean_of_each_window(height: int, width: int, radius: int, seed: int) -> None:
    planes = noise(2, height, width, seed=seed)
    means = box_mean(planes, radius)
    for plane, mean in zip(planes, means, strict=True):
        np.testing.assert_allclose(mean, box_mean_by_hand(plane.astype(np.float64), radius), atol=1e-6)


@pytest.mark.parametrize(("radius", "epsilon"), [(1, 1e-2), (3, 1e-3), (20, 1e-4)])
def test_filter_is_the_ridge_regression_of_each_window(radius: int, epsilon: float) -> None:
    guide = noise(17, 23, 3)
    mask = (0.3 + 0.4 * noise(17, 23, seed=1)).astype(np.float32)  # so that nothing is cut at 0 or 1
    expected = guided_by_hand(guide.astype(np.float64), mask.astype(np.float64), radius, epsilon)
    np.testing.assert_allclose(filtered(guide, mask[None], radius, epsilon)[0], expected.clip(0, 1), atol=2e-4)


def test_a_guide_without_edges_leaves_two_box_blurs() -> None:
    mask = noise(20, 30, seed=2)
    guide = np.full((20, 30, 3), 0.4, np.float32)
    expected = box_mean_by_hand(box_mean_by_hand(mask.astype(np.float64), 4), 4)
    np.testing.assert_allclose(filtered(guide, mask[None], 4, 1e-3)[0], expected, atol=1e-5)


def test_a_step_that_lies_on_the_guides_edge_is_kept() -> None:
    guide = np.zeros((30, 40, 3), np.float32)
    guide[:, 17:] = (0.8, 0.5, 0.2)
    mask = np.zeros((30, 40), np.float32)
    mask[:, 17:] = 1
    np.testing.assert_allclose(filtered(guide, mask[None], 6, 1e-5)[0], mask, atol=1e-3)


@given(st.integers(2, 5), st.integers(0, 99), st.integers(1, 6))
@settings(deadline=None, max_examples=25)
def test_fits_of_masks_that_sum_to_one_sum_to_one_on_any_guide(labels: int, seed: int, radius: int) -> None:
    generator = np.random.default_rng(seed)
    masks = np.moveaxis(generator.dirichlet(np.ones(labels), (12, 15)), 2, 0).astype(np.float32)
    guide = generator.random((12, 15, 3), np.float32)
    fits = guided_fits(guide, masks, radius, 1e-3)
    total = fits.sum(axis=0)
    np.testing.assert_allclose(total[:3], 0, atol=1e-4)
    np.testing.assert_allclose(total[3], 1, atol=1e-4)
    order = generator.permutation(labels)
    np.testing.assert_array_equal(guided_fits(guide, masks[order], radius, 1e-3), fits[order])


def test_fits_found_small_are_evaluated_large() -> None:
    """An edge that the small size only shows as a grey pixel is sharp again on the large guide."""
    large = np.zeros((80, 120, 3), np.float32)
    large[:, 58:] = (0.9, 0.6, 0.3)
    small = large.reshape(20, 4, 30, 4, 3).mean(axis=(1, 3))
    mask = np.zeros((20, 30), np.float32)
    mask[:, 14:] = 1  # 2 of the large pixels too far to the left
    fits = guided_fits(np.ascontiguousarray(small), mask[None], 4, 1e-4)
    plane = guided_plane(fits[0], large, half_pixel(20, 80), half_pixel(30, 120))
    np.testing.assert_array_equal(plane > 0.5, large[..., 0] > 0.5)
