"""The palette penalty: free at the style's colours, growing outside, each label with its own."""

import pytest
import torch

from services.stylizer.core.palette import TOLERANCE, Palette


def colours(*rgb: float) -> torch.Tensor:
    return torch.tensor(rgb).view(3, 1).expand(3, 50)


def flat(*rgb: float) -> torch.Tensor:
    return torch.tensor(rgb).view(3, 1, 1).expand(3, 4, 4)


RED, BLUE = colours(0.6, 0.1, 0.1), colours(0.1, 0.1, 0.6)


def test_style_colours_are_free_and_others_are_not() -> None:
    palette = Palette([RED], torch.zeros(4, 4))
    assert float(palette.penalty(flat(0.6, 0.1, 0.1))) == 0
    assert float(palette.penalty(flat(0.62, 0.12, 0.08))) == 0
    assert float(palette.penalty(flat(0.1, 0.1, 0.6))) > 0.3


def test_value_is_the_squared_excess_distance() -> None:
    palette = Palette([colours(0.0, 0.0, 0.0)], torch.zeros(4, 4))
    assert float(palette.penalty(flat(0.5, 0.0, 0.0))) == pytest.approx((0.5 - TOLERANCE) ** 2, rel=1e-3)
    assert float(palette.penalty(flat(0.0, 0.0, 1.0))) == pytest.approx((1 - TOLERANCE) ** 2, rel=1e-3)


def test_each_label_has_its_own_colours() -> None:
    indices = torch.zeros(4, 4)
    indices[2:] = 1
    O = torch.cat([flat(0.6, 0.1, 0.1)[:, :2], flat(0.1, 0.1, 0.6)[:, 2:]], dim=1)
    assert float(Palette([RED, BLUE], indices).penalty(O)) == 0
    assert float(Palette([BLUE, RED], indices).penalty(O)) > 0.3


def test_two_modes_are_both_free() -> None:
    both = torch.cat([RED, BLUE], dim=1)
    palette = Palette([both], torch.zeros(4, 4))
    assert float(palette.penalty(flat(0.6, 0.1, 0.1))) == float(palette.penalty(flat(0.1, 0.1, 0.6))) == 0


def test_single_odd_pixels_are_no_style_colour() -> None:
    crowd = torch.cat([RED.repeat(1, 1000), BLUE[:, :1]], dim=1)
    assert float(Palette([crowd], torch.zeros(4, 4)).penalty(flat(0.1, 0.1, 0.6))) > 0.3


def test_gradient_points_away_from_the_stray_colour() -> None:
    O = flat(0.1, 0.1, 0.6).clone().requires_grad_(True)
    Palette([RED], torch.zeros(4, 4)).penalty(O).backward()
    assert O.grad is not None
    assert bool((O.grad[0] < 0).all())
    assert bool((O.grad[2] > 0).all())
