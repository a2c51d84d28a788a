"""Every kind of file is either read right or refused by name."""

from __future__ import annotations

import base64
import io
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from services.common.errors import InvalidArgument
from services.common.images import OutputFormat, encode_photo
from tests.common.images.files import (
    opened,
    pillow_file,
    png_chunk,
    png_file,
    scene,
    tiff_file,
    tiff_of_entries,
    vips_file,
    vips_image,
)

RGB, RGB16 = scene(), scene(peak=65535)
GREY, GREY16 = RGB[..., 0], RGB16[..., 0]
PICTURE = Image.fromarray(RGB)
ALPHA = np.dstack([RGB, 255 - GREY])
PALETTE = np.array([[20 * i % 256, 90 * i % 256, 255 - 16 * i] for i in range(16)], np.uint8)
# 32×32 px of one colour, (170, 85, 40), arithmetic coding: jpegtran -arithmetic of libjpeg-turbo 2.1.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMU"
    "FRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU"
    "FBQUFBQUFBT/yQARCAAgACADAREAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AJJtIkG93BGdt//Z"
)
# The same picture as HEVC, by x265 through pillow-heif 1.8.
HEVC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAAB0AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRt"
    "AAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMA"
    "AAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5j"
    "bHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAACAAAAABAAAAIAAAAAH////gAAAAAv///+AAAAACAAAAEHBp"
    "eGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAACVtZGF0AAAAGSgBrxOA9SeBP//AZR//JDnh8jgN+efLU8A="
)


def levels(bits: int) -> NDArray[np.uint8]:
    """Grey levels of 0..2^bits − 1."""
    return (GREY.astype(int) * ((1 << bits) - 1) // 255).astype(np.uint8)


def repeated(grey: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(grey[..., None], 3, axis=2)


def full_range(bits: int) -> NDArray[Any]:
    return repeated(levels(bits).astype(int) * 255 // ((1 << bits) - 1))


def packed_tiff(bits: int, photometric: int) -> bytes:
    rows = np.packbits(np.unpackbits(levels(bits)[..., None], axis=2)[..., 8 - bits :].reshape(48, -1), axis=1)
    entries = [(256, 3, 1, 64), (257, 3, 1, 48), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric)]
    return tiff_of_entries([*entries, (277, 3, 1, 1), (278, 3, 1, 48)], rows.tobytes())


def premultiplied() -> bytes:
    share = ALPHA[..., 3:] / 255
    return tiff_file(np.dstack([np.round(RGB * share).astype(np.uint8), ALPHA[..., 3]]), extrasamples=["assocalpha"])


ACCEPTED: dict[str, tuple[Callable[[], bytes], NDArray[Any], int]] = {
    "progressive JPEG": (lambda: pillow_file(PICTURE, "JPEG", quality=98, progressive=True), RGB, 6),
    "JPEG of RGB": (lambda: pillow_file(PICTURE, "JPEG", quality=98, keep_rgb=True), RGB, 2),
    "grey JPEG": (lambda: pillow_file(PICTURE.getchannel(0), "JPEG", quality=98), repeated(GREY), 3),
    "arithmetic JPEG": (lambda: ARITHMETIC, np.full((32, 32, 3), (170, 85, 40)), 2),
    "interlaced PNG": (lambda: vips_file(RGB16, "png", interlace=True), RGB16, 0),
    **{f"grey PNG of {b} bits": (lambda b=b: png_file(levels(b), b, 0), full_range(b), 0) for b in (1, 2, 4)},
    **{
        f"palette PNG of {b} bits": (
            lambda b=b: png_file(levels(b), b, 3, png_chunk(b"PLTE", PALETTE[: 1 << b].tobytes())),
            PALETTE[levels(b)],
            0,
        )
        for b in (1, 2, 4)
    },
    **{f"TIFF of {b} bits, 0 is black": (lambda b=b: packed_tiff(b, 1), full_range(b), 0) for b in (1, 2, 4)},
    **{f"TIFF of {b} bits, 0 is white": (lambda b=b: packed_tiff(b, 0), 255 - full_range(b), 0) for b in (1, 2, 4)},
    "TIFF of 8 bits, 0 is white": (lambda: tiff_file(255 - GREY, photometric="miniswhite"), repeated(GREY), 0),
    "TIFF of 16 bits, 0 is white": (lambda: tiff_file(65535 - GREY16, photometric="miniswhite"), repeated(GREY16), 0),
    "palette TIFF": (
        lambda: tiff_file(
            levels(4), photometric="palette", colormap=np.resize(PALETTE.T.astype(np.uint16) * 257, (3, 256))
        ),
        PALETTE[levels(4)],
        0,
    ),
    "planar TIFF": (
        lambda: tiff_file(RGB.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
        RGB,
        0,
    ),
    "planar TIFF of 16 bits": (
        lambda: tiff_file(RGB16.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
        RGB16,
        0,
    ),
    "tiled TIFF": (lambda: tiff_file(RGB16, photometric="rgb", tile=(32, 32)), RGB16, 0),
    "BigTIFF": (lambda: tiff_file(RGB16, photometric="rgb", bigtiff=True), RGB16, 0),
    "big-endian TIFF": (lambda: tiff_file(RGB16, photometric="rgb", byteorder=">"), RGB16, 0),
    "pyramid": (lambda: vips_image(scene(300, 400)).tiffsave_buffer(tile=True, pyramid=True), scene(300, 400), 0),
    "LZW TIFF": (lambda: vips_image(RGB16).tiffsave_buffer(compression="lzw", predictor="horizontal"), RGB16, 0),
    "JPEG in TIFF": (lambda: vips_image(RGB).tiffsave_buffer(compression="jpeg", Q=98), RGB, 6),
    "lossless WebP": (lambda: pillow_file(PICTURE, "WEBP", lossless=True), RGB, 0),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    make, expected, tolerance = ACCEPTED[name]
    photo = opened(make())
    pixels = photo.pixels()
    assert pixels.dtype == (np.uint16 if expected.dtype == np.uint16 else np.uint8)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance
    assert not photo.info.has_alpha
    assert photo.proxy(32, None).shape[1] == 32


def transparent_png(bits: int, colour_type: int, transparency: bytes) -> bytes:
    palette = [png_chunk(b"PLTE", PALETTE[: 1 << bits].tobytes())] if colour_type == 3 else []
    return png_file(levels(bits), bits, colour_type, *palette, png_chunk(b"tRNS", transparency))


WITH_ALPHA: dict[str, tuple[Callable[[], bytes], NDArray[Any], int]] = {
    "PNG": (lambda: vips_file(ALPHA, "png"), ALPHA[..., 3], 0),
    "PNG of 16 bits": (lambda: vips_file(ALPHA.astype(np.uint16) * 257, "png"), ALPHA[..., 3].astype(int) * 257, 0),
    "PNG with a transparent grey": (
        lambda: transparent_png(4, 0, struct.pack(">H", 0)),
        np.where(levels(4) == 0, 0, 255),
        0,
    ),
    "PNG with a transparent palette": (
        lambda: transparent_png(2, 3, bytes([0, 128])),
        np.array([0, 128, 255, 255])[levels(2)],
        0,
    ),
    "TIFF": (lambda: tiff_file(ALPHA, extrasamples=["unassalpha"]), ALPHA[..., 3], 0),
    "TIFF, colours multiplied by alpha": (premultiplied, ALPHA[..., 3], 0),
    "WebP": (lambda: pillow_file(Image.fromarray(ALPHA), "WEBP", quality=98), ALPHA[..., 3], 0),
    "AVIF": (lambda: pillow_file(Image.fromarray(ALPHA), "AVIF", quality=98), ALPHA[..., 3], 3),
}


@pytest.mark.parametrize("name", WITH_ALPHA)
@pytest.mark.parametrize("kind", ["png", "tiff", "webp", "avif"])
def test_alpha_comes_through(name: str, kind: str) -> None:
    make, expected, tolerance = WITH_ALPHA[name]
    photo = opened(make())
    assert photo.info.has_alpha
    data, info = encode_photo(photo.pixels(), photo, OutputFormat(format=kind))
    assert info.has_alpha
    again = opened(data)
    alpha = again.alpha()
    assert alpha is not None
    peak = 65535 if info.bit_depth == 16 else 255
    expected = np.round(expected / (65535 if photo.info.bit_depth == 16 else 255) * peak)
    difference = np.abs(alpha.numpy().astype(int) - expected).max()
    assert difference <= (tolerance + 3 if kind == "avif" else tolerance)


def test_premultiplied_colours_are_divided_again() -> None:
    opaque = ALPHA[..., 3] > 30
    difference = np.abs(opened(premultiplied()).pixels().astype(int) - RGB)
    assert difference[opaque].max() <= 5


def two_pages() -> bytes:
    return pillow_file(PICTURE, "TIFF", save_all=True, append_images=[PICTURE])


def twelve_bits() -> bytes:
    entries = [(256, 3, 1, 64), (257, 3, 1, 48), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    return tiff_of_entries([*entries, (278, 3, 1, 48)], bytes(64 * 48 * 3 // 2))


def raw_in_tiff(tag: tuple[int, int, int, int]) -> bytes:
    entries = [(256, 3, 1, 64), (257, 3, 1, 48), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    return tiff_of_entries([*entries, (278, 3, 1, 48), tag], bytes(64 * 48))


def huge_tiles() -> bytes:
    """64×48 px that claim to be in a tile of 4 GB."""
    entries = [(256, 3, 1, 64), (257, 3, 1, 48), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    tiles = [(322, 4, 1, 65536), (323, 4, 1, 65536), (324, 4, 1, 8), (325, 4, 1, 64)]
    whole = sorted([*entries, *tiles])
    table = struct.pack("<H", len(whole)) + b"".join(struct.pack("<HHII", *entry) for entry in whole) + bytes(4)
    return b"II*\0" + struct.pack("<I", 72) + bytes(64) + table


def animation(kind: str) -> bytes:
    return pillow_file(PICTURE, kind, save_all=True, append_images=[PICTURE.rotate(180)], duration=100)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "float TIFF": (lambda: tiff_file(RGB.astype(np.float32) / 255, photometric="rgb"), "samples of type float"),
    "half-float TIFF": (lambda: tiff_file((RGB / 255).astype(np.float16), photometric="rgb"), "samples of type float"),
    "32-bit TIFF": (lambda: tiff_file(RGB.astype(np.uint32), photometric="rgb"), "samples of type uint"),
    "signed TIFF": (lambda: tiff_file(RGB.astype(np.int16), photometric="rgb"), "samples of type short"),
    "complex TIFF": (lambda: tiff_file(GREY.astype(np.complex64)), "unreadable kind of tiff"),
    "12-bit TIFF": (twelve_bits, "unreadable kind of tiff"),
    "tiled planar TIFF": (
        lambda: tiff_file(RGB.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate", tile=(32, 32)),
        "unreadable kind of tiff file .*separate planes",
    ),
    "LZMA TIFF": (lambda: tiff_file(RGB, photometric="rgb", compression="lzma"), "unreadable kind of tiff file .*LZMA"),
    "five channels": (
        lambda: tiff_file(np.dstack([RGB, GREY, GREY]), photometric="rgb", extrasamples=[0, 0]),
        "5 channels of kind srgb",
    ),
    "TIFF of two pages": (two_pages, "a TIFF file of 2 pages"),
    "DNG": (lambda: raw_in_tiff((0xC612, 1, 4, 0x0401)), "a camera raw file"),
    "raw with a thumbnail first": (lambda: raw_in_tiff((254, 4, 1, 1)), "a camera raw file"),
    "huge tiles": (huge_tiles, "tiff file"),
    "animated WebP": (lambda: animation("WEBP"), "an animation of 2 frames"),
    "animated GIF": (lambda: animation("GIF"), "a GIF file"),
    "AVIF sequence": (lambda: animation("AVIF"), "HEIF family of brand 'avis'"),
    "HEVC": (lambda: HEVC, "unreadable kind of avif file .*HEVC"),
    "PNG without pixels": (lambda: png_file(np.zeros((0, 64), np.uint8), 8, 0), "damaged png|each edge must be"),
    "PNG of one row": (lambda: png_file(np.zeros((1, 64), np.uint8), 8, 0), "64x1 px, each edge must be at least 32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, says = REFUSED[name]
    with pytest.raises(InvalidArgument, match=says) as caught:
        opened(make()).pixels()
    assert caught.value.field == "content"
    assert caught.value.limit
    assert not re.search(r"[a-z]+_[a-z]+_buffer|Traceback", str(caught.value))


def test_thumbnails_and_masks_beside_a_tiff_page_do_not_count() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(RGB, photometric="rgb")
        writer.write(RGB[::2, ::2].copy(), photometric="rgb", subfiletype=1)
        writer.write(GREY > 99, photometric="minisblack", subfiletype=4)
    np.testing.assert_array_equal(opened(stream.getvalue()).pixels(), RGB)


@pytest.mark.parametrize("bits", [10, 12])
def test_deep_avif_uses_the_full_range_and_keeps_its_depth(bits: int) -> None:
    step = 1 << (16 - bits)
    codes = np.linspace(0, (1 << bits) - 1, 48 * 64).round().astype(np.uint16).reshape(48, 64, 1).repeat(3, 2)
    photo = opened(vips_file(codes * step, "avif", bitdepth=bits, lossless=True))
    assert photo.info.bit_depth == bits
    pixels = photo.pixels()
    assert pixels.dtype == np.uint16
    assert (pixels.min(), pixels.max()) == (0, 65535)
    np.testing.assert_allclose(pixels / 65535, codes / ((1 << bits) - 1), atol=1 / ((1 << bits) - 1))
    data, info = encode_photo(pixels, photo, OutputFormat(quality=100))
    assert info.bit_depth == bits
    again = opened(data)
    assert again.info == info
    assert len(np.unique(again.pixels())) > 512
    assert encode_photo(pixels, photo, OutputFormat(format="png"))[1].bit_depth == 16
    assert encode_photo(pixels, photo, OutputFormat(bit_depth=8))[1].bit_depth == 8
    with pytest.raises(InvalidArgument, match="avif holds no 16 bits"):
        encode_photo(pixels, photo, OutputFormat(bit_depth=16))
