"""Several channels of one process to the same server."""

from __future__ import annotations

import asyncio
import sys

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

SECONDS = 10.0
"""With shared connections it takes 1 to 4 s until the process is killed (2 cores, grpcio 1.85.3)."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.parametrize("kind", ["service", "client"])
async def test_channels_that_are_opened_at_once_do_not_end_their_process(kind: str) -> None:
    server = grpc.aio.server()
    servicer = health.HealthServicer()
    await servicer.set("dpst.v1.PhotoStyle", health_pb2.HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.opened_at_once", kind, f"127.0.0.1:{port}", str(SECONDS)),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    await server.stop(None)
    assert process.returncode == 0, "killed by a fault of memory"
    assert int(printed) > 20
