"""The palette penalty: free inside the style's colours, growing outside, each label with its own."""

import torch

from services.stylizer.core.palette import RADIUS, Palette

REDS = (torch.tensor([0.6, 0.1, 0.1]), torch.diag(torch.tensor([0.01, 0.001, 0.001])))
BLUES = (torch.tensor([0.1, 0.1, 0.6]), torch.diag(torch.tensor([0.001, 0.001, 0.01])))


def flat(*rgb: float) -> torch.Tensor:
    return torch.tensor(rgb).view(3, 1, 1).expand(3, 4, 4)


def test_style_colours_are_free_and_others_are_not() -> None:
    palette = Palette([REDS], torch.zeros(4, 4))
    assert float(palette.penalty(flat(0.6, 0.1, 0.1))) == 0
    assert float(palette.penalty(flat(0.8, 0.12, 0.08))) == 0
    assert float(palette.penalty(flat(0.1, 0.1, 0.6))) > 1


def test_value_is_the_squared_relative_excess() -> None:
    palette = Palette([(torch.zeros(3), torch.eye(3) * (1 - 4e-4))], torch.zeros(4, 4))
    torch.testing.assert_close(palette.penalty(flat(2 * RADIUS, 0, 0)), torch.tensor(1.0))


def test_each_label_has_its_own_colours() -> None:
    indices = torch.zeros(4, 4)
    indices[2:] = 1
    O = torch.cat([flat(0.6, 0.1, 0.1)[:, :2], flat(0.1, 0.1, 0.6)[:, 2:]], dim=1)
    assert float(Palette([REDS, BLUES], indices).penalty(O)) == 0
    assert float(Palette([BLUES, REDS], indices).penalty(O)) > 1


def test_gradient_is_finite_at_the_mean() -> None:
    O = flat(0.6, 0.1, 0.1).clone().requires_grad_(True)
    Palette([REDS], torch.zeros(4, 4)).penalty(O).backward()
    assert O.grad is not None
    assert bool(torch.isfinite(O.grad).all())
