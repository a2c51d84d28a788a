"""Edges that moved: closed forms, SSIM window by window, scikit-image as oracle, gradients where there is no edge."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from services.stylizer.core.edges import EdgeReference

FLOOR = 1e-10


def rand(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative_magnitude(picture: Tensor) -> np.ndarray:
    """Sobel magnitude of luma over its mean, pixel by pixel."""
    luma = np.tensordot([0.299, 0.587, 0.114], picture.numpy(), 1)
    padded, kernel = np.pad(luma, 1, mode="edge"), np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    found = np.empty_like(luma)
    for y, x in np.ndindex(*luma.shape):
        window = padded[y : y + 3, x : x + 3]
        found[y, x] = np.hypot((window * kernel).sum(), (window * kernel.T).sum())
    return found / found.mean()


def by_hand(O: Tensor, I: Tensor) -> float:
    x, y = relative_magnitude(O), relative_magnitude(I)
    rows, columns = (min(11, edge) for edge in x.shape)
    values = []
    for top in range(x.shape[0] - rows + 1):
        for left in range(x.shape[1] - columns + 1):
            a, b = (picture[top : top + rows, left : left + columns] for picture in (x, y))
            covariance = ((a - a.mean()) * (b - b.mean())).mean()
            means = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
            values.append(means * (2 * covariance + 9e-4) / (a.var() + b.var() + 9e-4))
    return float(np.mean(values))


@pytest.mark.parametrize(("height", "width"), [(11, 11), (13, 17), (5, 20), (3, 3)])
def test_equals_ssim_window_by_window(height: int, width: int) -> None:
    O, I = rand(height, width), rand(height, width, 1)
    assert float(EdgeReference(I).similarity(O)) == pytest.approx(by_hand(O, I), abs=1e-12)


def test_agrees_with_scikit_image() -> None:
    O, I = rand(32, 40), rand(32, 40, 1)
    x, y = relative_magnitude(O), relative_magnitude(I)
    _, full = structural_similarity(x, y, win_size=11, data_range=1.0, full=True, use_sample_covariance=False)
    assert float(EdgeReference(I).similarity(O)) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


@pytest.mark.parametrize("floor", [0.0, FLOOR])
def test_the_same_edges_are_one_and_moved_ones_less(floor: float) -> None:
    I = rand(32, 40)
    reference = EdgeReference(I, floor)
    assert float(reference.similarity(I)) == pytest.approx(1, abs=1e-12)
    assert float(reference.similarity(0.5 * I + 0.2)) == pytest.approx(1, abs=1e-6)  # each is divided by its own mean
    moved = float(reference.similarity(I.roll(1, dims=2)))
    assert moved < 0.7
    assert float(reference.similarity(0.9 * I + 0.1 * I.roll(1, dims=2))) > moved


def test_the_floor_hardly_changes_the_score() -> None:
    O, I = rand(32, 40), rand(32, 40, 1)
    scores = [float(EdgeReference(I, floor).similarity(O)) for floor in (0.0, FLOOR)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_gradient() -> None:
    reference, O = EdgeReference(rand(6, 5, 1), FLOOR), rand(6, 5).requires_grad_(True)
    assert torch.autograd.gradcheck(reference.similarity, (O,))


def test_flat_ground_has_a_finite_gradient_with_the_floor_and_none_without() -> None:
    I = torch.full((3, 16, 16), 0.5)
    I[:, :, 8:] = 0.7
    found = []
    for floor in (FLOOR, 0.0):
        O = I.clone().requires_grad_(True)
        EdgeReference(I, floor).similarity(O).backward()
        assert O.grad is not None
        found.append(bool(torch.isfinite(O.grad).all()))
    assert found == [True, False]


def test_a_picture_without_any_edge_has_a_score() -> None:
    flat, I = torch.full((3, 16, 16), 0.5), rand(16, 16).float()
    assert 0 <= float(EdgeReference(I).similarity(flat)) < 0.1
    assert float(EdgeReference(flat).similarity(flat)) == pytest.approx(1)
