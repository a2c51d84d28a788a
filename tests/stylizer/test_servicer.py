"""The stylizer as a process: the whole stream, rendering a look, cancel, queue, a killed worker, errors, metrics."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import grpc
import grpc.aio
import numpy as np
import pytest
from dpst.v1 import image_pb2, labels_pb2, look_pb2, params_pb2, report_pb2, stylizer_pb2, stylizer_pb2_grpc
from PIL import Image

from services.common.errors import Shortage
from services.common.status import least_seconds_of, shortage_of, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.stylizer.conftest import Stylizer

    Stub = stylizer_pb2_grpc.StylizerAsyncStub
    Request = stylizer_pb2.StylizeRequest


def photo(width: int, height: int, seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (height // 16, width // 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def request(solve_edge: int = 96, evaluations: int = 6, **params: object) -> stylizer_pb2.StylizeRequest:
    return stylizer_pb2.StylizeRequest(
        content=image_pb2.Image(data=photo(320, 240, 1)),
        style=image_pb2.Image(data=photo(240, 320, 2)),
        params=params_pb2.TransferParams(solve_edge_px=solve_edge, max_evaluations=evaluations, **params),  # type: ignore[arg-type]
    )


LONG = request(solve_edge=512, evaluations=1000)


@pytest.fixture
async def stub(stylizer: Stylizer) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(stylizer.grpc) as channel:
        yield stylizer_pb2_grpc.StylizerStub(channel)  # type: ignore[misc]


async def finished(stub: Stub, message: Request) -> tuple[list[stylizer_pb2.StylizeResponse], bytes]:
    events = [event async for event in stub.Stylize(message)]
    return events, b"".join(event.chunk.data for event in events)


async def computing(stub: Stub) -> grpc.aio.UnaryStreamCall:
    """A long call whose solve has begun."""
    call = stub.Stylize(LONG)
    async for event in call:
        if event.HasField("iteration"):
            break
    return call


async def test_stream_is_complete_and_in_order(stub: Stub) -> None:
    events, picture = await finished(stub, request(preview_every=2))
    kinds = [event.WhichOneof("event") for event in events]
    stages = [report_pb2.Stage.Name(event.stage.stage) for event in events if event.HasField("stage")]
    assert stages == [f"STAGE_{name}" for name in ("DECODE", "WARM_START", "SOLVE", "SCORE", "RENDER", "ENCODE")]
    assert kinds[-1] == "done"
    assert kinds.index("chunk") > max(index for index, kind in enumerate(kinds) if kind == "iteration")
    with Image.open(io.BytesIO(picture)) as image:
        assert (image.format, image.size) == ("PNG", (320, 240))
    iterations = [event.iteration for event in events if event.HasField("iteration")]
    assert [i.evaluation for i in iterations] == list(range(1, len(iterations) + 1))
    assert [bool(i.preview_jpeg) for i in iterations] == [n in (1, 2, 4, 6) for n in range(1, len(iterations) + 1)]
    report = events[-1].done.report
    assert report.features_model.built_in
    assert "the package's own" in report.notes[0]
    assert report.evaluations == len(iterations) <= 6
    assert report.quality.style_relative < 1
    assert report.params.content_weight == 5
    assert {report_pb2.Stage.Name(entry.stage) for entry in report.stages} == set(stages)
    assert (report.result.width_px, report.result.height_px) == (320, 240)
    assert report.peak_memory_bytes > 50_000_000


async def test_look_renders_the_same_picture_and_strength_zero_the_photo(
    stub: Stub,
) -> None:
    message = request()
    events, picture = await finished(stub, message)
    look = events[-1].done.look
    again = [e async for e in stub.Render(stylizer_pb2.RenderRequest(look=look, content=message.content))]
    assert b"".join(event.chunk.data for event in again) == picture
    assert again[-1].done.result.width_px == 320
    zero = stylizer_pb2.RenderRequest(look=look, content=message.content, strength=0)
    untouched = b"".join([event.chunk.data async for event in stub.Render(zero)])
    with Image.open(io.BytesIO(untouched)) as one, Image.open(io.BytesIO(message.content.data)) as other:
        assert one.tobytes() == other.tobytes()
    wide = stylizer_pb2.RenderRequest(look=look, content=image_pb2.Image(data=photo(320, 96, 1)))
    with pytest.raises(grpc.aio.AioRpcError, match="aspect ratio") as caught:
        _ = [event async for event in stub.Render(wide)]
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_garbage_look_is_refused(stub: Stub) -> None:
    content, look = image_pb2.Image(data=photo(320, 240, 1)), look_pb2.Look(data=b"garbage")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [event async for event in stub.Render(stylizer_pb2.RenderRequest(look=look, content=content))]
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError, match=r"look\.data") as caught:
        await stub.ExportLook(stylizer_pb2.StylizerExportLookRequest(look=look, content=content))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_look_becomes_lookup_tables_and_a_cancelled_export_stops(stub: Stub, stylizer: Stylizer) -> None:
    message = request()
    events, _ = await finished(stub, message)
    wanted = stylizer_pb2.StylizerExportLookRequest(look=events[-1].done.look, content=message.content, points=17)
    exported = await stub.ExportLook(wanted)
    (lut,) = exported.luts
    assert (lut.label, lut.points, lut.area_share) == ("", 17, 1.0)
    assert b"LUT_3D_SIZE 17\n" in lut.cube
    assert 0 < lut.fit_error.mean < lut.fit_error.p95 < lut.fit_error.max
    assert {report_pb2.Stage.Name(stage.stage) for stage in exported.stages} == {"STAGE_DECODE", "STAGE_EXPORT"}

    wanted.points = 65
    call = stub.ExportLook(wanted)
    async with asyncio.timeout(60):
        while (await scraped(stylizer))["dpst_inflight"] == 0:  # noqa: ASYNC110 - happens in another process
            await asyncio.sleep(0.02)
        call.cancel()
        while not export_was_cancelled(stylizer.log.read_text()):  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.05)
    events, _ = await finished(stub, request(evaluations=1))
    assert events[-1].HasField("done")


def export_was_cancelled(log: str) -> bool:
    entries = [json.loads(line) for line in log.splitlines() if line.endswith("}")]
    return any((entry.get("job"), entry.get("outcome")) == ("ExportJob", "cancelled") for entry in entries)


async def test_rendering_waits_its_turn_and_says_so(stub: Stub) -> None:
    message = request(evaluations=1)
    events, _ = await finished(stub, message)
    solve = stub.Stylize(LONG)
    async for event in solve:
        if event.HasField("iteration"):
            break
    replies = aiter(stub.Render(stylizer_pb2.RenderRequest(look=events[-1].done.look, content=message.content)))
    assert (await anext(replies)).queued.position == 1
    solve.cancel()
    kinds = [event.WhichOneof("event") async for event in replies]
    assert kinds == ["chunk", "done"]


async def test_cancelled_solve_frees_its_slot_within_an_evaluation(stub: Stub) -> None:
    call = stub.Stylize(LONG)
    async for event in call:
        if event.HasField("iteration") and event.iteration.evaluation >= 2:
            evaluation_seconds = event.iteration.elapsed_seconds / event.iteration.evaluation
            break
    call.cancel()
    began = time.monotonic()
    events, _ = await finished(stub, request(evaluations=1))
    assert events[-1].HasField("done")
    assert time.monotonic() - began < 5 + 2 * evaluation_seconds  # the solve it replaced would take minutes


async def test_second_caller_queues_and_third_is_refused(stub: Stub) -> None:
    first = stub.Stylize(LONG)
    async for event in first:
        if event.HasField("iteration"):
            break
    second = stub.Stylize(request(evaluations=1))
    replies = aiter(second)
    queued = await anext(replies)
    assert queued.queued.position == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await finished(stub, request())
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert any(key == "grpc-retry-pushback-ms" for key, _ in caught.value.trailing_metadata() or ())
    first.cancel()
    last = [event async for event in replies][-1]
    assert last.HasField("done")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_a_job_goes_on_when_its_worker_is_lost(stub: Stub, stylizer: Stylizer, number: signal.Signals) -> None:
    events = aiter(stub.Stylize(request(solve_edge=256, evaluations=100)))
    async for event in events:
        if event.HasField("checkpoint"):
            break
    os.kill(worker_of(stylizer.process.pid), number)
    rest = [event async for event in events]
    kept = [event.checkpoint for event in [event, *rest] if event.HasField("checkpoint")]
    done = [event.iteration.evaluation for event in rest if event.HasField("iteration")]
    restart = next(at for at, event in enumerate(rest) if event.HasField("stage"))
    before = sum(event.HasField("iteration") for event in rest[:restart])
    assert done[before] - 1 in [checkpoint.evaluations for checkpoint in kept]
    chunks = [event.chunk for event in rest if event.HasField("chunk")]
    assert [chunk.offset_bytes for chunk in chunks][:1] == [0]
    assert sum(len(chunk.data) for chunk in chunks) == chunks[0].total_bytes
    assert rest[-1].done.report.evaluations == done[-1]


async def test_a_job_that_loses_two_workers_is_unavailable(stub: Stub, stylizer: Stylizer) -> None:
    call = stub.Stylize(LONG)
    events = aiter(call)
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012 - it fails at one of these steps
        for _ in range(2):
            async for event in events:
                if event.HasField("iteration"):
                    break
            os.kill(worker_of(stylizer.process.pid), signal.SIGKILL)
        async for _ in events:
            pass
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert any(key == "grpc-retry-pushback-ms" for key, _ in caught.value.trailing_metadata() or ())
    assert not await stylizer.is_serving()
    await stylizer.wait_ready()
    events_of_another, _ = await finished(stub, request(evaluations=1))
    assert events_of_another[-1].HasField("done")


async def test_a_broken_stream_is_resumed_from_its_checkpoint(stub: Stub) -> None:
    message = request(solve_edge=256, evaluations=100)
    call = stub.Stylize(message)
    async for event in call:
        if event.HasField("checkpoint"):
            message.checkpoint.CopyFrom(event.checkpoint)
            break
    call.cancel()
    events, _ = await finished(stub, message)
    first = next(event.iteration for event in events if event.HasField("iteration"))
    assert first.evaluation == message.checkpoint.evaluations + 1 > 1
    message.params.content_weight = 6
    with pytest.raises(grpc.aio.AioRpcError, match="checkpoint: got one of another request") as caught:
        await finished(stub, message)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    message.checkpoint.data = message.checkpoint.data[:-9]
    with pytest.raises(grpc.aio.AioRpcError, match=r"checkpoint\.data") as caught:
        await finished(stub, message)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(stub: Stub) -> None:
    await finished(stub, request())  # so that the stylizer knows how fast it is
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError, match="the deadline cannot be met") as caught:
        _ = [event async for event in stub.Stylize(LONG, timeout=30)]
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 2


async def test_a_queue_that_is_too_long_for_the_deadline_refuses_at_once(stub: Stub) -> None:
    await finished(stub, request())
    busy = await computing(stub)
    waiting = stub.Stylize(request(solve_edge=256, evaluations=30))
    assert (await anext(aiter(waiting))).HasField("queued")
    hasty = request()
    hasty.priority = params_pb2.PRIORITY_LOW
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [event async for event in stub.Stylize(hasty, timeout=1.5)]
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    waiting.cancel()
    busy.cancel()


async def test_a_refusal_for_want_of_time_says_how_much_the_least_photo_needs(stub: Stub) -> None:
    await finished(stub, request())
    busy = await computing(stub)
    asked = stylizer_pb2.CheckRoomRequest(width_px=1280, height_px=960, params=request().params)
    least = 0.0
    for asked.remaining_seconds in np.arange(0.05, 60.0, 0.05):  # past what it takes itself, to where the wait counts
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CheckRoom(asked)
        if caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert shortage_of(status_of(caught.value)) is Shortage.TIME
            least = least_seconds_of(status_of(caught.value))
            break
    asked.width_px = asked.height_px = 1
    for asked.remaining_seconds in (0.5 * least, least - 0.001):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.CheckRoom(asked)
    asked.remaining_seconds = least + 0.5
    await stub.CheckRoom(asked)
    busy.cancel()


async def test_room_is_kept_for_those_who_asked_and_not_for_long(stub: Stub) -> None:
    asked = stylizer_pb2.CheckRoomRequest(width_px=320, height_px=240, params=request().params)
    await finished(stub, request())
    busy = await computing(stub)
    await stub.CheckRoom(asked)
    with pytest.raises(grpc.aio.AioRpcError, match="the queue is full: 1 requests") as caught:
        await stub.CheckRoom(asked)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert least_seconds_of(status_of(caught.value)) == math.inf
    waiting = stub.Stylize(request())
    assert (await anext(aiter(waiting))).HasField("queued")
    waiting.cancel()
    async with asyncio.timeout(5):
        while True:
            try:
                await stub.CheckRoom(asked)
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
    with pytest.raises(grpc.aio.AioRpcError, match="the queue is full"):
        await stub.CheckRoom(asked)
    await asyncio.sleep(5.1)  # the one who was told that there is room never came
    await stub.CheckRoom(asked)
    busy.cancel()


async def test_what_would_be_refused_is_refused_when_it_asks(stub: Stub) -> None:
    await finished(stub, request())
    for fields, code, says in (
        ({"priority": 9}, grpc.StatusCode.INVALID_ARGUMENT, "priority: got 9"),
        ({"params": {"strength": 3}}, grpc.StatusCode.INVALID_ARGUMENT, r"params\.strength: got 3"),
        ({"params": {"features": "none-such"}}, grpc.StatusCode.NOT_FOUND, "no model 'none-such'"),
        ({"remaining_seconds": 0.001}, grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline cannot be met"),
        ({"width_px": 60_000, "height_px": 60_000}, grpc.StatusCode.RESOURCE_EXHAUSTED, "MiB of memory"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
            await stub.CheckRoom(stylizer_pb2.CheckRoomRequest(**fields))  # type: ignore[arg-type]
        assert caught.value.code() == code
    await stub.CheckRoom(stylizer_pb2.CheckRoomRequest(width_px=320, height_px=240, remaining_seconds=600))


async def test_best_effort_gives_the_best_picture_within_the_deadline(stub: Stub) -> None:
    await finished(stub, request())
    message = request(solve_edge=512, evaluations=1000)
    message.best_effort = True
    began = time.monotonic()
    events = [event async for event in stub.Stylize(message, timeout=12)]
    assert time.monotonic() - began < 12
    report = events[-1].done.report
    assert report.partial
    assert report.stopped_by == "time_budget"
    assert report.quality.style_relative < 1


async def test_an_unknown_priority_is_named(stub: Stub) -> None:
    message = request()
    message.priority = 9  # type: ignore[assignment]
    with pytest.raises(grpc.aio.AioRpcError, match="priority: got 9") as caught:
        await finished(stub, message)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def worker_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (worker,) = (int(c) for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text())
    return worker


async def test_bad_input_is_named_in_the_status(stub: Stub) -> None:
    bad = request(strength=3)
    with pytest.raises(grpc.aio.AioRpcError, match=r"params\.strength: got 3") as caught:
        await finished(stub, bad)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    truncated = request()
    truncated.content.data = truncated.content.data[:-2000]
    with pytest.raises(grpc.aio.AioRpcError, match="content") as caught:
        await finished(stub, truncated)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_label_only_one_side_has(stub: Stub) -> None:
    def label_map(*names: str) -> labels_pb2.LabelMap:
        width, height = (32, 24) if names[0] == "sky" else (24, 32)
        indices = np.zeros((height, width), np.uint8)
        indices[height // 2 :] = 1
        file = io.BytesIO()
        Image.fromarray(indices).save(file, "PNG")
        return labels_pb2.LabelMap(
            png=file.getvalue(), labels=[labels_pb2.Label(index=i, name=n) for i, n in enumerate(names)]
        )

    message = request(evaluations=2)
    message.content_labels.CopyFrom(label_map("sky", "spaceship"))
    message.style_labels.CopyFrom(label_map("road", "sky"))
    events, _ = await finished(stub, message)
    kinds = {m.content_label: labels_pb2.MatchKind.Name(m.kind) for m in events[-1].done.report.label_matches}
    assert kinds == {"sky": "MATCH_KIND_SAME", "spaceship": "MATCH_KIND_GLOBAL"}
    message.params.label_policy = labels_pb2.LABEL_POLICY_REJECT
    with pytest.raises(grpc.aio.AioRpcError, match="spaceship") as caught:
        await finished(stub, message)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_unknown_feature_network_is_not_found(stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="resnet") as caught:
        await finished(stub, request(features="resnet"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def scraped(stylizer: Stylizer) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{stylizer.http}/metrics") as reply:
        lines = [line.rsplit(" ", 1) for line in (await reply.text()).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


async def test_metrics_move(stub: Stub, stylizer: Stylizer) -> None:
    before = await scraped(stylizer)
    events, _ = await finished(stub, request(evaluations=4))
    after = await scraped(stylizer)
    evaluations = events[-1].done.report.evaluations
    assert after["dpst_evaluations_total"] - before["dpst_evaluations_total"] == evaluations
    solve = 'dpst_stage_duration_seconds_count{stage="solve"}'
    assert after[solve] - before[solve] == 1
    assert after["dpst_inflight"] == 0
    assert after["dpst_queue_depth"] == 0
    assert any(name.startswith("dpst_model_info") and "vgg19-student" in name for name in after)
    assert after['dpst_device_memory_bytes{kind="workers_resident"}'] > 1 << 27
    assert after['dpst_device_memory_bytes{kind="card_allocated"}'] == 0, "it computes without a card"


async def test_health_answers_while_a_solve_runs(stub: Stub, stylizer: Stylizer) -> None:
    call = stub.Stylize(LONG)
    async for event in call:
        if event.HasField("iteration"):
            break
    answers = [await asyncio.wait_for(stylizer.is_serving(), 5) for _ in range(10)]
    call.cancel()
    assert all(answers)
