"""A solved picture onto a photo of any size, by the affine maps that lead from content to result at the proxy's size.

The last step of the published method (Luan et al. 2017, supplement), which fits such maps at every pixel, taken to
another size as in bilateral guided upsampling (Chen et al. 2016) and the fast guided filter (He & Sun 2015): the maps
are interpolated, and applied to the photo's own pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.stylizer.core.affine_strip import Samples, strip_by_kernel, strip_by_torch
from services.stylizer.core.dither import dither_thresholds, plain_thresholds
from services.stylizer.core.errors import ParameterError, SolveCancelled
from services.stylizer.core.field import luma
from services.stylizer.core.params import CHOICES, RANGES

__all__ = ["preserved", "render"]

_STRIP_PIXELS: Final = 1 << 20
"""Pixels between two looks at ``should_stop``: about 15 ms on two cores; in torch 200 MB of the device."""

_MOST_COEFFICIENT: Final = 1e6
"""Largest coefficient, far beyond any look's, that cannot make float32 overflow on the way."""

_FLAT_AMPLITUDE: Final = 0.5
"""Of the dither on flat ground of an 8-bit photo: half of a step between two levels goes, and a quarter of plain
rounding's variance comes on top; the whole of it would double that."""


def preserved(change: Tensor, preserve: str) -> Tensor:
    """What remains of a change of colour when something of the content is to survive.

    ``none`` takes nothing away, ``luminance`` takes away the change of luma, ``chroma`` that of the colour differences.
    Luma is BT.601 of the gamma-encoded values and is taken from all three channels alike.

    Args:
        change: (3, ...), RGB of ``O − I``, or of anything that O − I is linear in.
        preserve: ``none``, ``luminance`` or ``chroma``.

    Returns:
        Of the same shape.
    """
    if preserve == "luminance":
        return change - luma(change)
    if preserve == "chroma":
        return luma(change).expand_as(change)
    return change


def render(
    coefficients: Tensor,
    pixels: NDArray[Any],
    strength: float,
    preserve: str,
    bit_depth: int,
    should_stop: Callable[[], bool],
    seed: int = 0,
    strip_pixels: int = _STRIP_PIXELS,
) -> NDArray[Any]:
    """Apply a proxy's affine maps to a photo.

    ``O = I + strength · P (A I + b − I)``, clamped to 0..1, where [A | b] is interpolated bilinearly at the pixel
    (half-pixel centres, clamped at the border) and P is :func:`preserved`. Since all of that is affine in the
    coefficients, it is folded into them at the proxy's size; a pixel then costs one interpolation and one 3x4 product.

    8-bit results are dithered (:func:`~services.stylizer.core.dither.dither_thresholds`), so that smooth skies get no
    bands; 16-bit results are rounded. A photo that has 8 bits itself is dithered by half, and only where a pixel has
    the colour of its neighbours left and right: anywhere else its own grain does it, and a second one is noise.
    With strength 0 nothing is dithered: the photo comes back bit for bit, or with its depth changed as plain rounding
    of v·257 and v/257 does. Where the map is the identity, pixels of a photo of the result's depth stay bit-identical
    at every strength.

    Args:
        coefficients: (3, 4, h, w) float32, rows of [A | b] on RGB 0..1, gamma-encoded, in the photo's own space.
        pixels: (H, W, 3) uint8 or uint16, the photo at full size.
        strength: share of the change, 0..1.
        preserve: ``none``, ``luminance`` or ``chroma``.
        bit_depth: 8 or 16, of the result.
        should_stop: polled before each strip.
        seed: of the dither's position.
        strip_pixels: pixels between two polls; the result does not depend on it.

    Returns:
        (H, W, 3) uint8 or uint16. Not a full-size float array is made on the way.

    Raises:
        ParameterError: an argument is not as described.
        SolveCancelled: ``should_stop`` said so.
    """
    _check(coefficients, pixels, strength, preserve, bit_depth, seed)
    height, width, _ = pixels.shape
    target = np.uint8 if bit_depth == 8 else np.uint16
    peak = float(np.iinfo(target).max)
    scale = peak / float(np.iinfo(pixels.dtype).max)
    dithered = bit_depth == 8 and strength > 0
    flat_only = dithered and pixels.dtype == np.uint8
    thresholds = dither_thresholds(seed, _FLAT_AMPLITUDE if flat_only else 1.0) if dithered else plain_thresholds()
    change = _change(coefficients.detach(), strength, preserve, scale, peak)
    on_cpu = change.device.type == "cpu"
    rows, columns = Samples.of(height, change.shape[0]), Samples.of(width, change.shape[1])
    result = np.empty(pixels.shape, target)
    step = max(1, strip_pixels // width)
    for top in range(0, height, step):
        if should_stop():
            raise SolveCancelled
        part = slice(top, min(top + step, height))
        source, below = np.ascontiguousarray(pixels[part]), np.roll(thresholds, -top, axis=0)
        place = (source, rows.part(part.start, part.stop), columns, scale, peak, below, flat_only, result[part])
        if on_cpu:
            strip_by_kernel(change.numpy(), *place)
        else:
            strip_by_torch(change, *place)
    return result


def _change(coefficients: Tensor, strength: float, preserve: str, scale: float, peak: float) -> Tensor:
    """``strength · P ([A | b] − [1 | 0])`` from source levels to result levels: (h, w, 12), contiguous, new."""
    device = coefficients.device
    change = coefficients.permute(2, 3, 0, 1).clone(memory_format=torch.contiguous_format)
    planes = change.permute(2, 3, 0, 1)  # a view, worked on in place: the maps of a large proxy take 30 MB
    planes -= torch.eye(3, 4, device=device)[:, :, None, None]
    if preserve != "none":
        planes.copy_(preserved(planes, preserve))
    planes *= torch.tensor([scale, scale, scale, peak], device=device)[:, None, None] * strength
    return change.flatten(2)


def _check(
    coefficients: Tensor, pixels: NDArray[Any], strength: float, preserve: str, bit_depth: int, seed: int
) -> None:
    shape = tuple(coefficients.shape)
    if coefficients.dtype != torch.float32 or len(shape) != 4 or shape[:2] != (3, 4) or min(shape) < 1:
        raise ParameterError("coefficients", f"{coefficients.dtype} of shape {shape}", "must be float32 (3, 4, h, w)")
    low, high = (float(value) for value in coefficients.detach().aminmax())
    if not (low >= -_MOST_COEFFICIENT and high <= _MOST_COEFFICIENT):  # also refuses NaN
        raise ParameterError("coefficients", f"values of {low:g} to {high:g}", f"must be within ±{_MOST_COEFFICIENT:g}")
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape) < 1:
        raise ParameterError("pixels", f"{pixels.dtype} of shape {pixels.shape}", "must be uint8 or uint16 (H, W, 3)")
    for name, value in (("strength", strength), ("seed", seed)):
        least, most = RANGES[name]
        if not least <= value <= most:
            raise ParameterError(name, value, f"must be between {least:g} and {most:g}")
    if preserve not in CHOICES["preserve"]:
        raise ParameterError("preserve", preserve, f"must be one of {', '.join(CHOICES['preserve'])}")
    if bit_depth not in (8, 16):
        raise ParameterError("bit_depth", bit_depth, "must be 8 or 16")
