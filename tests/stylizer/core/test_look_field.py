"""A look on its photo: masks, strengths, and the affine maps that give its picture at the photo's small size."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from services.stylizer.core.affine_render import render
from services.stylizer.core.local_affine import applied
from services.stylizer.core.look import Look, expanded
from services.stylizer.core.look_field import LookField, label_masks
from tests.stylizer.core.test_look import make_look, noise


def photo(height: int = 24, width: int = 32, seed: int = 1) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def of_strengths(*strengths: float) -> Look:
    return dataclasses.replace(make_look(), strengths=torch.tensor(strengths, dtype=torch.float32))


def test_label_masks_partition() -> None:
    masks = label_masks(make_look().indices, 2)
    assert torch.equal(masks.sum(dim=0), torch.ones(24, 32))
    assert set(masks.unique().tolist()) == {0, 1}


def test_restyled_is_the_clipped_field_and_the_change_clipped() -> None:
    field, I = LookField(of_strengths(1, 1), photo()), photo()
    expected = (field.picture().clamp(0, 1) + expanded(field.look)).clamp(0, 1)
    torch.testing.assert_close(field.restyled(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(field.restyled(0.5), (expected + I) / 2, rtol=0, atol=1e-6)
    assert torch.equal(field.restyled(0.0), I)


@pytest.mark.parametrize("strengths", [(1.0, 1.0), (1.0, 0.5), (0.25, 0.0)])
def test_coefficients_give_the_restyled_photo(strengths: tuple[float, float]) -> None:
    field = LookField(of_strengths(*strengths), photo())
    coefficients = field.coefficients()
    assert coefficients.dtype == torch.float32
    assert coefficients.shape == (3, 4, 24, 32)
    torch.testing.assert_close(applied(coefficients, photo()), field.restyled(), rtol=0, atol=1e-5)


def test_rendering_at_the_small_size_gives_the_restyled_photo() -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (24, 32, 3), np.uint16)
    I = torch.from_numpy(pixels.astype(np.float32) / 65535).permute(2, 0, 1)
    field = LookField(make_look(), I)
    result = render(field.coefficients(), pixels, 1.0, "none", 16, lambda: False)
    expected = field.restyled().permute(1, 2, 0).numpy() * 65535
    assert np.abs(result - expected).max() < 2  # of 65535: rounding, and float32


def test_strength_zero_of_every_label_is_the_identity_bit_for_bit() -> None:
    coefficients = LookField(of_strengths(0, 0), photo()).coefficients()
    assert torch.equal(coefficients, torch.eye(3, 4)[:, :, None, None].expand(3, 4, 24, 32))


def test_strength_zero_of_one_label_leaves_its_region_alone_beyond_the_feather() -> None:
    height, width = 64, 40
    look = dataclasses.replace(make_look(height, width), strengths=torch.tensor([1.0, 0.0]))
    coefficients = LookField(look, photo(height, width)).coefficients()
    identity = torch.eye(3, 4)[:, :, None, None]
    inside = coefficients[:, :, height // 2 + 17 :]  # twice the filter's radius, and one
    assert torch.equal(inside, identity.expand_as(inside))
    assert float((coefficients[:, :, :15] - identity).abs().max()) > 0.01


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_look_holds_a_picture_also_where_its_field_is_far_outside(scale: float) -> None:
    look = dataclasses.replace(of_strengths(1, 1), affines=scale * make_look().affines)
    O = photo(seed=5)
    held = LookField(look, photo()).holding(O)
    again = LookField(Look.from_bytes(held.to_bytes()), photo()).restyled()
    assert 0 < held.scale <= 1
    torch.testing.assert_close(again, O, rtol=0, atol=held.scale / 120)


def test_what_a_look_holds_is_clipped() -> None:
    field = LookField(of_strengths(1, 1), photo())
    again = LookField(field.holding(photo(seed=5) * 3 - 1), photo()).restyled()
    torch.testing.assert_close(again, (photo(seed=5) * 3 - 1).clamp(0, 1), rtol=0, atol=1 / 120)


def test_a_reduced_change_is_enlarged() -> None:
    field = LookField(of_strengths(1, 1).with_change(torch.full((3, 6, 8), 0.1)), photo())
    torch.testing.assert_close(field.restyled(), (field.picture().clamp(0, 1) + 0.1).clamp(0, 1), rtol=0, atol=1e-6)
    assert LookField(make_look().with_change(0.1 * noise(6, 8)), photo()).restyled().shape == (3, 24, 32)


def test_maps_are_shared_out_by_strength() -> None:
    maps = torch.rand(3, 4, 24, 32, generator=torch.Generator().manual_seed(2))
    assert torch.equal(
        LookField(of_strengths(0, 0), photo()).shared(maps), torch.eye(3, 4)[:, :, None, None].expand_as(maps)
    )
    whole = LookField(of_strengths(1, 1), photo()).shared(maps)
    torch.testing.assert_close(whole, maps, rtol=0, atol=1e-6)
    half = LookField(of_strengths(0.5, 0.5), photo()).shared(maps)
    torch.testing.assert_close(half, (maps + torch.eye(3, 4)[:, :, None, None]) / 2, rtol=0, atol=1e-6)
