"""Directories of tags as TIFF defines them: in TIFF and BigTIFF files, and in the EXIF block of every other format.

TIFF 6.0 (Adobe, 1992), section 2; BigTIFF as in libtiff's design note. What is read comes from strangers: every
position is checked against the data, and an entry that points outside is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

__all__ = [
    "LONG",
    "RATIONAL",
    "SHORT",
    "UNDEFINED",
    "Directory",
    "Entry",
    "Header",
    "StructureError",
    "Tag",
    "directory_bytes",
    "read_directory",
    "read_header",
]

SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
"""Kinds of values: 16 bits, 32 bits, a fraction of two 32-bit numbers, bytes."""

_UNIT_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""What is swapped as one when the byte order changes, by kind of value."""
_VALUE_BYTES = {**_UNIT_BYTES, 5: 8, 10: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MOST_ENTRIES = 4096  # real directories have a few hundred at most; more would only cost time
_MOST_INTEGERS = 4096


class StructureError(ValueError):
    """The data is no TIFF structure."""


@dataclass(frozen=True)
class Header:
    """Byte order ("<" or ">"), whether positions have 64 bits, and where the first directory is."""

    order: str
    big: bool
    first: int


@dataclass(frozen=True)
class Tag:
    """One tag with its value as bytes; ``kind`` is TIFF's number of the value's type."""

    number: int
    kind: int
    count: int
    value: bytes

    def reordered(self) -> Tag:
        """Swap the bytes of every number in the value."""
        unit = _UNIT_BYTES[self.kind]
        return replace(self, value=np.frombuffer(self.value, f"u{unit}").byteswap().tobytes())


@dataclass(frozen=True)
class Entry:
    """Where a tag's value is in the data."""

    number: int
    kind: int
    count: int
    value_at: int
    size: int

    def tag(self, data: bytes) -> Tag:
        """Take the tag out of the data."""
        return Tag(self.number, self.kind, self.count, bytes(data[self.value_at : self.value_at + self.size]))

    def integers(self, data: bytes, order: str) -> tuple[int, ...]:
        """Give the value as whole numbers; none if it is of another kind or has thousands of them."""
        code = _INTEGERS.get(self.kind)
        if code is None or self.count > _MOST_INTEGERS:
            return ()
        return struct.unpack_from(f"{order}{self.count}{code}", data, self.value_at)


@dataclass(frozen=True)
class Directory:
    """Entries by number, where the link to the next directory stands, and that directory's position (0: none)."""

    entries: Mapping[int, Entry]
    link_at: int
    following: int


def read_header(data: bytes) -> Header:
    """Read the first bytes of a TIFF structure. Raises StructureError if they are something else."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or len(data) < 16:
        raise StructureError("no TIFF header")
    version, first = struct.unpack_from(f"{order}HI", data, 2)
    if version == 42:
        return Header(order, big=False, first=first)
    if version == 43:
        return Header(order, big=True, first=struct.unpack_from(f"{order}Q", data, 8)[0])
    raise StructureError(f"unknown TIFF version {version}")


def read_directory(data: bytes, header: Header, at: int) -> Directory:
    """Read the directory that starts at ``at``. Raises StructureError if it does not lie within the data."""
    count_code, entry_bytes, pointer = ("Q", 20, "Q") if header.big else ("H", 12, "I")
    inline_bytes = struct.calcsize(pointer)
    start = at + struct.calcsize(count_code)
    if at < 8 or start > len(data):
        raise StructureError(f"a directory at {at} is outside the data")
    (count,) = struct.unpack_from(header.order + count_code, data, at)
    link_at = start + count * entry_bytes
    if count > _MOST_ENTRIES or link_at + inline_bytes > len(data):
        raise StructureError(f"a directory of {count} entries at {at} does not fit the data")
    entries: dict[int, Entry] = {}
    for entry_at in range(start, link_at, entry_bytes):
        number, kind, values = struct.unpack_from(f"{header.order}HH{pointer}", data, entry_at)
        size = _VALUE_BYTES.get(kind, 0) * values
        value_at = entry_at + 4 + inline_bytes
        if size > inline_bytes:
            (value_at,) = struct.unpack_from(header.order + pointer, data, value_at)
        if kind in _VALUE_BYTES and value_at + size <= len(data):
            entries.setdefault(number, Entry(number, kind, values, value_at, size))
    return Directory(entries, link_at, struct.unpack_from(header.order + pointer, data, link_at)[0])


def directory_bytes(tags: Iterable[Tag], at: int, order: str, following: int = 0) -> bytes:
    """Write a directory of TIFF (not BigTIFF) that will stand at ``at``, an even position, with its values after it.

    Values must be in ``order`` already. The result has even length.
    """
    ordered = sorted(tags, key=lambda tag: tag.number)
    head = bytearray(struct.pack(f"{order}H", len(ordered)))
    values_at = at + 2 + 12 * len(ordered) + 4
    values = bytearray()
    for tag in ordered:
        head += struct.pack(f"{order}HHI", tag.number, tag.kind, tag.count)
        if len(tag.value) <= 4:
            head += tag.value.ljust(4, b"\0")
        else:
            head += struct.pack(f"{order}I", values_at + len(values))
            values += tag.value + bytes(len(tag.value) % 2)
    return bytes(head + struct.pack(f"{order}I", following) + values)
