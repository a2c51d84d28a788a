"""Rendering: strips equal the whole, strength 0 gives the photo back bit for bit, what is to survive survives."""

import numpy as np
import pytest
import torch

from services.stylizer.core.errors import SolveCancelled
from services.stylizer.core.field import GRID_SHAPE, luma
from services.stylizer.core.look import Look, LookField
from services.stylizer.core.render import preserved, render


def field() -> LookField:
    generator = torch.Generator().manual_seed(0)
    indices = torch.zeros(24, 32, dtype=torch.uint8)
    indices[:, 16:] = 1
    grid = torch.randn(GRID_SHAPE, generator=generator) * 0.1
    look = Look(grid, torch.eye(3, 4).repeat(2, 1, 1), torch.ones(2), indices, ("a", "b"))
    return LookField(look, torch.rand(3, 24, 32, generator=generator))


def photo(dtype: type[np.uint8] | type[np.uint16]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (75, 100, 3), dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strips_equal_the_whole(dtype: type[np.uint8]) -> None:
    pixels, depth = photo(dtype), 8 * np.dtype(dtype).itemsize
    whole = render(field(), pixels, 1.0, "none", depth, lambda: False)
    strips = render(field(), pixels, 1.0, "none", depth, lambda: False, strip_pixels=700)
    assert whole.dtype == dtype
    assert np.array_equal(whole, strips)
    assert not np.array_equal(whole, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strength_zero_is_the_photo_bit_for_bit(dtype: type[np.uint8]) -> None:
    pixels = photo(dtype)
    assert np.array_equal(render(field(), pixels, 0.0, "none", 8 * np.dtype(dtype).itemsize, lambda: False), pixels)


def test_depth_of_the_result_is_a_choice() -> None:
    result = render(field(), photo(np.uint8), 1.0, "none", 16, lambda: False)
    assert result.dtype == np.uint16
    assert len(np.unique(result)) > 256


def test_preserved() -> None:
    generator = torch.Generator().manual_seed(0)
    O, I = torch.rand(3, 4, 4, generator=generator), torch.rand(3, 4, 4, generator=generator)
    torch.testing.assert_close(luma(preserved(O, I, "luminance")), luma(I))
    kept = preserved(O, I, "chroma")
    torch.testing.assert_close(kept - luma(kept), I - luma(I))
    torch.testing.assert_close(luma(kept), luma(O))
    assert preserved(O, I, "none") is O


def test_cancel() -> None:
    with pytest.raises(SolveCancelled):
        render(field(), photo(np.uint8), 1.0, "none", 8, lambda: True)


def test_identity_look_changes_nothing() -> None:
    look = Look(
        torch.zeros(GRID_SHAPE), torch.eye(3, 4)[None], torch.ones(1), torch.zeros(8, 8, dtype=torch.uint8), ("a",)
    )
    pixels = photo(np.uint16)
    assert np.array_equal(render(LookField(look, torch.rand(3, 8, 8)), pixels, 1.0, "none", 16, lambda: False), pixels)
