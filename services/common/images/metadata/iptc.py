"""IPTC records: bare in TIFF files, in a block of Photoshop's image resources in JPEG files.

Adobe, *Photoshop File Formats Specification*, "Image Resource Blocks". libvips hands over and writes whatever the
file has, so that the one form must be made the other. Only what is about the photo is kept: the records, their digest
and the copyright marks. The other resources hold thumbnails, paths and copies of EXIF that the new picture would belie.
"""

from __future__ import annotations

import struct

__all__ = ["iptc_for"]

_SIGNATURE = b"Photoshop 3.0\0"
_RECORDS = 0x0404
_KEPT = (_RECORDS, 0x0425, 0x040A, 0x040B)  # records, their digest, copyright flag, URL
_MOST_JPEG_BYTES = 0xFFFF - 2


def iptc_for(kind: str, data: bytes) -> bytes | None:
    """Give IPTC data, of either form, in the form that a format needs.

    None if the format ("png", "webp", "avif") has no place for it, there are no records, or they exceed the 64 KiB of
    a JPEG segment.
    """
    resources = _resources(data[len(_SIGNATURE) :]) if data.startswith(_SIGNATURE) else {_RECORDS: data}
    if not resources.get(_RECORDS):
        return None
    if kind == "tiff":
        return resources[_RECORDS]
    if kind == "jpeg":
        whole = _SIGNATURE + b"".join(_resource(number, resources[number]) for number in _KEPT if number in resources)
        return whole if len(whole) <= _MOST_JPEG_BYTES else None
    return None


def _resources(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 7 <= len(data) and data[at : at + 4] == b"8BIM":
        (number,) = struct.unpack_from(">H", data, at + 4)
        name_bytes = 1 + data[at + 6]
        at += 6 + name_bytes + name_bytes % 2
        if at + 4 > len(data):
            break
        (size,) = struct.unpack_from(">I", data, at)
        found.setdefault(number, data[at + 4 : at + 4 + size])
        at += 4 + size + size % 2
    return found


def _resource(number: int, body: bytes) -> bytes:
    return struct.pack(">4sHHI", b"8BIM", number, 0, len(body)) + body + bytes(len(body) % 2)
