"""Life of a whole process: ports, health, HTTP, drain, exit status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from dpst.v1 import stylizer_pb2, stylizer_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

PROGRAM = Path(__file__).with_name("fake_service.py")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Running:
    """A started process, its addresses and a channel to it."""

    process: asyncio.subprocess.Process
    http: str
    channel: grpc.aio.Channel

    async def health(self, name: str) -> int:
        reply = await health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(service=name))
        return reply.status

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.http}{path}") as reply:
            return reply.status, await reply.text()

    async def end(self) -> tuple[int, str]:
        """Wait for the exit; return its status and the log."""
        _, log = await asyncio.wait_for(self.process.communicate(), 15)
        return self.process.returncode, log.decode()


async def launch(*arguments: str, stdin: int = asyncio.subprocess.DEVNULL, **settings: str):
    environment = {**os.environ, **{f"DPST_{key.upper()}": value for key, value in settings.items()}}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        *arguments,
        cwd=Path(__file__).parents[2],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=stdin,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(folder: Path, *arguments: str, **options) -> AsyncIterator[Running]:
    addresses = folder / "addresses.json"
    process = await launch(*arguments, address_file=str(addresses), **options)
    try:
        await until(addresses.exists)
        found = json.loads(addresses.read_text())
        async with grpc.aio.insecure_channel(found["grpc"]) as channel:
            yield Running(process, found["http"], channel)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_health_http_and_drain(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        assert await service.health("") == SERVING
        assert await service.health("dpst.v1.Stylizer") == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.health("dpst.v1.Unknown")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert await service.get("/healthz") == (200, "ok\n")
        assert await service.get("/readyz") == (200, "ready\n")
        status, text = await service.get("/metrics")
        assert status == 200
        assert 'grpc_server_handled_total{grpc_code="NotFound",grpc_method="Check"' in text

        call = stylizer_pb2_grpc.StylizerStub(service.channel).Stylize(stylizer_pb2.StylizeRequest())
        await call.read()
        service.process.send_signal(signal.SIGTERM)
        assert (await call.read()).WhichOneof("event") == "done", "a running call ends in peace"
        status, log = await service.end()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert status == 0
    assert [line["event"] for line in lines if line["event"] != "rpc finished"] == [
        "listening",
        "ready",
        "draining",
        "stopped",
    ]
    (finished,) = [line for line in lines if line.get("method") == "/dpst.v1.Stylizer/Stylize"]
    assert finished["code"] == "OK"
    assert finished["request_id"]
    assert finished["process"] == "fake"


async def test_interrupt_drains_too_and_a_late_call_is_cut_after_the_grace(tmp_path: Path) -> None:
    async with running(tmp_path, drain_seconds="0.1") as service:
        call = stylizer_pb2_grpc.StylizerStub(service.channel).Stylize(stylizer_pb2.StylizeRequest())
        await call.read()
        service.process.send_signal(signal.SIGINT)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert (await service.end())[0] == 0


async def test_not_serving_until_started(tmp_path: Path) -> None:
    async with running(tmp_path, "unready") as service:
        assert await service.health("") == SERVING
        assert await service.health("dpst.v1.Stylizer") == NOT_SERVING
        assert (await service.get("/readyz"))[0] == 503
        assert (await service.get("/healthz"))[0] == 200


async def test_failed_start_ends_with_status_1(tmp_path: Path) -> None:
    process = await launch("broken")
    _, log = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 1
    assert "the weights are gone" in log.decode()


@pytest.mark.parametrize("setting", ["port", "http_port"])
async def test_taken_port_is_named_in_one_line(setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await launch(**{setting: str(port)})
        _, log = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 1
    (line,) = [json.loads(line) for line in log.decode().splitlines() if '"error"' in line]
    assert line["reason"] == f"port {port} of 127.0.0.1 is taken or not available; choose another one"


async def test_ends_with_whoever_holds_its_standard_input(tmp_path: Path) -> None:
    async with running(tmp_path, exit_with_parent="true", stdin=asyncio.subprocess.PIPE) as service:
        service.process.stdin.close()
        assert (await service.end())[0] == 0
