"""Gram matrices and style loss: closed forms, and the fused loss against the plain one."""

from collections.abc import Callable

import pytest
import torch

from services.stylizer.core.losses import (
    LayerGoal,
    area_masks,
    content_loss,
    layer_style_loss,
    masked_grams,
    style_loss,
)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gram_of_ones_is_one_over_channels() -> None:
    G = masked_grams(torch.ones(4, 5, 6), torch.ones(1, 5, 6))
    torch.testing.assert_close(G, torch.full((1, 4, 4), 1 / 4))


def test_gram_does_not_depend_on_size() -> None:
    F, M = rand(4, 6, 6), torch.ones(1, 6, 6, dtype=torch.float64)
    tiled = masked_grams(F.repeat(1, 2, 2), M.repeat(1, 2, 2))
    torch.testing.assert_close(tiled, masked_grams(F, M))


def test_empty_mask_gives_zero() -> None:
    assert masked_grams(rand(3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.float64)).abs().max() == 0


def test_masks_do_not_see_outside() -> None:
    F = rand(3, 4, 4)
    M = torch.zeros(1, 4, 4, dtype=torch.float64)
    M[0, :2] = 1
    changed = F.clone()
    changed[:, 2:] += 7
    torch.testing.assert_close(masked_grams(F, M), masked_grams(changed, M))


def test_area_masks_keep_the_mean() -> None:
    M = rand(2, 16, 24)
    small = area_masks(M, {"layer": (4, 6)})["layer"]
    torch.testing.assert_close(small.mean(dim=(1, 2)), M.mean(dim=(1, 2)))


def soft_masks() -> torch.Tensor:
    M = torch.zeros(3, 6, 7, dtype=torch.float64)
    M[0, :3], M[1, 3:], M[2, 2] = 1, 0.7, 0.3
    return M


def whole_photo() -> torch.Tensor:
    return torch.ones(1, 6, 7, dtype=torch.float64)


def whole_photo_and_half() -> torch.Tensor:
    M = torch.ones(2, 6, 7, dtype=torch.float64)
    M[1, 3:] = 0
    return M


MASKS = pytest.mark.parametrize("masks", [soft_masks, whole_photo, whole_photo_and_half])


@MASKS
def test_fused_loss_equals_plain_loss(masks: Callable[[], torch.Tensor]) -> None:
    M = masks()
    F, G_style = rand(1, 5, 6, 7), rand(len(M), 5, 5, seed=4)
    plain = style_loss(masked_grams(F[0], M), G_style, M.mean(dim=(1, 2))).sum()
    fused = layer_style_loss(F.contiguous(memory_format=torch.channels_last), LayerGoal.of(G_style, M))
    torch.testing.assert_close(fused, plain)


@MASKS
def test_fused_gradient(masks: Callable[[], torch.Tensor]) -> None:
    M = masks()
    G_style = rand(len(M), 5, 5, seed=4)
    goal = LayerGoal.of(G_style + G_style.transpose(1, 2), M)
    F = rand(1, 5, 6, 7, seed=2).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: layer_style_loss(x, goal), (F,))


def test_loss_is_zero_at_the_goal() -> None:
    F, M = rand(1, 5, 6, 7), soft_masks()
    assert float(layer_style_loss(F, LayerGoal.of(masked_grams(F[0], M), M))) == pytest.approx(0, abs=1e-20)
    assert float(content_loss(F, F)) == 0
