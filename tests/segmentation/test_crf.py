"""The lattice filters like the sum over all pairs, and the mean field is the published one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from services.segmentation.refine.crf import (
    CrfSettings,
    bilateral_features,
    crf_marginals,
    gaussian_features,
    mean_field,
)
from services.segmentation.refine.permutohedral import Permutohedral
from tests.segmentation.refine_by_hand import gaussian_kernel, mean_field_by_hand


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Two colours with a slanted border, and a little noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    right = (x + 0.3 * y > 0.6 * width)[..., None]
    colours = np.where(right, (0.7, 0.4, 0.2), (0.2, 0.35, 0.6))
    return (colours + generator.normal(0, 0.01, (height, width, 3))).clip(0, 1).astype(np.float32)


def unsure(height: int, width: int, labels: int = 3, seed: int = 1) -> NDArray[np.float32]:
    """Probabilities (labels, h, w) that prefer a label on each side of a border some pixels off."""
    generator = np.random.default_rng(seed)
    planes = generator.dirichlet(np.full(labels, 2.0), (height, width))
    x = np.mgrid[:height, :width][1]
    planes[..., 0] += np.where(x < width // 2 - 2, 1.0, 0.0)
    planes[..., 1] += np.where(x >= width // 2 - 2, 1.0, 0.0)
    planes /= planes.sum(axis=2, keepdims=True)
    return np.moveaxis(planes, 2, 0).astype(np.float32)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_filtering_constants_and_one_point(dimensions: int) -> None:
    features = np.random.default_rng(3).normal(0, 4, (50, dimensions))
    lattice = Permutohedral(features)
    ones = lattice.filtered(np.ones((50, 1), np.float32))
    assert (ones > 0).all()
    values = np.random.default_rng(4).random((50, 3), np.float32)
    both = lattice.filtered(np.concatenate([values, 2 * values + 1], axis=1))
    np.testing.assert_allclose(both[:, 3:], 2 * both[:, :3] + ones, rtol=1e-4)
    alone = Permutohedral(features[:1]).filtered(np.array([[2.5]], np.float32))
    assert alone.shape == (1, 1)
    assert alone[0, 0] > 0


def test_barycentric_weights_are_shares() -> None:
    from services.segmentation.refine.permutohedral import _simplices

    keys, weights = _simplices(np.random.default_rng(5).normal(0, 20, (400, 5)))
    assert keys.shape == weights.shape == (400, 6)
    assert (weights > -1e-9).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-9)
    assert all(len(set(row)) == 6 for row in keys.tolist())


@pytest.mark.parametrize("dimensions", [2, 5])
def test_normalised_filter_is_near_the_sum_over_all_pairs(dimensions: int) -> None:
    """Within 0.05 of values of 0..1 at the worst point, 0.02 on average."""
    guide = picture(20, 26)
    settings = CrfSettings()
    features = bilateral_features(guide, settings) if dimensions == 5 else gaussian_features(20, 26, settings)
    values = np.column_stack([guide[..., 0].ravel() > 0.45, np.mgrid[:20, :26][1].ravel() / 25]).astype(np.float32)
    lattice = Permutohedral(features)
    found = lattice.filtered(values) / lattice.filtered(np.ones((len(values), 1), np.float32))
    kernel = gaussian_kernel(features)
    error = np.abs(found - kernel @ values / kernel.sum(axis=1, keepdims=True))
    assert error.max() <= 0.05
    assert error.mean() <= 0.02


def test_features_beyond_the_lattice_are_refused() -> None:
    with pytest.raises(ValueError, match="larger standard deviations"):
        Permutohedral(np.array([[0.0, 0.0], [5000.0, 0.0]]))


def kernels_by_hand(guide: NDArray[np.float32], settings: CrfSettings) -> list[tuple[float, NDArray[np.float64]]]:
    height, width = guide.shape[:2]
    return [
        (settings.appearance, gaussian_kernel(bilateral_features(guide, settings))),
        (settings.smoothness, gaussian_kernel(gaussian_features(height, width, settings))),
    ]


def test_mean_field_with_exact_kernels_is_the_published_one() -> None:
    guide, planes = picture(9, 11), unsure(9, 11)
    exact = kernels_by_hand(guide, CrfSettings())
    filters = [(weight, lambda x, K=kernel: (K @ x).astype(np.float32)) for weight, kernel in exact]
    flat = planes.reshape(3, -1).T
    np.testing.assert_allclose(
        mean_field(flat, filters, 5), mean_field_by_hand(flat.astype(np.float64), exact, 5), atol=1e-4
    )


def test_whole_crf_is_near_brute_force() -> None:
    """Marginals within 0.1 on average 0.01, and the same label on all but 1 % of the pixels."""
    guide, planes = picture(20, 26), unsure(20, 26)
    settings = CrfSettings()
    found = crf_marginals(guide, planes, settings)
    flat = planes.reshape(3, -1).T.astype(np.float64)
    expected = mean_field_by_hand(flat, kernels_by_hand(guide, settings), settings.iterations).T.reshape(3, 20, 26)
    assert np.abs(found - expected).mean() <= 0.01
    assert (found.argmax(axis=0) == expected.argmax(axis=0)).mean() >= 0.99
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_labels_follow_the_colours() -> None:
    guide, planes = picture(40, 60), unsure(40, 60)
    right = guide[..., 0] > 0.45
    before = (planes.argmax(axis=0) == right).mean()
    after = (crf_marginals(guide, planes, CrfSettings()).argmax(axis=0) == right).mean()
    assert before < 0.95
    assert 1 - after < (1 - before) / 3


def test_permuting_labels_permutes_the_marginals() -> None:
    guide, planes = picture(15, 18), unsure(15, 18, labels=4)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(
        crf_marginals(guide, planes[order], CrfSettings()),
        crf_marginals(guide, planes, CrfSettings())[order],
        atol=1e-5,
    )


def test_without_kernels_nothing_changes() -> None:
    planes = unsure(6, 7)
    settings = CrfSettings(appearance=0.0, smoothness=0.0)
    np.testing.assert_allclose(crf_marginals(picture(6, 7), planes, settings), planes, atol=1e-5)
