"""Label maps of both photos: the caller's where it brought them, else the segmentation service's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio
from dpst.v1 import image_pb2, labels_pb2, photo_style_pb2, report_pb2, segmentation_pb2

from gateway.downstream import Deadline, explained, renamed
from services.common.config import GatewaySettings

if TYPE_CHECKING:  # the stubs of these classes have no code behind them
    from dpst.v1.segmentation_pb2_grpc import SegmentationAsyncStub

__all__ = ["Regions", "find_regions"]


@dataclass(frozen=True)
class Regions:
    """One photo's label map; ``model`` is the network that made it, None if the caller brought it."""

    labels: labels_pb2.LabelMap
    model: report_pb2.ModelRef | None


async def find_regions(
    segmentation: SegmentationAsyncStub,
    transfer: photo_style_pb2.Transfer,
    settings: GatewaySettings,
    deadline: Deadline,
) -> tuple[Regions, Regions]:
    """Return the regions of the content and of the style photo, asking for both at once.

    The failure of one call cancels the other and is raised as it is.
    """

    async def segment(photo: image_pb2.Image, field: str) -> Regions:
        request = segmentation_pb2.SegmentRequest(
            image=photo, model=transfer.segmentation_model, map_edge_px=settings.map_edge_px
        )
        timeout = deadline.timeout(settings.segment_timeout_seconds)
        try:
            response = await segmentation.Segment(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise renamed(
                explained("segmentation", timeout, error), {"image": field, "model": "segmentation_model"}
            ) from error
        return Regions(response.label_map, response.model)

    async def brought(labels: labels_pb2.LabelMap) -> Regions:
        return Regions(labels, None)

    content_brought, style_brought = transfer.HasField("content_labels"), transfer.HasField("style_labels")
    try:
        async with asyncio.TaskGroup() as group:
            content = group.create_task(
                brought(transfer.content_labels) if content_brought else segment(transfer.content, "content")
            )
            style = group.create_task(
                brought(transfer.style_labels) if style_brought else segment(transfer.style, "style")
            )
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return content.result(), style.result()
