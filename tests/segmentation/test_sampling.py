"""Resampling keeps straight lines straight and pixel centres where they are."""

from __future__ import annotations

import numpy as np
import pytest

from services.segmentation.sampling import Axis, half_pixel, resampled


def test_half_pixel_keeps_a_ramp() -> None:
    ramp = (np.arange(20, dtype=np.float32) + 0.5)[None, None, :] / 20
    rows = half_pixel(1, 3)
    for size in (7, 20, 61):
        result = resampled(ramp, rows, half_pixel(20, size))
        expected = ((np.arange(size) + 0.5) / size).clip(0.5 / 20, 19.5 / 20)
        np.testing.assert_allclose(result, np.broadcast_to(expected, (1, 3, size)), atol=1e-6)


@pytest.mark.parametrize("new_size", [33, 65, 129, 1000])
def test_logits_with_aligned_corners_lie_on_every_fourth_pixel(new_size: int) -> None:
    input_size = 129
    pixels = np.arange(input_size, dtype=np.float32)
    logits = pixels[::4]  # what a network of stride 4 with aligned corners sees of a ramp
    at = Axis(len(logits), input_size, align_corners=True).for_size(new_size)
    expected = ((np.arange(new_size) + 0.5) * input_size / new_size - 0.5).clip(0, 128)
    result = resampled(logits[None, None], half_pixel(1, 1), at)[0, 0]
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_logits_that_cover_the_area_are_resized_like_a_picture() -> None:
    ours, theirs = Axis(32, 128, align_corners=False).for_size(300), half_pixel(32, 300)
    np.testing.assert_array_equal(ours.lower, theirs.lower)
    np.testing.assert_allclose(ours.share, theirs.share, atol=1e-4)
