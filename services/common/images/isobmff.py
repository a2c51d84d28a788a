"""Boxes of the ISO base media file format, of which AVIF and HEIF files are made (ISO/IEC 14496-12 and 23008-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["ItemLocation", "boxes", "find_box", "item_locations", "item_types"]

_MOST_ITEMS = 4096  # a grid of tiles has some hundred


@dataclass(frozen=True)
class ItemLocation:
    """Where an item's position, less ``base``, and its length are written: each a place in the file and its bytes."""

    base: int
    offset: tuple[int, int]
    length: tuple[int, int]


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box in a range, with the range of its body; ends at the first damaged one."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        stop = end if size == 0 else start + size
        if stop < body or stop > end:
            return
        yield kind, body, stop
        start = stop


def find_box(data: bytes, *path: bytes) -> tuple[int, int] | None:
    """Range of the body of the first box at a path such as ("meta", "iprp", "ipco"); None if there is none."""
    start, end = 0, len(data)
    for kind in path:
        found = next((body for body in boxes(data, start, end) if body[0] == kind), None)
        if found is None:
            return None
        start, end = found[1], found[2]
        if kind == b"meta":
            start += 4  # version and flags
    return start, end


def item_types(data: bytes) -> dict[int, bytes]:
    """Kind of each item by its number, as in b"av01" or b"Exif"."""
    found = find_box(data, b"meta", b"iinf")
    if found is None:
        return {}
    start, end = found
    types: dict[int, bytes] = {}
    for kind, body, stop in boxes(data, start + (6 if data[start] == 0 else 8), end):
        if kind == b"infe" and data[body] >= 2 and len(types) < _MOST_ITEMS:
            wide = data[body] == 3
            number = int.from_bytes(data[body + 4 : body + (8 if wide else 6)], "big")
            at = body + (10 if wide else 8)
            if at + 4 <= stop:
                types[number] = data[at : at + 4]
    return types


def item_locations(data: bytes) -> dict[int, ItemLocation]:
    """Where the position and length of each item of one piece are written.

    Raises ValueError if the table is damaged.
    """
    found = find_box(data, b"meta", b"iloc")
    if found is None:
        return {}
    start, end = found
    version = data[start]
    offset_size, length_size = data[start + 4] >> 4, data[start + 4] & 15
    base_size, index_size = data[start + 5] >> 4, data[start + 5] & 15 if version else 0
    number_size = 4 if version == 2 else 2
    at = start + 6 + number_size
    locations = {}
    for _ in range(int.from_bytes(data[start + 6 : at], "big")):
        number = int.from_bytes(data[at : at + number_size], "big")
        at += number_size + (2 if version else 0) + 2
        base = int.from_bytes(data[at : at + base_size], "big")
        extents = int.from_bytes(data[at + base_size : at + base_size + 2], "big")
        at += base_size + 2
        if extents == 1:
            first = at + index_size
            locations[number] = ItemLocation(base, (first, offset_size), (first + offset_size, length_size))
        at += extents * (index_size + offset_size + length_size)
        if at > end:
            raise ValueError("the item location box is damaged")
    return locations
