"""Photos of every kind are opened; what is not a photo is refused by name."""

from __future__ import annotations

import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from services.common.config import ProcessSettings
from services.common.errors import InvalidArgument
from services.common.images import ImageLimits, open_photo
from services.common.images.colour import attached
from tests.common.images.files import pillow_file, png_chunk, scene, upright, vips_image, vips_profile

LIMITS = ImageLimits(max_bytes=32 << 20, max_pixels=1_000_000, min_edge_px=32, max_edge_px=30_000)
GARBAGE_PROFILE = bytes(36) + b"acsp" + bytes(200)


@pytest.mark.parametrize(
    ("save", "format_", "tolerance"),
    [
        ("jpegsave_buffer", "jpeg", 6),
        ("pngsave_buffer", "png", 0),
        ("tiffsave_buffer", "tiff", 0),
        ("webpsave_buffer", "webp", 12),
        ("heifsave_buffer", "avif", 8),
    ],
)
def test_formats(save: str, format_: str, tolerance: int) -> None:
    options = {"compression": "av1"} if format_ == "avif" else {}
    if format_ != "png" and format_ != "tiff":
        options |= {"Q": 95}
    photo = open_photo(getattr(vips_image(scene()), save)(**options), "content", LIMITS)
    info = photo.info
    assert (info.format, info.width_px, info.height_px, info.bit_depth) == (format_, 64, 48, 8)
    assert not info.has_alpha
    assert not info.has_profile
    pixels = photo.pixels()
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - scene()).max() <= tolerance


@pytest.mark.parametrize("save", ["pngsave_buffer", "tiffsave_buffer"])
def test_16_bits_survive(save: str) -> None:
    pixels = scene(peak=65535)
    photo = open_photo(getattr(vips_image(pixels), save)(), "content", LIMITS)
    assert photo.info.bit_depth == 16
    np.testing.assert_array_equal(photo.pixels(), pixels)
    np.testing.assert_allclose(photo.proxy(64, None), pixels / 65535, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "has_alpha"),
    [("1", False), ("L", False), ("LA", True), ("P", False), ("RGBA", True), ("CMYK", False), ("I;16", False)],
)
def test_pixel_kinds_become_rgb(mode: str, has_alpha: bool) -> None:
    grey = Image.fromarray(scene()[..., 0])
    image = Image.fromarray(scene(peak=65535)[..., 0]) if mode == "I;16" else grey.convert(mode)
    photo = open_photo(pillow_file(image, "TIFF" if mode == "CMYK" else "PNG"), "content", LIMITS)
    pixels = photo.pixels()
    assert pixels.shape == (48, 64, 3)
    assert photo.info.has_alpha is has_alpha
    assert photo.working_profile is None
    if mode in ("L", "LA", "P", "RGBA"):
        np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])
        np.testing.assert_array_equal(pixels[..., 0], scene()[..., 0])
    assert photo.proxy(32, None).shape == (24, 32, 3)


def test_cmyk_with_its_profile_comes_near_to_what_it_was_made_of() -> None:
    source = np.full((40, 40, 3), (180, 120, 90), np.uint8)
    data = vips_image(source).icc_transform("cmyk", input_profile="srgb").jpegsave_buffer(Q=98)
    photo = open_photo(data, "content", LIMITS)
    assert photo.info.has_profile
    assert photo.working_profile is None  # working in sRGB
    assert np.abs(photo.pixels().astype(int) - source).max() <= 6
    assert np.abs(photo.proxy(40, None) * 255 - source).max() <= 6


def test_lab_tiff() -> None:
    lab = vips_image(scene()).colourspace("lab").tiffsave_buffer()
    assert np.abs(open_photo(lab, "content", LIMITS).pixels() / 257 - scene()).max() < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = open_photo(pillow_file(Image.fromarray(scene()), "PNG", exif=exif), "content", LIMITS)
    pixels = scene()
    expected = upright(pixels, orientation)
    assert (photo.info.height_px, photo.info.width_px) == expected.shape[:2]
    np.testing.assert_array_equal(photo.pixels(), expected)
    np.testing.assert_allclose(photo.proxy(64, None), expected / 255, atol=1e-6)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("size", [(400, 600), (401, 603), (333, 997)])
@pytest.mark.parametrize("edge", [64, 100, 256])
def test_proxy_is_an_unshifted_average(kind: str, size: tuple[int, int], edge: int) -> None:
    height, width = size
    image = vips_image(scene(height, width))
    data = image.jpegsave_buffer(Q=98, subsample_mode="off") if kind == "jpeg" else image.pngsave_buffer()
    proxy = open_photo(data, "content", LIMITS).proxy(edge, None)
    assert max(proxy.shape[:2]) == edge
    rows, columns = proxy.shape[:2]
    y = ((np.arange(rows) + 0.5) * height / rows - 0.5) / (height - 1)
    x = ((np.arange(columns) + 0.5) * width / columns - 0.5) / (width - 1)
    inner = np.s_[2:-2]
    pixel = 1 / (columns if columns < rows else rows)  # how much a ramp changes from one pixel of the proxy to the next
    assert np.abs(proxy[inner, inner, 1] - y[inner, None]).max() < 0.35 * pixel + 0.008
    assert np.abs(proxy[inner, inner, 0] - x[None, inner]).max() < 0.35 * pixel + 0.008
    assert proxy.min() >= 0
    assert proxy.max() <= 1


def test_proxy_is_never_enlarged_and_never_rings() -> None:
    checker = np.kron(np.indices((10, 10)).sum(0) % 2, np.ones((37, 37)))[..., None].repeat(3, 2)
    photo = open_photo(vips_image((checker * 255).astype(np.uint8)).pngsave_buffer(), "content", LIMITS)
    assert photo.proxy(10_000, None).shape == (370, 370, 3)
    small = photo.proxy(101, None)
    assert small.min() == 0
    assert small.max() == 1
    assert small.mean() == pytest.approx(0.5, abs=1e-3)


def test_wide_gamut_is_kept_and_the_other_photo_comes_into_it() -> None:
    p3 = vips_profile("p3")
    green = np.full((40, 40, 3), (0, 255, 0), np.uint8)
    wide = open_photo(attached(vips_image(green), p3).pngsave_buffer(), "content", LIMITS)
    assert wide.working_profile == p3
    np.testing.assert_array_equal(wide.pixels(), green)
    np.testing.assert_allclose(wide.proxy(40, p3)[0, 0], (0, 1, 0), atol=1e-6)
    plain = open_photo(vips_image(green).pngsave_buffer(), "style", LIMITS)
    assert plain.working_profile is None
    # sRGB's green in Display P3, computed from the primaries: (0.4584, 0.9853, 0.2983)
    np.testing.assert_allclose(plain.proxy(40, p3)[0, 0], (0.4584, 0.9853, 0.2983), atol=0.01)
    white = open_photo(vips_image(np.full_like(green, 255)).pngsave_buffer(), "style", LIMITS)
    np.testing.assert_allclose(white.proxy(40, p3), 1.0, atol=2e-3)


def test_an_unusable_profile_counts_as_none() -> None:
    huge = vips_profile("p3") + bytes(16 << 20)
    for broken in (GARBAGE_PROFILE, b"x", vips_profile("cmyk"), vips_profile("p3")[:140], huge):
        photo = open_photo(attached(vips_image(scene()), broken).tiffsave_buffer(), "content", LIMITS)
        assert photo.working_profile is None
        np.testing.assert_array_equal(photo.pixels(), scene())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes that are no known image"),
        (b"hello, I am no image at all", "no known image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"></svg>', "a SVG file"),
        (pillow_file(Image.new("L", (64, 64)), "GIF"), "a GIF file"),
        (pillow_file(Image.new("RGB", (64, 64)), "BMP"), "no known image|a .* file"),
        (b"\xff\xd8\xff\xe0", "damaged jpeg"),
        (b"\x89PNG\r\n\x1a\n", "damaged png"),
        (b"II*\x00\x08\x00\x00\x00", "damaged tiff"),
    ],
)
def test_what_is_no_photo_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        open_photo(data, "transfer.style", LIMITS)
    assert caught.value.field == "transfer.style"


@pytest.mark.parametrize("format_", ["jpeg", "png", "tiff", "webp", "avif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused_when_their_pixels_are_read(format_: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (96, 128, 3)).astype(np.uint8)
    save = {"avif": "heifsave_buffer"}.get(format_, f"{format_}save_buffer")
    data = getattr(vips_image(noise), save)(**({"compression": "av1"} if format_ == "avif" else {}))
    cut = data[: int(len(data) * share)]
    with pytest.raises(InvalidArgument, match=f"content: got a damaged {format_}"):
        open_photo(cut, "content", LIMITS).pixels()
    with pytest.raises(InvalidArgument, match=f"content: got a damaged {format_}"):
        open_photo(cut, "content", LIMITS).proxy(64, None)


def declared_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


def test_declared_size_is_refused_without_decoding() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidArgument, match="20000x20000 px, at most 100000000 pixels"):
        open_photo(declared_png(20_000, 20_000), "content", ImageLimits.of(ProcessSettings()))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB; the pixels would be 1.2 GB


@pytest.mark.parametrize(
    ("size", "says"),
    [((1, 1), "1x1 px, each edge must be at least 32"), ((31, 400), "at least 32"), ((1001, 1000), "1000000 pixels")],
)
def test_sizes_outside_the_limits(size: tuple[int, int], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        open_photo(pillow_file(Image.new("L", size), "PNG"), "content", LIMITS)
    with pytest.raises(InvalidArgument, match="edge must be at most 500"):
        open_photo(pillow_file(Image.new("L", (501, 64)), "PNG"), "content", ImageLimits(1 << 20, 10**9, 1, 500))
    with pytest.raises(InvalidArgument, match="at most 10 bytes"):
        open_photo(bytes(11), "content", ImageLimits(10, 10**9, 1, 500))
