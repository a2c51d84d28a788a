"""Local affine maps: ridge regression by brute force, exact recovery, flat windows."""

import numpy as np
import pytest
import torch
from torch import Tensor

from services.stylizer.core.local_affine import applied, exact_affine, local_affine


def rand(height: int, width: int, seed: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(O: np.ndarray, I: np.ndarray, epsilon: float, y: int, x: int) -> np.ndarray:
    """Least squares with the ridge as three further rows: (3, 4)."""
    window = (slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2))
    inputs, outputs = I[:, *window].reshape(3, -1).T, O[:, *window].reshape(3, -1).T
    design = np.vstack([np.hstack([inputs, np.ones((len(inputs), 1))]), np.sqrt(epsilon) * np.eye(3, 4)])
    return np.linalg.lstsq(design, np.vstack([outputs, np.zeros((3, 3))]), rcond=None)[0].T


@pytest.mark.parametrize(("height", "width"), [(3, 3), (7, 6)])
@pytest.mark.parametrize("epsilon", [1e-7, 1e-2])
def test_equals_least_squares_at_every_pixel(height: int, width: int, epsilon: float) -> None:
    O, I = rand(height, width, 1), rand(height, width, 2)
    maps = local_affine(O, I, epsilon).numpy()
    for y in range(height):
        for x in range(width):
            expected = by_hand(O.numpy(), I.numpy(), epsilon, y, x)
            np.testing.assert_allclose(maps[:, :, y, x], expected, rtol=1e-5, atol=1e-5)


def test_an_affine_output_is_recovered() -> None:
    I = rand(9, 8, 3)
    A = torch.tensor([[0.9, 0.2, 0, 0.1], [0.1, 1.1, -0.2, 0], [0, 0.3, 0.7, -0.3]], dtype=torch.float64)
    O = torch.einsum("ij,jhw->ihw", A[:, :3], I) + A[:, 3, None, None]
    maps = local_affine(O, I)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(maps, A[:, :, None, None].expand_as(maps), rtol=0, atol=1e-4)
    torch.testing.assert_close(applied(local_affine(O, I), I), O, rtol=0, atol=1e-5)


def test_a_flat_window_gives_its_mean_and_no_black_dot() -> None:
    I, O = torch.full((3, 6, 6), 0.3, dtype=torch.float64), rand(6, 6, 1)
    maps = local_affine(O, I)
    assert float(maps[:, :3].abs().max()) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(maps[:, 3, 2, 2].numpy(), O[:, 1:4, 1:4].mean(dim=(1, 2)).numpy(), rtol=1e-6)


def test_exact_maps_give_the_output_to_the_last_digit() -> None:
    O, I = rand(12, 10, 1) * 1.4 - 0.2, rand(12, 10, 2)
    torch.testing.assert_close(applied(exact_affine(O, I), I), O, rtol=0, atol=1e-12)
    maps = exact_affine(O.float(), I.float()).float()
    torch.testing.assert_close(applied(maps, I.float()), O.float(), rtol=0, atol=1e-5)


def test_exact_maps_keep_the_contrast_of_flat_content() -> None:
    I = 0.5 + 1e-4 * rand(8, 8, 1)
    maps = exact_affine(rand(8, 8, 2), I)
    identity = torch.eye(3, dtype=torch.float64)[:, :, None, None].expand(3, 3, 8, 8)
    torch.testing.assert_close(maps[:, :3], identity, rtol=0, atol=0.05)
