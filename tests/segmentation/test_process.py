"""``python -m services.segmentation``: SERVING only once warm, a clean stop, and status 1 for unusable models."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import grpc.aio
import onnxruntime
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.segmentation.conftest import put_network

ROOT = Path(__file__).parents[2]
SERVING = health_pb2.HealthCheckResponse.SERVING


async def launch(**settings: object) -> asyncio.subprocess.Process:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DPST_")}
    given = {f"DPST_{key.upper()}": str(value) for key, value in ({"port": 0, "http_port": 0} | settings).items()}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.segmentation",
        cwd=ROOT,
        env={**clean, **given, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def end(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, output.decode()


async def test_serves_until_told_to_stop(tiny_models_dir: Path, tmp_path: Path) -> None:
    addresses = tmp_path / "addresses.json"
    process = await launch(models_dir=tiny_models_dir, address_file=addresses)
    try:
        async with asyncio.timeout(30):
            while not addresses.exists():  # noqa: ASYNC110 - written by another process
                await asyncio.sleep(0.02)
            async with grpc.aio.insecure_channel(json.loads(addresses.read_text())["grpc"]) as channel:
                name = health_pb2.HealthCheckRequest(service="dpst.v1.Segmentation")
                async for reply in health_pb2_grpc.HealthStub(channel).Watch(name):
                    if reply.status == SERVING:
                        break
    finally:
        process.send_signal(signal.SIGTERM)
    status, log = await end(process)
    assert status == 0
    assert '"tiny/1"' in log


async def test_sighup_exchanges_models_or_keeps_the_old_ones(tiny_models_dir: Path) -> None:
    process = await launch(models_dir=tiny_models_dir)
    assert process.stdout is not None
    lines: list[str] = []

    async def logged(text: str) -> None:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while not lines or text not in lines[-1]:
                lines.append((await process.stdout.readline()).decode())
                assert lines[-1], "".join(lines)

    try:
        await logged('"ready"')
        put_network(tiny_models_dir, version="2", data=b"no network")
        process.send_signal(signal.SIGHUP)
        await logged("the old ones stay")
        assert "model.onnx: ONNX Runtime cannot load it" in lines[-1]
        put_network(tiny_models_dir, version="2")
        process.send_signal(signal.SIGHUP)
        await logged('"tiny/2"')
    finally:
        process.send_signal(signal.SIGTERM)
    status, _ = await end(process)
    assert status == 0


@pytest.mark.parametrize(
    ("wanted", "damage", "says"),
    [
        ("tiny", "checksum", "wrong checksum"),
        ("tiny", "file", "cannot be read (No such file or directory)"),
        ("other", "", "other: no model there"),
    ],
)
async def test_unusable_models_end_the_process(tiny_models_dir: Path, wanted: str, damage: str, says: str) -> None:
    network = tiny_models_dir / "tiny" / "1" / "model.onnx"
    if damage == "checksum":
        network.write_bytes(network.read_bytes() + b"\0")
    elif damage == "file":
        network.unlink()
    status, log = await end(await launch(models_dir=tiny_models_dir, segmentation_model=wanted))
    assert status == 1
    (reason,) = [line["reason"] for line in map(json.loads, log.splitlines()) if "reason" in line]
    assert says in reason
    assert str(tiny_models_dir) in reason


async def test_cuda_is_refused_where_there_is_none(tiny_models_dir: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    status, log = await end(await launch(models_dir=tiny_models_dir, device="cuda"))
    assert status == 1
    assert "DPST_DEVICE=cuda but" in log
