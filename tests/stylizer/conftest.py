"""A real stylizer process on free ports, with the built-in network, shared by the tests of this folder."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc


@dataclass(frozen=True)
class Stylizer:
    process: subprocess.Popen[bytes]
    grpc: str
    http: str
    log: Path

    async def wait_ready(self, seconds: float = 120) -> None:
        async with grpc.aio.insecure_channel(self.grpc) as channel, asyncio.timeout(seconds):
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="dpst.v1.Stylizer")
            async for reply in stub.Watch(request, wait_for_ready=True):
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return

    async def is_serving(self) -> bool:
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            reply = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="dpst.v1.Stylizer")
            )
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def start_stylizer(folder: Path, **settings: str) -> Stylizer:
    address_file = folder / "address.json"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DPST_")}
    environment |= {
        "DPST_PORT": "0",
        "DPST_HTTP_PORT": "0",
        "DPST_ADDRESS_FILE": str(address_file),
        "DPST_DEVICE": "cpu",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.stylizer"],
            env=environment | settings,
            stderr=log,
            cwd=Path(__file__).parents[2],
        )

    async def bound() -> None:
        while not address_file.exists():
            assert process.poll() is None, (folder / "log").read_text()
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(bound(), 60))
    address = json.loads(address_file.read_text())
    return Stylizer(process, address["grpc"], address["http"], folder / "log")


@pytest.fixture(scope="session")
def shared_stylizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stylizer]:
    stylizer = start_stylizer(tmp_path_factory.mktemp("stylizer"), DPST_QUEUE_LIMIT="1", DPST_WORKER_BEAT_SECONDS="2")
    yield stylizer
    stylizer.process.send_signal(signal.SIGTERM)
    try:
        assert stylizer.process.wait(60) == 0
    finally:
        stylizer.process.kill()


@pytest.fixture
async def stylizer(shared_stylizer: Stylizer) -> Stylizer:
    await shared_stylizer.wait_ready()
    return shared_stylizer
