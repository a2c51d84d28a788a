"""Pixels to files, as the content photo was unless asked otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.common.images import colour
from services.common.images.decode import Photo
from services.common.images.info import FORMATS_OF_16_BITS, PhotoInfo
from services.common.images.loaders import vips_errors
from services.common.images.metadata import Metadata, PictureFacts, attach, finished, metadata_for

__all__ = ["OutputFormat", "encode_photo", "encode_preview", "output_bit_depth"]

# Costs were measured on 24 MP: docs/benchmarks/photographs.md.
_SAVE: dict[str, tuple[str, dict[str, Any]]] = {
    # optimised Huffman tables would save 8 % for four times the time and, with all coefficients held, 270 MB
    "jpeg": ("jpegsave_buffer", {}),
    # one filter that suits photos: smaller than without, at the time of one
    "png": ("pngsave_buffer", {"filter": "sub", "compression": 3}),
    "tiff": ("tiffsave_buffer", {"compression": "deflate", "predictor": "horizontal", "resunit": "inch"}),
    # effort 2 of 0..6: half the time of the default 4 for the same size at the same error
    "webp": ("webpsave_buffer", {"effort": 2}),
    # effort 0 of 0..9: 2.5 times as fast as 2 for the same size at the same error
    "avif": ("heifsave_buffer", {"compression": "av1", "effort": 0}),
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
    """Bits of the samples that ``encode_photo`` is to be given, 8 or 16.

    As asked, else 16 if the photo has more than 8 and the format holds them: PNG and TIFF do, and AVIF if it was
    the photo's own. Raises InvalidArgument if 16 bits were asked of a format that holds fewer.
    """
    kind = output.format or photo.info.format
    if kind not in FORMATS_OF_16_BITS and output.bit_depth == 16:
        raise InvalidArgument("output.bit_depth", 16, f"{kind} holds no 16 bits a channel; png and tiff do")
    if output.bit_depth is not None:
        return output.bit_depth
    deep = photo.info.bit_depth > 8 and (kind in FORMATS_OF_16_BITS or kind == photo.info.format)
    return 16 if deep else 8


def encode_photo(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], like: Photo, output: OutputFormat
) -> tuple[bytes, PhotoInfo]:
    """Encode (H, W, 3) pixels of ``like``'s working space and size, with what else the photo carried.

    Alpha, ICC profile, EXIF, XMP, IPTC and resolution come along as far as the format holds them. Metadata that
    would be untrue of the picture is corrected: it is upright, orientation 1, and has no thumbnail. A photo that
    names its colour space otherwise gets a profile. JPEG holds no alpha: the picture is laid over white there.
    Samples of another depth are rounded to that of the file. Raises InvalidArgument if the format cannot hold the
    picture.
    """
    info = like.info
    if pixels.shape != (info.height_px, info.width_px, 3):
        raise ValueError(f"pixels have shape {pixels.shape}, the photo {info.height_px}x{info.width_px}")
    kind = output.format or info.format
    depth = output_bit_depth(like, output)
    bits = info.bit_depth if kind == "avif" and depth == 16 else depth
    profile = _output_profile(like, output)
    facts = _facts(like, profile)
    metadata = Metadata(resolution=facts.resolution)
    if output.keep_metadata:
        metadata = metadata_for(kind, like.metadata, facts, same_profile=profile == like.working_profile)
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
        image = _with_bits(image, bits)
        image = _with_resolution(image.copy(interpretation="srgb" if depth == 8 else "rgb16"), facts)
        if profile is not None:
            image.set_type(pyvips.GValue.blob_type, colour.PROFILE, profile)
        attach(image, metadata, kind)
        data = _saved(image, kind, bits, output.quality, has_exif=metadata.exif is not None)
    has_alpha = alpha is not None and kind != "jpeg"
    data = finished(data, metadata, kind, info.width_px, info.height_px, has_alpha)
    return data, PhotoInfo(kind, info.width_px, info.height_px, bits, has_alpha, profile is not None)


def encode_preview(pixels: NDArray[np.float32], quality: int = 80) -> bytes:
    """Encode (H, W, 3) values of 0..1 as a small JPEG without metadata; values outside are clipped."""
    whole = (np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return bytes(_image(whole).jpegsave_buffer(Q=quality, keep="none"))


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


def _with_bits(image: pyvips.Image, bits: int) -> pyvips.Image:
    """Round 16-bit samples to those that the AVIF writer, which cuts off what is below ``bits``, keeps as they are."""
    if not 8 < bits < 16:
        return image
    peak, step = (1 << bits) - 1, 1 << 16 - bits
    return image.linear(peak / 65535, 0.5).cast("ushort").linear(step, 0).cast("ushort")


def _output_profile(like: Photo, output: OutputFormat) -> bytes | None:
    """Profile to embed: what was tagged stays tagged."""
    if not output.keep_profile:
        return None
    return like.working_profile or (colour.srgb_profile() if like.info.has_profile else None)


def _facts(like: Photo, profile: bytes | None) -> PictureFacts:
    resolution = like.metadata.resolution
    if resolution is not None and like.turned:
        resolution = resolution[::-1]
    is_srgb = (profile is None or colour.is_srgb(profile)) if like.is_calibrated else None
    return PictureFacts(like.info.width_px, like.info.height_px, like.turned, is_srgb, resolution)


def _with_resolution(image: pyvips.Image, facts: PictureFacts) -> pyvips.Image:
    across, down = facts.resolution or (1.0, 1.0)
    return image.copy(xres=across, yres=down)


def _saved(image: pyvips.Image, kind: str, bits: int, quality: int, has_exif: bool) -> bytes:
    save, options = _SAVE[kind]
    keep = "xmp|icc" + ("|iptc" if kind == "jpeg" else "")
    if kind in _LOSSY:
        options = {**options, "Q": quality}
    if kind == "avif":
        options["bitdepth"] = bits
        keep += "|exif" if has_exif else ""  # makes the item that avif_with replaces
    data: bytes = getattr(image, save)(keep=keep, **options)
    return data
