"""Small real files of every kind, written by libraries other than the one under test where there is one."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image

from services.common.images import ImageLimits, Photo, open_photo

LIMITS = ImageLimits(max_bytes=64 << 20, max_pixels=40_000_000, min_edge_px=32, max_edge_px=30_000)


def scene(height: int = 48, width: int = 64, peak: int = 255) -> NDArray[Any]:
    """Smooth colours, so that lossy formats change little."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x / (width - 1), y / (height - 1), 1 - x / (width - 1)]
    return (np.stack(channels, axis=2) * peak + 0.5).astype(np.uint8 if peak == 255 else np.uint16)


def vips_image(pixels: NDArray[Any]) -> pyvips.Image:
    image = pyvips.Image.new_from_array(pixels)
    return image.copy(interpretation="rgb16" if pixels.dtype == np.uint16 else "srgb")


def vips_file(pixels: NDArray[Any], kind: str, profile: bytes | None = None, **options: Any) -> bytes:
    image = vips_image(pixels)
    if profile is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    if kind == "avif":
        options = {"compression": "av1", "effort": 0, **options}
    data: bytes = getattr(image, f"{'heif' if kind == 'avif' else kind}save_buffer")(**options)
    return data


def pillow_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff_file(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))


def png_file(values: NDArray[np.uint8], bits: int, colour_type: int, *chunks: bytes) -> bytes:
    """Grey (0) or palette (3) PNG of 1, 2, 4 or 8 bits with more chunks before the pixels."""
    height, width = values.shape
    bit_planes = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :]
    rows = np.packbits(bit_planes.reshape(height, width * bits), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    pieces = (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def tiff_of_entries(entries: list[tuple[int, int, int, int]], strip: bytes, first: int = 0) -> bytes:
    """Little-endian TIFF of one strip: entries are tag, kind, count, value; StripOffsets and -ByteCounts are added."""
    whole = sorted([*entries, (273, 4, 1, 8), (279, 4, 1, len(strip))])
    strip += bytes(len(strip) % 2)
    at = first or 8 + len(strip)
    table = struct.pack("<H", len(whole)) + b"".join(struct.pack("<HHII", *entry) for entry in whole) + bytes(4)
    return b"II*\0" + struct.pack("<I", at) + strip + table


def vips_profile(name: str) -> bytes:
    return bytes(pyvips.Operation.call("profile_load", name))


def opened(data: bytes) -> Photo:
    return open_photo(data, "content", LIMITS)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """What a viewer shows of stored pixels (EXIF 2.32, tag 0x0112)."""
    turned = pixels.swapaxes(0, 1)
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: turned,
        6: turned[:, ::-1],
        7: turned[::-1, ::-1],
        8: turned[::-1],
    }[orientation]
