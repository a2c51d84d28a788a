"""The bilateral grid: slicing against grid_sample, the identity, gradients, closed forms of the penalties."""

import torch
from torch.nn import functional

from services.stylizer.core.field import (
    GridField,
    apply_coefficients,
    gamut_penalty,
    grid_smoothness,
    luma,
    slice_grid,
    trilinear_weights,
)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sampled_by_torch(grid: torch.Tensor, I: torch.Tensor) -> torch.Tensor:
    y, x = ((torch.arange(size, dtype=torch.float64) + 0.5) / size for size in I.shape[1:])
    z = luma(I)
    points = torch.stack([x.expand_as(z), y[:, None].expand_as(z), z], dim=-1) * 2 - 1
    sampled = functional.grid_sample(grid[None], points[None, None], align_corners=True, padding_mode="border")
    return sampled[0, :, 0].flatten(1).T


def test_slicing_equals_grid_sample() -> None:
    grid, I = rand(12, 4, 5, 6), rand(3, 9, 7, seed=1)
    expected = sampled_by_torch(grid, I)
    torch.testing.assert_close(slice_grid(grid, I), expected)
    B = rand(3, 9, 7, seed=2)
    by_hand = apply_coefficients(B, expected)
    torch.testing.assert_close(GridField(I, B, (12, 4, 5, 6))(grid), by_hand)


def test_weights_sum_to_one_at_the_ends_of_the_range() -> None:
    I = torch.stack([torch.tensor([[0.0, 1.0, 2.0, -1.0]])] * 3)
    index, weight = trilinear_weights(I, (8, 8, 8))
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(4))
    assert int(index.min()) >= 0
    assert int(index.max()) < 512
    assert float(weight.min()) >= 0


def test_field_gradient() -> None:
    field = GridField(rand(3, 5, 4), rand(3, 5, 4, seed=1), (12, 2, 3, 2))
    grid = rand(12, 2, 3, 2, seed=2).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda g: field(g), (grid,))


def test_zero_grid_is_the_identity_and_a_constant_grid_is_affine() -> None:
    B = rand(3, 6, 5)
    assert torch.equal(apply_coefficients(B, torch.zeros(30, 12, dtype=torch.float64)), B)
    row = torch.arange(12, dtype=torch.float64) / 10
    A, b = row.view(3, 4)[:, :3], row.view(3, 4)[:, 3]
    expected = B + torch.einsum("ij,jhw->ihw", A, B - 0.5) + b[:, None, None]
    torch.testing.assert_close(apply_coefficients(B, row.expand(30, 12)), expected)


def test_penalties() -> None:
    assert float(grid_smoothness(torch.ones(12, 3, 3, 3))) == 0
    step = torch.zeros(1, 2, 2, 2)
    step[0, 1] = 1
    assert float(grid_smoothness(step)) == 4 / 8
    assert float(gamut_penalty(rand(3, 4, 4))) == 0
    assert float(gamut_penalty(torch.full((3, 2, 2), 1.5))) == 0.25
    assert float(gamut_penalty(torch.full((3, 2, 2), -0.5))) == 0.25


def test_luma_of_white_is_one() -> None:
    torch.testing.assert_close(luma(torch.ones(3, 2, 2)), torch.ones(2, 2))
