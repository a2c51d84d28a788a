"""The real stack with built-in models: photos in, a restyled photo out, and what happens when a process dies."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from dpst.v1 import image_pb2, params_pb2, photo_style_pb2, report_pb2
from dpst.v1.photo_style_pb2_grpc import PhotoStyleStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from gateway.cli import main
from gateway.stack import Stack, local_stack

# Small enough to be solved within seconds on two busy cores.
PARAMS = params_pb2.TransferParams(solve_edge_px=64, max_evaluations=3, preview_every=1)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def picture(seed: int, width: int = 120, height: int = 90) -> bytes:
    """A JPEG of smooth colours with some texture."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    pixels = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def transfer(**params: int) -> photo_style_pb2.Transfer:
    wanted = params_pb2.TransferParams()
    wanted.CopyFrom(PARAMS)
    wanted.MergeFrom(params_pb2.TransferParams(**params))
    return photo_style_pb2.Transfer(
        content=image_pb2.Image(data=picture(1)), style=image_pb2.Image(data=picture(2, 100, 70)), params=wanted
    )


def opened(data: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(data)) as image:
        return image.format, image.size


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use what is built in, whatever the environment of the tests names."""
    monkeypatch.delenv("DPST_MODELS_DIR", raising=False)


@pytest.fixture
def stack(tmp_path: Path, no_models: None) -> Iterator[Stack]:
    with local_stack(tmp_path, every={"device": "cpu"}) as running:
        yield running


def health(address: str, service: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


def scraped(stack: Stack, service: str) -> str:
    with urllib.request.urlopen(f"http://{stack.addresses[service].http}/metrics") as reply:
        return reply.read().decode()


async def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - happens in another process
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_photo_goes_round_and_a_dead_stylizer_is_noticed(stack: Stack) -> None:
    address = stack.addresses["gateway"].grpc
    for name, service in (
        ("segmentation", "dpst.v1.Segmentation"),
        ("stylizer", "dpst.v1.Stylizer"),
        ("gateway", "dpst.v1.PhotoStyle"),
    ):
        assert health(stack.addresses[name].grpc, service) == SERVING
    assert 'dpst_jobs_total{outcome="done"}' not in scraped(stack, "gateway")

    async with grpc.aio.insecure_channel(address) as channel:
        stub = PhotoStyleStub(channel)
        call = stub.TransferStream(photo_style_pb2.TransferStreamRequest(transfer=transfer()))
        events = [event async for event in call]
        assert events[0].HasField("accepted")
        assert any(event.iteration.preview_jpeg for event in events)
        report = events[-1].done.report
        result = Image.open(io.BytesIO(b"".join(event.chunk.data for event in events)))
        assert result.size == (120, 90)
        assert result.format == "JPEG"
        assert np.asarray(result).std() > 1
        assert report.features_model.built_in
        assert report.content_segmentation_model.built_in
        assert len(report.notes) >= 2
        assert report.label_matches
        stages = {stage.stage: stage.seconds for stage in report.stages}
        for stage in ("DECODE", "SEGMENT", "WARM_START", "SOLVE", "RENDER", "ENCODE", "END_TO_END"):
            assert report_pb2.Stage.Value(f"STAGE_{stage}") in stages, stage
        assert events[-1].done.look.data

        metrics = scraped(stack, "gateway")
        assert 'dpst_jobs_total{outcome="done"} 1.0' in metrics
        assert 'dpst_stage_duration_seconds_count{stage="end_to_end"} 1.0' in metrics
        assert 'dpst_stage_duration_seconds_count{stage="segment"} 1.0' in metrics
        assert 'dpst_stage_duration_seconds_count{stage="solve"} 1.0' in scraped(stack, "stylizer")
        assert "dpst_model_info{" in scraped(stack, "stylizer")

        call = stub.TransferStream(
            photo_style_pb2.TransferStreamRequest(transfer=transfer(max_evaluations=1000, solve_edge_px=256))
        )
        async for event in call:
            if event.HasField("iteration"):
                os.kill(stack.children["stylizer"].pid, signal.SIGKILL)
                break
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "stylizer" in caught.value.details()
    await eventually(lambda: health(address, "dpst.v1.PhotoStyle") == NOT_SERVING)
    assert health(address, "") == SERVING


@pytest.mark.slow
async def test_a_stylizer_that_is_told_to_stop_finishes_its_work(stack: Stack) -> None:
    stylizer = stack.children["stylizer"]
    async with grpc.aio.insecure_channel(stack.addresses["gateway"].grpc) as channel:
        request = photo_style_pb2.TransferStreamRequest(transfer=transfer(max_evaluations=8))
        kinds = []
        async for event in PhotoStyleStub(channel).TransferStream(request):
            kinds.append(event.WhichOneof("event"))
            if kinds.count("iteration") == 1:
                stylizer.terminate()
    assert kinds[-1] == "done"
    assert await asyncio.to_thread(stylizer.reap, 15) == 0


@pytest.mark.slow
async def test_up_serves_until_interrupted(tmp_path: Path, no_models: None) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from gateway.cli import main; main()", "up"),
        *("--port", "0", "--http-port", "0", "--device", "cpu", "--jobs-dir", str(tmp_path / "jobs")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    log = asyncio.create_task(process.stderr.read())
    try:
        async with asyncio.timeout(120):
            text = (await process.stdout.readuntil(b"ready; Ctrl-C stops\n")).decode()
        addresses = re.findall(r"(?:grpc|http) (\S+)", text)
        assert len(addresses) == 6
        assert health(addresses[4], "dpst.v1.PhotoStyle") == SERVING
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        async with asyncio.timeout(30):
            assert (await process.stdout.read()).decode() == "stopped\n"
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
    lines = [json.loads(line) for line in (await log).decode().splitlines() if line.startswith("{")]
    assert [line["process"] for line in lines if line["event"] == "stopped"] == ["gateway", *_others(lines)]
    assert not [line for line in lines if line["level"] == "error"]


def _others(lines: list[dict[str, str]]) -> list[str]:
    stopped = [line["process"] for line in lines if line["event"] == "stopped"][1:]
    assert sorted(stopped) == ["segmentation", "stylizer"]
    return stopped


@pytest.mark.slow
def test_stylize_and_segment_start_what_they_need(tmp_path: Path, no_models: None) -> None:
    content, style, out = tmp_path / "content.jpg", tmp_path / "style.jpg", tmp_path / "out.png"
    content.write_bytes(picture(1))
    style.write_bytes(picture(2))
    report = tmp_path / "report.json"
    flags = ["--solve-edge", "64", "--max-evaluations", "2"]
    command = ["stylize", str(content), str(style), "-o", str(out), "--report", str(report), *flags]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert opened(out.read_bytes()) == ("PNG", (120, 90))
    assert json.loads(report.read_text())["params"]["max_evaluations"] == 2
    assert "note: " in result.stderr

    legend = CliRunner().invoke(main, ["segment", str(content), "-o", str(tmp_path / "map.png"), "--json"])
    assert legend.exit_code == 0, legend.output
    assert json.loads(legend.stdout)["labels"][0]["area_share"] == 1.0
    assert opened((tmp_path / "map.png").read_bytes()) == ("PNG", (120, 90))
