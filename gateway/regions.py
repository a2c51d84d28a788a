"""Label maps of both photos: the caller's where it brought them, else the segmentation service's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc.aio
from dpst.v1 import image_pb2, jobs_pb2, labels_pb2, photo_style_pb2, report_pb2, segmentation_pb2

from gateway.downstream import Deadline, explained, renamed
from services.common.config import GatewaySettings
from services.common.label_maps import single_region
from services.common.png_indices import read_header
from services.common.wire import label_map_to_message

if TYPE_CHECKING:  # the stubs of these classes have no code behind them
    from dpst.v1.segmentation_pb2_grpc import SegmentationAsyncStub

__all__ = ["Regions", "find_regions", "is_one_region"]

# How the segmentation service calls the region that covers a photo in which it is sure of nothing.
_EVERYTHING = "all"
# Fields of a SegmentRequest as the caller of a transfer knows them.
_CALLED = {"model": "segmentation_model", "options.": "segmentation_options."}


@dataclass(frozen=True)
class Regions:
    """One photo's label map.

    ``model`` is the network that made it, None if the caller brought it; ``verdicts`` is what that network's confidence
    rule did; ``set_aside`` tells that the map was replaced by one region because the other photo's is one.
    """

    labels: labels_pb2.LabelMap
    model: report_pb2.ModelRef | None
    verdicts: Sequence[labels_pb2.LabelVerdict] = ()
    set_aside: bool = False

    @classmethod
    def kept(cls, message: jobs_pb2.FoundRegions) -> Regions:
        """Those of ``message``."""
        model = message.model if message.HasField("model") else None
        return cls(message.labels, model, message.verdicts, message.set_aside)

    def message(self) -> jobs_pb2.FoundRegions:
        """For ``kept``."""
        return jobs_pb2.FoundRegions(
            labels=self.labels, model=self.model, verdicts=self.verdicts, set_aside=self.set_aside
        )


def is_one_region(labels: labels_pb2.LabelMap) -> bool:
    """Whether a map of the segmentation service says nothing: one region for whatever there is."""
    return [label.name for label in labels.labels] == [_EVERYTHING]


async def find_regions(
    segmentation: SegmentationAsyncStub,
    transfer: photo_style_pb2.Transfer,
    settings: GatewaySettings,
    deadline: Deadline,
) -> tuple[Regions, Regions]:
    """Return the regions of the content and of the style photo, asking for both at once.

    If one of two automatic maps is a single region, both are: each region of the other photo would else be matched with
    the whole of this one, and pulled there on its own. The failure of one call cancels the other and is raised as it
    is.
    """

    async def segment(photo: image_pb2.Image, field: str) -> Regions:
        request = segmentation_pb2.SegmentRequest(
            image=photo,
            model=transfer.segmentation_model,
            map_edge_px=settings.map_edge_px,
            options=transfer.segmentation_options if transfer.HasField("segmentation_options") else None,
        )
        timeout = deadline.timeout(settings.segment_timeout_seconds)
        try:
            response = await segmentation.Segment(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise renamed(explained("segmentation", timeout, error), _CALLED | {"image": field}) from error
        return Regions(response.label_map, response.model, response.verdicts)

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
    both = (content.result(), style.result())
    if all(regions.model is not None for regions in both):
        content_is_one, style_is_one = (is_one_region(regions.labels) for regions in both)
        if content_is_one != style_is_one:
            one, many = both if content_is_one else both[::-1]
            set_aside = await asyncio.to_thread(_as_one, many)
            return (one, set_aside) if content_is_one else (set_aside, one)
    return both


def _as_one(regions: Regions) -> Regions:
    header = read_header(regions.labels.png)  # the map's shape has the photo's aspect ratio
    one = label_map_to_message(single_region(header.width_px, header.height_px))
    return replace(regions, labels=one, set_aside=True)
