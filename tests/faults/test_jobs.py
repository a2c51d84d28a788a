"""Submitted transfers as their gateway is killed: another one goes on, and nobody can tell from the picture."""

from __future__ import annotations

import asyncio
import itertools
import signal
from pathlib import Path

import numpy as np
import pytest
from dpst_client import AsyncClient, Progress

from tests.demo import CONTENT, STYLE
from tests.faults.cluster import Cluster, cluster, levels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LONG = {"solve_edge_px": 640, "max_evaluations": 60, "preview_every": 0}
SOLVING_SECONDS = 3.0
"""After which there is a checkpoint: they come twice a second."""

TOLERANCE = 3.0
"""Mean difference in levels of 255 between a resumed and an uninterrupted solve, which take different ways."""


async def second_gateway(found: Cluster) -> None:
    await found.start(
        "gateway-1",
        segmentation_address=found.ports["segmentation"],
        stylizer_address=f"ipv4:{found.ports['stylizer-0']}",
    )
    await found.ready("gateway-1")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
async def test_another_gateway_goes_on_from_the_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    jobs = {"jobs_url": f"sqlite:{tmp_path / 'jobs'}", "job_lease_seconds": "2", "drain_seconds": "0.2"}
    shares: list[float] = []
    solving = asyncio.Event()

    def on_progress(step: Progress) -> None:
        if step.stage == "solve" and step.done:
            shares.append(step.done)
            solving.set()

    if CONTENT.file is None or STYLE.file is None:
        pytest.skip("needs the photos of the demo extra")
    photos = CONTENT.file, STYLE.file
    async with cluster(tmp_path, stylizers=1, **jobs) as found:
        async with AsyncClient(found.ports["gateway"], retries=0) as client:
            name = await client.submit(*photos, **LONG)  # type: ignore[arg-type]
            watching = asyncio.create_task(client.watch(name, on_progress=on_progress))
            await solving.wait()
            await asyncio.sleep(SOLVING_SECONDS)
            found.signal("gateway", number)
            assert await found.ended("gateway") == (0 if number is signal.SIGTERM else -number)
            await asyncio.gather(watching, return_exceptions=True)
        await second_gateway(found)
        async with AsyncClient(found.ports["gateway-1"]) as client:
            resumed = await client.watch(name, on_progress=on_progress, timeout=240)
            again = await client.submit(*photos, **LONG)  # type: ignore[arg-type]
            assert again != name
            whole = await client.watch(again, timeout=240)
        ordered = [later for earlier, later in itertools.pairwise(sorted(shares)) if later > earlier]
        assert ordered[-1] == 1.0
        lows = [share for share in shares if share < 2 / LONG["max_evaluations"]]  # type: ignore[operator]
        assert len(set(lows)) == len(set(lows[:1])), "begun once"
        difference = np.abs(levels(resumed.picture) - levels(whole.picture))
        print(f"mean difference {difference.mean():.2f} levels")
        assert difference.mean() < TOLERANCE
        style, style_of_whole = (each.report.quality.style_relative for each in (resumed, whole))
        print(f"style distance {style:.4f}, of the whole {style_of_whole:.4f}")
        assert style < 1.2 * style_of_whole
