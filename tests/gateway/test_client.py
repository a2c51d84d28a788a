"""``dpst_client`` against a gateway with fakes behind it: results, progress, tries, cancelling, errors."""

from __future__ import annotations

import asyncio
import hashlib
import io
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import grpc
import numpy as np
import pytest
from dpst.v1 import (
    image_pb2,
    look_pb2,
    params_pb2,
    photo_style_pb2,
    photo_style_pb2_grpc,
    progress_pb2,
    report_pb2,
    uploads_pb2,
)
from dpst_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    NotAllowed,
    Overloaded,
    Progress,
    TransferFailed,
    Unavailable,
    Uploaded,
)
from PIL import Image as PillowImage

from services.common import errors
from services.common.config import ProcessSettings
from services.common.keys import new_key
from services.common.metrics import Metrics
from services.common.server import bind, make_server
from tests.gateway.fakes import World, eventually, exported, forever, labels, photo, rendered, segmented, solved

LOOK = look_pb2.Look(data=b"a look", version=2)


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(world.address) as client:
        yield client


def ready(world: World, transfers: int = 1) -> None:
    world.segmentation.replies += [segmented()] * (2 * transfers)


async def test_a_transfer_from_files_and_bytes(world: World, client: AsyncClient, tmp_path: Path) -> None:
    ready(world)
    world.stylizer.replies = [solved(b"0123456789")]
    file, steps = tmp_path / "style.png", list[Progress]()
    file.write_bytes(photo())
    result = await client.transfer(
        photo(),
        file,
        quality="high",
        strength=0.5,
        label_strengths={"sky": 0.25},
        priority="high",
        best_effort=True,
        request_id="holiday-7",
        output=image_pb2.OutputOptions(format=image_pb2.IMAGE_FORMAT_PNG),
        on_progress=steps.append,
    )
    assert result.picture == b"0123456789"
    assert (result.info.width_px, result.report.evaluations) == (48, 2)
    assert result.report.request_id == "holiday-7"
    assert result.look == solved()[-1].done.look
    (request,) = world.stylizer.requests
    assert (request.params.quality, request.params.strength) == (params_pb2.QUALITY_PRESET_HIGH, 0.5)
    assert dict(request.params.label_strengths) == {"sky": 0.25}
    assert (request.priority, request.best_effort) == (params_pb2.PRIORITY_HIGH, True)
    assert request.output.format == image_pb2.IMAGE_FORMAT_PNG
    assert steps[0].stage == "segment"
    assert [step.done for step in steps if step.stage == "solve" and step.done] == sorted(
        step.done for step in steps if step.done
    )
    assert any(step.preview_jpeg for step in steps)


async def test_labels_of_the_caller(world: World, client: AsyncClient) -> None:
    world.stylizer.replies = [solved()]
    await client.transfer(photo(), photo(), content_labels=labels(), style_labels=labels().png)
    (request,) = world.stylizer.requests
    assert request.content_labels == labels()
    assert request.style_labels.png == labels().png


async def test_renders_and_tables(world: World, client: AsyncClient) -> None:
    world.stylizer.replies = [rendered(b"picture"), exported("", "sky")]
    assert (await client.render(LOOK, photo(), strength=0.3, preserve="luminance")).picture == b"picture"
    tables = await client.export_look(LOOK, photo(), points=17, per_label=True)
    assert [lut.label for lut in tables.luts] == ["", "sky"]
    render, export = world.stylizer.requests
    assert (render.strength, render.preserve) == (0.3, params_pb2.PRESERVE_LUMINANCE)
    assert (export.points, export.per_label) == (17, True)


async def test_a_full_server_is_tried_again_when_it_says(world: World, client: AsyncClient) -> None:
    ready(world, 2)
    full = errors.ResourceExhausted("the queue is full", 0.3, errors.Shortage.QUEUE)
    world.stylizer.replies = [full, full, solved(b"at last")]
    assert (await client.transfer(photo(), photo())).picture == b"at last"


async def test_tries_end_with_their_number_or_the_timeout(world: World) -> None:
    world.room.replies = [errors.ResourceExhausted("the queue is full", 60, errors.Shortage.QUEUE)] * 4
    async with AsyncClient(world.address, retries=0) as client:
        with pytest.raises(Overloaded, match="queue is full") as caught:
            await client.transfer(photo(), photo())
    assert 59 < caught.value.retry_after_seconds <= 60
    assert caught.value.request_id
    async with AsyncClient(world.address) as client:
        with pytest.raises(Overloaded):  # a minute's pause would end after the timeout: no sense in waiting
            await client.transfer(photo(), photo(), timeout=5)


async def test_a_broken_stream_begins_anew(world: World, client: AsyncClient) -> None:
    ready(world, 2)
    begun = [event for event in solved(b"half a picture") if not event.HasField("done")]
    world.stylizer.replies = [[*begun, errors.Unavailable("the stylizer's worker died", 0.1)], solved(b"whole")]
    assert (await client.transfer(photo(), photo())).picture == b"whole"


async def test_leaving_cancels(world: World) -> None:
    world.segmentation.replies = [forever, forever]
    async with AsyncClient(world.address) as client:
        running = asyncio.create_task(client.transfer(photo(), photo()))
        await eventually(lambda: len(world.segmentation.requests) == 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await eventually(lambda: world.segmentation.cancelled == 2)


async def test_a_timeout_covers_everything(world: World, client: AsyncClient) -> None:
    world.segmentation.replies = [forever, forever]
    with pytest.raises(DeadlineExceeded):
        await client.transfer(photo(), photo(), timeout=0.5)


async def test_what_is_wrong_is_named(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest, match="content: got") as caught:
        await client.transfer(b"no photo", photo())
    assert caught.value.field == "content"
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(ValueError, match="qualty: no such parameter; there are affine_weight"):
        await client.transfer(photo(), photo(), qualty="high")
    with pytest.raises(ValueError, match="quality: got 'best', must be one of draft, standard, high"):
        await client.transfer(photo(), photo(), quality="best")
    with pytest.raises(FileNotFoundError):
        await client.transfer("/nowhere.jpg", photo())


async def test_every_code_is_one_of_ours(world: World, client: AsyncClient) -> None:
    cases = [
        (errors.NotFound("no such model"), InvalidRequest),
        (errors.Unauthenticated("the gateway's own key is wrong"), TransferFailed),
        (RuntimeError("boom"), TransferFailed),
    ]
    for error, kind in cases:
        world.stylizer.replies = [error]
        with pytest.raises(kind) as caught:
            await client.export_look(LOOK, photo())
        assert isinstance(caught.value, TransferFailed)


async def test_a_key_is_shown_to_the_server(tmp_path: Path) -> None:
    (token, entry), keys = new_key("photo-backend"), tmp_path / "keys.toml"
    keys.write_text(entry)
    server = make_server(ProcessSettings(api_keys_file=keys), Metrics())
    photo_style_pb2_grpc.add_PhotoStyleServicer_to_server(photo_style_pb2_grpc.PhotoStyleServicer(), server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1', 0)}"
    await server.start()
    for wrong in (None, "dpst_guess"):
        async with AsyncClient(address, token=wrong) as client:
            with pytest.raises(NotAllowed):
                await client.export_look(LOOK, photo())
    async with AsyncClient(address, token=token) as client:
        with pytest.raises(TransferFailed) as caught:
            await client.export_look(LOOK, photo())
    assert not isinstance(caught.value, NotAllowed)
    await server.stop(None)


def noisy() -> bytes:
    """A PNG of more than a megabyte, the least that is allowed for a message."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (650, 650, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


async def test_photos_that_fit_into_no_message_are_uploaded(world: World) -> None:
    ready(world, 3)
    content = noisy()
    assert len(content) > 1 << 20
    full = errors.ResourceExhausted("the queue is full", 0.1, errors.Shortage.QUEUE)
    world.stylizer.replies = [full, full, solved(), solved(), rendered()]
    async with AsyncClient(world.address, max_message_bytes=1 << 20) as client:
        await client.transfer(content, photo())
        kept = await client.upload(content)
        assert kept == Uploaded(hashlib.sha256(content).hexdigest(), len(content))
        await client.transfer(kept, photo())
        await client.render(LOOK, content)
        assert await client.download(kept) == await client.download(kept.ref) == content
    assert [request.content.data for request in world.stylizer.requests] == [content] * 5
    with pytest.raises(ValueError, match="max_message_bytes"):
        AsyncClient(world.address, max_message_bytes=1000)


async def test_a_file_that_is_not_kept(client: AsyncClient) -> None:
    for call in (client.download("0" * 64), client.transfer(Uploaded("0" * 64, 5), photo())):
        with pytest.raises(InvalidRequest, match="upload the file again"):
            await call


async def test_a_broken_download_goes_on_where_it_broke() -> None:
    class Breaking(photo_style_pb2_grpc.PhotoStyleServicer):
        offsets: ClassVar[list[int]] = []

        async def DownloadImage(self, request, context):
            self.offsets.append(request.offset_bytes)
            data = b"0123456789"[request.offset_bytes :][:4]
            yield uploads_pb2.DownloadImageResponse(chunk=image_pb2.PictureChunk(data=data))
            if len(self.offsets) < 3:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    server = grpc.aio.server()
    photo_style_pb2_grpc.add_PhotoStyleServicer_to_server(Breaking(), server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1', 0)}"
    await server.start()
    async with AsyncClient(address) as client:
        assert await client.download("0" * 64) == b"0123456789"
    assert Breaking.offsets == [0, 4, 8]
    await server.stop(None)


async def test_a_submitted_transfer_is_watched_to_its_end(world: World, client: AsyncClient) -> None:
    ready(world, 1)
    world.stylizer.replies = [solved(b"kept for you")]
    name = await client.submit(photo(), photo(), request_id="mine", strength=0.5)
    assert await client.submit(photo(), photo(), request_id="mine", strength=0.5) == name
    steps: list[Progress] = []
    result = await client.watch(name, on_progress=steps.append)
    assert result.picture == b"kept for you"
    assert result.info.width_px == 48
    assert (result.report.request_id, result.report.evaluations) == ("mine", 2)
    assert [step.stage for step in steps if step.stage == "solve"]
    assert (await client.watch(name)).picture == b"kept for you"


async def test_a_submitted_transfer_fails_as_another_one_does_and_is_cancelled(
    world: World, client: AsyncClient
) -> None:
    ready(world, 1)
    world.stylizer.replies = [errors.InvalidArgument("params.strength", 7, "allowed: 0..1")]
    name = await client.submit(photo(), photo())
    with pytest.raises(InvalidRequest, match="allowed") as caught:
        await client.watch(name)
    assert caught.value.field == "params.strength"
    ready(world, 1)
    world.stylizer.replies = [[*solved()[:3], forever]]
    name = await client.submit(photo(), photo())
    await client.cancel(name)
    with pytest.raises(TransferFailed, match="was cancelled") as cancelled:
        await client.watch(name)
    assert cancelled.value.code is grpc.StatusCode.CANCELLED


async def test_a_broken_watch_goes_on_where_it_broke() -> None:
    class Breaking(photo_style_pb2_grpc.PhotoStyleServicer):
        wanted: ClassVar[list[int]] = []

        async def WatchTransfer(self, request, context):
            self.wanted.append(request.from_sequence)
            first = max(1, request.from_sequence)
            event = photo_style_pb2.TransferStreamResponse
            for number in (first, first + 1):
                stage = progress_pb2.StageStarted(stage=report_pb2.STAGE_SOLVE)
                yield photo_style_pb2.WatchTransferResponse(event=event(sequence=number, stage=stage))
            if len(self.wanted) < 3:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
            done = event(sequence=first + 2, done=progress_pb2.Done())
            yield photo_style_pb2.WatchTransferResponse(event=done, picture=image_pb2.Image(ref="a"))

        async def DownloadImage(self, request, context):
            yield uploads_pb2.DownloadImageResponse(chunk=image_pb2.PictureChunk(data=b"the picture"))

    server = grpc.aio.server()
    photo_style_pb2_grpc.add_PhotoStyleServicer_to_server(Breaking(), server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1', 0)}"
    await server.start()
    steps: list[Progress] = []
    async with AsyncClient(address) as client:
        assert (await client.watch("operations/x", on_progress=steps.append)).picture == b"the picture"
    assert Breaking.wanted == [0, 3, 5]
    assert len(steps) == 6
    await server.stop(None)


async def test_an_absent_server_is_unavailable() -> None:
    async with AsyncClient("127.0.0.1:1", retries=1) as client:
        with pytest.raises(Unavailable):
            await client.transfer(photo(), photo(), timeout=5)


async def test_the_client_for_threads_does_the_same(world: World) -> None:
    ready(world, 3)
    full = errors.ResourceExhausted("the queue is full", 0.1, errors.Shortage.QUEUE)
    world.stylizer.replies = [full, full, solved(b"picture"), rendered(b"again"), exported(""), solved(b"kept")]
    threads: list[str] = []

    def use() -> tuple[bytes, bytes, int]:
        def on_progress(step: Progress) -> None:
            threads.append(threading.current_thread().name)

        with Client(world.address) as client:
            assert client.download(client.upload(photo())) == photo()
            result = client.transfer(photo(), photo(), on_progress=on_progress)
            again = client.render(LOOK, photo())
            luts = client.export_look(LOOK, photo()).luts
            name = client.submit(photo(), photo())
            kept = client.watch(name, on_progress=on_progress)
            client.cancel(name)  # has ended: nothing happens
            assert kept.picture == b"kept"
            return result.picture, again.picture, len(luts)

    assert await asyncio.to_thread(use) == (b"picture", b"again", 1)
    assert len(set(threads)) == 1


def test_importing_it_loads_nothing_of_the_services() -> None:
    code = (
        "import sys, dpst_client\n"
        "heavy = {'torch', 'onnxruntime', 'scipy', 'pyvips', 'services', 'gateway'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
