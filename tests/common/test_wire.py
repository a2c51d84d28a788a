"""Messages are checked on the way in and complete on the way out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from dpst.v1 import image_pb2, labels_pb2
from PIL import Image

from services.common import wire
from services.common.errors import InvalidArgument
from services.common.images import FORMATS, ImageLimits, OutputFormat, PhotoInfo
from services.common.label_maps import LabelMap

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000, min_edge_px=32, max_edge_px=30_000)
INFO = PhotoInfo("png", 60, 40, 16, True, False)


def test_image_bytes() -> None:
    assert wire.image_bytes(image_pb2.Image(data=b"abc"), "content", 3) == b"abc"
    for image in (image_pb2.Image(), image_pb2.Image(data=b"")):
        with pytest.raises(InvalidArgument, match=r"content\.data: got nothing"):
            wire.image_bytes(image, "content", 3)
    with pytest.raises(InvalidArgument, match="4 bytes, at most 3"):
        wire.image_bytes(image_pb2.Image(data=b"abcd"), "content", 3)
    with pytest.raises(InvalidArgument, match=r"content\.uri: got 'file:///etc/passwd', is for the gateway"):
        wire.image_bytes(image_pb2.Image(uri="file:///etc/passwd"), "content", 3)
    with pytest.raises(InvalidArgument, match=r"content\.ref: got 'ab12', is for the gateway"):
        wire.image_bytes(image_pb2.Image(ref="ab12"), "content", 3)


def test_label_map_round_trip_with_areas() -> None:
    indices = np.zeros((40, 60), np.uint8)
    indices[:10] = 7
    message = wire.label_map_to_message(LabelMap(indices, {7: "sky", 0: "sea"}))
    assert [(label.index, label.name, label.area_share) for label in message.labels] == [
        (0, "sea", 0.75),
        (7, "sky", 0.25),
    ]
    again = wire.label_map_from_message(message, "content_labels", LIMITS)
    np.testing.assert_array_equal(again.indices, indices)
    assert again.names == {0: "sea", 7: "sky"}


def test_label_map_faults_name_their_field() -> None:
    stream = io.BytesIO()
    Image.new("L", (60, 40)).save(stream, "PNG")
    label = labels_pb2.Label
    for labels, says in (
        ([label(index=256)], r"style_labels\.labels\[0\]\.index: got 256"),
        ([label(index=1), label(index=1)], r"style_labels\.labels\[1\]\.index: got 1, each index is named once"),
    ):
        with pytest.raises(InvalidArgument, match=says):
            wire.label_map_from_message(
                labels_pb2.LabelMap(png=stream.getvalue(), labels=labels), "style_labels", LIMITS
            )
    with pytest.raises(InvalidArgument, match=r"style_labels\.png: got 0 bytes"):
        wire.label_map_from_message(labels_pb2.LabelMap(), "style_labels", LIMITS)


@pytest.mark.parametrize("format_", FORMATS)
def test_image_info(format_: str) -> None:
    message = wire.image_info_message(PhotoInfo(format_, 60, 40, 8, False, True))
    assert image_pb2.ImageFormat.Name(message.format) == f"IMAGE_FORMAT_{format_.upper()}"
    assert (message.width_px, message.height_px, message.bit_depth) == (60, 40, 8)
    assert (message.has_alpha, message.has_profile) == (False, True)


def test_output_defaults_and_values() -> None:
    options = image_pb2.OutputOptions
    assert wire.output_format(options(), "output") == OutputFormat()
    asked = options(
        format=image_pb2.IMAGE_FORMAT_TIFF,
        quality=7,
        bit_depth=16,
        metadata=image_pb2.EMBEDDED_DATA_POLICY_STRIP,
        profile=image_pb2.EMBEDDED_DATA_POLICY_KEEP,
    )
    assert wire.output_format(asked, "output") == OutputFormat("tiff", 7, 16, keep_metadata=False, keep_profile=True)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"quality": 0}, r"output\.quality: got 0, 1\.\.100"),
        ({"quality": 101}, r"output\.quality: got 101"),
        ({"bit_depth": 10}, r"output\.bit_depth: got 10, 8 or 16"),
        ({"bit_depth": 0}, r"output\.bit_depth: got 0"),
        ({"bit_depth": 16, "format": image_pb2.IMAGE_FORMAT_JPEG}, r"output\.bit_depth: got 16, jpeg holds no 16 bits"),
        ({"format": 77}, r"output\.format: got 77"),
        ({"profile": 9}, r"output\.profile: got 9"),
    ],
)
def test_bad_output_options(fields: dict[str, int], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        wire.output_format(image_pb2.OutputOptions(**fields), "output")


@pytest.mark.parametrize("size", [0, 1, 256 << 10, (256 << 10) + 1, 700_000])
def test_picture_chunks(size: int) -> None:
    data = np.random.default_rng(0).bytes(size)
    chunks = list(wire.picture_chunks(data, INFO))
    assert b"".join(chunk.data for chunk in chunks) == data
    assert all(chunk.total_bytes == size and len(chunk.data) <= 256 << 10 for chunk in chunks)
    assert [chunk.offset_bytes for chunk in chunks] == [(256 << 10) * number for number in range(len(chunks))]
    assert [chunk.HasField("info") for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    assert chunks[0].info.width_px == 60
