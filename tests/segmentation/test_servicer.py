"""The Segmentation RPCs through a real server."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from dpst.v1 import image_pb2, labels_pb2, segmentation_pb2, segmentation_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from services.common.config import SegmentationSettings
from services.common.metrics import Metrics
from services.common.models import ModelError, embedded_models_dir
from services.common.server import bind, make_server
from services.common.taxonomy import COMMON_LABELS
from services.segmentation.network import Network
from services.segmentation.service import SegmentationService
from tests.segmentation.conftest import put_network

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


def noise(seed: int, width: int = 300, height: int = 200) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


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
    for stage in ("decode", "network", "segment", "encode"):
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


async def test_without_a_network_of_the_users_the_packages_own_is_used(launch: Any) -> None:
    running, stub = await launch()
    await running.start()
    reply = await stub.Segment(request(photo()))
    assert (reply.model.name, reply.model.built_in) == ("scene-student", True)
    listed = (await stub.ListModels(segmentation_pb2.ListModelsRequest())).models
    assert [(each.model.name, each.is_default) for each in listed] == [
        ("scene-student", True),
        ("single-region", False),
    ]
    assert list(listed[0].labels) == list(COMMON_LABELS)
    one = await stub.Segment(request(photo(), model="single-region"))
    assert (one.model.name, len(one.label_map.labels)) == ("single-region", 1)


def test_the_packages_network_is_small() -> None:
    (folder,) = (embedded_models_dir("segmentation") / "scene-student").iterdir()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000


async def test_without_a_network_the_photo_is_one_region(
    launch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.segmentation.registry.embedded_models_dir", lambda task: tmp_path / task)
    running, stub = await launch()
    await running.start()
    reply = await stub.Segment(request(photo(), soft_masks=True))
    assert [(label.index, label.name, label.area_share) for label in reply.label_map.labels] == [(0, "all", 1.0)]
    assert (reply.model.name, reply.model.built_in) == ("single-region", True)
    assert "one region" in reply.model.description
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
    for image in (image_pb2.Image(ref="ab"), image_pb2.Image(uri="http://localhost")):
        with pytest.raises(grpc.aio.AioRpcError, match="is for the gateway") as caught:
            await stub.Segment(Segment(image=image))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_several_models_are_listed_and_chosen(launch: Any, tmp_path: Path) -> None:
    put_network(tmp_path, licence="MIT")
    put_network(tmp_path, version="2")
    put_network(tmp_path, name="other", labels=["sky", "sky", "sky", "sky", "tree"])
    running, stub = await launch(tmp_path, segmentation_model="other, tiny/1,tiny/2")
    await running.start()
    listed = (await stub.ListModels(segmentation_pb2.ListModelsRequest())).models
    assert [(each.model.name, each.model.version, each.is_default) for each in listed] == [
        ("other", "1", True),
        ("tiny", "1", False),
        ("tiny", "2", False),
        ("single-region", "1", False),
    ]
    assert listed[1].licence == "MIT"
    for wanted, name, version in (("", "other", "1"), ("tiny", "tiny", "1"), ("tiny/2", "tiny", "2")):
        reply = await stub.Segment(request(photo(), model=wanted))
        assert (reply.model.name, reply.model.version, reply.cached) == (name, version, False)
    for name, version in (("other", "1"), ("tiny", "1"), ("tiny", "2")):
        assert running.value("dpst_model_info", name=name, version=version, device="cpu") == 1
    with pytest.raises(grpc.aio.AioRpcError, match="holds other, other/1, tiny, tiny/1, tiny/2, single-region"):
        await stub.Segment(request(photo(), model="third"))


@pytest.mark.parametrize(
    ("wanted", "says"),
    [("tiny,missing", "missing: no model there"), ("tiny,broken", "not finite numbers"), ("tiny,,", "an empty name")],
)
async def test_one_unusable_model_is_one_too_many(launch: Any, tmp_path: Path, wanted: str, says: str) -> None:
    put_network(tmp_path)
    put_network(tmp_path, name="broken", network={"then": "Log"})
    running, stub = await launch(tmp_path, segmentation_model=wanted)
    with pytest.raises(ModelError, match=says):
        await running.start()
    assert running.serving == []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Segment(request(photo()))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_reload_serves_the_new_or_keeps_the_old(launch: Any, tmp_path: Path) -> None:
    put_network(tmp_path)
    running, stub = await launch(tmp_path, segmentation_model="tiny")
    await running.start()
    before = await stub.Segment(request(photo()))
    for damage in ({"network": {"then": "Log"}}, {"data": b"no network"}, {"labels": ["sky"]}):
        put_network(tmp_path, version="2", **damage)
        assert not await running.service.reload()
        assert (await stub.Segment(request(noise(1)))).model.version == "1"
    put_network(tmp_path, version="2")
    (tmp_path / "tiny/2/model.onnx").write_bytes(b"half a fi")  # its checksum is wrong now
    assert not await running.service.reload()

    put_network(tmp_path, version="2", labels=["others", "building", "grass", "sky", "skyscraper"])
    assert await running.service.reload()
    after = await stub.Segment(request(photo()))
    assert (before.model.version, after.model.version, after.cached) == ("1", "2", False)
    assert {label.name for label in before.label_map.labels} == {"sky", "tree"}
    assert {label.name for label in after.label_map.labels} == {"sky", "grass"}
    assert running.value("dpst_model_info", name="tiny", version="1", device="cpu") is None
    assert running.value("dpst_model_info", name="tiny", version="2", device="cpu") == 1


async def test_a_reload_under_the_same_name_does_not_answer_from_the_cache(launch: Any, tmp_path: Path) -> None:
    put_network(tmp_path)
    running, stub = await launch(tmp_path)
    await running.start()
    await stub.Segment(request(photo()))
    assert await running.service.reload()
    assert (await stub.Segment(request(photo()))).cached  # nothing has changed
    put_network(tmp_path, labels=["others", "building", "grass", "sky", "skyscraper"])
    assert await running.service.reload()
    reply = await stub.Segment(request(photo()))
    assert not reply.cached
    assert {label.name for label in reply.label_map.labels} == {"sky", "grass"}


async def test_replies_are_kept_by_photo_model_and_options(launch: Any, tiny_models_dir: Path) -> None:
    running, stub = await launch(tiny_models_dir)
    await running.start()
    asked = (
        request(photo()),
        request(photo(), map_edge_px=100),
        request(photo(), soft_masks=True),
        request(photo(), model="builtin"),
        request(photo(302)),
    )
    first = [await stub.Segment(each) for each in asked]
    assert not any(reply.cached for reply in first)
    for each, computed in zip(asked, first, strict=True):
        again = await stub.Segment(each)
        assert (again.cached, again.inference_seconds) == (True, 0.0)
        assert (again.label_map, again.soft_masks, again.model) == (
            computed.label_map,
            computed.soft_masks,
            computed.model,
        )
    assert (await stub.Segment(request(photo(), model="tiny/1"))).cached  # the same network under its other name
    assert running.value("dpst_cache_requests_total", cache="segmentation", result="miss") == 5
    assert running.value("dpst_cache_requests_total", cache="segmentation", result="hit") == 6
    assert (running.value("dpst_cache_bytes", cache="segmentation") or 0) > 5 * 1024


async def test_bad_photos_are_not_kept(launch: Any, tiny_models_dir: Path) -> None:
    running, stub = await launch(tiny_models_dir)
    await running.start()
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError, match="a damaged jpeg file"):
            await stub.Segment(request(truncated()))
    assert running.value("dpst_cache_requests_total", cache="segmentation", result="miss") == 2


class Gate:
    """Holds every network until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.sizes: list[int] = []
        run = Network.run

        def held(network: Network, photos: Any, done: Any) -> None:
            self.sizes.append(len(photos))
            self.reached.set()
            assert self.open.wait(20)
            run(network, photos, done)

        monkeypatch.setattr(Network, "run", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Any:
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - gauges change in other threads
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("max_batch_size", "sizes"), [(8, [1, 4]), (3, [1, 3, 1]), (1, [1] * 5)])
async def test_requests_share_runs(
    launch: Any, tiny_models_dir: Path, gate: Gate, max_batch_size: int, sizes: list[int]
) -> None:
    running, stub = await launch(tiny_models_dir, segmentation_max_batch_size=max_batch_size)
    await running.start()
    first = stub.Segment(request(noise(0)))
    await asyncio.to_thread(gate.reached.wait, 20)
    rest = [stub.Segment(request(noise(seed))) for seed in range(1, 5)]
    await until(lambda: running.value("dpst_stage_duration_seconds_count", stage="decode") == 5)
    gate.open.set()
    together = [await call for call in (first, *rest)]
    assert gate.sizes == sizes
    running.service._servicer._cache._kept.clear()
    for seed, reply in enumerate(together):
        assert (await stub.Segment(request(noise(seed)))).label_map == reply.label_map
    assert running.value("dpst_batch_size_sum") == 10


async def test_a_cancelled_request_frees_its_place_and_leaves_its_batch(
    launch: Any, tiny_models_dir: Path, gate: Gate
) -> None:
    running, stub = await launch(tiny_models_dir)
    await running.start()
    first = stub.Segment(request(noise(0)))
    await asyncio.to_thread(gate.reached.wait, 20)
    leaving, staying = (stub.Segment(request(noise(seed))) for seed in (1, 2))
    await until(lambda: running.value("dpst_stage_duration_seconds_count", stage="decode") == 3)
    leaving.cancel()
    await until(lambda: running.value("dpst_inflight") == 2)
    gate.open.set()
    await first
    await staying
    assert gate.sizes == [1, 1]
    await until(lambda: running.value("dpst_inflight") == 0)


async def test_equal_requests_are_computed_once_even_if_the_first_leaves(
    launch: Any, tiny_models_dir: Path, gate: Gate
) -> None:
    running, stub = await launch(tiny_models_dir)
    await running.start()
    first = stub.Segment(request(noise(0)))
    await asyncio.to_thread(gate.reached.wait, 20)
    second = stub.Segment(request(noise(0)))
    await until(lambda: running.value("dpst_cache_requests_total", cache="segmentation", result="shared") == 1)
    first.cancel()
    await until(lambda: first.done())
    gate.open.set()
    reply = await second
    assert not reply.cached
    assert reply.label_map.labels
    assert gate.sizes == [1]


async def test_too_many_photos_are_refused_with_a_time_to_return(
    launch: Any, tiny_models_dir: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.segmentation.service._QUEUE_LIMIT", 1)
    running, stub = await launch(tiny_models_dir, segmentation_max_batch_size=1)
    await running.start()
    places = 1 + 2 * 2
    calls = [stub.Segment(request(noise(seed))) for seed in range(places + 1)]
    await until(lambda: running.value("dpst_queue_depth") == 1)
    with pytest.raises(grpc.aio.AioRpcError, match="1 photos wait to be segmented already") as caught:
        await stub.Segment(request(noise(99)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("grpc-retry-pushback-ms", "2000") in [tuple(each) for each in caught.value.trailing_metadata() or ()]
    gate.open.set()
    for call in calls:
        await call


async def test_a_photo_on_which_the_network_gives_no_numbers(launch: Any, tmp_path: Path) -> None:
    put_network(tmp_path, network={"then": "Log"}, input={"scale": "x/255"})
    running, stub = await launch(tmp_path)
    run = Network.dry_pass
    try:
        Network.dry_pass = lambda _: None  # type: ignore[method-assign]  # it would have refused this one
        await running.start()
    finally:
        Network.dry_pass = run  # type: ignore[method-assign]
    with pytest.raises(
        grpc.aio.AioRpcError, match=r"tiny/1, which cannot be used on this photo: .*not finite"
    ) as caught:
        await stub.Segment(request(photo()))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_stopping_lets_running_batches_end(launch: Any, tiny_models_dir: Path, gate: Gate) -> None:
    running, stub = await launch(tiny_models_dir)
    await running.start()
    calls = [stub.Segment(request(noise(seed))) for seed in range(3)]
    await asyncio.to_thread(gate.reached.wait, 20)
    await until(lambda: running.value("dpst_stage_duration_seconds_count", stage="decode") == 3)
    stopping = asyncio.create_task(running.server.stop(20))
    await asyncio.sleep(0)
    gate.open.set()
    for call in calls:
        assert (await call).label_map.png
    await stopping


async def test_options_are_part_of_what_a_reply_is_kept_by(launch: Any, tiny_models_dir: Path) -> None:
    running, stub = await launch(tiny_models_dir)
    await running.start()
    options = labels_pb2.SegmentationOptions
    asked = (
        options(),
        options(refinement=labels_pb2.REFINEMENT_NONE),
        options(flip=True),
        options(scales=[1.0, 0.5]),
    )
    for each in asked:
        assert not (await stub.Segment(request(photo(), options=each))).cached
    for each in (*asked, options(refinement=labels_pb2.REFINEMENT_GUIDED), options(scales=[0.5, 1.0, 1.0])):
        assert (await stub.Segment(request(photo(), options=each))).cached
    with pytest.raises(grpc.aio.AioRpcError, match=r"options\.scales") as caught:
        await stub.Segment(request(photo(), options=options(scales=[9.0])))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_views_of_a_photo_share_a_run(launch: Any, tiny_models_dir: Path, gate: Gate) -> None:
    running, stub = await launch(tiny_models_dir)
    await running.start()
    gate.open.set()
    reply = await stub.Segment(request(photo(), options=labels_pb2.SegmentationOptions(flip=True)))
    assert gate.sizes == [2]
    assert {each.label for each in reply.verdicts} >= {"sky", "tree"}
