"""EXIF blocks and TIFF structures from strangers: read or refused, never a crash, never much memory."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.common.errors import InvalidArgument
from services.common.images.isobmff import boxes, find_box, item_types
from services.common.images.metadata import PictureFacts
from services.common.images.metadata.exif import ExifTags, block_of, is_adobe_rgb, resolution_of, tags_of
from services.common.images.metadata.exif_correction import corrected
from services.common.images.metadata.iptc import iptc_for
from services.common.images.metadata.tiff_structure import StructureError, Tag, read_directory, read_header
from services.common.images.metadata.xmp import corrected_xmp
from tests.common.images.files import opened, pillow_file, scene, tiff_file, vips_file
from tests.common.images.test_metadata import XMP, exif, with_thumbnail

FACTS = PictureFacts(width_px=48, height_px=64, turned=True, is_srgb=False, resolution=(10.0, 20.0))
BLOCK = with_thumbnail(exif().tobytes().removeprefix(b"Exif\0\0"))
TIFF = tiff_file(scene(32, 32), photometric="rgb")
AVIF = vips_file(scene(32, 32), "avif")


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """The same bytes cut off and with some of the first 400 changed."""

    def apply(end: int, changes: list[tuple[int, int]]) -> bytes:
        data = bytearray(good[:end])
        for at, value in changes:
            if at < len(data):
                data[at] = value
        return bytes(data)

    change = st.tuples(st.integers(0, min(400, len(good) - 1)), st.integers(0, 255))
    return st.builds(apply, st.integers(0, len(good)), st.lists(change, max_size=12))


@settings(deadline=None)
@given(damaged(BLOCK))
def test_damaged_blocks(block: bytes) -> None:
    resolution_of(block)
    is_adobe_rgb(block)
    with contextlib.suppress(StructureError):
        result = corrected(block, FACTS)
        header = read_header(result)
        assert read_directory(result, header, header.first).following == 0
        assert len(block_of(tags_of(result))) < 2 * len(block) + 200


def test_what_is_cut_off_is_not_read_from_what_is_added() -> None:
    added = 0
    for end in range(len(BLOCK) + 1):
        block = BLOCK[:end]
        with contextlib.suppress(StructureError):
            before, after = tags_of(block), tags_of(corrected(block, FACTS))
            changed = {tag.number for tag in before.exif} ^ {tag.number for tag in after.exif}
            assert (after.gps, after.interop, changed) == (before.gps, before.interop, set())
            added += len(after.main) > len(before.main)
    assert added


@settings(deadline=None)
@given(damaged(TIFF))
def test_damaged_tiff_files(data: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        opened(data).pixels()


@settings(deadline=None)
@given(damaged(AVIF))
def test_damaged_boxes(data: bytes) -> None:
    assert len(list(boxes(data, 0, len(data)))) <= len(data)
    found = find_box(data, b"meta", b"iprp", b"ipco")
    assert found is None or found[0] <= found[1] <= len(data)
    with contextlib.suppress(IndexError):
        item_types(data)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_strange_iptc_and_xmp(data: bytes) -> None:
    iptc_for("jpeg", b"Photoshop 3.0\0" + data)
    iptc_for("tiff", data)
    assert corrected_xmp(data, FACTS, same_profile=False).count(b"<xmp:Thumbnails>") <= data.count(b"<xmp:Thumbnails>")


@pytest.mark.parametrize("order", ["<", ">"])
def test_blocks_are_written_as_they_are_read(order: str) -> None:
    def numbers(*values: int) -> bytes:
        return struct.pack(f"{order}{len(values)}H", *values)

    tags = ExifTags(
        order,
        main=(Tag(0x010F, 2, 4, b"abc\0"), Tag(0x0110, 2, 7, b"longer\0")),
        exif=(Tag(0x8827, 3, 3, numbers(1, 2, 3)), Tag(0x927C, 7, 5, b"\1\2\3\4\5")),
        gps=(Tag(1, 2, 2, b"N\0"),),
        interop=(Tag(1, 2, 4, b"R98\0"),),
    )
    assert tags_of(block_of(tags)) == tags
    other = tags.in_order("<" if order == ">" else ">")
    assert other != tags
    assert tags_of(block_of(other)) == other
    assert other.in_order(order) == tags
    assert other.exif[1] == tags.exif[1]


def test_one_value_named_a_thousand_times_costs_nothing() -> None:
    value = 1 << 20
    entries = b"".join(struct.pack("<HHII", 0x9000 + index, 7, value, 8) for index in range(4000))
    at = 8 + value
    main = struct.pack("<HHHIII", 1, 0x8769, 4, 1, at + 18, 0)
    block = b"II*\0" + struct.pack("<I", at) + bytes(value) + main + struct.pack("<H", 4000) + entries + bytes(4)
    assert len(read_directory(block, read_header(block), at + 18).entries) == 4000
    tracemalloc.start()
    with pytest.raises(StructureError, match="more than"):
        tags_of(block)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
    photo = opened(pillow_file(Image.fromarray(scene()), "PNG", exif=b"Exif\0\0" + block))
    assert photo.metadata.exif is not None


def test_a_packet_of_openings_is_read_once() -> None:
    packet = XMP + b"<xmp:Thumbnails" * 100_000
    assert corrected_xmp(packet, FACTS, same_profile=True).count(b"<xmp:Thumbnails") == 100_000
