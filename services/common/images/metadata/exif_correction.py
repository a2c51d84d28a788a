"""An EXIF block made to agree with a picture that was made anew from the photo."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

from services.common.images.metadata.exif import (
    INTEROP_INDEX,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    inner_directories,
)
from services.common.images.metadata.tiff_structure import (
    LONG,
    RATIONAL,
    SHORT,
    Directory,
    Header,
    StructureError,
    Tag,
    directory_bytes,
    read_directory,
    read_header,
)

__all__ = ["PictureFacts", "corrected", "resolution_tags"]

_ORIENTATION, _COLOUR_SPACE = 0x0112, 0xA001
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
_SRGB, _UNCALIBRATED = 1, 0xFFFF
_THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))  # positions of the thumbnail's JPEG stream or strips, and sizes
_MOST_MAIN_BYTES = 8 << 20


@dataclass(frozen=True)
class PictureFacts:
    """What the metadata of the picture must agree with.

    ``turned`` says that the sides of the stored photo have changed places, ``is_srgb`` whether the picture's colours
    are sRGB, None if nobody said what they are; ``resolution`` are its pixels a millimetre across and down, None if
    the photo did not tell.
    """

    width_px: int
    height_px: int
    turned: bool
    is_srgb: bool | None
    resolution: tuple[float, float] | None


def corrected(block: bytes, facts: PictureFacts) -> bytes:
    """Make an EXIF block agree with the picture.

    The picture is upright, so that Orientation becomes 1; sizes and colour space become the picture's; the
    thumbnail, which shows the photo as it was, is wiped out. Everything else stays in its place byte for byte,
    because maker notes hold positions that no one else can correct. A resolution that the block lacks is added.
    Raises StructureError if the block is damaged.
    """
    header = read_header(block)
    main = read_directory(block, header, header.first)
    exif, _, interop = inner_directories(block, header, main)
    result = bytearray(block)

    def put(directory: Directory | None, number: int, value: int) -> None:
        entry = directory.entries.get(number) if directory else None
        if entry is not None and entry.count == 1 and entry.kind in (SHORT, LONG):
            code = "H" if entry.kind == SHORT else "I"
            struct.pack_into(header.order + code, result, entry.value_at, value)

    put(main, _ORIENTATION, 1)
    for directory in (main, exif):
        for number in _WIDTHS:
            put(directory, number, facts.width_px)
        for number in _HEIGHTS:
            put(directory, number, facts.height_px)
    if facts.is_srgb is not None:
        put(exif, _COLOUR_SPACE, _SRGB if facts.is_srgb else _UNCALIBRATED)
    index = interop.entries.get(INTEROP_INDEX) if interop else None
    if facts.is_srgb and index is not None and index.tag(block).value == b"R03\0":
        result[index.value_at : index.value_at + 4] = b"R98\0"
    if facts.turned:
        _swap(result, main, X_RESOLUTION, Y_RESOLUTION)
    if main.following:
        struct.pack_into(f"{header.order}I", result, main.link_at, 0)
        _wipe_thumbnail(result, block, header, main.following)
    if facts.resolution is not None and X_RESOLUTION not in main.entries:
        _add_resolution(result, header, facts.resolution)
    return bytes(result)


def resolution_tags(resolution: tuple[float, float], order: str) -> list[Tag]:
    """Write a resolution, given in pixels a millimetre, in pixels an inch."""
    tags = [Tag(RESOLUTION_UNIT, SHORT, 1, struct.pack(f"{order}H", 2))]
    for number, value in zip((X_RESOLUTION, Y_RESOLUTION), resolution, strict=True):
        inches = Fraction(value * 25.4).limit_denominator(1000)
        tags.append(Tag(number, RATIONAL, 1, struct.pack(f"{order}II", inches.numerator, inches.denominator)))
    return tags


def _swap(result: bytearray, directory: Directory, first: int, second: int) -> None:
    one, other = directory.entries.get(first), directory.entries.get(second)
    if one is not None and other is not None and (one.kind, one.size) == (other.kind, other.size):
        a, b = slice(one.value_at, one.value_at + one.size), slice(other.value_at, other.value_at + other.size)
        result[a], result[b] = result[b], result[a]


def _wipe_thumbnail(result: bytearray, block: bytes, header: Header, at: int) -> None:
    try:
        second = read_directory(block, header, at)
    except StructureError:
        return
    ranges = []
    for places, sizes in _THUMBNAILS:
        if places in second.entries and sizes in second.entries:
            starts = second.entries[places].integers(block, header.order)
            lengths = second.entries[sizes].integers(block, header.order)
            ranges += [(start, start + length) for start, length in zip(starts, lengths, strict=False)]
    for start, end in sorted(ranges, reverse=True):
        if end > len(block) or (start < at and block[start : start + 2] != b"\xff\xd8"):
            continue
        result[start:end] = bytes(end - start)
        if len(block) - end < 2:  # a byte may follow to make the length even
            del result[start:]


def _add_resolution(result: bytearray, header: Header, resolution: tuple[float, float]) -> None:
    """Write the first directory anew at the end of the block; what it points to stays.

    Of a block that is cut off, positions may lie where the addition would: to that nothing is added.
    """
    block = bytes(result)
    main = read_directory(block, header, header.first)
    added = resolution_tags(resolution, header.order)
    kept = [entry for entry in main.entries.values() if entry.number not in {tag.number for tag in added}]
    if sum(entry.size for entry in kept) > _MOST_MAIN_BYTES:
        return
    longer = result + bytes(len(result) % 2)
    struct.pack_into(f"{header.order}I", longer, 4, len(longer))
    longer += directory_bytes([*(entry.tag(block) for entry in kept), *added], len(longer), header.order)
    if inner_directories(bytes(longer), header, main) == inner_directories(block, header, main):
        result[:] = longer
