"""The dither's thresholds: every one once, spread evenly, apart from 0 and 1."""

import numpy as np

from services.stylizer.core.dither import TILE_EDGE, dither_thresholds, plain_thresholds, void_and_cluster


def spectrum(tile: np.ndarray) -> tuple[float, float]:
    """Mean power per frequency below and above a quarter of the sampling rate, without the mean."""
    power = np.abs(np.fft.fft2(tile - tile.mean())) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(tile.shape[0]), np.fft.fftfreq(tile.shape[1])))
    return power[(frequency > 0) & (frequency < 0.2)].mean(), power[frequency > 0.3].mean()


def test_every_rank_once() -> None:
    assert np.array_equal(np.sort(void_and_cluster(TILE_EDGE), axis=None), np.arange(TILE_EDGE**2))


def test_the_noise_is_blue() -> None:
    low, high = spectrum(void_and_cluster(TILE_EDGE).astype(np.float64))
    assert low < high / 20
    white_low, white_high = spectrum(np.random.default_rng(0).permutation(TILE_EDGE**2).reshape(TILE_EDGE, -1) * 1.0)
    assert white_low > white_high / 2


def test_pixels_set_at_any_level_keep_apart() -> None:
    """The tenth set first: on a torus the nearest neighbour is never far below that of an even pattern, sqrt(10) px."""
    ranks = void_and_cluster(TILE_EDGE)
    points = np.argwhere(ranks < ranks.size // 10)
    apart = np.abs(points[:, None] - points[None])
    distance = np.hypot(*np.moveaxis(np.minimum(apart, TILE_EDGE - apart), 2, 0))
    np.fill_diagonal(distance, np.inf)
    assert distance.min() >= 2


def test_thresholds_are_uniform_in_every_channel() -> None:
    thresholds = dither_thresholds(0)
    assert thresholds.shape == (TILE_EDGE, TILE_EDGE, 3)
    assert thresholds.dtype == np.float32
    assert thresholds.min() > 0.001
    assert thresholds.max() < 0.999
    even = 0.001 + 0.998 * (np.arange(TILE_EDGE**2) + 0.5) / TILE_EDGE**2
    for channel in range(3):
        np.testing.assert_allclose(np.sort(thresholds[..., channel], axis=None), even, atol=1e-6)


def test_channels_share_no_noise() -> None:
    correlation = np.corrcoef(dither_thresholds(0).reshape(-1, 3).T)
    assert np.abs(correlation[~np.eye(3, dtype=bool)]).max() < 0.1


def test_seeds_move_the_tile() -> None:
    first = dither_thresholds(0)
    assert np.array_equal(dither_thresholds(0), first)
    for seed in (1, 2, 2**63 - 1):
        assert not np.array_equal(dither_thresholds(seed), first)
        assert np.array_equal(np.sort(dither_thresholds(seed), axis=None), np.sort(first, axis=None))


def test_plain_rounding_has_one_threshold() -> None:
    assert np.array_equal(plain_thresholds(), np.full((1, 1, 3), 0.5, np.float32))
