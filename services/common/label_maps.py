"""Label maps: which region of a photo every pixel belongs to, and their PNG files."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyvips
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.common.images import ImageLimits, PhotoInfo
from services.common.label_colours import MAX_LABELS, read_label_png
from services.common.png_indices import as_palette
from services.common.taxonomy import COLOURS, COMMON_LABELS, NINE_COLOURS

__all__ = [
    "LabelMap",
    "check_matches_photo",
    "decode_label_map",
    "encode_label_map",
    "encode_mask",
    "single_region",
]


@dataclass(frozen=True, eq=False)
class LabelMap:
    """``indices`` is (H, W), uint8; ``names`` holds at least every index that occurs."""

    indices: NDArray[np.uint8]
    names: Mapping[int, str]

    def areas(self) -> dict[str, float]:
        """Give each name's share of the picture, 0..1, in the order of the indices; they sum to 1."""
        counts = np.bincount(self.indices.ravel(), minlength=256)
        shares: dict[str, float] = {}
        for index in sorted(self.names):
            name = self.names[index]
            shares[name] = shares.get(name, 0.0) + float(counts[index]) / self.indices.size
        return shares

    def resized(self, width: int, height: int) -> LabelMap:
        """Take the label at the centre of each new pixel (nearest neighbour)."""
        old_height, old_width = self.indices.shape
        rows = ((np.arange(height) + 0.5) * old_height / height).astype(np.intp)
        columns = ((np.arange(width) + 0.5) * old_width / width).astype(np.intp)
        return LabelMap(self.indices[rows[:, None], columns], self.names)


def single_region(width: int, height: int) -> LabelMap:
    """Make the map of one label, "all", that covers the picture."""
    return LabelMap(np.zeros((height, width), np.uint8), {0: "all"})


def decode_label_map(png: bytes, names: Mapping[int, str], field: str, limits: ImageLimits) -> LabelMap:
    """Read a label PNG of any size within the limits.

    Greyscale and palette PNGs hold indices, called as ``names`` says or "label-N". RGB PNGs are in the nine-colour
    palette of the published data set and become "blue", "green", ...; so do unnamed greyscale and palette PNGs
    that show nothing but those colours. Unnamed files that carry this service's own palette get the common labels.
    How far a colour may be off is said in ``label_colours``. Alpha is ignored. Raises InvalidArgument for what is
    no PNG, has 16 bits, unknown colours, or more than MAX_LABELS labels.
    """
    indices, meaning = read_label_png(png, field, limits, named=bool(names))
    present = np.flatnonzero(np.bincount(indices.ravel(), minlength=256)).tolist()
    if len(present) > MAX_LABELS:
        raise InvalidArgument(
            field, f"{len(present)} labels", f"a label map has at most {MAX_LABELS}; is this a photo?"
        )
    known = meaning if meaning is not None else names
    return LabelMap(indices, {index: known.get(index) or f"label-{index}" for index in present})


def encode_label_map(label_map: LabelMap) -> bytes:
    """Write a palette PNG whose pixel values are the indices, in colours that a person tells apart.

    A map of common labels carries the whole common palette, by which ``decode_label_map`` knows it again.
    """
    names = label_map.names
    common = dict(enumerate(COMMON_LABELS))
    if all(common.get(index) == name for index, name in names.items()):
        names = common
    palette = [_colour(index, names.get(index, "")) for index in range(max([0, *names]) + 1)]
    return as_palette(_grey_png(label_map.indices), palette)


def encode_mask(mask: NDArray[np.float32]) -> bytes:
    """Write (H, W) values of 0..1 as an 8-bit greyscale PNG; values outside are clipped."""
    return _grey_png((np.clip(mask, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))


def check_matches_photo(label_map: LabelMap, info: PhotoInfo, field: str) -> None:
    """Refuse a map whose aspect ratio is not the photo's.

    One pixel of rounding is allowed at the smaller of the two scales. Raises InvalidArgument naming both sizes.
    """
    height, width = label_map.indices.shape
    if width > info.width_px or height > info.height_px:
        small_width, small_height, large_width, large_height = info.width_px, info.height_px, width, height
    else:
        small_width, small_height, large_width, large_height = width, height, info.width_px, info.height_px
    by_width = abs(large_height * small_width / large_width - small_height)
    by_height = abs(large_width * small_height / large_height - small_width)
    if min(by_width, by_height) > 1.0:
        photo = f"{info.width_px}x{info.height_px} px"
        raise InvalidArgument(field, f"{width}x{height} px", f"must have the aspect ratio of its photo, {photo}")


def _grey_png(values: NDArray[np.uint8]) -> bytes:
    image = pyvips.Image.new_from_array(np.ascontiguousarray(values)).copy(interpretation="b-w")
    data: bytes = image.pngsave_buffer(bitdepth=8, keep="none")
    return data


def _colour(index: int, name: str) -> tuple[int, int, int]:
    if name in COLOURS:
        return COLOURS[name]
    if name in NINE_COLOURS:
        return NINE_COLOURS[name]
    # steps of the golden ratio keep neighbouring indices apart
    red, green, blue = colorsys.hsv_to_rgb((0.12 + index * 0.618034) % 1.0, 0.65, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)
