"""The gateway's trip of one transfer, over real servers with scripted services behind it."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from dpst.v1 import (
    image_pb2,
    labels_pb2,
    params_pb2,
    photo_style_pb2,
    progress_pb2,
    report_pb2,
    stylizer_pb2,
)
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image as PillowImage

from services.common import errors
from services.common.label_maps import LabelMap
from services.common.wire import label_map_to_message
from tests.gateway.fakes import World, eventually, forever, labels, photo, segmented, solved, transfer

SEGMENT = {"grpc_type": "unary", "grpc_service": "dpst.v1.Segmentation", "grpc_method": "Segment"}


async def refused(world: World, request: photo_style_pb2.Transfer, **options) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.events(request, **options)
    return caught.value


async def test_events_come_in_order_and_numbered(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented(built_in=True)]
    world.stylizer.replies = [solved()]
    events = await world.events(transfer(request_id="holiday-7"))
    assert [event.sequence for event in events] == list(range(1, 10))
    assert [event.WhichOneof("event") for event in events] == [
        "accepted",
        "stage",
        "queued",
        "stage",
        "iteration",
        "iteration",
        "chunk",
        "chunk",
        "done",
    ]
    assert events[0].accepted.request_id == "holiday-7"
    report = events[-1].done.report
    assert report.request_id == "holiday-7"
    assert report.content_segmentation_model.name == report.style_segmentation_model.name == "fake-net"
    stages = [stage.stage for stage in report.stages]
    assert stages == [report_pb2.STAGE_SEGMENT, report_pb2.STAGE_SOLVE, report_pb2.STAGE_END_TO_END]
    assert list(report.notes) == ["Labels: one region", "built-in features"]


async def test_the_stylizer_gets_photos_labels_parameters_and_the_request_id(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved()]
    params = params_pb2.TransferParams(strength=0.5)
    sent = transfer(params=params, segmentation_model="fake-net/1", request_id="a.b")
    await world.events(sent)
    (request,) = world.stylizer.requests
    assert (request.content, request.style, request.params) == (sent.content, sent.style, params)
    assert request.content_labels == request.style_labels == segmented().label_map
    assert not request.params.HasField("seed"), "what the caller left unset stays unset"
    assert [each.model for each in world.segmentation.requests] == ["fake-net/1"] * 2
    assert {each.map_edge_px for each in world.segmentation.requests} == {1024}
    assert [*world.segmentation.request_ids, *world.stylizer.request_ids] == ["a.b"] * 3


def judged(*names: str, verdict: labels_pb2.Verdict.ValueType = labels_pb2.VERDICT_KEPT, reason: str = "") -> Any:
    """Make a reply of the segmentation service with these regions, or "all", and one verdict on each."""
    reply = segmented()
    reply.label_map.CopyFrom(label_map_to_message(LabelMap(np.zeros((32, 48), np.uint8), dict(enumerate(names)))))
    seen = names if names != ("all",) else ("sky",)
    for name in seen:
        reply.verdicts.add(label=name, verdict=verdict, area_share=0.4, confidence=0.5, reason=reason)
    return reply


def answer(world: World, content: Any, style: Any) -> None:
    """Let the segmentation service answer by photo, whichever call arrives first."""

    async def reply() -> Any:
        return content if world.segmentation.requests[-1].image == transfer().content else style

    world.segmentation.replies = [reply, reply]


async def test_verdicts_and_options_pass_through(world: World) -> None:
    softened = judged("sky", "water", verdict=labels_pb2.VERDICT_SOFTENED, reason="9% of its pixels were doubtful")
    softened.verdicts.add(
        label="vehicle",
        verdict=labels_pb2.VERDICT_MERGED,
        area_share=0.02,
        merged_into="road",
        reason="it is 0.50 sure, 0.7 is asked for",
    )
    softened.verdicts.add(label="person", verdict=labels_pb2.VERDICT_DROPPED, area_share=0.001, reason="tiny")
    kept = judged("sky", "grass")
    answer(world, softened, kept)
    world.stylizer.replies = [solved()]
    options = labels_pb2.SegmentationOptions(refinement=labels_pb2.REFINEMENT_CRF, scales=[0.5, 1], flip=True)
    report = (await world.events(transfer(segmentation_options=options)))[-1].done.report
    assert [each.options for each in world.segmentation.requests] == [options] * 2
    assert list(report.content_label_verdicts) == list(softened.verdicts)
    assert list(report.style_label_verdicts) == list(kept.verdicts)
    assert list(report.notes) == [
        "Labels of the content photo: sky (40%) softened, because 9% of its pixels were doubtful; "
        "water (40%) softened, because 9% of its pixels were doubtful; "
        "vehicle (2%) merged into road, because it is 0.50 sure, 0.7 is asked for.",
        "built-in features",
    ]


@pytest.mark.parametrize("single", ["content", "style"])
async def test_one_region_on_one_side_sets_the_other_sides_regions_aside(world: World, single: str) -> None:
    one = judged("all", verdict=labels_pb2.VERDICT_DROPPED, reason="12% of the photo has a credible label")
    many = judged("sky", "grass")
    answer(world, *((one, many) if single == "content" else (many, one)))
    world.stylizer.replies = [solved()]
    report = (await world.events(transfer()))[-1].done.report
    (request,) = world.stylizer.requests
    for labels_ in (request.content_labels, request.style_labels):
        assert [(label.index, label.name, label.area_share) for label in labels_.labels] == [(0, "all", 1.0)]
        assert PillowImage.open(io.BytesIO(labels_.png)).size == (48, 32)
    other = "style" if single == "content" else "content"
    assert set(report.notes) == {
        f"Labels: the {single} photo is one region: 12% of the photo has a credible label.",
        f"Labels: the {other} photo's regions are not used, because the {single} photo has none; "
        "both photos are one region.",
        "built-in features",
    }
    assert len(getattr(report, f"{other}_label_verdicts")) == 2, "what was found there is still told"


async def test_one_region_beside_labels_of_the_caller_changes_nothing(world: World) -> None:
    world.segmentation.replies = [judged("all")]
    world.stylizer.replies = [solved()]
    await world.events(transfer(content_labels=labels()))
    assert world.stylizer.requests[0].content_labels == labels()


async def test_bad_options_are_called_by_the_callers_name(world: World) -> None:
    refusal = errors.InvalidArgument("options.scales[1]", 9.0, "0.5..2.0")
    together = asyncio.Barrier(2)  # a refusal cancels the other call, which must have come by then

    async def refuse():
        await together.wait()
        raise refusal

    async def wait():
        await together.wait()
        await forever()

    world.segmentation.replies = [refuse, wait]
    error = await refused(world, transfer())
    assert error.details() == "segmentation_options.scales[1]: got 9.0, 0.5..2.0"


async def test_unary_transfer_gives_the_same_picture(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved(b"0123456789")]
    response = await world.stub.Transfer(photo_style_pb2.TransferRequest(transfer=transfer()))
    assert response.picture == b"0123456789"
    assert (response.info.width_px, response.info.height_px) == (48, 32)
    assert response.report.evaluations == 2


async def test_both_photos_are_segmented_at_the_same_time(world: World) -> None:
    together = asyncio.Barrier(2)

    async def reply():
        async with asyncio.timeout(5):
            await together.wait()
        return segmented()

    world.segmentation.replies = [reply, reply]
    world.stylizer.replies = [solved()]
    await world.events(transfer())


async def test_labels_of_one_side_leave_the_other_to_the_segmentation_service(world: World) -> None:
    world.segmentation.replies = [segmented()]
    world.stylizer.replies = [solved()]
    events = await world.events(transfer(content_labels=labels()))
    (asked,) = world.segmentation.requests
    assert asked.image.data == transfer().style.data
    assert world.stylizer.requests[0].content_labels == labels()
    report = events[-1].done.report
    assert not report.HasField("content_segmentation_model")
    assert report.style_segmentation_model.name == "fake-net"


async def test_labels_of_both_sides_leave_nothing_to_segment(world: World) -> None:
    world.stylizer.replies = [solved()]
    events = await world.events(transfer(content_labels=labels(), style_labels=labels()))
    stages = [event.stage.stage for event in events if event.HasField("stage")]
    assert stages == [report_pb2.STAGE_SOLVE]
    assert not world.segmentation.requests


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"content": image_pb2.Image()}, "content.data"),
        ({"style": image_pb2.Image(data=b"not a picture")}, "style"),
        ({"content": image_pb2.Image(data=photo(1, 1))}, "content"),
        ({"content_labels": labels(48, 48)}, "content_labels"),
        ({"style_labels": labels_pb2.LabelMap(png=b"x")}, "style_labels.png"),
        ({"request_id": "no spaces"}, "request_id"),
        ({"output": image_pb2.OutputOptions(quality=0)}, "output.quality"),
    ],
)
async def test_bad_requests_are_refused_before_any_service_works(world: World, fields: dict, field: str) -> None:
    error = await refused(world, transfer(**fields))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    detail = error_details_pb2.BadRequest()
    assert rpc_status.from_call(error).details[0].Unpack(detail)
    assert detail.field_violations[0].field == field
    assert world.count("dpst_jobs_total", outcome="refused") == 1


async def test_one_failed_segmentation_cancels_the_other(world: World) -> None:
    world.segmentation.replies = [forever, errors.InvalidArgument("model", "nonesuch", "allowed: fake-net")]
    error = await refused(world, transfer())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    await eventually(lambda: world.segmentation.cancelled == 1)


async def test_a_stylizers_refusal_arrives_unchanged(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [errors.InvalidArgument("params.strength", 7, "allowed: 0..1")]
    error = await refused(world, transfer())
    assert error.details() == "params.strength: got 7, allowed: 0..1"
    detail = error_details_pb2.BadRequest()
    assert rpc_status.from_call(error).details[0].Unpack(detail)
    assert detail.field_violations[0].field == "params.strength"


async def test_a_full_queue_says_when_to_try_again(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [errors.ResourceExhausted("queue full", 7, errors.Shortage.QUEUE)] * 2
    error = await refused(world, transfer())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "7000"
    assert len(world.stylizer.requests) == 2, "another replica might have had room"


async def test_what_a_full_queue_would_refuse_is_refused_before_it_is_segmented(world: World) -> None:
    world.room.replies = [errors.ResourceExhausted("queue full", 7, errors.Shortage.QUEUE)] * 2
    call = world.stub.TransferStream(photo_style_pb2.TransferStreamRequest(transfer=transfer()))
    with pytest.raises(grpc.aio.AioRpcError, match="queue full") as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "7000"
    assert len(world.room.requests) == 2, "another replica might have had room"
    assert not world.segmentation.requests


async def test_the_stylizer_is_asked_for_room_with_all_that_is_known(world: World) -> None:
    async def slow() -> object:
        await asyncio.sleep(1)
        return segmented()

    world.segmentation.replies = [slow, segmented(), *[segmented()] * 2]
    world.stylizer.replies = [solved()] * 3
    params = params_pb2.TransferParams(max_evaluations=7)
    given = transfer(
        content=image_pb2.Image(data=photo(64, 40)), params=params, priority=params_pb2.PRIORITY_LOW, best_effort=True
    )
    await world.events(given, timeout=20)
    await world.events(given, timeout=20)
    await world.events(transfer(content_labels=labels(), style_labels=labels()))
    first, second, third = world.room.requests
    assert (first.params, first.width_px, first.height_px) == (params, 64, 40)
    assert (first.priority, first.best_effort) == (params_pb2.PRIORITY_LOW, True)
    assert 15 < first.remaining_seconds < 20
    assert 15 < second.remaining_seconds < 19, "what segmentation took is missing"
    assert not third.HasField("remaining_seconds")


async def test_a_lost_stylizer_is_replaced_where_it_stood(world: World) -> None:
    world.segmentation.replies = [segmented()] * 2
    kept = [
        stylizer_pb2.StylizeResponse(checkpoint=progress_pb2.Checkpoint(data=data, evaluations=n))
        for n, data in enumerate((b"early", b"late"), 3)
    ]
    before, after = solved()[:3], solved()
    world.stylizer.replies = [[*before, *kept, errors.Unavailable("the stylizer's worker died", 1)], after]
    events = await world.events(transfer(priority=params_pb2.PRIORITY_HIGH, best_effort=True))
    assert [request.checkpoint.data for request in world.stylizer.requests] == [b"", b"late"]
    assert all(request.priority == params_pb2.PRIORITY_HIGH for request in world.stylizer.requests)
    assert all(request.best_effort for request in world.stylizer.requests)
    assert events[-1].HasField("done")
    assert sum(event.HasField("chunk") for event in events) == sum(event.HasField("chunk") for event in after)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_no_picture_is_begun_twice(world: World) -> None:
    world.segmentation.replies = [segmented()] * 2
    begun = [event for event in solved() if not event.HasField("done")]
    world.stylizer.replies = [[*begun, errors.Unavailable("the stylizer's worker died", 1)]]
    error = await refused(world, transfer())
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_no_more_transfers_than_the_gateway_has_memory_for(world: World) -> None:
    world.segmentation.replies = [forever] * 8
    calls = [world.stub.TransferStream(photo_style_pb2.TransferStreamRequest(transfer=transfer())) for _ in range(4)]
    for call in calls:
        await call.read()
    error = await refused(world, transfer())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "4 transfers are under way, as many as may be"
    for call in calls:
        call.cancel()
    await eventually(lambda: world.count("dpst_inflight") == 0)
    world.segmentation.replies = [segmented()] * 2
    world.stylizer.replies = [solved()]
    await world.events(transfer())


async def test_a_stylizer_that_is_away_is_named(world: World) -> None:
    await world.stop_stylizer()
    error = await refused(world, transfer())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == "the stylizer service cannot be reached"
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "5000"
    assert world.count("dpst_jobs_total", outcome="failed") == 1


async def test_a_stylizer_that_stops_half_way_is_named(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [[*solved()[:3], forever]]
    call = world.stub.TransferStream(photo_style_pb2.TransferStreamRequest(transfer=transfer()))
    for _ in range(5):
        await call.read()
    await world.stop_stylizer()
    with pytest.raises(grpc.aio.AioRpcError, match="the stylizer service"):
        await call.read()
    assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_without_a_result_is_an_internal_error(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved()[:3]]
    assert (await refused(world, transfer())).code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("waiting_for", ["segmentation", "stylizer"])
async def test_cancel_reaches_the_service_that_works(world: World, waiting_for: str) -> None:
    if waiting_for == "segmentation":
        world.segmentation.replies = [forever, forever]
    else:
        world.segmentation.replies = [segmented(), segmented()]
        world.stylizer.replies = [[solved()[0], forever]]
    call = world.stub.TransferStream(photo_style_pb2.TransferStreamRequest(transfer=transfer()))
    script = getattr(world, waiting_for)
    await call.read()
    await eventually(lambda: bool(script.requests) and not script.replies)
    call.cancel()
    await eventually(lambda: script.cancelled == (2 if waiting_for == "segmentation" else 1))
    await eventually(lambda: world.count("dpst_jobs_total", outcome="cancelled") == 1)
    assert world.count("dpst_inflight") == 0


async def test_services_get_what_remains_of_the_deadline(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved()]
    await world.events(transfer(), timeout=9)  # gRPC rounds longer deadlines up by more than our margin
    for timeout in (*world.segmentation.timeouts, *world.stylizer.timeouts):
        assert 4 < timeout < 8.9


async def test_the_deadline_of_a_silent_service_is_explained(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [forever]
    error = await refused(world, transfer(), timeout=1.5)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: world.stylizer.cancelled == 1)


async def test_metrics_after_one_transfer(world: World) -> None:
    world.segmentation.replies = [segmented(), segmented()]
    world.stylizer.replies = [solved()]
    await world.events(transfer())
    assert world.count("dpst_jobs_total", outcome="done") == 1
    assert world.count("dpst_inflight") == 0
    for stage in ("segment", "end_to_end"):
        assert world.count("dpst_stage_duration_seconds_count", stage=stage) == 1
    assert world.count("dpst_stage_duration_seconds_count", stage="solve") == 0, "the stylizer's own to observe"
    assert world.count("dpst_first_preview_seconds_count") == 1
    await eventually(lambda: world.count("grpc_client_handled_total", **SEGMENT, grpc_code="OK") == 2)
