"""Pixels to files, as the content photo was unless asked otherwise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.common.images import colour
from services.common.images.decode import Photo, vips_errors
from services.common.images.info import FORMATS_OF_16_BITS, PhotoInfo

__all__ = ["OutputFormat", "encode_photo", "encode_preview", "output_bit_depth"]

_METADATA = ("exif-data", "exif-ifd0-", "exif-ifd2-", "exif-ifd3-", "exif-ifd4-", "xmp-data", "iptc-data")
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>\s*))[2-8]")
_SAVE: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("jpegsave_buffer", {"optimize_coding": True}),
    "png": ("pngsave_buffer", {}),
    "tiff": ("tiffsave_buffer", {"compression": "deflate", "predictor": "horizontal"}),
    "webp": ("webpsave_buffer", {}),
    # effort 2 of 0..9: twice as fast as the default 4 for a few per cent of size
    "avif": ("heifsave_buffer", {"compression": "av1", "bitdepth": 8, "effort": 2}),
}
_LOSSY = ("jpeg", "webp", "avif")


@dataclass(frozen=True)
class OutputFormat:
    """How a result is to be encoded; None means as the content photo was.

    ``quality`` is 1..100 and concerns lossy formats only. ``keep_metadata`` concerns EXIF, XMP and IPTC. Without
    ``keep_profile`` the picture is converted to sRGB and left untagged.
    """

    format: str | None = None
    quality: int = 92
    bit_depth: int | None = None
    keep_metadata: bool = True
    keep_profile: bool = True


def output_bit_depth(photo: Photo, output: OutputFormat) -> int:
    """Bits a channel of the result: as asked, else the photo's, else 8 where the format holds no more.

    Raises InvalidArgument if 16 bits were asked of a format that holds 8.
    """
    kind = output.format or photo.info.format
    if kind not in FORMATS_OF_16_BITS:
        if output.bit_depth == 16:
            raise InvalidArgument("output.bit_depth", 16, f"{kind} holds 8 bits a channel; png and tiff hold 16")
        return 8
    return output.bit_depth or photo.info.bit_depth


def encode_photo(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], like: Photo, output: OutputFormat
) -> tuple[bytes, PhotoInfo]:
    """Encode (H, W, 3) pixels of ``like``'s working space and size, with what else the photo carried.

    Alpha, ICC profile, EXIF, XMP, IPTC and resolution are re-attached; the orientation tag is reset, since the
    pixels are upright, and the embedded thumbnail, which shows the old look, is dropped. JPEG holds no alpha:
    the picture is laid over white there. Raises InvalidArgument if the format cannot hold the picture.
    """
    info = like.info
    if pixels.shape != (info.height_px, info.width_px, 3):
        raise ValueError(f"pixels have shape {pixels.shape}, the photo {info.height_px}x{info.width_px}")
    kind = output.format or info.format
    depth = output_bit_depth(like, output)
    image = _image(pixels)
    if like.working_profile is not None and not output.keep_profile:
        image = colour.convert(image, like.working_profile, colour.srgb_profile(), depth)
        image.remove(colour.PROFILE)
    image = _with_depth(image, depth)
    alpha = like.alpha()
    with vips_errors("output.format", kind, "a format that can hold the picture"):
        if alpha is not None:
            image = image.bandjoin(_with_depth(alpha, depth))
            if kind == "jpeg":
                image = image.flatten(background=[255, 255, 255])
        image = image.copy(
            interpretation="srgb" if depth == 8 else "rgb16", xres=like.header.xres, yres=like.header.yres
        )
        _attach(image, like, output)
        save, options = _SAVE[kind]
        if kind in _LOSSY:
            options = {**options, "Q": output.quality}
        data: bytes = getattr(image, save)(keep="exif|xmp|iptc|icc", **options)
    has_alpha = alpha is not None and kind != "jpeg"
    tagged = bool(image.get_typeof(colour.PROFILE))
    return data, PhotoInfo(kind, info.width_px, info.height_px, depth, has_alpha, tagged)


def encode_preview(pixels: NDArray[np.float32], quality: int = 80) -> bytes:
    """Encode (H, W, 3) values of 0..1 as a small JPEG without metadata; values outside are clipped."""
    whole = (np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    data: bytes = _image(whole).jpegsave_buffer(Q=quality, keep="none")
    return data


def _image(pixels: NDArray[Any]) -> pyvips.Image:
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
    return image.copy(interpretation="srgb" if pixels.dtype == np.uint8 else "rgb16")


def _with_depth(image: pyvips.Image, depth: int) -> pyvips.Image:
    """Full range to full range: 255 is 65535, unlike libvips' own shift."""
    if depth == 8 and image.format == "ushort":
        return image.linear(1 / 257, 0.5).cast("uchar")
    if depth == 16 and image.format == "uchar":
        return image.linear(257, 0).cast("ushort")
    return image


def _attach(image: pyvips.Image, like: Photo, output: OutputFormat) -> None:
    if output.keep_profile and like.info.has_profile:
        profile = like.working_profile or colour.srgb_profile()  # what was tagged stays tagged
        image.set_type(pyvips.GValue.blob_type, colour.PROFILE, profile)
    if not output.keep_metadata:
        return
    header = like.header
    for name in header.get_fields():
        if name.startswith(_METADATA):
            value = header.get(name)
            if name == "xmp-data":
                value = _XMP_ORIENTATION.sub(rb"\g<1>1", value)
            image.set_type(header.get_typeof(name), name, value)
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    image.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", b"")  # takes the thumbnail out of the EXIF data
