"""Colours mean what the file says they mean, and the result says the same."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image, ImageCms

from services.common.errors import InvalidArgument
from services.common.images import OutputFormat, encode_photo
from services.common.images.colour import is_srgb, srgb_profile
from services.common.images.matrix_profile import D65, DISPLAY_P3, adobe_rgb_profile, matrix_profile, srgb_curve
from tests.common.images.files import (
    opened,
    pillow_file,
    png_chunk,
    scene,
    tiff_file,
    vips_file,
    vips_profile,
)

P3_PRIMARIES = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
PROFILES = {"Display P3": vips_profile("p3"), "Adobe RGB (1998)": adobe_rgb_profile()}


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """Linear RGB to XYZ, both with the white D65 (0.3127, 0.3290): SMPTE RP 177-1993."""
    columns = np.array([[x, y, 1 - x - y] for x, y in primaries]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return columns * np.linalg.solve(columns, white)


def srgb_linear(codes: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)


def srgb_codes(linear: NDArray[Any]) -> NDArray[np.float64]:
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def in_srgb(name: str, codes: NDArray[Any]) -> NDArray[np.float64]:
    """What colours of another space are in sRGB, from the primaries alone."""
    adobe = name.startswith("Adobe")
    linear = codes ** (563 / 256) if adobe else srgb_linear(codes)
    matrix = np.linalg.solve(to_xyz(SRGB_PRIMARIES), to_xyz(ADOBE_PRIMARIES if adobe else P3_PRIMARIES))
    return srgb_codes(linear @ matrix.T)


def muted(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Colours that lie inside sRGB whatever the space."""
    return np.round(scene(height, width) * 0.2 + 100).astype(np.uint8)


def test_adobe_rgb_has_the_published_colorants() -> None:
    # Adobe RGB (1998) Color Image Encoding, May 2005, table 4.3.5.3: XYZ of the primaries adapted to D50
    published = {
        "rXYZ": (0.60974, 0.31111, 0.01947),
        "gXYZ": (0.20528, 0.62567, 0.06087),
        "bXYZ": (0.14919, 0.06322, 0.74457),
    }
    profile = adobe_rgb_profile()
    (count,) = struct.unpack_from(">I", profile, 128)
    for index in range(count):
        signature, at, _ = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if signature.decode() in published:
            values = np.array(struct.unpack_from(">3i", profile, at + 8)) / 65536
            np.testing.assert_allclose(values, published[signature.decode()], atol=1e-4)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_read_by_little_cms_as_the_primaries_say(name: str) -> None:
    made = (
        adobe_rgb_profile() if name.startswith("Adobe") else matrix_profile("P3", DISPLAY_P3, D65, tuple(srgb_curve()))
    )
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(made)),
        ImageCms.createProfile("sRGB"),
        "RGB",
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    converted = np.asarray(ImageCms.applyTransform(Image.fromarray(muted()), transform))
    np.testing.assert_allclose(converted / 255, in_srgb(name, muted() / 255), atol=1.5 / 255)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp", "avif"])
def test_wide_gamut_comes_through(name: str, kind: str) -> None:
    profile = PROFILES[name]
    photo = opened(vips_file(scene(), kind, profile))
    assert photo.working_profile == profile
    data, info = encode_photo(photo.pixels(), photo, OutputFormat())
    assert info == photo.info
    assert Image.open(io.BytesIO(data)).info["icc_profile"] == profile
    again = opened(data)
    assert again.working_profile == profile
    difference = np.abs(again.pixels().astype(int) - photo.pixels()).max()
    assert difference <= {"png": 0, "tiff": 0}.get(kind, 12)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_wide_gamut_of_16_bits_comes_through(name: str, kind: str) -> None:
    pixels = scene(peak=65535)
    photo = opened(vips_file(pixels, kind, PROFILES[name]))
    data, _ = encode_photo(photo.pixels(), photo, OutputFormat())
    np.testing.assert_array_equal(opened(data).pixels(), pixels)
    assert opened(data).working_profile == PROFILES[name]


@pytest.mark.parametrize("name", PROFILES)
def test_a_style_photo_comes_into_the_space_of_the_content(name: str) -> None:
    style = opened(vips_file(muted(), "png", PROFILES[name]))
    np.testing.assert_allclose(style.proxy(64, None), in_srgb(name, muted() / 255), atol=1.5 / 255)
    plain = opened(vips_file(np.round(in_srgb(name, muted() / 255) * 65535).astype(np.uint16), "png"))
    np.testing.assert_allclose(plain.proxy(64, PROFILES[name]), muted() / 255, atol=1.5 / 255)


@pytest.mark.parametrize("name", PROFILES)
def test_a_stripped_profile_leaves_srgb(name: str) -> None:
    photo = opened(vips_file(muted(), "png", PROFILES[name]))
    data, info = encode_photo(photo.pixels(), photo, OutputFormat(keep_profile=False))
    assert not info.has_profile
    np.testing.assert_allclose(opened(data).pixels() / 255, in_srgb(name, muted() / 255), atol=1.5 / 255)


def test_which_profiles_are_srgb() -> None:
    assert is_srgb(srgb_profile())
    assert is_srgb(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert not is_srgb(PROFILES["Display P3"])
    assert not is_srgb(PROFILES["Adobe RGB (1998)"])


def camera_file(kind: str = "JPEG") -> bytes:
    """As cameras write Adobe RGB: named in EXIF, without a profile."""
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: 0xFFFF, 0xA005: {1: "R03"}})
    return pillow_file(Image.fromarray(muted()), kind, exif=exif, quality=98)


@pytest.mark.parametrize("kind", ["jpeg", "tiff", "webp"])
def test_adobe_rgb_named_by_a_camera(kind: str) -> None:
    photo = opened(camera_file())
    assert photo.working_profile == adobe_rgb_profile()
    assert not photo.info.has_profile
    data, info = encode_photo(photo.pixels(), photo, OutputFormat(format=kind))
    assert info.has_profile
    exif = Image.open(io.BytesIO(data)).getexif()
    assert exif.get_ifd(0x8769)[0xA001] == 0xFFFF
    assert exif.get_ifd(0xA005)[1] == "R03"
    stripped, _ = encode_photo(photo.pixels(), photo, OutputFormat(format=kind, keep_profile=False))
    exif = Image.open(io.BytesIO(stripped)).getexif()
    assert exif.get_ifd(0x8769)[0xA001] == 1
    assert exif.get_ifd(0xA005)[1] == "R98"
    expected = in_srgb("Adobe RGB (1998)", photo.pixels() / 255)
    difference = np.abs(opened(stripped).pixels() / 255 - expected)
    assert (difference.max() < 1.5 / 255) if kind == "tiff" else (difference.mean() < 2 / 255)


def nclx(data: bytes, primaries: int, transfer: int) -> bytes:
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def cicp(primaries: int, transfer: int) -> bytes:
    data = vips_file(muted(), "png")
    return data[:33] + png_chunk(b"cICP", bytes([primaries, transfer, 0, 1])) + data[33:]


@pytest.mark.parametrize("kind", ["avif", "png"])
def test_spaces_named_by_code_points(kind: str) -> None:
    def named(primaries: int, transfer: int) -> bytes:
        if kind == "png":
            return cicp(primaries, transfer)
        return nclx(pillow_file(Image.fromarray(muted()), "AVIF", quality=98), primaries, transfer)

    assert opened(named(1, 13)).working_profile is None
    assert opened(named(1, 1)).working_profile is None
    photo = opened(named(12, 13))
    expected = in_srgb("Display P3", photo.pixels() / 255)
    np.testing.assert_allclose(photo.proxy(64, None), expected, atol=1.5 / 255)
    data, info = encode_photo(photo.pixels(), photo, OutputFormat(format="tiff"))
    assert info.has_profile
    np.testing.assert_array_equal(opened(data).pixels(), photo.pixels())
    np.testing.assert_allclose(opened(data).proxy(64, None), expected, atol=1.5 / 255)
    assert opened(named(9, 14)).working_profile not in (None, photo.working_profile)
    with pytest.raises(InvalidArgument, match=r"content: got a picture of high dynamic range \(PQ\)"):
        opened(named(9, 16))
    with pytest.raises(InvalidArgument, match="colour primaries 10 with transfer characteristics 13"):
        opened(named(10, 13))


def scanner_profile() -> bytes:
    """An input profile that works in one direction: a look-up table from RGB to XYZ, all colours half as bright."""
    curve = np.linspace(0, 65535, 2).astype(">u2").tobytes()
    matrix = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])  # sRGB at D50
    corners = np.array([[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)])
    grid = np.round((corners @ matrix.T * 0.5) / (1 + 32767 / 32768) * 65535).astype(">u2").tobytes()
    identity = b"".join(struct.pack(">i", value) for value in (65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    table = (
        b"mft2" + bytes(4) + bytes([3, 3, 2, 0]) + identity + struct.pack(">HH", 2, 2) + curve * 3 + grid + curve * 3
    )
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 8) + b"scanner\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
        b"A2B0": table,
    }
    at, index, body = 132 + 12 * len(tags), b"", b""
    for signature, value in tags.items():
        index += struct.pack(">4sII", signature, at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s12x4s", size, b"", 0x02400000, b"scnr", b"RGB ", b"XYZ ", b"acsp").ljust(68, b"\0")
    return (
        (header + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0")
        + struct.pack(">I", len(tags))
        + index
        + body
    )


def test_a_profile_of_one_direction_is_applied_and_the_result_is_srgb() -> None:
    photo = opened(vips_file(muted(), "tiff", scanner_profile()))
    assert photo.working_profile is None
    pixels = photo.pixels()
    np.testing.assert_allclose(pixels / 255, srgb_codes(muted() / 255 * 0.5), atol=2.5 / 255)
    np.testing.assert_allclose(photo.proxy(64, None), pixels / 255, atol=2 / 255)
    data, info = encode_photo(pixels, photo, OutputFormat())
    assert info.has_profile
    assert opened(data).working_profile == srgb_profile()
    np.testing.assert_array_equal(opened(data).pixels(), pixels)


def ink(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """CMYK values, 255 = full ink."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 3, y * 4, 120 - x, (x + y) // 2], axis=2).astype(np.uint8)


def photoshop_jpeg(marked: bool) -> bytes:
    """CMYK as Photoshop writes it: inverted, under an Adobe marker; some tools write the same without the marker."""
    data = pillow_file(Image.fromarray(ink(), "CMYK"), "JPEG", quality=98, subsampling=0)
    at = data.index(b"\xff\xee")
    assert data[at + 4 : at + 9] == b"Adobe"
    return data if marked else data[:at] + data[at + 2 + struct.unpack_from(">H", data, at + 2)[0] :]


def stored_ink(data: bytes) -> NDArray[np.uint8]:
    """The samples as they are in a JPEG of CMYK, from a decoder that changes nothing."""
    image = Image.open(io.BytesIO(data))
    image.tile = [(name, box, at, ("CMYK", *rest)) for name, box, at, (_, *rest) in image.tile]
    return np.asarray(image)


@pytest.mark.parametrize("marked", [True, False])
def test_cmyk_jpeg_is_taken_as_inverted(marked: bool) -> None:
    assert np.abs(255 - stored_ink(photoshop_jpeg(marked)).astype(int) - ink()).mean() < 3
    reference = opened(tiff_file(ink(), photometric="separated")).pixels().astype(int)
    assert reference.std() > 20
    assert np.abs(opened(photoshop_jpeg(marked)).pixels() - reference).mean() < 2


def test_cmyk_of_16_bits_and_with_alpha() -> None:
    eight = opened(tiff_file(ink(), photometric="separated")).pixels()
    deep = opened(tiff_file(ink().astype(np.uint16) * 257, photometric="separated"))
    assert deep.info.bit_depth == 16
    np.testing.assert_allclose(deep.pixels() / 257, eight, atol=1.5)
    with_alpha = np.dstack([ink(), ink()[..., :1]])
    photo = opened(tiff_file(with_alpha, photometric="separated", extrasamples=["unassalpha"]))
    np.testing.assert_array_equal(photo.pixels(), eight)
    data, info = encode_photo(photo.pixels(), photo, OutputFormat())
    assert info.has_alpha
    alpha = opened(data).alpha()
    assert alpha is not None
    np.testing.assert_array_equal(alpha.numpy(), ink()[..., 0])


def grey_profile(gamma: float) -> bytes:
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
        b"kTRC": b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)),
    }
    at, index, body = 132 + 12 * len(tags), b"", b""
    for signature, value in tags.items():
        index += struct.pack(">4sII", signature, at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(">I4sI4s4s4s12x4s", at + len(body), b"", 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    illuminant = struct.pack(">3i", 63190, 65536, 54061)
    return (header.ljust(68, b"\0") + illuminant).ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + body


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_becomes_rgb_by_its_profile(depth: int) -> None:
    peak = (1 << depth) - 1
    codes = np.linspace(0.1, 1, 48 * 64).reshape(48, 64)
    grey = np.round(codes * peak).astype(np.uint8 if depth == 8 else np.uint16)
    photo = opened(vips_grey(grey, grey_profile(1.8)))
    pixels = photo.pixels()
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels / peak - srgb_codes(codes**1.8)[..., None]).max() < 2 / 255
    data, info = encode_photo(pixels, photo, OutputFormat())
    assert (info.bit_depth, info.has_profile) == (depth, True)
    assert opened(data).working_profile == srgb_profile()
    np.testing.assert_array_equal(opened(data).pixels(), pixels)


def vips_grey(grey: NDArray[Any], profile: bytes) -> bytes:
    image = pyvips.Image.new_from_array(grey)
    image = image.copy(interpretation="b-w" if grey.dtype == np.uint8 else "grey16")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    data: bytes = image.pngsave_buffer()
    return data
