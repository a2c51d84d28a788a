"""The cross-bilateral smoothing of maps against brute force, and what any such smoothing must satisfy."""

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from services.stylizer.core import cross_bilateral
from services.stylizer.core.cross_bilateral import bilateral_smoothed
from services.stylizer.core.errors import SolveCancelled


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(maps: Tensor, I: Tensor, radius: int, sigma_space: float, sigma_colour: float) -> np.ndarray:
    height, width = I.shape[1:]
    guide, planes = I.numpy(), maps.numpy()
    result = np.zeros_like(planes)
    for y in range(height):
        for x in range(width):
            total = 0.0
            for v in range(max(y - radius, 0), min(y + radius, height - 1) + 1):
                for u in range(max(x - radius, 0), min(x + radius, width - 1) + 1):
                    space = ((v - y) ** 2 + (u - x) ** 2) / (2 * sigma_space**2)
                    colour = ((guide[:, v, u] - guide[:, y, x]) ** 2).sum() / (2 * sigma_colour**2)
                    w = np.exp(-space - colour)
                    total += w
                    result[:, :, y, x] += w * planes[:, :, v, u]
            result[:, :, y, x] /= total
    return result


@pytest.mark.parametrize("sigma_colour", [0.01, 0.2])
@pytest.mark.parametrize(("height", "width", "radius"), [(12, 9, 3), (5, 40, 15), (1, 1, 15)])
def test_equals_brute_force(height: int, width: int, radius: int, sigma_colour: float) -> None:
    I, maps = 0.3 * rand(3, height, width), rand(3, 4, height, width, seed=1)
    found = bilateral_smoothed(maps, I, radius=radius, sigma_colour=sigma_colour)
    expected = by_hand(maps, I, radius, 5.0, sigma_colour)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-7)


def test_defaults_are_the_published_numbers() -> None:
    I, maps = 0.02 * rand(3, 34, 5), rand(3, 4, 34, 5, seed=1)
    np.testing.assert_allclose(bilateral_smoothed(maps, I).numpy(), by_hand(maps, I, 15, 5.0, 0.01), atol=1e-7)


def test_kernel_equals_torch_path() -> None:
    I, maps = 0.1 * rand(3, 20, 17), rand(3, 4, 20, 17, seed=1)
    by_kernel = bilateral_smoothed(maps, I)
    calls = []

    class OnDevice(torch.Tensor):
        @property
        def is_cuda(self) -> bool:
            calls.append("asked")
            return True

    by_torch = bilateral_smoothed(maps.as_subclass(OnDevice), I).as_subclass(Tensor)
    assert calls
    torch.testing.assert_close(by_torch, by_kernel, rtol=0, atol=1e-7)


def test_equal_maps_stay_and_edges_are_not_crossed() -> None:
    I = torch.zeros(3, 10, 12, dtype=torch.float64)
    I[:, :, 6:] = 0.5
    left_and_right = torch.zeros(3, 4, 10, 12)
    left_and_right[..., 6:] = 1
    assert torch.equal(bilateral_smoothed(left_and_right, I), left_and_right)
    constant = torch.full((3, 4, 10, 12), 0.7, dtype=torch.float64)
    torch.testing.assert_close(bilateral_smoothed(constant, rand(3, 10, 12)), constant, rtol=1e-12, atol=0)


def test_threads_and_strips_do_not_show_in_the_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    I, maps = 0.05 * rand(3, 37, 19), rand(3, 4, 37, 19, seed=1)
    before = numba.get_num_threads()
    found = bilateral_smoothed(maps, I)
    try:
        numba.set_num_threads(1)
        monkeypatch.setattr(cross_bilateral, "_STRIP_ROWS", 5)
        alone = bilateral_smoothed(maps, I)
    finally:
        numba.set_num_threads(before)
    assert torch.equal(found, alone)


def test_cancel_ends_it_between_strips() -> None:
    polls: list[int] = []

    def should_stop() -> bool:
        polls.append(1)
        return len(polls) == 2

    with pytest.raises(SolveCancelled):
        bilateral_smoothed(rand(3, 4, 40, 4), rand(3, 40, 4), should_stop)
    assert len(polls) == 2
