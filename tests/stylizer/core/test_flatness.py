"""Flat ground that became uneven: window by window, closed forms, what counts as flat, gradients."""

import numpy as np
import pytest
import torch
from torch import Tensor

from services.stylizer.core.flatness import FlatGround

HEIGHT, WIDTH = 256, 128  # windows of 5 x 5
GREY = torch.full((3, HEIGHT, WIDTH), 0.5)


def rand(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stroke(step: float, rows: slice = slice(0, HEIGHT)) -> Tensor:
    """Grey with an edge down the middle that rises over eight pixels."""
    ramp = ((torch.arange(WIDTH) - WIDTH // 2 + 4) / 8).clamp(0, 1)
    picture = GREY.clone()
    picture[:, rows] += step * ramp
    return picture


def by_hand(O: Tensor, I: Tensor, side: int) -> float:
    rows, columns = min(side, I.shape[1]), min(side, I.shape[2])
    values = []
    for top in range(I.shape[1] - rows + 1):
        for left in range(I.shape[2] - columns + 1):
            a, b = (
                picture[:, top : top + rows, left : left + columns].numpy().var(axis=(1, 2)).sum() for picture in (O, I)
            )
            values.append((1e-4 / (1e-4 + b)) ** 2 * max(a - b, 0))
    return float(np.mean(values))


@pytest.mark.parametrize(("height", "width", "side"), [(12, 20, 3), (3, 3, 3), (2, 9, 3), (9, 600, 11)])
def test_equals_excess_variance_window_by_window(height: int, width: int, side: int) -> None:
    I = 0.5 + 0.02 * rand(height, width)
    O = I + 0.05 * rand(height, width, 1)
    assert float(FlatGround(I).excess(O)) == pytest.approx(by_hand(O, I, side), rel=1e-9)


def test_the_photo_itself_and_any_other_level_of_light_cost_nothing() -> None:
    I = GREY + 0.01 * rand(HEIGHT, WIDTH).float()
    ground = FlatGround(I)
    assert float(ground.excess(I)) == 0
    assert float(ground.excess(I * 0.5 + 0.1)) == 0  # darker, and as flat
    assert ground.deviation(I) == 0


def test_a_stroke_in_a_clear_sky_costs_and_a_slow_gradient_hardly_does() -> None:
    ground = FlatGround(GREY)
    slow = GREY + 0.1 * torch.linspace(0, 1, HEIGHT)[:, None]
    assert float(ground.excess(stroke(0.1))) > 10 * float(ground.excess(slow))
    assert float(ground.excess(stroke(0.1))) == pytest.approx(4 * float(ground.excess(stroke(0.05))), rel=1e-2)


def test_where_the_photo_has_structure_structure_is_free() -> None:
    I = GREY.clone()
    I[:, : HEIGHT // 2] += 0.4 * rand(HEIGHT // 2, WIDTH).float()
    ground = FlatGround(I)
    contrast = I.clone()
    contrast[:, : HEIGHT // 2] = (contrast[:, : HEIGHT // 2] * 1.4 - 0.3).clamp(0, 1)
    painted = stroke(0.1, slice(HEIGHT // 2 + 8, HEIGHT))
    painted[:, : HEIGHT // 2] = I[:, : HEIGHT // 2]
    assert float(ground.excess(painted)) > 20 * float(ground.excess(contrast))


def test_deviation_is_in_levels() -> None:
    """Alternate columns a level to each side: 5x5 windows have two or three of five columns high."""
    O = GREY + torch.tensor([1.0, -1.0]).repeat(WIDTH // 2) / 255
    assert FlatGround(GREY.double()).deviation(O.double()) == pytest.approx((1 - 0.2**2) ** 0.5, rel=1e-6)


def test_gradient() -> None:
    ground, O = FlatGround(0.5 + 0.01 * rand(6, 5, 1)), rand(6, 5).requires_grad_(True)
    assert torch.autograd.gradcheck(ground.excess, (O,))


def test_float32_is_precise_enough() -> None:
    I, O = GREY + 0.005 * rand(HEIGHT, WIDTH), GREY + 0.02 * rand(HEIGHT, WIDTH, 1)
    expected = float(FlatGround(I.double()).excess(O.double()))
    assert float(FlatGround(I.float()).excess(O.float())) == pytest.approx(expected, rel=1e-3)
