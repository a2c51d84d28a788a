"""A gateway, a segmentation service and several stylizers as real processes, each of which can die and come back."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from PIL import Image

from gateway.child import Child

__all__ = ["Cluster", "cluster", "fleet", "levels", "picture"]

_READY_SECONDS = 180.0
_KINDS = {
    # module and service
    "segmentation": ("services.segmentation", "dpst.v1.Segmentation"),
    "stylizer": ("services.stylizer", "dpst.v1.Stylizer"),
    "stub": ("tests.faults.stub", "dpst.v1.Stylizer"),
    "gateway": ("gateway", "dpst.v1.PhotoStyle"),
}


class Cluster:
    """Processes by name: "segmentation", "stylizer-0", "stylizer-1", ..., "gateway", and "stub-0" for both services.

    Args:
        folder: of logs and address files.
        settings: of every process.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder, self._settings = folder, settings
        self.children: dict[str, Child] = {}
        self.ports: dict[str, str] = {}
        self.behind_gateways: dict[str, str] = {}

    async def start(self, name: str, **settings: str) -> None:
        """Start a process, on the port that it had before if it had one; does not wait until it is able to work."""
        kind = name.partition("-")[0]
        port = self.ports[name].rpartition(":")[2] if name in self.ports else "0"
        if kind == "gateway":
            settings = {**self.behind_gateways, **settings}
        wanted = {**self._settings, "host": "127.0.0.1", "port": port, "http_port": "0", **settings}
        (self._folder / f"{name}.json").unlink(missing_ok=True)
        child = Child(name, _KINDS[kind][0], self._folder, wanted, self._folder / f"{name}.{os.urandom(3).hex()}.log")
        self.children[name] = child
        self.ports[name] = (await asyncio.to_thread(child.address)).grpc

    async def ready(self, *names: str) -> None:
        """Wait until these are able to work."""
        for name in names:
            request = health_pb2.HealthCheckRequest(service=_KINDS[name.partition("-")[0]][1])
            async with grpc.aio.insecure_channel(self.ports[name]) as channel, asyncio.timeout(_READY_SECONDS):
                async for reply in health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True):
                    if reply.status == health_pb2.HealthCheckResponse.SERVING:
                        break

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process."""
        os.kill(self.children[name].pid, number)

    def worker_of(self, name: str) -> int:
        """Process id of a stylizer's worker."""
        pid = self.children[name].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        (worker,) = (int(c) for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text())
        return worker

    async def ended(self, name: str) -> int:
        """Wait for a process's exit; its status."""
        return await asyncio.to_thread(self.children[name].reap, 60)

    def logs(self, name: str) -> str:
        """All that a process has logged, in all its lives."""
        return "".join(path.read_text() for path in self._folder.glob(f"{name}.*.log"))


@asynccontextmanager
async def cluster(folder: Path, stylizers: int = 2, **settings: str) -> AsyncIterator[Cluster]:
    """Start everything, wait until it is able to work, and stop it after; ``settings`` are those of every process."""
    async with _stopped(Cluster(folder, {"device": "cpu", "log_format": "json", **settings})) as found:
        names = [f"stylizer-{n}" for n in range(stylizers)]
        await asyncio.gather(*(found.start(name) for name in ("segmentation", *names)))
        targets = ",".join(found.ports[name] for name in names)
        await found.start(
            "gateway", segmentation_address=found.ports["segmentation"], stylizer_address=f"ipv4:{targets}"
        )
        await found.ready("segmentation", *names, "gateway")
        yield found


@asynccontextmanager
async def fleet(
    folder: Path, gateways: int, stubs: int = 0, stylizers: int = 0, **settings: str
) -> AsyncIterator[Cluster]:
    """The same with several gateways, in front of stubs, or of a segmentation service and stylizers."""
    async with _stopped(Cluster(folder, {"log_format": "json", **settings})) as found:
        solvers = [f"stub-{n}" for n in range(stubs)] or [f"stylizer-{n}" for n in range(stylizers)]
        finders = solvers if stubs else ["segmentation"]
        behind = dict.fromkeys([*finders, *solvers])
        await asyncio.gather(*(found.start(name) for name in behind))
        found.behind_gateways = {
            "segmentation_address": "ipv4:" + ",".join(found.ports[name] for name in finders),
            "stylizer_address": "ipv4:" + ",".join(found.ports[name] for name in solvers),
        }
        names = [f"gateway-{n}" for n in range(gateways)]
        await asyncio.gather(*(found.start(name) for name in names))
        await found.ready(*behind, *names)
        yield found


@asynccontextmanager
async def _stopped(found: Cluster) -> AsyncIterator[Cluster]:
    try:
        yield found
    finally:
        for child in found.children.values():
            child.terminate()
        for name in found.children:
            await found.ended(name)


def picture(seed: int, width: int = 320, height: int = 240) -> bytes:
    """A PNG of smooth colours with some texture."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    pixels = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def levels(data: bytes) -> NDArray[np.float64]:
    """(H, W, 3) levels of 255 of an encoded picture."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64)
