"""What a gateway holds of a solve under way."""

from __future__ import annotations

import psutil
from dpst.v1 import labels_pb2, progress_pb2, stylizer_pb2

from gateway.progress import Progress
from gateway.regions import Regions
from tests.gateway.fakes import World, segmented, solved, transfer

_MEGABYTE = 1 << 20


async def test_it_has_one_checkpoint_however_many_have_come(world: World) -> None:
    resident: list[int] = []

    async def weighed() -> stylizer_pb2.StylizeResponse:
        resident.append(psutil.Process().memory_info().rss)
        return solved()[2]

    checkpoint = progress_pb2.Checkpoint(data=bytes(_MEGABYTE), evaluations=1)
    kept = stylizer_pb2.StylizeResponse(checkpoint=checkpoint)
    world.segmentation.replies = [segmented()] * 2
    world.stylizer.replies = [[*solved()[:2], *[kept] * 20, weighed, *[kept] * 200, weighed, *solved()[2:]]]
    await world.events(transfer())
    before, after = resident
    assert after - before < 60 * _MEGABYTE


def test_it_is_read_as_it_was_written() -> None:
    assert Progress.read(b"") == Progress.read(Progress().serialized()) == Progress()
    regions = Regions(labels_pb2.LabelMap(png=b"content"), None), Regions(labels_pb2.LabelMap(png=b"style"), None)
    read = Progress.read(Progress(regions).serialized())
    assert read.regions is not None
    assert [each.labels.png for each in read.regions] == [b"content", b"style"]
    assert read.checkpoint is None
    checkpoint = progress_pb2.Checkpoint(data=b"half way", evaluations=7)
    assert Progress.read(Progress(regions, checkpoint).serialized()).checkpoint == checkpoint
