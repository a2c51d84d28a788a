"""Requests from plain Python values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dpst.v1 import image_pb2, labels_pb2, look_pb2, params_pb2, photo_style_pb2, uploads_pb2
from google.protobuf.message import Message

__all__ = [
    "Labels",
    "Photo",
    "Priority",
    "Uploaded",
    "export_request",
    "photo_bytes",
    "render_request",
    "to_upload",
    "transfer_request",
    "upload_requests",
]

_PIECE_BYTES = 1 << 18
_OVERHEAD_BYTES = 1 << 10
"""Of a message beside what ``ByteSize`` counts."""


@dataclass(frozen=True)
class Uploaded:
    """A file that the server keeps for a while, a day since it was last used by default.

    Attributes:
        ref: its address, the SHA-256 of its bytes.
        size_bytes: its size.
    """

    ref: str
    size_bytes: int


Photo = bytes | Path | str | Uploaded
"""An encoded photo: its bytes, the path of its file, or what ``upload`` gave for it."""

Labels = bytes | Path | str | labels_pb2.LabelMap
"""Regions of a photo: an index PNG or one in the nine-colour palette, or a message with names."""

Priority = Literal["low", "normal", "high"]

_ENUMS: Mapping[str, tuple[Any, str]] = {
    "mode": (params_pb2.Mode, "MODE_"),
    "preserve": (params_pb2.Preserve, "PRESERVE_"),
    "quality": (params_pb2.QualityPreset, "QUALITY_PRESET_"),
    "label_policy": (labels_pb2.LabelPolicy, "LABEL_POLICY_"),
}


def transfer_request(
    content: Photo,
    style: Photo,
    *,
    content_labels: Labels | None,
    style_labels: Labels | None,
    params: Mapping[str, Any],
    output: image_pb2.OutputOptions | None,
    segmentation_model: str,
    request_id: str,
    priority: Priority,
    best_effort: bool,
) -> photo_style_pb2.TransferStreamRequest:
    """The request of a transfer. Raises ValueError for a parameter or value that the message does not have."""
    transfer = photo_style_pb2.Transfer(
        content=_image(content),
        style=_image(style),
        params=_params(params),
        output=output,
        segmentation_model=segmentation_model,
        request_id=request_id,
        priority=_enum(params_pb2.Priority, "PRIORITY_", "priority", priority),
        best_effort=best_effort,
    )
    if content_labels is not None:
        transfer.content_labels.CopyFrom(_labels(content_labels))
    if style_labels is not None:
        transfer.style_labels.CopyFrom(_labels(style_labels))
    return photo_style_pb2.TransferStreamRequest(transfer=transfer)


def render_request(
    look: look_pb2.Look,
    content: Photo,
    strength: float | None,
    preserve: str,
    output: image_pb2.OutputOptions | None,
    priority: Priority,
) -> photo_style_pb2.RenderLookRequest:
    """The request of a rendering."""
    return photo_style_pb2.RenderLookRequest(
        look=look,
        content=_image(content),
        strength=strength,
        preserve=_enum(*_ENUMS["preserve"], "preserve", preserve),
        output=output,
        priority=_enum(params_pb2.Priority, "PRIORITY_", "priority", priority),
    )


def export_request(
    look: look_pb2.Look, content: Photo, points: int, label: str, per_label: bool
) -> photo_style_pb2.ExportLookRequest:
    """The request of lookup tables."""
    return photo_style_pb2.ExportLookRequest(
        look=look, content=_image(content), points=points, label=label, per_label=per_label
    )


def upload_requests(data: bytes) -> Iterator[uploads_pb2.UploadImageRequest]:
    """A file in pieces."""
    digest = hashlib.sha256(data).hexdigest()
    for start in range(0, max(1, len(data)), _PIECE_BYTES):
        piece = data[start : start + _PIECE_BYTES]
        yield uploads_pb2.UploadImageRequest(data=piece, sha256="" if start else digest)


def to_upload(request: Message, max_bytes: int) -> tuple[Any, list[image_pb2.Image]]:
    """The request, and those of its photos that are to be uploaded first because it is too large for one message.

    Then it is a copy, for each try to begin with the bytes again.
    """
    if request.ByteSize() + _OVERHEAD_BYTES <= max_bytes:
        return request, []
    copy = type(request)()
    copy.CopyFrom(request)
    holder = getattr(copy, "transfer", copy)
    images = [getattr(holder, name) for name in ("content", "style") if name in holder.DESCRIPTOR.fields_by_name]
    return copy, [image for image in images if image.WhichOneof("source") == "data"]


def photo_bytes(photo: bytes | Path | str) -> bytes:
    """Bytes as they are, files read."""
    return photo if isinstance(photo, bytes) else Path(photo).read_bytes()


def _image(photo: Photo) -> image_pb2.Image:
    return image_pb2.Image(ref=photo.ref) if isinstance(photo, Uploaded) else image_pb2.Image(data=photo_bytes(photo))


def _labels(labels: Labels) -> labels_pb2.LabelMap:
    if isinstance(labels, labels_pb2.LabelMap):
        return labels
    return labels_pb2.LabelMap(png=labels if isinstance(labels, bytes) else Path(labels).read_bytes())


def _params(values: Mapping[str, Any]) -> params_pb2.TransferParams:
    message = params_pb2.TransferParams()
    for name, value in values.items():
        if name not in message.DESCRIPTOR.fields_by_name:
            known = ", ".join(sorted(message.DESCRIPTOR.fields_by_name))
            raise ValueError(f"{name}: no such parameter; there are {known}")
        if name in _ENUMS:
            setattr(message, name, _enum(*_ENUMS[name], name, value))
        elif name == "label_strengths":
            message.label_strengths.update(value)
        else:
            setattr(message, name, value)
    return message


def _enum(enum: Any, prefix: str, name: str, value: str) -> Any:
    full = prefix + value.upper()
    if full not in enum.DESCRIPTOR.values_by_name:
        known = ", ".join(key.removeprefix(prefix).lower() for key in enum.keys()[1:])
        raise ValueError(f"{name}: got {value!r}, must be one of {known}")
    return enum.Value(full)
