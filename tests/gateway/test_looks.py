"""Rendering and exporting looks through the gateway, over real servers with a scripted stylizer behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from dpst.v1 import image_pb2, look_pb2, params_pb2, photo_style_pb2, report_pb2, stylizer_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from services.common import errors
from tests.gateway.fakes import World, eventually, exported, forever, photo, rendered

LOOK = look_pb2.Look(version=7, data=b"a look", sha256="0a")


def render(**fields: Any) -> photo_style_pb2.RenderLookRequest:
    given = {"look": LOOK, "content": image_pb2.Image(data=photo()), **fields}
    return photo_style_pb2.RenderLookRequest(**given)


def export(**fields: Any) -> photo_style_pb2.ExportLookRequest:
    given = {"look": LOOK, "content": image_pb2.Image(data=photo()), **fields}
    return photo_style_pb2.ExportLookRequest(**given)


async def events(world: World, request: photo_style_pb2.RenderLookRequest, **options: Any) -> list[Any]:
    return [event async for event in world.stub.RenderLook(request, **options)]


async def tables(world: World, request: photo_style_pb2.ExportLookRequest, **options: Any) -> Any:
    return await world.stub.ExportLook(request, **options)


async def test_render_events_come_in_order_with_the_whole_picture(world: World) -> None:
    world.stylizer.replies = [rendered(b"0123456789")]
    got = await events(world, render())
    assert [event.WhichOneof("event") for event in got] == ["queued", "chunk", "chunk", "done"]
    assert (got[0].queued.position, got[0].queued.eta_seconds) == (2, 9)
    assert b"".join(event.chunk.data for event in got) == b"0123456789"
    done = got[-1].done
    assert done.result.width_px == 48
    assert [stage.stage for stage in done.stages] == [report_pb2.STAGE_RENDER, report_pb2.STAGE_END_TO_END]
    assert not world.segmentation.requests


async def test_the_stylizer_gets_the_rendering_as_it_was_asked(world: World) -> None:
    world.stylizer.replies = [rendered(), rendered()]
    output = image_pb2.OutputOptions(format=image_pb2.IMAGE_FORMAT_WEBP, quality=70)
    await events(world, render())
    await events(world, render(strength=0.0, preserve=params_pb2.PRESERVE_CHROMA, output=output))
    bare, full = world.stylizer.requests
    assert isinstance(bare, stylizer_pb2.RenderRequest)
    assert not bare.HasField("strength"), "what the caller left unset stays unset"
    assert (bare.look, bare.content.data) == (LOOK, photo())
    assert full.HasField("strength")
    assert (full.strength, full.preserve, full.output) == (0.0, params_pb2.PRESERVE_CHROMA, output)


async def test_export_passes_request_and_tables_on(world: World) -> None:
    world.stylizer.replies = [exported(""), exported("sky", "road")]
    (whole,) = (await tables(world, export())).luts
    assert (whole.label, whole.cube) == ("", b"")
    got = await tables(world, export(points=65, per_label=True))
    assert [(lut.label, lut.cube) for lut in got.luts] == [("sky", b"sky"), ("road", b"road")]
    assert got.luts[0].fit_error.p95 == 3.5
    assert list(got.labels_without_pixels) == ["lake"]
    assert [stage.stage for stage in got.stages] == [report_pb2.STAGE_EXPORT, report_pb2.STAGE_END_TO_END]
    bare, full = world.stylizer.requests
    assert isinstance(bare, stylizer_pb2.StylizerExportLookRequest)
    assert not bare.HasField("points")
    assert (bare.look, bare.content.data, bare.label, bare.per_label) == (LOOK, photo(), "", False)
    assert (full.points, full.per_label) == (65, True)


CALLS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Any]] = {
    "render": (events, render, lambda: rendered()),
    "export": (tables, export, lambda: exported("")),
}


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"look": look_pb2.Look(version=1)}, "look.data"),
        ({"content": image_pb2.Image()}, "content.data"),
        ({"content": image_pb2.Image(data=b"not a picture")}, "content"),
    ],
)
async def test_bad_requests_are_refused_before_the_stylizer_works(
    world: World, kind: str, fields: dict, field: str
) -> None:
    call, request, _ = CALLS[kind]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(world, request(**fields))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    detail = error_details_pb2.BadRequest()
    assert rpc_status.from_call(caught.value).details[0].Unpack(detail)
    assert detail.field_violations[0].field == field
    assert world.count("dpst_jobs_total", outcome="refused") == 1


async def test_bad_output_options_are_refused_before_the_stylizer_works(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"output\.quality: got 0"):
        await events(world, render(output=image_pb2.OutputOptions(quality=0)))


@pytest.mark.parametrize("kind", CALLS)
async def test_a_refusal_of_the_stylizer_arrives_unchanged(world: World, kind: str) -> None:
    call, request, _ = CALLS[kind]
    world.stylizer.replies = [errors.FailedPrecondition("look.version", 9, "this service reads version 1")]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(world, request())
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "look.version: got 9, this service reads version 1"
    assert world.count("dpst_jobs_total", outcome="refused") == 1


@pytest.mark.parametrize("kind", CALLS)
async def test_a_stylizer_that_is_away_is_named(world: World, kind: str) -> None:
    call, request, _ = CALLS[kind]
    await world.stop_stylizer()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(world, request())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "the stylizer service cannot be reached"
    assert world.count("dpst_jobs_total", outcome="failed") == 1


async def test_a_rendering_without_a_result_is_an_internal_error(world: World) -> None:
    world.stylizer.replies = [rendered()[:2]]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events(world, render())
    assert caught.value.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("kind", CALLS)
async def test_cancel_reaches_the_stylizer(world: World, kind: str) -> None:
    world.stylizer.replies = [[rendered()[0], forever] if kind == "render" else forever]
    call = world.stub.RenderLook(render()) if kind == "render" else world.stub.ExportLook(export())
    if kind == "render":
        await call.read()
    await eventually(lambda: bool(world.stylizer.requests) and not world.stylizer.replies)
    call.cancel()
    await eventually(lambda: world.stylizer.cancelled == 1)
    await eventually(lambda: world.count("dpst_jobs_total", outcome="cancelled") == 1)
    assert world.count("dpst_inflight") == 0


@pytest.mark.parametrize("kind", CALLS)
async def test_deadline_request_id_and_metrics(world: World, kind: str) -> None:
    call, request, reply = CALLS[kind]
    world.stylizer.replies = [reply()]
    await call(world, request(), timeout=9, metadata=(("x-request-id", "burst-3"),))
    (timeout,) = world.stylizer.timeouts
    assert timeout is not None
    assert 4 < timeout < 8.9, "what remains of the caller's nine seconds"
    assert world.stylizer.request_ids == ["burst-3"]
    assert world.count("dpst_jobs_total", outcome="done") == 1
    assert world.count("dpst_inflight") == 0
    assert world.count("dpst_stage_duration_seconds_count", stage="end_to_end") == 1
