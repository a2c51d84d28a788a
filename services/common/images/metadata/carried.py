"""What a photo carries beside its pixels and profile, taken from its file and put into another."""

from __future__ import annotations

from dataclasses import dataclass

import pyvips

from services.common.images.metadata.exif import ExifTags, block_of, resolution_of, tags_of
from services.common.images.metadata.exif_correction import PictureFacts, corrected, resolution_tags
from services.common.images.metadata.exif_in_files import avif_with, jpeg_with, png_with, webp_with
from services.common.images.metadata.iptc import iptc_for
from services.common.images.metadata.tiff_files import exif_in_tiff, iptc_in_tiff, tiff_with
from services.common.images.metadata.tiff_structure import StructureError
from services.common.images.metadata.xmp import corrected_xmp

__all__ = ["Metadata", "attach", "finished", "metadata_for", "read_metadata"]

_EXIF, _XMP, _IPTC = "exif-data", "xmp-data", "iptc-data"  # names of libvips
_PREFIX = b"Exif\0\0"
_PNG_DEFAULT = 2.834  # what libvips says of a PNG file that says nothing
_NO_OTHER_PLACE = ("webp", "avif")
"""Formats that hold a resolution only in EXIF."""


@dataclass(frozen=True)
class Metadata:
    """EXIF block, XMP packet, IPTC data, and pixels a millimetre across and down the stored picture."""

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    resolution: tuple[float, float] | None = None


def read_metadata(header: pyvips.Image, kind: str, data: bytes) -> Metadata:
    """Take the metadata out of a file of format ``kind`` whose header libvips has read."""
    exif = exif_in_tiff(data) if kind == "tiff" else _blob(header, _EXIF)
    if exif is not None:
        exif = exif.removeprefix(_PREFIX)
    iptc = iptc_in_tiff(data) if kind == "tiff" else _blob(header, _IPTC)
    known = header.get_typeof("resolution-unit") or (kind == "png" and header.xres != _PNG_DEFAULT)
    resolution = (header.xres, header.yres) if known else None
    if kind in _NO_OTHER_PLACE:
        resolution = resolution_of(exif) if exif is not None else None
    return Metadata(exif, _blob(header, _XMP), iptc, resolution)


def metadata_for(kind: str, metadata: Metadata, facts: PictureFacts, same_profile: bool) -> Metadata:
    """Make the metadata of a picture of format ``kind`` from the photo's.

    A damaged EXIF block is left out; where nothing else can tell the resolution one is made for it.
    """
    exif = _corrected_or_none(metadata.exif, facts) if metadata.exif is not None else None
    if exif is None and kind in _NO_OTHER_PLACE and facts.resolution is not None:
        exif = block_of(ExifTags("<", tuple(resolution_tags(facts.resolution, "<"))))
    xmp = corrected_xmp(metadata.xmp, facts, same_profile) if metadata.xmp is not None else None
    iptc = iptc_for(kind, metadata.iptc) if metadata.iptc is not None else None
    return Metadata(exif, xmp, iptc, facts.resolution)


def attach(image: pyvips.Image, metadata: Metadata, kind: str) -> None:
    """Put on an image what libvips is to write, with everything in the form of ``kind``."""
    if metadata.xmp is not None:
        image.set_type(pyvips.GValue.blob_type, _XMP, metadata.xmp)
    if metadata.iptc is not None and kind == "jpeg":
        image.set_type(pyvips.GValue.blob_type, _IPTC, metadata.iptc)


def finished(data: bytes, metadata: Metadata, kind: str, width_px: int, height_px: int, has_alpha: bool) -> bytes:
    """Put into a file what libvips did not write; without a known resolution, take out the one that it invented."""
    known = metadata.resolution is not None
    if kind == "jpeg":
        return jpeg_with(data, metadata.exif, metadata.resolution)
    if kind == "png":
        return png_with(data, metadata.exif, known)
    if kind == "tiff":
        return tiff_with(data, metadata.exif, metadata.iptc, known)
    if kind == "webp":
        return webp_with(data, metadata.exif, width_px, height_px, has_alpha)
    return avif_with(data, metadata.exif)


def _corrected_or_none(block: bytes, facts: PictureFacts) -> bytes | None:
    try:
        result = corrected(block, facts)
        tags_of(result)
    except StructureError:
        return None
    return result


def _blob(header: pyvips.Image, name: str) -> bytes | None:
    return bytes(header.get(name)) if header.get_typeof(name) else None
