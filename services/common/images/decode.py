"""Files to pixels: the header is read and checked first, pixels are decoded when they are asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.common.images import colour
from services.common.images.info import FORMATS, ImageLimits, PhotoInfo

__all__ = ["Photo", "open_photo", "vips_errors"]

_EXPECTED = "expected a complete, undamaged JPEG, PNG, TIFF, WebP, AVIF or HEIF file"
# Names of libvips' loader classes to ours. A JPEG with a gain map is read as the plain JPEG it also is.
_LOADERS = {
    "VipsForeignLoadJpegBuffer": "jpeg",
    "VipsForeignLoadUhdrBuffer": "jpeg",
    "VipsForeignLoadPngBuffer": "png",
    "VipsForeignLoadTiffBuffer": "tiff",
    "VipsForeignLoadWebpBuffer": "webp",
    "VipsForeignLoadHeifBuffer": "avif",
}
_LOAD = {
    "jpeg": "jpegload_buffer",
    "png": "pngload_buffer",
    "tiff": "tiffload_buffer",
    "webp": "webpload_buffer",
    "avif": "heifload_buffer",
}
# Colour bands of each interpretation that is understood; one more band is alpha.
_COLOUR_BANDS = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb": 3, "rgb16": 3, "cmyk": 4, "lab": 3, "labs": 3}
_LAB = ("lab", "labs")


@contextmanager
def vips_errors(field: str, value: str, limit: str = _EXPECTED) -> Iterator[None]:
    """Turn libvips' errors into InvalidArgument."""
    try:
        yield
    except pyvips.Error as error:
        reason = " ".join(str(error.detail).split())[:200]
        raise InvalidArgument(field, f"{value} ({reason})", limit) from error


class Photo:
    """An image file whose header was read and checked; made by ``open_photo``."""

    def __init__(self, data: bytes, field: str, loader: str, header: pyvips.Image) -> None:
        self._data = data
        self._field = field
        self._loader = loader
        self.header: pyvips.Image = header  # carries EXIF, XMP, IPTC and the profile; its pixels are never read
        self._interpretation = str(header.interpretation)
        bands = _COLOUR_BANDS[self._interpretation]
        self._colour_bands = bands
        profile = bytes(header.get(colour.PROFILE)) if header.get_typeof(colour.PROFILE) else None
        space = {1: "GRAY", 3: "RGB", 4: "CMYK"}[bands]
        usable = profile is not None and self._interpretation not in _LAB and colour.is_usable(profile, space)
        self._profile = profile if usable else None
        self.working_profile: bytes | None = self._profile if bands == 3 else None
        turned = header.get_typeof("orientation") and header.get("orientation") >= 5
        width, height = (header.height, header.width) if turned else (header.width, header.height)
        self.info = PhotoInfo(
            format=loader,
            width_px=width,
            height_px=height,
            bit_depth=8 if header.format == "uchar" else 16,
            has_alpha=header.bands > bands,
            has_profile=profile is not None,
        )

    def proxy(self, edge_px: int, profile: bytes | None) -> NDArray[np.float32]:
        """Decode a small copy for analysis: (H, W, 3), 0..1, gamma-encoded, in the space of ``profile`` (None = sRGB).

        The long edge is ``edge_px`` or less; photos are never enlarged. Pixels are averaged over the area they
        stand for, with a kernel that never rings. Alpha is left out. Raises InvalidArgument if the file is damaged.
        """
        info = self.info
        long_edge = max(info.width_px, info.height_px)
        scale = min(1.0, edge_px / long_edge)
        width, height = (max(1, round(edge * scale)) for edge in (info.width_px, info.height_px))
        options = {}
        if self._loader == "jpeg":
            # The decoder itself averages blocks of 2, 4 or 8 pixels; a block cut by the border would shift pixels.
            fits = [s for s in (2, 4, 8) if long_edge >= s * edge_px and info.width_px % s == info.height_px % s == 0]
            options["shrink"] = max([1, *fits])
        with self._errors():
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
            pixels: NDArray[np.float32] = image.numpy()
        return pixels

    def pixels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """All pixels in the working space: (H, W, 3), uint8 or uint16 full range, orientation applied, alpha left out.

        The working space is ``working_profile``, or sRGB. Raises InvalidArgument if the file is damaged.
        """
        with self._errors():
            result: NDArray[np.uint8] | NDArray[np.uint16] = self._working(self._load()).numpy()
        return result

    def alpha(self) -> pyvips.Image | None:
        """Give the alpha band, lazily decoded, in the photo's bit depth, orientation applied."""
        return self._load()[self._colour_bands] if self.info.has_alpha else None

    def _errors(self) -> Any:
        return vips_errors(self._field, f"a damaged {self._loader} file")

    def _load(self, **options: Any) -> pyvips.Image:
        image = _open(self._loader, self._data, **options)
        if image.get_typeof("orientation") and image.get("orientation") > 1:
            image = image.copy_memory().autorot()  # turning needs random access
        return image

    def _working(self, image: pyvips.Image) -> pyvips.Image:
        depth = self.info.bit_depth
        alone = image.extract_band(0, n=self._colour_bands)
        if self._interpretation in _LAB:
            return alone.colourspace("rgb16")
        if self._colour_bands == 4:
            return colour.convert(alone, self._profile or "cmyk", colour.srgb_profile(), depth)
        if self._colour_bands == 1:
            if self._profile is not None:
                return colour.convert(alone, self._profile, colour.srgb_profile(), depth)
            return alone.bandjoin([alone, alone])
        return alone


def open_photo(data: bytes, field: str, limits: ImageLimits) -> Photo:
    """Read a file's header and check it against the limits, without decoding pixels.

    ``field`` is the request's field path, for error messages. JPEG, PNG, TIFF (first page; 8 or 16 bits, or
    CIELAB), WebP (first frame), AVIF and HEIF are accepted. Raises InvalidArgument for everything else, such as
    other formats, floating-point samples, truncated headers and sizes outside the limits.
    """
    _keep_no_cache()
    limits.check_bytes(len(data), field)
    loader = _find_loader(data, field)
    with vips_errors(field, f"a damaged {loader} file"):
        header = _open(loader, data)
    limits.check_size(header.width, header.height, field)
    bands = _COLOUR_BANDS.get(str(header.interpretation))
    if bands is None or header.bands not in (bands, bands + 1):
        kind = f"{header.bands} channels of kind {header.interpretation}"
        raise InvalidArgument(field, kind, "RGB, greyscale, CMYK or CIELAB with at most one alpha channel is accepted")
    if header.format not in ("uchar", "ushort") and header.interpretation not in _LAB:
        raise InvalidArgument(field, f"samples of type {header.format}", "8 or 16 bits a channel are accepted")
    with vips_errors(field, f"a damaged {loader} file"):
        return Photo(data, field, loader, header)


def _find_loader(data: bytes, field: str) -> str:
    found = pyvips.vips_lib.vips_foreign_find_load_buffer(data, len(data)) if data else pyvips.ffi.NULL
    if found == pyvips.ffi.NULL:
        pyvips.Error("")  # empties libvips' error buffer
        if data.startswith((b"II*\0", b"MM\0*")):  # recognised by libvips only if its directory is whole
            return "tiff"
        raise InvalidArgument(field, f"{len(data)} bytes that are no known image", _EXPECTED)
    name = pyvips.ffi.string(found).decode()
    if name not in _LOADERS:
        kind = name.removeprefix("VipsForeignLoad").removesuffix("Buffer").removeprefix("Ns").upper()
        raise InvalidArgument(field, f"a {kind} file", f"one of {', '.join(FORMATS)} is accepted")
    return _LOADERS[name]


def _open(loader: str, data: bytes, **options: Any) -> pyvips.Image:
    """Sequential access: pixels stream through and are never held twice. The first page or frame only."""
    return getattr(pyvips.Image, _LOAD[loader])(data, access="sequential", fail_on="error", **options)


@functools.cache
def _keep_no_cache() -> None:
    """Libvips remembers recent operations with their pixels; a service never asks the same twice."""
    pyvips.cache_set_max(0)
