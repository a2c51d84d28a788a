"""The sizes of solves: few, near the photos' aspect ratios, never larger than these."""

from __future__ import annotations

import pytest

from services.stylizer.shapes import MOST_STRETCH, camera_shapes, solve_size


@pytest.mark.parametrize(
    ("photo", "proxy"),
    [((6000, 4000), (512, 341)), ((4032, 3024), (512, 384)), ((3024, 4032), (384, 512)), ((1920, 1080), (512, 288))],
)
def test_photos_of_cameras_are_not_stretched(photo: tuple[int, int], proxy: tuple[int, int]) -> None:
    assert solve_size(*photo, 512) == proxy
    assert proxy in set(camera_shapes(512))


def test_all_aspect_ratios_up_to_two_have_few_sizes_and_are_hardly_stretched() -> None:
    sizes = set()
    for short in range(1500, 3001):
        width, height = solve_size(3000, short, 512)
        assert (height, width) == solve_size(short, 3000, 512)
        sizes.add((width, height))
        rounding = 1 / height
        assert abs(width / height / (3000 / short) - 1) < MOST_STRETCH + rounding
    assert len(sizes) == 25


def test_panoramas_and_small_photos_keep_their_aspect_ratio() -> None:
    assert solve_size(5000, 1000, 512) == (512, 102)
    assert solve_size(6400, 200, 512) == (1024, 32)
    assert solve_size(500, 337, 512) == (500, 337)


def test_the_published_method_is_not_stretched() -> None:
    assert solve_size(3000, 2005, 700) == (700, 467)
    assert solve_size(3000, 2060, 700) == (700, 481)
    assert solve_size(3000, 2060, 700, of_few=False) == (700, 481)
    assert solve_size(3000, 2090, 700) == (700, 481)
    assert solve_size(3000, 2090, 700, of_few=False) == (700, 488)
