"""EXIF and IPTC in TIFF files, where they are tags of the file's own directories.

libvips neither reads nor writes EXIF there, and cuts IPTC records short.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from services.common.images.metadata.exif import (
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    block_of,
    laid_out,
    tags_of,
)
from services.common.images.metadata.tiff_structure import (
    RATIONAL,
    SHORT,
    UNDEFINED,
    StructureError,
    Tag,
    read_directory,
    read_header,
)

__all__ = ["exif_in_tiff", "iptc_in_tiff", "tiff_with"]

_IPTC = 0x83BB
_RESOLUTION = (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT)
_MOST_IPTC_BYTES = 1 << 20


def exif_in_tiff(data: bytes) -> bytes | None:
    """Take the EXIF tags of a TIFF or BigTIFF file's first page out as a block; None if there are none."""
    try:
        tags = tags_of(data)
    except StructureError:
        return None
    main = tuple(tag for tag in tags.main if tag.number not in _RESOLUTION)  # which every TIFF file has
    return block_of(replace(tags, main=main)) if main or tags.exif or tags.gps else None


def iptc_in_tiff(data: bytes) -> bytes | None:
    """Take the IPTC records of a TIFF or BigTIFF file's first page; None if there are none."""
    try:
        header = read_header(data)
        entry = read_directory(data, header, header.first).entries.get(_IPTC)
    except StructureError:
        return None
    return entry.tag(data).value if entry is not None and entry.size <= _MOST_IPTC_BYTES else None


def tiff_with(data: bytes, block: bytes | None, iptc: bytes | None, has_resolution: bool) -> bytes:
    """Give a TIFF file (not BigTIFF) of one page, which has no EXIF, the tags of a block and IPTC records.

    The file's own tags win. The first directory is written anew at the end, so that no pixel moves. Without
    ``has_resolution`` the resolution that every TIFF file must have becomes "no unit, square pixels".
    """
    header = read_header(data)
    directory = read_directory(data, header, header.first)
    own = {entry.number: entry.tag(data) for entry in directory.entries.values()}
    if iptc is not None:
        own[_IPTC] = Tag(_IPTC, UNDEFINED, len(iptc), iptc)
    if not has_resolution:
        one = struct.pack(f"{header.order}II", 1, 1)
        own |= {number: Tag(number, RATIONAL, 1, one) for number in (X_RESOLUTION, Y_RESOLUTION)}
        own[RESOLUTION_UNIT] = Tag(RESOLUTION_UNIT, SHORT, 1, struct.pack(f"{header.order}H", 1))
    tags = tags_of(block if block is not None else data).in_order(header.order)
    added = tuple(tag for tag in tags.main if tag.number not in own)
    pad = bytes(len(data) % 2)
    at = len(data) + len(pad)
    written = laid_out(replace(tags, main=(*own.values(), *added)), at)
    return b"".join((data[:4], struct.pack(f"{header.order}I", at), memoryview(data)[8:], pad, written))
