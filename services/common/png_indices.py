"""Label indices in PNG files: pixel values of palette images, which image libraries hide behind the colours.

A palette PNG holds indices exactly as a greyscale PNG holds grey values. So the palette is cut out of the file and the
image type changed before decoding, and put in after encoding; the pixel data stay as they are.
PNG specification, third edition, sections 5 and 11.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["PngHeader", "as_greyscale", "as_palette", "read_header"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_RGB = tuple[int, int, int]


@dataclass(frozen=True)
class PngHeader:
    """Size, and what decides how pixel values are to be read. ``palette`` is empty where there is none."""

    width_px: int
    height_px: int
    bit_depth: int
    colour_type: int
    palette: tuple[_RGB, ...]

    @property
    def is_palette(self) -> bool:
        """Whether pixel values are positions in ``palette``."""
        return self.colour_type == _PALETTE

    @property
    def index_step(self) -> int:
        """Difference of two neighbouring indices once decoded to 0..255: a decoder spreads 1, 2 and 4 bits."""
        return {1: 255, 2: 85, 4: 17}.get(self.bit_depth, 1)


def read_header(png: bytes) -> PngHeader:
    """Read size, type and palette. Raises ValueError if the bytes are no PNG or end too early."""
    width_px = height_px = bit_depth = 0
    colour_type, palette = -1, b""
    for kind, body in _chunks(png):
        if kind == b"IHDR" and len(body) == 13:
            width_px, height_px, bit_depth, colour_type = struct.unpack(">IIBB", body[:10])
        elif kind == b"PLTE":
            palette = body
        elif kind == b"IDAT":
            break
    if colour_type < 0:
        raise ValueError("no IHDR chunk")
    triples = zip(palette[0::3], palette[1::3], palette[2::3], strict=False)
    return PngHeader(width_px, height_px, bit_depth, colour_type, tuple(triples))


def as_greyscale(png: bytes) -> bytes:
    """Turn a palette PNG into the greyscale PNG of its indices."""
    parts = [_SIGNATURE]
    for kind, body in _chunks(png):
        if kind == b"IHDR":
            body = body[:9] + bytes([_GREY]) + body[10:]
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            parts.append(_chunk(kind, body))
    return b"".join(parts)


def as_palette(png: bytes, colours: Sequence[_RGB]) -> bytes:
    """Turn an 8-bit greyscale PNG of indices below ``len(colours)`` into a palette PNG."""
    parts = [_SIGNATURE]
    for kind, body in _chunks(png):
        if kind == b"IHDR":
            body = body[:9] + bytes([_PALETTE]) + body[10:]
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            parts.append(_chunk(kind, body))
        if kind == b"IHDR":
            parts.append(_chunk(b"PLTE", bytes(value for colour in colours for value in colour)))
    return b"".join(parts)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not png.startswith(_SIGNATURE):
        raise ValueError("no PNG signature")
    at = len(_SIGNATURE)
    while at + 12 <= len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        body = png[at + 8 : at + 8 + size]
        crc = png[at + 8 + size : at + 12 + size]
        if len(crc) < 4 or zlib.crc32(kind + body) != int.from_bytes(crc, "big"):
            raise ValueError(f"the {kind.decode('ascii', 'replace')} chunk is damaged or cut off")
        yield kind, body
        at += 12 + size


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + zlib.crc32(kind + body).to_bytes(4, "big")
