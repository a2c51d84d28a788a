"""What the content photo carried comes back with the result."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray
from PIL import Image

from services.common.errors import InvalidArgument
from services.common.images import (
    ImageLimits,
    OutputFormat,
    Photo,
    encode_photo,
    encode_preview,
    open_photo,
    output_bit_depth,
)
from services.common.images.colour import attached

LIMITS = ImageLimits(max_bytes=64 << 20, max_pixels=40_000_000, min_edge_px=32, max_edge_px=30_000)
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


def ramp(bands: int, depth: int = 8, height: int = 40, width: int = 56) -> NDArray[Any]:
    peak = 255 if depth == 8 else 65535
    values = np.linspace(0, peak, height * width).reshape(height, width, 1)
    stacked = np.concatenate([values if band % 2 == 0 else peak - values for band in range(bands)], axis=2)
    return stacked.astype(np.uint8 if depth == 8 else np.uint16)


def photo_of(pixels: NDArray[Any], save: str = "pngsave_buffer", profile: bytes | None = None, **options: Any) -> Photo:
    image = pyvips.Image.new_from_array(pixels)
    image = image.copy(interpretation="srgb" if pixels.dtype == np.uint8 else "rgb16")
    if profile is not None:
        image = attached(image, profile)
    return open_photo(getattr(image, save)(**options), "content", LIMITS)


def p3() -> bytes:
    return bytes(pyvips.Operation.call("profile_load", "p3"))


@pytest.mark.parametrize("save", ["pngsave_buffer", "tiffsave_buffer"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("bands", [3, 4])
def test_lossless_round_trip(save: str, depth: int, bands: int) -> None:
    pixels = ramp(bands, depth)
    photo = photo_of(pixels, save, p3())
    data, info = encode_photo(photo.pixels(), photo, OutputFormat())
    assert info == photo.info
    again = open_photo(data, "result", LIMITS)
    assert again.info == info
    assert again.working_profile == p3()
    np.testing.assert_array_equal(again.pixels(), pixels[..., :3])
    if bands == 4:
        alpha = again.alpha()
        assert alpha is not None
        np.testing.assert_array_equal(alpha.numpy(), pixels[..., 3])


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_lossy_formats_as_asked(kind: str) -> None:
    photo = photo_of(ramp(4), profile=p3())
    data, info = encode_photo(photo.pixels(), photo, OutputFormat(format=kind, quality=95))
    again = open_photo(data, "result", LIMITS)
    assert again.info == info
    assert (info.format, info.bit_depth, info.has_profile) == (kind, 8, True)
    assert info.has_alpha is (kind != "jpeg")
    if kind == "jpeg":  # laid over white, where alpha says so
        share = ramp(4)[..., 3:].astype(float) / 255
        over = photo.pixels() * share + 255 * (1 - share)
        assert np.abs(again.pixels() - over).mean() < 3
    small, _ = encode_photo(photo.pixels(), photo, OutputFormat(format=kind, quality=10))
    assert len(small) < len(data)


def test_bit_depths_convert_over_the_full_range() -> None:
    eight, sixteen = photo_of(ramp(4, 8)), photo_of(ramp(4, 16))
    data, info = encode_photo(eight.pixels(), eight, OutputFormat(bit_depth=16))
    assert info.bit_depth == 16
    np.testing.assert_array_equal(open_photo(data, "r", LIMITS).pixels(), ramp(4, 8)[..., :3].astype(int) * 257)
    data, info = encode_photo(sixteen.pixels(), sixteen, OutputFormat(bit_depth=8))
    assert info.bit_depth == 8
    expected = np.floor(ramp(4, 16)[..., :3] / 257 + 0.5)
    np.testing.assert_array_equal(open_photo(data, "r", LIMITS).pixels(), expected)


def test_output_bit_depth() -> None:
    sixteen, jpeg = photo_of(ramp(3, 16)), photo_of(ramp(3), "jpegsave_buffer")
    assert output_bit_depth(sixteen, OutputFormat()) == 16
    assert output_bit_depth(sixteen, OutputFormat(format="jpeg")) == 8
    assert output_bit_depth(jpeg, OutputFormat(format="tiff", bit_depth=16)) == 16
    with pytest.raises(InvalidArgument, match="jpeg holds no 16 bits"):
        output_bit_depth(jpeg, OutputFormat(bit_depth=16))


def metadata_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010F] = "Camera maker"
    exif.get_ifd(0x8769)[0x829A] = 0.004  # exposure time
    stream = io.BytesIO()
    image = Image.fromarray(ramp(3))
    image.save(stream, "JPEG", quality=95, exif=exif, xmp=XMP, dpi=(300, 300), icc_profile=p3())
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif", "tiff"])
def test_metadata_is_kept_and_orientation_reset(kind: str) -> None:
    photo = open_photo(metadata_jpeg(), "content", LIMITS)
    assert (photo.info.width_px, photo.info.height_px) == (40, 56)
    data, info = encode_photo(photo.pixels(), photo, OutputFormat(format=kind))
    result = Image.open(io.BytesIO(data))
    assert result.size == (40, 56) == (info.width_px, info.height_px)
    assert result.info["icc_profile"] == p3()
    exif = result.getexif()
    assert exif.get(0x0112, 1) == 1
    assert exif[0x010F] == "Camera maker"
    assert exif.get_ifd(0x8769)[0x829A] == pytest.approx(0.004)
    again = open_photo(data, "result", LIMITS)
    assert b'tiff:Orientation="1"' in again.metadata.xmp
    assert np.abs(again.pixels().astype(int) - photo.pixels()).mean() < 3


def test_metadata_and_profile_can_be_stripped() -> None:
    photo = open_photo(metadata_jpeg(), "content", LIMITS)
    output = OutputFormat(format="png", keep_metadata=False, keep_profile=False)
    data, info = encode_photo(photo.pixels(), photo, output)
    assert not info.has_profile
    assert b"Camera maker" not in data
    assert b"Orientation" not in data
    result = open_photo(data, "result", LIMITS)
    assert result.working_profile is None
    # converted to sRGB, not merely untagged
    np.testing.assert_allclose(result.pixels() / 255, photo.proxy(10_000, None), atol=1.5 / 255)


def test_embedded_thumbnail_is_dropped() -> None:
    thumbnail = pyvips.Image.new_from_array(ramp(3)).jpegsave_buffer()
    image = pyvips.Image.new_from_array(ramp(3)).copy()
    image.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", thumbnail)
    image.set_type(pyvips.GValue.gstr_type, "exif-ifd1-Compression", "6")
    photo = open_photo(image.jpegsave_buffer(), "content", LIMITS)
    data, _ = encode_photo(photo.pixels(), photo, OutputFormat())
    header = pyvips.Image.new_from_buffer(data, "")
    assert not header.get_typeof("jpeg-thumbnail-data")
    assert not [name for name in header.get_fields() if name.startswith("exif-ifd1")]


def test_converted_kinds_stay_tagged() -> None:
    cmyk = pyvips.Image.new_from_array(ramp(3)).copy(interpretation="srgb").icc_transform("cmyk", input_profile="srgb")
    photo = open_photo(cmyk.jpegsave_buffer(), "content", LIMITS)
    data, info = encode_photo(photo.pixels(), photo, OutputFormat())
    assert info.has_profile
    again = open_photo(data, "result", LIMITS)
    assert again.working_profile == bytes(pyvips.Operation.call("profile_load", "srgb"))


def test_what_a_format_cannot_hold_is_refused() -> None:
    photo = photo_of(np.zeros((32, 17_000, 3), np.uint8))
    with pytest.raises(InvalidArgument, match=r"output\.format: got webp"):
        encode_photo(photo.pixels(), photo, OutputFormat(format="webp"))
    with pytest.raises(ValueError, match="shape"):
        encode_photo(photo.pixels()[:-1], photo, OutputFormat())


def test_preview_is_a_small_jpeg() -> None:
    values = np.linspace(-0.5, 1.5, 64 * 48 * 3, dtype=np.float32).reshape(48, 64, 3)
    preview = Image.open(io.BytesIO(encode_preview(values)))
    assert (preview.format, preview.size) == ("JPEG", (64, 48))
    assert np.abs(np.asarray(preview) / 255 - values.clip(0, 1)).mean() < 0.02
