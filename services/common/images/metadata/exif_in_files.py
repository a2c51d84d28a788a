"""EXIF blocks put into finished JPEG, PNG, WebP and AVIF files, byte for byte.

libvips would write them too, but through a library that leaves out tags it does not know, adds some that nobody
measured, and moves maker notes, whose inner positions then point nowhere.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from services.common.images.isobmff import item_locations, item_types
from services.common.images.metadata.exif import without_maker_note

__all__ = ["avif_with", "jpeg_with", "png_with", "webp_with"]

_PREFIX = b"Exif\0\0"
_MOST_JPEG_BYTES = 0xFFFF - 2 - len(_PREFIX)
_PNG_HEADER_END = 33  # signature and IHDR, which is always first and of one size
_WEBP_EXIF, _WEBP_ALPHA = 0x08, 0x10


def jpeg_with(data: bytes, block: bytes | None, resolution: tuple[float, float] | None) -> bytes:
    """Begin a JPEG stream, which has neither, with an EXIF segment or a JFIF header.

    A segment holds 64 KiB: of a larger block the maker note is left out, then all of it. The JFIF header (ITU-T T.871)
    tells the resolution, given in pixels a millimetre, or "no unit, square pixels".
    """
    if block is not None and len(block) > _MOST_JPEG_BYTES:
        block = without_maker_note(block)
    if block is not None and len(block) <= _MOST_JPEG_BYTES:
        body = b"\xff\xe1" + struct.pack(">H", 2 + len(_PREFIX) + len(block)) + _PREFIX + block
    else:
        density = [min(max(round(value * 25.4), 1), 0xFFFF) for value in resolution or ()]
        unit, across, down = (1, *density) if density else (0, 1, 1)
        body = struct.pack(">HH5sHBHHBB", 0xFFE0, 16, b"JFIF\0", 0x0102, unit, across, down, 0, 0)
    return b"".join((data[:2], body, memoryview(data)[2:]))


def png_with(data: bytes, block: bytes | None, has_resolution: bool) -> bytes:
    """Put a block into a PNG file as its eXIf chunk; without ``has_resolution`` take its pHYs chunk out."""
    pieces: list[bytes | memoryview] = [memoryview(data)[:_PNG_HEADER_END]]
    if block is not None:
        pieces.append(struct.pack(">I4s", len(block), b"eXIf") + block)
        pieces.append(struct.pack(">I", zlib.crc32(b"eXIf" + block)))
    rest = _PNG_HEADER_END
    if not has_resolution:
        for kind, start, end in _png_chunks(data):
            if kind == b"pHYs":
                pieces.append(memoryview(data)[rest:start])
                rest = end
    return b"".join((*pieces, memoryview(data)[rest:]))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk between the header and the pixels."""
    at = _PNG_HEADER_END
    while data[at + 4 : at + 8] not in (b"IDAT", b""):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at, end
        at = end


def webp_with(data: bytes, block: bytes | None, width_px: int, height_px: int, has_alpha: bool) -> bytes:
    """Put a block into a WebP file, whose simple form becomes the extended one."""
    if block is None:
        return data
    at = 12
    chunks: list[tuple[bytes, bytes | memoryview]] = []
    while at + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, at + 4)
        end = at + 8 + size + size % 2
        chunks.append((data[at : at + 4], memoryview(data)[at:end]))
        at = end
    if chunks[0][0] == b"VP8X":
        extended = bytearray(chunks.pop(0)[1])
    else:
        extended = bytearray(struct.pack("<4sIB3x", b"VP8X", 10, _WEBP_ALPHA if has_alpha else 0))
        extended += (width_px - 1).to_bytes(3, "little") + (height_px - 1).to_bytes(3, "little")
    extended[8] |= _WEBP_EXIF
    exif = struct.pack("<4sI", b"EXIF", len(block)) + block + bytes(len(block) % 2)
    before = [chunk for kind, chunk in chunks if kind != b"XMP "]
    after = [chunk for kind, chunk in chunks if kind == b"XMP "]
    pieces: list[bytes | bytearray | memoryview] = [b"WEBP", extended, *before, exif, *after]
    return b"".join((b"RIFF", struct.pack("<I", sum(map(len, pieces))), *pieces))


def avif_with(data: bytes, block: bytes | None) -> bytes:
    """Replace the Exif item of an AVIF file, which must have one of a single piece, by a block at the end of the file.

    ISO/IEC 23008-12, annex A.2.1: an item starts with the number of bytes before the TIFF header, here 0.
    """
    if block is None:
        return data
    item = next(number for number, kind in item_types(data).items() if kind == b"Exif")
    location = item_locations(data)[item]
    payload = bytes(4) + block
    result = bytearray(data)
    position = len(data) + 8 - location.base
    for at, size, value in ((*location.offset, position), (*location.length, len(payload))):
        result[at : at + size] = value.to_bytes(size, "big")
    return bytes(result + struct.pack(">I4s", 8 + len(payload), b"mdat") + payload)
