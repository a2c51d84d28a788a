"""Two stylizer replicas behind a gateway: killed, drained, stopped and restarted while somebody waits for a picture."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from dpst_client import AsyncClient, Progress, TransferFailed, TransferResult, Unavailable

from tests.faults.cluster import Cluster, cluster, picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LONG = {"mode": "paper", "solve_edge_px": 256, "max_evaluations": 150, "preview_every": 0}
SOLVING_SECONDS = 3.0
"""After which there is a checkpoint: they come twice a second."""


async def transfer(client: AsyncClient, on_progress: Callable[[Progress], None] | None = None) -> TransferResult:
    return await client.transfer(picture(1), picture(2), timeout=240, on_progress=on_progress, **LONG)  # type: ignore[arg-type]


async def busy(found: Cluster) -> str:
    """Which of the two stylizers is solving, by the processor time of their workers."""

    def ticks(name: str) -> int:
        fields = Path(f"/proc/{found.worker_of(name)}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = {name: ticks(name) for name in ("stylizer-0", "stylizer-1")}
    await asyncio.sleep(0.5)
    return max(before, key=lambda name: ticks(name) - before[name])


async def interrupted(found: Cluster, fault: Callable[[str], None]) -> tuple[TransferResult, list[float]]:
    """A transfer whose stylizer meets a fault after some seconds of solving; the shares of its progress."""
    shares: list[float] = []
    solving = asyncio.Event()

    def on_progress(step: Progress) -> None:
        if step.stage == "solve" and step.done:
            shares.append(step.done)
            solving.set()

    async with AsyncClient(found.ports["gateway"], retries=0) as client:
        running = asyncio.create_task(transfer(client, on_progress))
        await solving.wait()
        await asyncio.sleep(SOLVING_SECONDS)
        fault(await busy(found))
        return await running, shares


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM], ids=["the process is killed", "its drain ends before the solve"]
)
async def test_the_other_replica_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    async with cluster(tmp_path, drain_seconds="0.2") as found:
        result, shares = await interrupted(found, lambda name: found.signal(name, number))
        assert result.picture
        assert "another replica is asked" in found.logs("gateway")
        went_on = [later for earlier, later in itertools.pairwise(shares) if later < earlier]
        assert len(went_on) <= 1, "none where the last checkpoint was as late as the last progress"
        assert all(later > 2 / LONG["max_evaluations"] for later in went_on), "from a checkpoint, not from the start"


async def test_a_worker_that_is_killed_is_noticed_by_nobody(tmp_path: Path) -> None:
    async with cluster(tmp_path) as found:
        result, _ = await interrupted(found, lambda name: os.kill(found.worker_of(name), signal.SIGKILL))
        assert result.picture
        assert "job goes on in another worker" in found.logs("stylizer-0") + found.logs("stylizer-1")
        assert "another replica is asked" not in found.logs("gateway")


async def test_without_a_stylizer_a_transfer_is_retryable_and_a_client_waits_for_one(tmp_path: Path) -> None:
    async with cluster(tmp_path, stylizers=1) as found:
        found.signal("stylizer-0", signal.SIGKILL)
        await found.ended("stylizer-0")
        async with AsyncClient(found.ports["gateway"], retries=0) as client:
            with pytest.raises(TransferFailed) as caught:
                await client.transfer(picture(1), picture(2), timeout=60, quality="draft")
            assert isinstance(caught.value, Unavailable)
        async with AsyncClient(found.ports["gateway"], retries=20) as client:
            running = asyncio.create_task(client.transfer(picture(1), picture(2), timeout=240, quality="draft"))
            await asyncio.sleep(1)
            await found.start("stylizer-0")
            assert (await running).picture


async def test_a_rolling_restart_fails_nobody(tmp_path: Path) -> None:
    async with cluster(tmp_path, drain_seconds="30") as found:
        stop = asyncio.Event()
        done: list[TransferResult] = []

        async def customer(seed: int) -> None:
            async with AsyncClient(found.ports["gateway"], retries=40) as client:
                while not stop.is_set():
                    done.append(await client.transfer(picture(seed), picture(seed + 1), timeout=240, quality="draft"))

        async with asyncio.TaskGroup() as group:
            for seed in range(2):
                group.create_task(customer(10 * seed))
            for name in ("stylizer-0", "stylizer-1", "segmentation", "gateway"):
                found.signal(name, signal.SIGTERM)
                assert await found.ended(name) == 0
                targets = {
                    "segmentation_address": found.ports["segmentation"],
                    "stylizer_address": f"ipv4:{found.ports['stylizer-0']},{found.ports['stylizer-1']}",
                }
                await found.start(name, **(targets if name == "gateway" else {}))
                await found.ready(name)
            stop.set()
        assert len(done) >= 2
