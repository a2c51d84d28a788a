"""Affine maps onto a photo: the formula in float64, strips and threads that leave no trace, what must not change."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numba
import numpy as np
import pytest
import pyvips
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from services.common.images import ImageLimits, OutputFormat, encode_photo, open_photo
from services.stylizer.core.affine_render import preserved, render
from services.stylizer.core.affine_strip import Samples, strip_by_kernel, strip_by_torch
from services.stylizer.core.dither import dither_thresholds, plain_thresholds
from services.stylizer.core.errors import ParameterError, SolveCancelled
from services.stylizer.core.field import luma

DTYPES = {8: np.uint8, 16: np.uint16}
SIZES = [(75, 100), (1, 90), (90, 1), (1, 1), (7, 5)]
PRESERVE = ["none", "luminance", "chroma"]
NAN_SOMEWHERE = torch.where(torch.arange(32) == 7, torch.nan, 1.0)


def maps(height: int = 24, width: int = 32, spread: float = 0.1) -> Tensor:
    noise = torch.randn(3, 4, height, width, generator=torch.Generator().manual_seed(0))
    return torch.eye(3, 4)[:, :, None, None] + spread * noise


def identity(height: int = 24, width: int = 32) -> Tensor:
    return torch.eye(3, 4)[:, :, None, None].repeat(1, 1, height, width)


def photo(height: int = 75, width: int = 100, depth: int = 8, low: float = 0, high: float = 1) -> NDArray[Any]:
    peak = 2**depth - 1
    size = (height, width, 3)
    return np.random.default_rng(0).integers(int(low * peak), int(high * peak), size, DTYPES[depth], endpoint=True)


def rendered(
    coefficients: Tensor,
    pixels: NDArray[Any],
    strength: float = 1.0,
    preserve: str = "none",
    depth: int = 8,
    **more: int,
) -> NDArray[Any]:
    return render(coefficients, pixels, strength, preserve, depth, lambda: False, **more)


def by_definition(coefficients: Tensor, pixels: NDArray[Any], strength: float, preserve: str) -> NDArray[np.float64]:
    """The formula of the docstring as it stands there, whole picture, float64: (H, W, 3), 0..1."""
    height, width, _ = pixels.shape
    y, x = ((torch.arange(n, dtype=torch.float64) * 2 + 1) / n - 1 for n in (height, width))
    points = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1)
    at_pixels = functional.grid_sample(
        coefficients.double().flatten(0, 1)[None], points[None], padding_mode="border", align_corners=False
    )[0].view(3, 4, height, width)
    I = torch.from_numpy(pixels / np.iinfo(pixels.dtype).max).permute(2, 0, 1)
    O = (at_pixels[:, :3] * I).sum(dim=1) + at_pixels[:, 3]
    O = I + strength * (O - I)
    if preserve == "luminance":
        O = O + (luma(I) - luma(O))
    elif preserve == "chroma":
        O = I + (luma(O) - luma(I))
    return O.clamp(0, 1).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("preserve", PRESERVE)
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_definition(size: tuple[int, int], preserve: str) -> None:
    pixels = photo(*size, depth=16)
    expected = by_definition(maps(), pixels, 0.7, preserve) * 65535
    result = rendered(maps(), pixels, 0.7, preserve, 16)
    assert result.dtype == np.uint16
    assert np.abs(result - expected).max() < 0.6  # half a level of rounding, the rest float32


@pytest.mark.parametrize("proxy", [(1, 1), (1, 9), (9, 1), (75, 100), (150, 201)])
def test_proxies_of_any_size(proxy: tuple[int, int]) -> None:
    pixels = photo(depth=16)
    expected = by_definition(maps(*proxy), pixels, 1.0, "none") * 65535
    assert np.abs(rendered(maps(*proxy), pixels, depth=16) - expected).max() < 0.6


def test_8_bits_of_16_are_the_definition_dithered() -> None:
    pixels = photo(depth=16)
    error = rendered(maps(), pixels) - by_definition(maps(), pixels, 1.0, "none") * 255
    assert 0.9 < np.abs(error).max() < 1  # plain rounding would stay below a half


def test_grain_of_8_bits_is_rounded_plainly() -> None:
    error = rendered(maps(), photo()) - by_definition(maps(), photo(), 1.0, "none") * 255
    assert np.abs(error).max() < 0.501


def test_flat_ground_of_8_bits_is_dithered_by_half() -> None:
    """A sky of one colour that gets a slope of 3 levels: what bands are left are half a step, and detail is rounded."""
    pixels = np.full((64, 512, 3), 100, np.uint8)
    pixels[:, 200:203] = 140
    slope = identity(1, 2)
    slope[:, 3, :, 1] = 3 / 255
    result = rendered(slope, pixels)
    expected = by_definition(slope, pixels, 1.0, "none") * 255
    assert result.dtype == np.uint8
    by_column = (result - expected).mean(axis=0)
    assert 0.2 < np.abs(by_column[10:190]).max() < 0.3  # plain rounding: 0.5
    assert result[:, 10:190].std(axis=0).max() > 0.45
    assert not result[:, 199:204].std(axis=0).any()


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("source", [8, 16])
@pytest.mark.parametrize("size", SIZES)
def test_kernel_and_torch_give_the_same_bits(size: tuple[int, int], source: int, depth: int) -> None:
    pixels = photo(*size, depth=source)
    change = (maps() - identity()).permute(2, 3, 0, 1).flatten(2).contiguous()
    rows, columns = Samples.of(size[0], 24), Samples.of(size[1], 32)
    peak = 2.0**depth - 1
    scale = peak / (2**source - 1)
    results = [np.zeros(pixels.shape, DTYPES[depth]) for _ in range(2)]
    pixels[:, size[1] // 3 : size[1] // 2] = 77
    for thresholds, flat_only in (
        (dither_thresholds(3), False),
        (dither_thresholds(3, 0.5), True),
        (plain_thresholds(), False),
    ):
        strip_by_kernel(change.numpy(), pixels, rows, columns, scale, peak, thresholds, flat_only, results[0])
        strip_by_torch(change, pixels, rows, columns, scale, peak, thresholds, flat_only, results[1])
        assert np.array_equal(*results)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_cpu_s_bits() -> None:
    pixels = photo()
    assert np.array_equal(rendered(maps().cuda(), pixels), rendered(maps(), pixels))


@pytest.mark.parametrize("depth", [8, 16])
def test_strips_equal_the_whole(depth: int) -> None:
    pixels = photo(depth=depth)
    whole = rendered(maps(), pixels, depth=depth)
    assert not np.array_equal(whole, pixels)
    for strip_pixels in (1, 700, 3300):
        assert np.array_equal(rendered(maps(), pixels, depth=depth, strip_pixels=strip_pixels), whole)


def test_a_pixel_knows_nothing_of_those_far_away() -> None:
    pixels = photo()
    other = 255 - pixels
    other[20:40, 30:60] = pixels[20:40, 30:60]
    whole, changed = rendered(maps(), pixels), rendered(maps(), other)
    assert np.array_equal(changed[20:40, 30:60], whole[20:40, 30:60])
    assert not np.array_equal(changed, whole)


def test_strided_pixels_are_accepted() -> None:
    pixels = photo()
    assert np.array_equal(rendered(maps(), pixels[:, ::-1]), rendered(maps(), pixels[:, ::-1].copy()))


@pytest.fixture
def numba_threads() -> Iterator[None]:
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core")
def test_threads_leave_no_trace(numba_threads: None) -> None:
    results = []
    for threads in (1, 2, 2):
        numba.set_num_threads(threads)
        results.append(rendered(maps(), photo()))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[1], results[2])


@pytest.mark.parametrize("depth", [8, 16])
def test_strength_zero_is_the_photo_bit_for_bit(depth: int) -> None:
    pixels = photo(depth=depth)
    result = rendered(maps(spread=1), pixels, 0.0, depth=depth)
    assert np.array_equal(result, pixels)
    assert not np.shares_memory(result, pixels)


def test_strength_zero_changes_depth_as_plain_rounding_does() -> None:
    """Every level there is, against the conversion that image files get."""
    every16 = np.arange(65536, dtype=np.uint16).reshape(128, 512, 1).repeat(3, axis=2)
    assert np.array_equal(rendered(maps(), every16, 0.0), converted_by_files(every16))
    every8 = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(rendered(maps(), every8, 0.0, depth=16), every8.astype(np.uint16) * 257)


def converted_by_files(pixels: NDArray[np.uint16]) -> NDArray[Any]:
    """The 8-bit PNG of a 16-bit photo, read again."""
    limits = ImageLimits(max_bytes=1 << 24, max_pixels=1 << 20, min_edge_px=1, max_edge_px=1 << 10)
    file = pyvips.Image.new_from_array(pixels).copy(interpretation="rgb16").pngsave_buffer()
    png, _ = encode_photo(pixels, open_photo(bytes(file), "photo", limits), OutputFormat("png", bit_depth=8))
    return open_photo(png, "converted", limits).pixels()


@pytest.mark.parametrize("preserve", PRESERVE)
def test_result_is_linear_in_strength(preserve: str) -> None:
    """Where nothing is clipped."""
    pixels = photo(depth=16, low=0.4, high=0.6)
    full = rendered(maps(), pixels, 1.0, preserve, 16).astype(np.float64)
    assert 0 < full.min() < full.max() < 65535
    for strength in (0.25, 0.5):
        between = pixels + strength * (full - pixels)
        assert np.abs(rendered(maps(), pixels, strength, preserve, 16) - between).max() <= 1


def test_what_is_preserved() -> None:
    generator = torch.Generator().manual_seed(0)
    O, I = torch.rand(3, 4, 4, generator=generator), torch.rand(3, 4, 4, generator=generator)
    torch.testing.assert_close(luma(I + preserved(O - I, "luminance")), luma(I))
    kept = I + preserved(O - I, "chroma")
    torch.testing.assert_close(kept - luma(kept), I - luma(I))
    torch.testing.assert_close(luma(kept), luma(O))
    assert torch.equal(preserved(O - I, "none"), O - I)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("preserve", PRESERVE)
@pytest.mark.parametrize("strength", [0.37, 1.0])
def test_where_the_map_is_the_identity_nothing_changes(strength: float, preserve: str, depth: int) -> None:
    coefficients = maps()
    coefficients[:, :, :, 16:] = identity()[:, :, :, 16:]
    pixels = photo(depth=depth)
    result = rendered(coefficients, pixels, strength, preserve, depth)
    kept = 52  # the first column right of the proxy pixel 16's centre, 16.5 · 100 / 32
    assert np.array_equal(result[:, kept:], pixels[:, kept:])
    assert (result[:, :48] != pixels[:, :48]).mean() > 0.5


def test_16_bit_values_on_an_8_bit_level_stay_there() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(2, 128, 1).repeat(64, axis=0).repeat(3, axis=2)
    assert np.array_equal(rendered(identity(), levels.astype(np.uint16) * 257), levels)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_dither_has_no_bias(share: float) -> None:
    coefficients = identity()
    coefficients[:, 3] = share / 255
    pixels = np.full((128, 192, 3), 100 * 257, np.uint16)
    result = rendered(coefficients, pixels)
    assert set(np.unique(result)) == {100, 101}
    np.testing.assert_allclose(result.mean(axis=(0, 1)), 100 + share, atol=0.0015)


def test_no_bands_in_a_smooth_sky() -> None:
    """A 16-bit ramp over four 8-bit levels: every 8x8 block shows its level, and no row has a band in it."""
    height, width = 64, 1024
    ramp = np.linspace(2000, 2000 + 4 * 257, width).round().astype(np.uint16)
    pixels = np.broadcast_to(ramp[None, :, None], (height, width, 3))
    darker = 0.5 * identity(4, 4)
    darker[:, 3] = 0.02
    exact = by_definition(darker, pixels, 1.0, "none") * 255
    result = rendered(darker, pixels)

    def blocks(picture: NDArray[Any]) -> NDArray[np.float64]:
        return picture.reshape(height // 8, 8, width // 8, 8, 3).mean(axis=(1, 3))

    assert np.abs(blocks(result) - blocks(exact)).max() < 0.1
    assert np.abs(blocks(exact.round()) - blocks(exact)).max() > 0.45  # plain rounding fails
    band = width / np.ptp(exact[0, :, 0])
    assert longest_run(exact[0, :, 0].round()) >= 0.9 * band
    assert max(longest_run(row) for row in result[:, :, 0]) < 0.4 * band


def longest_run(row: NDArray[Any]) -> int:
    return max(len(list(run)) for _, run in groupby(row.tolist()))


def test_16_bit_results_are_not_dithered() -> None:
    coefficients = identity()
    coefficients[:, 3] = 0.3 / 65535
    pixels = photo(depth=16, high=0.9)
    assert np.array_equal(rendered(coefficients, pixels, depth=16), pixels)


def test_8_bit_photos_give_more_levels_at_16() -> None:
    assert len(np.unique(rendered(maps(), photo(), depth=16))) > 256


def test_values_beyond_the_range_are_clipped() -> None:
    for offset, level in ((2.0, 255), (-2.0, 0)):
        coefficients = identity()
        coefficients[:, 3] = offset
        assert np.array_equal(rendered(coefficients, photo()), np.full((75, 100, 3), level, np.uint8))


def test_same_seed_same_bits() -> None:
    pixels = photo(depth=16)
    first = rendered(maps(), pixels, seed=5)
    assert np.array_equal(rendered(maps(), pixels, seed=5), first)
    assert not np.array_equal(rendered(maps(), pixels, seed=6), first)


def test_cancel() -> None:
    asked = []

    def third_time() -> bool:
        asked.append(True)
        return len(asked) == 3

    with pytest.raises(SolveCancelled):
        render(maps(), photo(), 1.0, "none", 8, third_time, strip_pixels=100)
    assert len(asked) == 3


def test_a_camera_photo_is_interrupted_often() -> None:
    asked = []
    pixels = np.zeros((2000, 2000, 3), np.uint8)
    render(identity(), pixels, 1.0, "none", 8, lambda: bool(asked.append(True)))
    assert len(asked) >= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"coefficients": maps().double()},
            r"coefficients: got torch.float64 of shape \(3, 4, 24, 32\), must be float32",
        ),
        ({"coefficients": maps()[:, :3]}, r"coefficients: got torch.float32 of shape \(3, 3, 24, 32\)"),
        ({"coefficients": maps() * NAN_SOMEWHERE}, r"coefficients: got values of nan to nan, must be within ±1e\+06"),
        ({"coefficients": maps() * 1e8}, r"coefficients: got values of .*, must be within ±1e\+06"),
        (
            {"pixels": photo().astype(np.float32)},
            r"pixels: got float32 of shape \(75, 100, 3\), must be uint8 or uint16",
        ),
        ({"pixels": photo()[..., :1]}, r"pixels: got uint8 of shape \(75, 100, 1\)"),
        ({"pixels": photo()[:0]}, r"pixels: got uint8 of shape \(0, 100, 3\)"),
        ({"strength": 1.5}, "strength: got 1.5, must be between 0 and 1"),
        ({"strength": float("nan")}, "strength: got nan"),
        ({"preserve": "hue"}, "preserve: got hue, must be one of none, luminance, chroma"),
        ({"bit_depth": 12}, "bit_depth: got 12, must be 8 or 16"),
        ({"seed": -1}, "seed: got -1, must be between 0"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    good = {"coefficients": maps(), "pixels": photo(), "strength": 1.0, "preserve": "none", "bit_depth": 8}
    with pytest.raises(ParameterError, match=message):
        render(**{**good, **change}, should_stop=lambda: False)
