"""From the pixels of a label PNG to indices: what its values or colours mean.

Label maps that went through an image editor are off their palette where two regions meet. A colour counts as
known within ``TOLERANCE`` of a palette colour in each channel; other pixels take the nearest colour if a known one
lies within ``EDGE_PX`` of them. In the published maps such seams are at most 2 px deep; anything deeper is a region
in a colour that nobody knows, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from services.common.errors import InvalidArgument
from services.common.images import ImageLimits, open_photo
from services.common.png_indices import PngHeader, as_greyscale, read_header
from services.common.taxonomy import COLOURS, COMMON_LABELS, NINE_COLOURS

__all__ = ["EDGE_PX", "MAX_LABELS", "TOLERANCE", "read_label_png"]

TOLERANCE = 32  # half of the way from grey to black is 64
EDGE_PX = 3
MAX_LABELS = 64  # each label costs the solver a Gram matrix a layer; ADE20K photos show about ten

_GREYSCALE_TYPES = (0, 3, 4)
_Named = tuple[NDArray[np.uint8], Mapping[int, str] | None]


def read_label_png(png: bytes, field: str, limits: ImageLimits, named: bool) -> _Named:
    """Decode to (H, W) uint8 indices and what they mean; None means that the request's names say it, or nobody.

    ``named`` tells that the request names the indices, so that greyscale and palette values are taken as they are.
    """
    limits.check_bytes(len(png), field)
    try:
        header = read_header(png)
        is_indexed = header.colour_type in _GREYSCALE_TYPES
        data = as_greyscale(png) if header.colour_type in (0, 3) else png
    except ValueError as error:
        raise InvalidArgument(field, f"{len(png)} bytes ({error})", "expected a complete 8-bit PNG") from error
    if header.bit_depth > 8:
        raise InvalidArgument(field, f"a PNG of {header.bit_depth} bits a channel", "label maps have 8 bits or fewer")
    # any size will do: the aspect ratio is compared with the photo's
    pixels = open_photo(data, field, replace(limits, min_edge_px=1)).pixels().astype(np.uint8, copy=False)
    if not is_indexed:
        return _from_colours(pixels, field)
    indices = np.ascontiguousarray(pixels[..., 0]) // np.uint8(header.index_step)
    if named:
        return indices, None
    if header.is_palette:
        return _from_palette(indices, header)
    if _shows_nine_colours(indices):
        return _from_colours(np.repeat(indices[..., None], 3, axis=2), field)
    return indices, None


def _from_palette(indices: NDArray[np.uint8], header: PngHeader) -> _Named:
    common = tuple(COLOURS[name] for name in COMMON_LABELS)
    if header.palette[: len(common)] == common:
        return indices, dict(enumerate(COMMON_LABELS))
    nine = {colour: position for position, colour in enumerate(NINE_COLOURS.values())}
    used = [int(index) for index in np.flatnonzero(np.bincount(indices.ravel(), minlength=256))]
    if all(index < len(header.palette) and header.palette[index] in nine for index in used):
        table = np.zeros(256, np.uint8)
        for index in used:
            table[index] = nine[header.palette[index]]
        return table[indices], dict(enumerate(NINE_COLOURS))
    return indices, None


def _shows_nine_colours(grey: NDArray[np.uint8]) -> bool:
    """Whether greyscale values are black, grey and white rather than small indices: both maps of a pair must agree."""
    shares = np.bincount(grey.ravel(), minlength=256) / grey.size
    middle, white = shares[127:130].sum(), shares[254:].sum()
    return bool(middle + white > 0.01 and shares[:2].sum() + middle + white > 0.9)


def _from_colours(pixels: NDArray[np.uint8], field: str) -> _Named:
    wide = pixels.astype(np.int32)
    packed: NDArray[np.int32] = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    occurs = np.zeros(1 << 24, bool)  # a table of all colours is quicker than sorting the pixels
    occurs[packed] = True
    packed_colours = np.flatnonzero(occurs)
    colours = np.stack([packed_colours >> 16, packed_colours >> 8 & 255, packed_colours & 255], axis=1).astype(np.int32)

    own = np.array([COLOURS[name] for name in COMMON_LABELS], np.int32)
    differences = np.abs(colours[:, None] - own)
    if not differences.max(axis=2).min(axis=1).any():  # this service's own map, saved as RGB
        return _looked_up(packed, packed_colours, differences.sum(axis=2)), dict(enumerate(COMMON_LABELS))

    differences = np.abs(colours[:, None] - np.array(list(NINE_COLOURS.values()), np.int32))
    is_unknown = np.zeros(1 << 24, bool)
    is_unknown[packed_colours] = differences.max(axis=2).min(axis=1) > TOLERANCE
    if is_unknown[packed_colours].any():
        side = 2 * EDGE_PX + 1
        deep = binary_erosion(is_unknown[packed], np.ones((side, side), bool), border_value=1)
        if deep.any():
            y, x = np.argwhere(deep)[0]
            palette = ", ".join("{} {:02x}{:02x}{:02x}".format(name, *rgb) for name, rgb in NINE_COLOURS.items())
            raise InvalidArgument(field, f"unknown colour {packed[y, x]:06x} at x={x} y={y}", f"expected {palette}")
    return _looked_up(packed, packed_colours, (differences**2).sum(axis=2)), dict(enumerate(NINE_COLOURS))


def _looked_up(packed: NDArray[np.int32], colours: NDArray[np.intp], distances: NDArray[np.int32]) -> NDArray[np.uint8]:
    table = np.zeros(1 << 24, np.uint8)
    table[colours] = distances.argmin(axis=1)
    return table[packed]
