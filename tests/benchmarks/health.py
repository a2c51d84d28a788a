"""gRPC health latency of the three processes while a solve runs.

    python -m tests.benchmarks.health [--seconds 30]

Starts the stack on free ports with the models of ``DPST_MODELS_DIR``, keeps the stylizer solving at 512 px, and asks
each process for its health, all three at once, a hundred times a second. Writes ``docs/benchmarks/health.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc.aio
import numpy as np
from dpst.v1 import image_pb2, params_pb2, photo_style_pb2, photo_style_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from gateway.stack import Stack, local_stack
from tests.benchmarks.machine import described, models_dir
from tests.benchmarks.report import report

_ROOT = Path(__file__).parents[2]
_INTERVAL_SECONDS = 0.01
_SERVICES = {"gateway": "PhotoStyle", "segmentation": "Segmentation", "stylizer": "Stylizer"}


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--out", type=Path, default=_ROOT / "docs/benchmarks")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    with TemporaryDirectory() as logs, local_stack(Path(logs), every={"models_dir": str(models_dir())}) as stack:
        idle = asyncio.run(_measure(stack, options.seconds / 3, solving=False))
        busy = asyncio.run(_measure(stack, options.seconds, solving=True))
    report(_page(idle, busy, options.seconds), options.out, "health")


async def _measure(stack: Stack, seconds: float, solving: bool) -> dict[str, list[float]]:
    async with grpc.aio.insecure_channel(stack.addresses["gateway"].grpc) as channel:
        call = photo_style_pb2_grpc.PhotoStyleStub(channel).TransferStream(_request()) if solving else None
        if call is not None:
            async for event in call:
                if event.HasField("iteration"):
                    break
        pings = [_ping(stack.addresses[name].grpc, service, seconds) for name, service in _SERVICES.items()]
        latencies = await asyncio.gather(*pings)
        if call is not None:
            if call.done():
                raise RuntimeError("the solve ended before the measurement did; raise its evaluations")
            call.cancel()
    return dict(zip(_SERVICES, latencies, strict=True))


async def _ping(target: str, service: str, seconds: float) -> list[float]:
    request = health_pb2.HealthCheckRequest(service=f"dpst.v1.{service}")
    latencies: list[float] = []
    until = time.perf_counter() + seconds
    async with grpc.aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.perf_counter() < until:
            began = time.perf_counter()
            reply = await stub.Check(request)
            latencies.append(time.perf_counter() - began)
            if reply.status != health_pb2.HealthCheckResponse.SERVING:
                raise RuntimeError(f"{service} is not serving")
            await asyncio.sleep(_INTERVAL_SECONDS)
    return latencies[1:]  # the first one connects


def _request() -> photo_style_pb2.TransferStreamRequest:
    def photo(seed: int) -> image_pb2.Image:
        small = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((1024, 768), Image.Resampling.BICUBIC).save(file, "JPEG")
        return image_pb2.Image(data=file.getvalue())

    params = params_pb2.TransferParams(solve_edge_px=512, max_evaluations=1000)
    return photo_style_pb2.TransferStreamRequest(
        transfer=photo_style_pb2.Transfer(content=photo(1), style=photo(2), params=params)
    )


def _page(idle: dict[str, list[float]], busy: dict[str, list[float]], seconds: float) -> list[str]:
    lines = [
        "# gRPC health checks while a solve runs",
        "",
        f"Made by `python -m tests.benchmarks.health --seconds {seconds:g}`. {described()}.",
        "Milliseconds of one Check; the caller shares the cores with the services and the solve at 512 px.",
        "",
        "| process | state | checks | median | p99 | slowest |",
        "|---|---|---|---|---|---|",
    ]
    for state, measured in (("idle", idle), ("solving", busy)):
        for name, latencies in measured.items():
            median, p99 = (float(np.quantile(latencies, q)) * 1e3 for q in (0.5, 0.99))
            slowest = max(latencies) * 1e3
            lines.append(f"| {name} | {state} | {len(latencies)} | {median:.1f} | {p99:.1f} | {slowest:.1f} |")
    return lines


if __name__ == "__main__":
    main()
