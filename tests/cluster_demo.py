"""A fleet on this machine: NATS, two gateways, two stylizers, a segmentation service, and a batch that survives a kill.

    python -m tests.cluster_demo build/cluster-demo

Everything is a process of its own, as in a cluster. ``dpst batch`` sends crops of the demo's photo through both
gateways; once the first is done, one of the stylizers gets SIGKILL and is not started again. Then the manifests
of ``deploy/kubernetes`` are rendered and validated, if there is a kubectl.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.demo import CONTENT, STYLE
from tests.faults.cluster import Cluster, fleet
from tests.nats_server import nats_server

_PHOTOS, _GATEWAYS, _STYLIZERS = 8, 2, 2
_WIDTH, _HEIGHT = 320, 240
_POLL_SECONDS = 0.1
_LIMIT_SECONDS = 300.0


def _crops(photo: Path, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(photo) as whole:
        step = (whole.width - _WIDTH) // (_PHOTOS - 1)
        files = [folder / f"crop-{n}.jpg" for n in range(_PHOTOS)]
        for n, file in enumerate(files):
            whole.crop((n * step, 100, n * step + _WIDTH, 100 + _HEIGHT)).save(file, quality=95)
    return files


async def _kill_one(processes: Cluster, results: Path) -> None:
    """Once a photo is done, kill the first stylizer."""
    while not list(results.glob("*.jpg")):  # noqa: ASYNC110, ASYNC240 - a folder tells nobody, and is small
        await asyncio.sleep(_POLL_SECONDS)
    processes.signal("stylizer-0", signal.SIGKILL)
    status = await processes.ended("stylizer-0")
    print(f"stylizer-0 was killed, exit status {status}", flush=True)


async def _batch(folder: Path) -> int:
    style = STYLE.needed()
    photos, results, logs = _crops(CONTENT.needed(), folder / "photos"), folder / "results", folder / "logs"
    logs.mkdir()
    with nats_server(folder / "nats") as server:
        print(f"NATS at {server.url}", flush=True)
        settings = {"jobs_url": server.url, "job_lease_seconds": "3", "device": "cpu"}
        async with fleet(logs, _GATEWAYS, stylizers=_STYLIZERS, **settings) as processes:
            for name in sorted(processes.ports):
                print(f"{name:12} at {processes.ports[name]}", flush=True)
            target = "ipv4:" + ",".join(processes.ports[f"gateway-{n}"] for n in range(_GATEWAYS))
            arguments = ["batch", *photos, "--style", style, "-o", results, "--server", target]
            print("$ dpst batch photos/*.jpg --style rocket.jpg -o results --server", target, flush=True)
            began = time.monotonic()
            command = await asyncio.create_subprocess_exec(Path(sys.executable).parent / "dpst", *arguments)
            killer = asyncio.create_task(_kill_one(processes, results))
            try:
                async with asyncio.timeout(_LIMIT_SECONDS):
                    status = await command.wait()
            finally:
                killer.cancel()
                if command.returncode is None:
                    command.kill()
            print(f"{time.monotonic() - began:.0f} s, exit status {status}; {results / 'report.html'}", flush=True)
            return status


def _manifests() -> int:
    if shutil.which("kubectl") is None:
        print("no kubectl here: the manifests are not rendered")
        return 0
    print("$ pytest tests/deploy", flush=True)
    return int(pytest.main(["-q", "--no-header", str(Path(__file__).parent / "deploy")]))


def main() -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where photos, results and logs go; what is there is removed")
    folder: Path = parser.parse_args().folder
    if shutil.which("nats-server") is None:
        sys.exit("the demo needs nats-server, of the package of that name: apt-get install nats-server")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return asyncio.run(_batch(folder.absolute())) or _manifests()


if __name__ == "__main__":
    sys.exit(main())
