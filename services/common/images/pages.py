"""How many pictures a file holds: a photo is one."""

from __future__ import annotations

import pyvips

from services.common.errors import InvalidArgument
from services.common.images.metadata.tiff_structure import StructureError, read_directory, read_header

__all__ = ["check_single"]

_SUBFILE_TYPE, _DNG_VERSION = 0x00FE, 0xC612
_REDUCED, _MASK = 1, 4  # bits of the subfile type
_MOST_PAGES = 1000


def check_single(header: pyvips.Image, kind: str, data: bytes, field: str) -> None:
    """Refuse a file with several pictures, of which all but one would be lost without a word.

    Smaller copies and masks in a TIFF file (thumbnails, levels of a pyramid) do not count; of a HEIF file the primary
    picture is read. Raises InvalidArgument for animations, for TIFF files of several pages or layers, and for camera
    raw files in TIFF's clothes, whose first page is a thumbnail.
    """
    if kind == "webp" and header.get_typeof("n-pages") and header.get("n-pages") > 1:
        raise InvalidArgument(field, f"an animation of {header.get('n-pages')} frames", "a still picture is accepted")
    if kind == "tiff":
        pages = _pages(data, field)
        if pages > 1:
            raise InvalidArgument(field, f"a TIFF file of {pages} pages", "a single picture is accepted")


def _pages(data: bytes, field: str) -> int:
    pages, seen = 0, set[int]()
    try:
        header = read_header(data)
        at = header.first
        while at and at not in seen and len(seen) < _MOST_PAGES:
            directory = read_directory(data, header, at)
            entry = directory.entries.get(_SUBFILE_TYPE)
            kind = (entry.integers(data, header.order) or (0,))[0] if entry else 0
            if not seen and (_DNG_VERSION in directory.entries or kind & _REDUCED):
                raise InvalidArgument(field, "a camera raw file", "photos that were developed are accepted")
            pages += not kind & (_REDUCED | _MASK)
            seen.add(at)
            at = directory.following
    except StructureError:
        pass  # libvips reads the first page and complains if that is damaged
    return pages
