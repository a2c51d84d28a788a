"""EXIF, XMP, IPTC and resolution come through, in every format, and are true of the new picture."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, IptcImagePlugin

from services.common.images import FORMATS, OutputFormat, Photo, encode_photo
from tests.common.images.files import opened, pillow_file, scene, tiff_file, upright, vips_file, vips_profile

MAKER_NOTE = b"SONY DSC \0\0\0" + bytes(range(256)) * 3
THUMBNAIL = pillow_file(Image.fromarray(scene(24, 32)), "JPEG", quality=60)
XMP = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 tiff:Orientation="6" exif:PixelXDimension="64" exif:PixelYDimension='48' hdrgm:Version="1.0" xmp:Rating="4"
 photoshop:ICCProfile="Display P3"><exif:ColorSpace>1</exif:ColorSpace><dc:title>Orientation 6</dc:title>
<xmp:Thumbnails><rdf:Alt><rdf:li>stale</rdf:li></rdf:Alt></xmp:Thumbnails></rdf:Description></rdf:RDF></x:xmpmeta>"""
RECORDS = b"\x1c\x02\x5a\x00\x05Paris" + b"\x1c\x02\x78\x00\x05hello" + b"\x1c\x02\x00\x00\x02\x00\x04"


def exif(orientation: int = 6) -> Image.Exif:
    tags = Image.Exif()
    tags.update(
        {0x0112: orientation, 0x010F: "Camera maker", 0x0110: "Model 1", 0x8298: "(c) someone", 0x013B: "Artist"}
    )
    tags.get_ifd(0x8769).update(
        {
            **{0x829A: 0.004, 0x9003: "2026:05:04 03:02:01", 0x9010: "+02:00", 0xA434: "50 mm", 0x8827: 200},
            **{0xA001: 1, 0xA002: 64, 0xA003: 48, 0x927C: MAKER_NOTE, 0xA005: {1: "R98"}},
        }
    )
    tags.get_ifd(0x8825).update({0: b"\2\3\0\0", 1: "N", 2: (48.0, 51.0, 29.6), 3: "E", 4: (2.0, 17.0, 40.2)})
    return tags


def resource(number: int, body: bytes) -> bytes:
    return struct.pack(">4sHHI", b"8BIM", number, 0, len(body)) + body + bytes(len(body) % 2)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body


def with_thumbnail(block: bytes) -> bytes:
    """Append a second directory with a thumbnail to a big-endian block, as cameras do."""
    assert block[:2] == b"MM"
    (first,) = struct.unpack_from(">I", block, 4)
    (count,) = struct.unpack_from(">H", block, first)
    link = first + 2 + 12 * count
    block += bytes(len(block) % 2)
    entries = [(0x0103, 3, 1, 6 << 16), (0x0201, 4, 1, len(block) + 2 + 36 + 4), (0x0202, 4, 1, len(THUMBNAIL))]
    second = struct.pack(">H", 3) + b"".join(struct.pack(">HHII", *entry) for entry in entries) + bytes(4)
    return block[:link] + struct.pack(">I", len(block)) + block[link + 4 :] + second + THUMBNAIL


def rich_jpeg(orientation: int = 6, profile: bytes | None = None, **options: Any) -> bytes:
    """A JPEG with everything a camera and Photoshop put into one."""
    block = with_thumbnail(exif(orientation).tobytes().removeprefix(b"Exif\0\0"))
    photoshop = resource(0x0404, RECORDS) + resource(0x040C, bytes(28) + THUMBNAIL) + resource(0x0425, bytes(16))
    plain = pillow_file(Image.fromarray(scene()), "JPEG", quality=98, xmp=XMP, icc_profile=profile, **options)
    at = 4 + struct.unpack_from(">H", plain, 4)[0]  # behind JFIF
    extra = segment(0xE1, b"Exif\0\0" + block) + segment(0xED, b"Photoshop 3.0\0" + photoshop)
    return plain[:at] + extra + plain[at:]


def result(photo: Photo, kind: str, **options: Any) -> tuple[bytes, Image.Exif]:
    data, _ = encode_photo(photo.pixels(), photo, OutputFormat(format=kind, **options))
    return data, Image.open(io.BytesIO(data)).getexif()


@pytest.mark.parametrize("kind", FORMATS)
def test_everything_comes_through(kind: str) -> None:
    photo = opened(rich_jpeg(profile=vips_profile("p3"), dpi=(300, 300)))
    data, kept = result(photo, kind)
    before = exif()
    for tag in (0x010F, 0x0110, 0x8298, 0x013B):
        assert kept[tag] == before[tag]
    corrected = {0xA001: 0xFFFF, 0xA002: 48, 0xA003: 64}
    wanted = before.get_ifd(0x8769) | corrected
    inner = kept.get_ifd(0x8769)
    assert {tag: inner[tag] for tag in wanted if tag != 0xA005} == {tag: wanted[tag] for tag in wanted if tag != 0xA005}
    assert kept.get_ifd(0xA005)[1] == "R98"
    assert kept.get_ifd(0x8825) == before.get_ifd(0x8825)
    assert kept.get(0x0112, 1) == 1
    assert opened(data).metadata.resolution == pytest.approx((300 / 25.4, 300 / 25.4), rel=1e-4)
    assert b"8BIM\x04\x0c" not in data
    assert THUMBNAIL[:64] not in data
    assert THUMBNAIL[-64:] not in data
    assert not kept.get_ifd(1)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif"])
def test_the_block_stays_in_place_for_the_sake_of_maker_notes(kind: str) -> None:
    photo = opened(rich_jpeg())
    block = photo.metadata.exif
    kept = opened(result(photo, kind)[0]).metadata.exif
    assert block is not None
    assert kept is not None
    assert kept.index(MAKER_NOTE) == block.index(MAKER_NOTE)


@pytest.mark.parametrize("source", ["jpeg", "png", "webp", "avif", "tiff"])
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_from_every_format_to_every_format(source: str, kind: str, orientation: int) -> None:
    options = {} if source in ("png", "tiff") else {"quality": 98}
    stored = scene()
    tags = exif(orientation).tobytes()  # as bytes, because Pillow leaves the inner directories of TIFF out otherwise
    photo = opened(pillow_file(Image.fromarray(stored), source.upper(), exif=tags, **options))
    pixels = upright(stored, orientation)
    assert np.abs(photo.pixels().astype(int) - pixels).max() < 14
    data, kept = result(photo, kind)
    assert kept[0x010F] == "Camera maker"
    assert kept.get(0x0112, 1) == 1
    assert kept.get_ifd(0x8769)[0x9003] == "2026:05:04 03:02:01"
    assert kept.get_ifd(0x8769)[0x829A] == pytest.approx(0.004)
    assert kept.get_ifd(0x8825)[4] == pytest.approx((2.0, 17.0, 40.2))
    again = opened(data)
    assert (again.info.width_px, again.info.height_px) == (pixels.shape[1], pixels.shape[0])
    assert np.abs(again.pixels().astype(int) - pixels).max() < 26
    # and once more, so that what we write is also what we read
    _, twice = result(again, source)
    assert twice[0x010F] == "Camera maker"
    assert twice.get_ifd(0x8825)[4] == pytest.approx((2.0, 17.0, 40.2))


@pytest.mark.parametrize("kind", FORMATS)
def test_xmp_is_true_of_the_picture(kind: str) -> None:
    photo = opened(rich_jpeg(profile=vips_profile("p3")))
    packet = opened(result(photo, kind)[0]).metadata.xmp
    assert packet is not None
    for text in (
        *(b'tiff:Orientation="1"', b'exif:PixelXDimension="48"', b"exif:PixelYDimension='64'"),
        *(b"<exif:ColorSpace>65535<", b"<dc:title>Orientation 6<", b'xmp:Rating="4"', b'ICCProfile="Display P3"'),
    ):
        assert text in packet
    for text in (b"Thumbnails", b"stale", b"hdrgm:Version"):
        assert text not in packet
    stripped = opened(result(photo, kind, keep_profile=False)[0]).metadata.xmp
    assert stripped is not None
    assert b"<exif:ColorSpace>1<" in stripped
    assert b"ICCProfile" not in stripped


def test_iptc_has_the_form_that_each_format_needs() -> None:
    photo = opened(rich_jpeg())
    names = {(2, 90): b"Paris", (2, 120): b"hello", (2, 0): b"\x00\x04"}
    tiff, _ = result(photo, "tiff")
    assert IptcImagePlugin.getiptcinfo(Image.open(io.BytesIO(tiff))) == names
    for data in (result(photo, "jpeg")[0], result(opened(tiff), "jpeg")[0]):
        image = Image.open(io.BytesIO(data))
        assert IptcImagePlugin.getiptcinfo(image) == names
        assert set(image.info["photoshop"]) <= {0x0404, 0x0425}
    assert IptcImagePlugin.getiptcinfo(Image.open(io.BytesIO(result(opened(tiff), "tiff")[0]))) == names
    for kind in ("png", "webp", "avif"):
        assert b"Paris" not in result(photo, kind)[0]


@pytest.mark.parametrize("kind", FORMATS)
def test_resolution_turns_with_the_picture(kind: str) -> None:
    photo = opened(pillow_file(Image.fromarray(scene()), "JPEG", exif=exif(6), dpi=(300, 150)))
    assert photo.metadata.resolution == pytest.approx((300 / 25.4, 150 / 25.4))
    data, _ = result(photo, kind)
    assert opened(data).metadata.resolution == pytest.approx((150 / 25.4, 300 / 25.4), rel=1e-4)
    upright_photo = opened(pillow_file(Image.fromarray(scene()), "PNG", dpi=(300, 150)))
    data, _ = result(upright_photo, kind)
    assert opened(data).metadata.resolution == pytest.approx((300 / 25.4, 150 / 25.4), rel=1e-4)


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_invented(source: str, kind: str) -> None:
    data = tiff_file(scene(), photometric="rgb") if source == "tiff" else pillow_file(Image.fromarray(scene()), source)
    if source == "tiff":
        data = pillow_file(Image.fromarray(scene()), "TIFF")
    photo = opened(data)
    assert photo.metadata.resolution is None
    data, kept = result(photo, kind)
    again = opened(data)
    assert again.metadata == photo.metadata
    assert (again.metadata.exif, again.metadata.xmp, again.metadata.iptc) == (None, None, None)
    assert not kept.get_ifd(0x8769)
    info = Image.open(io.BytesIO(data)).info
    assert "dpi" not in info or info["dpi"] == (1, 1)
    assert info.get("jfif_unit", 0) == 0


@pytest.mark.parametrize("kind", FORMATS)
def test_metadata_can_be_stripped(kind: str) -> None:
    photo = opened(rich_jpeg(profile=vips_profile("p3")))
    data, kept = result(photo, kind, keep_metadata=False)
    assert opened(data).metadata.exif is None
    assert opened(data).metadata.xmp is None
    assert 0x010F not in kept
    assert b"Camera maker" not in data
    assert b"Paris" not in data


@pytest.mark.parametrize("tagged", [True, False])
def test_colour_space_is_what_the_picture_has(tagged: bool) -> None:
    tags = exif(1)
    tags.get_ifd(0x8769)[0xA001] = 0xFFFF
    profile = vips_profile("srgb") if tagged else None
    photo = opened(pillow_file(Image.fromarray(scene()), "JPEG", exif=tags, icc_profile=profile))
    # without a profile nobody knows what "uncalibrated" means, so that it stays
    assert result(photo, "jpeg")[1].get_ifd(0x8769)[0xA001] == (1 if tagged else 0xFFFF)


def test_a_block_too_large_for_jpeg_loses_its_maker_note_only() -> None:
    tags = exif(1)
    tags.get_ifd(0x8769)[0x927C] = bytes(range(256)) * 300
    photo = opened(pillow_file(Image.fromarray(scene()), "PNG", exif=tags))
    _, kept = result(photo, "jpeg")
    assert kept[0x010F] == "Camera maker"
    assert 0x927C not in kept.get_ifd(0x8769)
    assert kept.get_ifd(0x8825)[1] == "N"
    assert result(photo, "png")[1].get_ifd(0x8769)[0x927C] == tags.get_ifd(0x8769)[0x927C]


def test_text_too_large_for_a_jpeg_segment_is_left_out() -> None:
    image = vips_file(scene(), "tiff")
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b" " * 100_000 + b"</x:xmpmeta>"
    photo = opened(pillow_file(Image.open(io.BytesIO(image)), "TIFF", tiffinfo={700: packet}))
    assert photo.metadata.xmp is not None
    assert opened(result(photo, "jpeg")[0]).metadata.xmp is None
    assert opened(result(photo, "webp")[0]).metadata.xmp == packet


def test_a_damaged_block_is_left_out() -> None:
    data = rich_jpeg()
    at = data.index(b"Exif\0\0MM") + 6
    photo = opened(data[:at] + b"MM\0*" + b"\xff\xff\xff\xf0" + data[at + 8 :])
    assert opened(result(photo, "jpeg")[0]).metadata.exif is None
    _, kept = result(photo, "tiff")
    assert 0x010F not in kept


def test_big_tiff_gives_its_tags() -> None:
    data = tiff_file(
        scene(),
        photometric="rgb",
        bigtiff=True,
        software=None,
        metadata=None,
        extratags=[(271, 2, 0, "Camera maker", True)],
    )
    _, kept = result(opened(data), "jpeg")
    assert kept[0x010F] == "Camera maker"


def test_orientation_in_the_exif_of_avif_is_not_obeyed() -> None:
    """HEIF turns pictures by a property of its own; EXIF only repeats it (ISO/IEC 23008-12, 6.5.10 and A.2)."""
    photo = opened(pillow_file(Image.fromarray(scene()), "PNG", exif=exif(1)))
    data, _ = result(photo, "avif")
    assert photo.metadata.exif is not None
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00"
    assert data.count(entry + b"\x01") == 1
    turned = opened(data.replace(entry + b"\x01", entry + b"\x06"))
    assert (turned.info.width_px, turned.info.height_px) == (64, 48)
    np.testing.assert_array_equal(turned.pixels(), opened(data).pixels())
