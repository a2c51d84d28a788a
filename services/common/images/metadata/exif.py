"""EXIF blocks: the tags in them, read from a block or a TIFF file, and written.

A block is a TIFF structure, without the word Exif that some formats put in front. EXIF 2.32 (CIPA DC-008-2019),
sections 4.6.3 to 4.6.8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.common.images.metadata.tiff_structure import (
    LONG,
    RATIONAL,
    Directory,
    Header,
    StructureError,
    Tag,
    directory_bytes,
    read_directory,
    read_header,
)

__all__ = [
    "EXIF",
    "GPS",
    "INTEROP",
    "INTEROP_INDEX",
    "RESOLUTION_UNIT",
    "X_RESOLUTION",
    "Y_RESOLUTION",
    "ExifTags",
    "block_of",
    "inner_directories",
    "is_adobe_rgb",
    "laid_out",
    "resolution_of",
    "tags_of",
    "without_maker_note",
]

EXIF, GPS, INTEROP = 0x8769, 0x8825, 0xA005
"""Tags that point to directories; the last one stands in the EXIF directory."""

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
INTEROP_INDEX = 0x0001

_MAKER_NOTE = 0x927C
_UNIT_MM = {2: 25.4, 3: 10.0}  # inches, centimetres
_MOST_BYTES = 8 << 20  # of all values; a structure that names the same bytes a thousand times must not cost memory
_DESCRIPTIVE = frozenset(
    {
        *(
            0x010D,
            0x010E,
            0x010F,
            0x0110,
            0x0131,
            0x0132,
            0x013B,
            0x013C,
        ),  # names, maker, model, software, date, artist
        *(X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT),
        *(0x4746, 0x4749, 0x8298),  # ratings, copyright
        *range(0x9C9B, 0x9CA0),  # title, comment, author, keywords, subject as Windows writes them
    }
)
"""What the first directory tells about the photo rather than about how its pixels are stored."""


@dataclass(frozen=True)
class ExifTags:
    """The tags of a photo, with values in byte order ``order``; ``main`` are descriptive tags and resolution only."""

    order: str
    main: tuple[Tag, ...] = ()
    exif: tuple[Tag, ...] = ()
    gps: tuple[Tag, ...] = ()
    interop: tuple[Tag, ...] = ()

    def in_order(self, order: str) -> ExifTags:
        """Give the same tags with values in another byte order. Maker notes keep theirs: nobody knows their numbers."""
        if order == self.order:
            return self
        kinds = (self.main, self.exif, self.gps, self.interop)
        return ExifTags(order, *(tuple(tag.reordered() for tag in tags) for tags in kinds))


def tags_of(data: bytes) -> ExifTags:
    """Read the tags of an EXIF block, or of a TIFF or BigTIFF file. Raises StructureError if it is neither."""
    header = read_header(data)
    main = read_directory(data, header, header.first)
    exif, gps, interop = inner_directories(data, header, main)
    return ExifTags(
        header.order,
        tuple(_tags(data, main, _DESCRIPTIVE)),
        tuple(tag for tag in _tags(data, exif) if tag.number != INTEROP),
        tuple(_tags(data, gps)),
        tuple(_tags(data, interop)),
    )


def block_of(tags: ExifTags) -> bytes:
    """Write an EXIF block."""
    mark = b"II" if tags.order == "<" else b"MM"
    return mark + struct.pack(f"{tags.order}HI", 42, 8) + laid_out(tags, 8)


def laid_out(tags: ExifTags, at: int, following: int = 0) -> bytes:
    """Write all directories, the main one first, for the even position ``at`` of a TIFF structure (not BigTIFF)."""
    order = tags.order

    def pointers(places: dict[int, int]) -> list[Tag]:
        return [Tag(number, LONG, 1, struct.pack(f"{order}I", place)) for number, place in places.items()]

    places = {number: 0 for number, there in ((EXIF, tags.exif or tags.interop), (GPS, tags.gps)) if there}
    inner = {INTEROP: 0} if tags.interop else {}
    end = at + len(directory_bytes([*tags.main, *pointers(places)], at, order))
    written = b""
    if EXIF in places:
        places[EXIF] = end
        inner = dict.fromkeys(inner, end + len(directory_bytes([*tags.exif, *pointers(inner)], end, order)))
        written = directory_bytes([*tags.exif, *pointers(inner)], end, order)
        if inner:
            written += directory_bytes(tags.interop, inner[INTEROP], order)
    if GPS in places:
        places[GPS] = end + len(written)
        written += directory_bytes(tags.gps, places[GPS], order)
    return directory_bytes([*tags.main, *pointers(places)], at, order, following) + written


def resolution_of(block: bytes) -> tuple[float, float] | None:
    """Pixels a millimetre across and down the stored pixels, None if the block does not tell."""
    try:
        tags = tags_of(block)
    except StructureError:
        return None
    numbers = {tag.number: tag for tag in tags.main}
    unit = numbers.get(RESOLUTION_UNIT)
    length_mm = _UNIT_MM.get(struct.unpack(f"{tags.order}H", unit.value)[0]) if unit and len(unit.value) == 2 else 25.4
    values = []
    for tag in (numbers.get(X_RESOLUTION), numbers.get(Y_RESOLUTION)):
        if tag is None or (tag.kind, tag.count) != (RATIONAL, 1) or length_mm is None:
            return None
        above, below = struct.unpack(f"{tags.order}II", tag.value)
        if not above or not below:
            return None
        values.append(above / below / length_mm)
    return values[0], values[1]


def is_adobe_rgb(block: bytes) -> bool:
    """Whether a camera says so: the option file "R03" of DCF 2.0 (CIPA DC-009-2010), which holds no ICC profile."""
    try:
        tags = tags_of(block)
    except StructureError:
        return False
    return any(tag.number == INTEROP_INDEX and tag.value[:3] == b"R03" for tag in tags.interop)


def without_maker_note(block: bytes) -> bytes:
    """Give a smaller block for formats with a limit. Raises StructureError if the block is damaged."""
    tags = tags_of(block)
    return block_of(replace(tags, exif=tuple(tag for tag in tags.exif if tag.number != _MAKER_NOTE)))


def inner_directories(data: bytes, header: Header, main: Directory) -> tuple[Directory | None, ...]:
    """Read those of EXIF, GPS and interoperability; None for one that is not there or damaged."""
    exif = _pointed(data, header, main, EXIF)
    return exif, _pointed(data, header, main, GPS), _pointed(data, header, exif, INTEROP)


def _pointed(data: bytes, header: Header, directory: Directory | None, number: int) -> Directory | None:
    """Read the directory that a tag points to; None if there is none or it is damaged."""
    entry = directory.entries.get(number) if directory else None
    positions = entry.integers(data, header.order) if entry else ()
    try:
        return read_directory(data, header, positions[0]) if positions else None
    except StructureError:
        return None


def _tags(data: bytes, directory: Directory | None, wanted: frozenset[int] | None = None) -> Iterator[Tag]:
    """Tags that may stand in any TIFF structure; the 64-bit numbers of BigTIFF may not."""
    total = 0
    for entry in directory.entries.values() if directory else ():
        if entry.kind < 16 and (wanted is None or entry.number in wanted):
            total += entry.size
            if total > _MOST_BYTES:
                raise StructureError(f"a directory of more than {_MOST_BYTES} bytes")
            yield entry.tag(data)
