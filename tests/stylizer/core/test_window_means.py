"""Means over windows: window by window, and their gradient."""

import pytest
import torch

from services.stylizer.core.window_means import window_means


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (5, 4), (7, 8), (9, 11)])
def test_equals_the_mean_of_each_window(rows: int, columns: int) -> None:
    planes = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = window_means(planes, rows, columns)
    assert found.shape == (2, 10 - rows, 12 - columns)
    for y in range(10 - rows):
        for x in range(12 - columns):
            expected = planes[:, y : y + rows, x : x + columns].mean(dim=(1, 2))
            torch.testing.assert_close(found[:, y, x], expected)


def test_gradient() -> None:
    planes = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: window_means(x, 3, 5), (planes,))
