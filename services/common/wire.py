"""Messages to values and back: what travels between processes, checked on the way in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from dpst.v1 import image_pb2, labels_pb2

from services.common.errors import InvalidArgument
from services.common.images import FORMATS, FORMATS_OF_16_BITS, ImageLimits, OutputFormat, PhotoInfo
from services.common.label_maps import LabelMap, decode_label_map, encode_label_map

__all__ = [
    "image_bytes",
    "image_info_message",
    "label_map_from_message",
    "label_map_to_message",
    "output_format",
    "picture_chunks",
]

_CHUNK_BYTES = 256 << 10  # large enough that framing costs nothing, small enough that progress is seen
_FORMAT_NUMBERS: dict[str, image_pb2.ImageFormat.ValueType] = {
    name: image_pb2.ImageFormat.Value(f"IMAGE_FORMAT_{name.upper()}") for name in FORMATS
}
_FORMAT_NAMES = {number: name for name, number in _FORMAT_NUMBERS.items()}


def image_bytes(image: image_pb2.Image, field: str, max_bytes: int) -> bytes:
    """Take the encoded file out of a message.

    Raises InvalidArgument if there is none, it is larger than ``max_bytes``, or it stands for one that only the gateway
    can find.
    """
    source = image.WhichOneof("source")
    if source in ("ref", "uri"):
        sent = getattr(image, source)[:80]
        raise InvalidArgument(f"{field}.{source}", repr(sent), "is for the gateway, which fills in data; send that")
    data = image.data  # a copy, each time
    if not data:
        raise InvalidArgument(f"{field}.data", "nothing", "an encoded image file is required")
    if len(data) > max_bytes:
        raise InvalidArgument(f"{field}.data", f"{len(data)} bytes", f"at most {max_bytes} bytes are accepted")
    return data


def label_map_from_message(message: labels_pb2.LabelMap, field: str, limits: ImageLimits) -> LabelMap:
    """Decode a label map with its names.

    Raises InvalidArgument for indices outside 0..255 or listed twice, and what ``decode_label_map`` refuses.
    """
    names: dict[int, str] = {}
    for position, label in enumerate(message.labels):
        where = f"{field}.labels[{position}].index"
        if label.index > 255:
            raise InvalidArgument(where, label.index, "indices are 0..255")
        if label.index in names:
            raise InvalidArgument(where, label.index, "each index is named once")
        names[label.index] = label.name or f"label-{label.index}"
    return decode_label_map(message.png, names, f"{field}.png", limits)


def label_map_to_message(label_map: LabelMap) -> labels_pb2.LabelMap:
    """Encode a label map with its names and areas; labels are in the order of their indices."""
    shares = np.bincount(label_map.indices.ravel(), minlength=256) / label_map.indices.size
    labels = [
        labels_pb2.Label(index=index, name=label_map.names[index], area_share=float(shares[index]))
        for index in sorted(label_map.names)
    ]
    return labels_pb2.LabelMap(png=encode_label_map(label_map), labels=labels)


def image_info_message(info: PhotoInfo) -> image_pb2.ImageInfo:
    """Put the facts about a picture into a message."""
    return image_pb2.ImageInfo(
        format=_FORMAT_NUMBERS[info.format],
        width_px=info.width_px,
        height_px=info.height_px,
        bit_depth=info.bit_depth,
        has_alpha=info.has_alpha,
        has_profile=info.has_profile,
    )


def output_format(options: image_pb2.OutputOptions, field: str) -> OutputFormat:
    """Read and check output options; fields that are unset mean as the content photo was.

    Raises InvalidArgument for an unknown format or policy, a quality outside 1..100, a bit depth that is neither 8
    nor 16, and 16 bits in a format that holds 8.
    """
    if options.format and options.format not in _FORMAT_NAMES:
        raise InvalidArgument(f"{field}.format", options.format, f"one of {', '.join(FORMATS)}")
    kind = _FORMAT_NAMES.get(options.format)
    quality = options.quality if options.HasField("quality") else OutputFormat.quality
    if not 1 <= quality <= 100:
        raise InvalidArgument(f"{field}.quality", quality, "1..100")
    bit_depth = options.bit_depth if options.HasField("bit_depth") else None
    if bit_depth not in (None, 8, 16):
        raise InvalidArgument(f"{field}.bit_depth", bit_depth, "8 or 16")
    if bit_depth == 16 and kind not in (None, *FORMATS_OF_16_BITS):
        raise InvalidArgument(f"{field}.bit_depth", 16, f"{kind} holds no 16 bits a channel; png and tiff do")
    return OutputFormat(
        format=kind,
        quality=quality,
        bit_depth=bit_depth,
        keep_metadata=_keeps(options.metadata, f"{field}.metadata"),
        keep_profile=_keeps(options.profile, f"{field}.profile"),
    )


def picture_chunks(data: bytes, info: PhotoInfo) -> Iterator[image_pb2.PictureChunk]:
    """Cut an encoded picture into messages of at most 256 KiB; the first carries the facts."""
    for offset in range(0, max(len(data), 1), _CHUNK_BYTES):
        piece = data[offset : offset + _CHUNK_BYTES]
        facts = image_info_message(info) if offset == 0 else None
        yield image_pb2.PictureChunk(offset_bytes=offset, total_bytes=len(data), data=piece, info=facts)


def _keeps(policy: image_pb2.EmbeddedDataPolicy.ValueType, field: str) -> bool:
    if policy not in image_pb2.EmbeddedDataPolicy.values():
        raise InvalidArgument(field, policy, "KEEP or STRIP")
    return policy != image_pb2.EMBEDDED_DATA_POLICY_STRIP
