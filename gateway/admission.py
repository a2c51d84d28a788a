"""Early checks of a request: what can be refused before any service works on it."""

from __future__ import annotations

from dpst.v1 import image_pb2, labels_pb2, photo_style_pb2

from services.common.config import ProcessSettings
from services.common.errors import InvalidArgument
from services.common.images import ImageLimits, PhotoInfo, open_photo
from services.common.label_maps import check_matches_photo
from services.common.logs import is_request_id
from services.common.wire import image_bytes, label_map_from_message, output_format

__all__ = ["admit", "admit_look"]


def admit(transfer: photo_style_pb2.Transfer, settings: ProcessSettings) -> PhotoInfo:
    """Check everything of a transfer that can be checked here, and return what its content photo's header says.

    Raises ``InvalidArgument`` or ``NotFound``. Reads headers and label maps, so call it off the event loop.
    """
    if transfer.request_id and not is_request_id(transfer.request_id):
        raise InvalidArgument("request_id", repr(transfer.request_id), "allowed: 1 to 128 of [A-Za-z0-9._-]")
    output_format(transfer.output, "output")
    limits = ImageLimits.of(settings)
    content = _photo(transfer.content, "content", limits, settings)
    style = _photo(transfer.style, "style", limits, settings)
    if transfer.HasField("content_labels"):
        _check_labels(transfer.content_labels, content, "content_labels", limits)
    if transfer.HasField("style_labels"):
        _check_labels(transfer.style_labels, style, "style_labels", limits)
    return content


def admit_look(
    request: photo_style_pb2.RenderLookRequest | photo_style_pb2.ExportLookRequest, settings: ProcessSettings
) -> None:
    """Check that there is a look, its photo, and the output options if there are any.

    Raises ``InvalidArgument`` or ``NotFound``. Reads a header, so call it off the event loop. What a look holds only
    the stylizer knows.
    """
    if not request.look.data:
        raise InvalidArgument("look.data", "nothing", "must be a look made by this service")
    if isinstance(request, photo_style_pb2.RenderLookRequest):
        output_format(request.output, "output")
    _photo(request.content, "content", ImageLimits.of(settings), settings)


def _photo(image: image_pb2.Image, field: str, limits: ImageLimits, settings: ProcessSettings) -> PhotoInfo:
    return open_photo(image_bytes(image, field, settings.max_image_bytes), field, limits).info


def _check_labels(labels: labels_pb2.LabelMap, photo: PhotoInfo, field: str, limits: ImageLimits) -> None:
    check_matches_photo(label_map_from_message(labels, field, limits), photo, field)
