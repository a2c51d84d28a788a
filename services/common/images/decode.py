"""Files to pixels: the header is read and checked first, pixels are decoded when they are asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.common.images import colour
from services.common.images.coding_points import named_profile
from services.common.images.info import ImageLimits, PhotoInfo
from services.common.images.loaders import find_loader, opened, reading
from services.common.images.matrix_profile import adobe_rgb_profile
from services.common.images.metadata import Metadata, is_adobe_rgb, read_metadata
from services.common.images.pages import check_single

__all__ = ["Photo", "open_photo"]

# Colour bands of each interpretation that is understood; one more band is alpha.
_COLOUR_BANDS = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb": 3, "rgb16": 3, "cmyk": 4, "lab": 3, "labs": 3}
_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_LAB = ("lab", "labs")


class Photo:
    """An image file whose header was read and checked; made by ``open_photo``.

    Attributes:
        info: facts about the file.
        metadata: EXIF, XMP, IPTC and resolution, as stored.
        turned: whether orientation exchanges the sides of the stored picture.
        working_profile: ICC profile of the RGB space that ``pixels`` are in, None for sRGB.
        is_calibrated: whether the file says what its colours are; if not they are taken for sRGB.
    """

    def __init__(self, data: bytes, field: str, loader: str, header: pyvips.Image) -> None:
        self._data = data
        self._field = field
        self._loader = loader
        self._interpretation = str(header.interpretation)
        self._colour_bands = _COLOUR_BANDS[self._interpretation]
        self._orientation = header.get("orientation") if header.get_typeof("orientation") else 1
        self.turned = self._orientation >= 5
        self.metadata: Metadata = read_metadata(header, loader, data)
        profile = bytes(header.get(colour.PROFILE)) if header.get_typeof(colour.PROFILE) else None
        self._profile = self._usable(profile)
        writable = self._colour_bands == 3 and self._profile is not None and colour.can_write(self._profile)
        self.working_profile: bytes | None = self._profile if writable else None
        self.is_calibrated = profile is not None or self._profile is not None or self._interpretation in (*_LAB, "cmyk")
        width, height = (header.height, header.width) if self.turned else (header.width, header.height)
        self.info = PhotoInfo(
            format=loader,
            width_px=width,
            height_px=height,
            bit_depth=_bit_depth(header, loader),
            has_alpha=header.bands > self._colour_bands,
            has_profile=profile is not None,
        )

    def proxy(self, edge_px: int, profile: bytes | None) -> NDArray[np.float32]:
        """Decode a small copy for analysis: (H, W, 3), 0..1, gamma-encoded, in the space of ``profile`` (None = sRGB).

        The long edge is ``edge_px`` or less; photos are never enlarged. Pixels are averaged over the area they
        stand for, with a kernel that never rings. Alpha is left out. Raises InvalidArgument if the file is damaged.
        """
        info = self.info
        scale = min(1.0, edge_px / max(info.width_px, info.height_px))
        return self.reduced(max(1, round(info.width_px * scale)), max(1, round(info.height_px * scale)), profile)

    def reduced(self, width: int, height: int, profile: bytes | None) -> NDArray[np.float32]:
        """A proxy of this size, which is to have about the photo's aspect ratio; no side is enlarged."""
        info, edge_px = self.info, max(width, height)
        width, height = min(width, info.width_px), min(height, info.height_px)
        long_edge = max(info.width_px, info.height_px)
        if self.turned:
            width, height = height, width  # the photo is turned last, when it is small
        options = {}
        if self._loader == "jpeg":
            # The decoder itself averages blocks of 2, 4 or 8 pixels; a block cut by the border would shift pixels.
            fits = [s for s in (2, 4, 8) if long_edge >= s * edge_px and info.width_px % s == info.height_px % s == 0]
            options["shrink"] = max([1, *fits])
        with self._reading():
            image = self._working(self._load(**options))
            peak = 255 if image.format == "uchar" else 65535
            image = image.cast("float").linear(1 / peak, 0)
            if (image.width, image.height) != (width, height):
                image = image.resize(width / image.width, vscale=height / image.height, kernel="linear")
            if self.working_profile != profile:
                full_range = image.linear(65535, 0.5).cast("ushort").copy(interpretation="rgb16")
                source = self.working_profile or colour.srgb_profile()
                target = profile or colour.srgb_profile()
                image = colour.convert(full_range, source, target, 16).cast("float").linear(1 / 65535, 0)
            pixels: NDArray[np.float32] = self._upright(image).numpy()
        return pixels

    def pixels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """All pixels in the working space: (H, W, 3), uint8 or uint16 full range, orientation applied, alpha left out.

        The working space is ``working_profile``, or sRGB. Raises InvalidArgument if the file is damaged.
        """
        with self._reading():
            result: NDArray[np.uint8] | NDArray[np.uint16] = self._upright(self._working(self._load())).numpy()
        return result

    def alpha(self) -> pyvips.Image | None:
        """Give the alpha band, lazily decoded, 8 or 16 bits as ``pixels``, orientation applied.

        The photo must outlive it.
        """
        return self._upright(self._load()[self._colour_bands]) if self.info.has_alpha else None

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self._field, self._loader)

    def _usable(self, profile: bytes | None) -> bytes | None:
        """Find the profile that the pixels are to be read with: the file's own, or one of a space that it names."""
        space = _SPACES[self._colour_bands]
        if self._interpretation in _LAB:
            return None
        if profile is not None and colour.can_read(profile, space):
            return profile
        if space != "RGB":
            return None
        named = named_profile(self._data, self._loader, self._field)
        if named is None and profile is None and self.metadata.exif and is_adobe_rgb(self.metadata.exif):
            return adobe_rgb_profile()
        return named

    def _load(self, **options: Any) -> pyvips.Image:
        image = opened(self._loader, self._data, **options)
        bits = self.info.bit_depth
        if 8 < bits < 16:  # libvips shifts 10 or 12 bits to the left, so that white is less than 65535
            image = image.linear(65535 / (65536 - (1 << 16 - bits)), 0.5).cast("ushort")
        return image

    def _upright(self, image: pyvips.Image) -> pyvips.Image:
        return image.copy_memory().autorot() if self._orientation > 1 else image  # turning needs random access

    def _working(self, image: pyvips.Image) -> pyvips.Image:
        depth = 8 if image.format == "uchar" else 16
        alone = image.extract_band(0, n=self._colour_bands)
        if self._interpretation in _LAB:
            return alone.colourspace("rgb16")
        if self._colour_bands == 4:
            return colour.convert(alone, self._profile or "cmyk", colour.srgb_profile(), depth)
        if self._profile != self.working_profile and self._profile is not None:
            return colour.convert(alone, self._profile, colour.srgb_profile(), depth)
        return alone if self._colour_bands == 3 else alone.bandjoin([alone, alone])


def open_photo(data: bytes, field: str, limits: ImageLimits) -> Photo:
    """Read a file's header and check it against the limits, without decoding pixels.

    ``field`` is the request's field path, for error messages. JPEG, PNG, TIFF (one page; 8 or 16 bits, or CIELAB),
    WebP (still) and AVIF are accepted. Raises InvalidArgument for everything else, such as other formats,
    floating-point samples, several pages, truncated headers and sizes outside the limits.
    """
    limits.check_bytes(len(data), field)
    loader = find_loader(data, field)
    with reading(field, loader):
        header = opened(loader, data)
    limits.check_size(header.width, header.height, field)
    check_single(header, loader, data, field)
    bands = _COLOUR_BANDS.get(str(header.interpretation))
    if header.format not in ("uchar", "ushort") and header.interpretation not in _LAB:
        raise InvalidArgument(field, f"samples of type {header.format}", "8 or 16 bits a channel are accepted")
    if bands is None or header.bands not in (bands, bands + 1):
        kind = f"{header.bands} channels of kind {header.interpretation}"
        raise InvalidArgument(field, kind, "RGB, greyscale, CMYK or CIELAB with at most one alpha channel is accepted")
    with reading(field, loader):
        return Photo(data, field, loader, header)


def _bit_depth(header: pyvips.Image, loader: str) -> int:
    if header.format == "uchar":
        return 8
    return int(header.get("bits-per-sample")) if loader == "avif" else 16
