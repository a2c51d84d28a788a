"""The Segmentation RPCs through a real server."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from dpst.v1 import image_pb2, segmentation_pb2, segmentation_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from services.common.config import SegmentationSettings
from services.common.metrics import Metrics
from services.common.server import bind, make_server
from services.segmentation.service import SegmentationService

Stub = Any
Segment = segmentation_pb2.SegmentRequest


def photo(width: int = 300, height: int = 200, kind: str = "PNG", **options: Any) -> bytes:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, :, 2] = 255
    pixels[height // 2 :, :, 1] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def request(data: bytes, **fields: Any) -> segmentation_pb2.SegmentRequest:
    return Segment(image=image_pb2.Image(data=data), **fields)


class Running:
    """A server around the service; ``start`` warms it up."""

    def __init__(self, settings: SegmentationSettings) -> None:
        self.metrics = Metrics()
        self.service = SegmentationService(settings, self.metrics)
        self.server = make_server(settings, self.metrics)
        self.service.register(self.server)
        self.serving: list[bool] = []
        self.port = bind(self.server, "127.0.0.1", 0)

    async def start(self) -> None:
        async def serving(able: bool) -> None:
            self.serving.append(able)

        await self.service.start(serving)

    def value(self, name: str, /, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
async def launch() -> AsyncIterator[Callable[..., Any]]:
    open_: list[tuple[Running, grpc.aio.Channel]] = []

    async def launch_(models_dir: Path | None = None, **settings: Any) -> tuple[Running, Stub]:
        running = Running(SegmentationSettings(models_dir=models_dir, device="cpu", threads=1, **settings))
        await running.server.start()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{running.port}")
        open_.append((running, channel))
        return running, segmentation_pb2_grpc.SegmentationStub(channel)

    yield launch_
    for running, channel in open_:
        await channel.close()
        await running.server.stop(None)
        await running.service.stop()


async def test_not_able_to_work_before_the_dry_pass(launch: Any, tiny_models_dir: Path) -> None:
    running, stub = await launch(tiny_models_dir)
    for call in (stub.Segment(request(photo())), stub.ListModels(segmentation_pb2.ListModelsRequest())):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert running.serving == []
    await running.start()
    assert running.serving == [True]
    await stub.Segment(request(photo()))


async def test_segment(launch: Any, tiny_models_dir: Path) -> None:
    running, stub = await launch(tiny_models_dir)
    await running.start()
    reply = await stub.Segment(request(photo(), soft_masks=True, map_edge_px=150))
    assert {label.name: round(label.area_share, 1) for label in reply.label_map.labels} == {"sky": 0.5, "tree": 0.5}
    assert Image.open(io.BytesIO(reply.label_map.png)).size == (150, 100)
    assert (reply.model.name, reply.model.version, reply.model.device) == ("tiny", "1", "cpu")
    assert not reply.model.built_in
    assert reply.inference_seconds > 0
    assert [mask.label for mask in reply.soft_masks] == list(reply.label_map.labels)
    total = sum(np.asarray(Image.open(io.BytesIO(mask.png))).astype(int) for mask in reply.soft_masks)
    assert np.abs(total - 255).max() <= 1
    for stage in ("decode", "segment"):
        assert running.value("dpst_stage_duration_seconds_count", stage=stage) == 1
    assert running.value("dpst_model_info", name="tiny", version="1", device="cpu") == 1


async def test_map_is_as_large_as_the_upright_photo_by_default(launch: Any, tiny_models_dir: Path) -> None:
    running, stub = await launch(tiny_models_dir)
    await running.start()
    exif = Image.Exif()
    exif[0x0112] = 6
    for model in ("", "builtin"):
        reply = await stub.Segment(request(photo(kind="JPEG", exif=exif), model=model))
        assert Image.open(io.BytesIO(reply.label_map.png)).size == (200, 300)
        assert not reply.soft_masks


async def test_without_a_network_the_photo_is_one_region(launch: Any) -> None:
    running, stub = await launch()
    await running.start()
    reply = await stub.Segment(request(photo(), soft_masks=True))
    assert [(label.index, label.name, label.area_share) for label in reply.label_map.labels] == [(0, "all", 1.0)]
    assert (reply.model.name, reply.model.built_in) == ("single-region", True)
    assert "no segmentation network" in reply.model.description
    assert len(reply.soft_masks) == 1
    (model,) = (await stub.ListModels(segmentation_pb2.ListModelsRequest())).models
    assert model.is_default
    assert model.model == reply.model


async def test_models_are_listed_and_chosen(launch: Any, tiny_models_dir: Path) -> None:
    running, stub = await launch(tiny_models_dir, segmentation_model="tiny/1")
    await running.start()
    network, built_in = (await stub.ListModels(segmentation_pb2.ListModelsRequest())).models
    assert (network.model.name, network.is_default, network.input_edge_px) == ("tiny", True, 129)
    assert list(network.labels) == ["sky", "building", "tree", "object"]
    assert (network.licence, network.execution_provider) == ("Apache-2.0", "CPUExecutionProvider")
    assert (built_in.model.name, built_in.is_default) == ("single-region", False)
    for name, used in (("tiny", "tiny"), ("tiny/1", "tiny"), ("single-region", "single-region")):
        assert (await stub.Segment(request(photo(), model=name))).model.name == used
    with pytest.raises(grpc.aio.AioRpcError, match="'tiny/2' is unknown; this process holds tiny, tiny/1") as caught:
        await stub.Segment(request(photo(), model="tiny/2"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def truncated() -> bytes:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8))
    stream = io.BytesIO()
    noise.save(stream, "JPEG")
    return stream.getvalue()[:9000]


@pytest.mark.parametrize("model", ["", "builtin"])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "image.data: got nothing"),
        (b"GIF89a" + bytes(90), "a GIF file"),
        (b"no image", "no known image"),
        (truncated(), "a damaged jpeg file"),
        (photo(1, 1), "1x1 px, each edge must be at least 32 px"),
    ],
)
async def test_bad_photos(launch: Any, tiny_models_dir: Path, model: str, data: bytes, says: str) -> None:
    running, stub = await launch(tiny_models_dir)
    await running.start()
    with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
        await stub.Segment(request(data, model=model))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)
    assert status is not None
    details = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(details)
    assert details.field_violations[0].field == "image.data"


async def test_refs_and_addresses(launch: Any) -> None:
    running, stub = await launch()
    await running.start()
    for image, code in (
        (image_pb2.Image(ref="ab"), grpc.StatusCode.NOT_FOUND),
        (image_pb2.Image(uri="http://localhost"), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Segment(Segment(image=image))
        assert caught.value.code() is code
