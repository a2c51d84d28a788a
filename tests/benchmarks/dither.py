"""What different ways to round a dark gradient to 8 bits leave to be seen; part of ``tests.benchmarks.render``."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from services.stylizer.core.dither import dither_thresholds

__all__ = ["dither_table"]


def dither_table() -> list[tuple[str, list[float]]]:
    """Standard deviation of luma's error in 8-bit levels, by pattern.

    Blurred by 1, 2 and 4 px as a lossless file, then by 2 px as a JPEG (4:4:4) of quality 92 and 97.
    """
    y, x = np.mgrid[:384, :768]
    across, down = x / 768, y / 384
    sky = np.stack([6 + 3 * across + down, 8 + 3.2 * across + 1.3 * down, 14 + 4 * across + 2 * down], axis=-1)

    def gradient_noise(dx: int, dy: int) -> NDArray[np.float64]:
        noise: NDArray[np.float64] = 52.9829189 * ((0.06711056 * (x + dx) + 0.00583715 * (y + dy)) % 1) % 1
        return noise

    patterns = {
        "rounded": np.full(sky.shape, 0.5),
        "white noise": np.random.default_rng(0).random(sky.shape),
        "interleaved gradient noise": np.stack([gradient_noise(*at) for at in ((0, 0), (47, 17), (101, 71))], axis=-1),
        "void and cluster": np.tile(dither_thresholds(0), (6, 12, 1)),
    }
    rows = []
    for name, pattern in patterns.items():
        picture = np.floor(sky + 0.001 + 0.998 * pattern).astype(np.uint8)
        row = [_blurred_error(picture, sky, sigma) for sigma in (1, 2, 4)]
        for quality in (92, 97):
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=0)
            row.append(_blurred_error(np.asarray(Image.open(file)), sky, 2))
        rows.append((name, row))
    return rows


def _blurred_error(picture: NDArray[np.uint8], exact: NDArray[np.float64], sigma: float) -> float:
    luma_error = (picture - exact) @ np.array([0.299, 0.587, 0.114])
    return float(ndimage.gaussian_filter(luma_error, sigma).std())
