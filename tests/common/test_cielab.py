"""CIELAB by profile, against matrices worked out from the primaries."""

import numpy as np
import pytest
import pyvips
from skimage.color import xyz2lab

from services.common.images import cielab

# RGB to XYZ of D50 (Bradford), columns red, green, blue, from the primaries; libvips' P3 has 0 for red's -0.001.
SRGB = [[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]]
DISPLAY_P3 = [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [0.0, 0.0418, 0.7831]]


def profile(name: str) -> bytes:
    return bytes(pyvips.Operation.call("profile_load", name))


@pytest.mark.parametrize(("data", "matrix"), [(None, SRGB), (profile("srgb"), SRGB), (profile("p3"), DISPLAY_P3)])
def test_colours_by_the_matrix_of_the_space(data: bytes | None, matrix: list[list[float]]) -> None:
    pixels = np.random.default_rng(0).random((400, 3))
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    expected = xyz2lab(linear @ np.array(matrix).T, illuminant="D50")
    np.testing.assert_allclose(cielab(pixels, data), expected, atol=0.3)


def test_greys_have_no_colour_and_values_outside_are_clipped() -> None:
    greys = np.linspace(0, 1, 11)[:, None] * np.ones(3)
    lab = cielab(greys, None)
    np.testing.assert_allclose(lab[:, 1:], 0, atol=0.02)
    np.testing.assert_allclose(lab[[0, -1], 0], [0, 100], atol=0.01)
    outside = np.array([[1.5, -0.2, 0.5]])
    np.testing.assert_array_equal(cielab(outside, None), cielab(np.clip(outside, 0, 1), None))
