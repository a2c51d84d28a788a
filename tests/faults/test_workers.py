"""Several workers, several slots, and a worker that outgrows its memory, in a real stylizer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest
from dpst.v1 import image_pb2, params_pb2, stylizer_pb2, stylizer_pb2_grpc
from numpy.typing import NDArray

from tests.benchmarks.scraped import scraped
from tests.faults.cluster import Cluster, levels, picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@asynccontextmanager
async def stylizer(folder: Path, **settings: str) -> AsyncIterator[Cluster]:
    found = Cluster(folder, {"device": "cpu", "log_format": "json"})
    try:
        await found.start("stylizer", **settings)
        await found.ready("stylizer")
        yield found
    finally:
        found.children["stylizer"].terminate()
        await found.ended("stylizer")


def workers(found: Cluster) -> list[psutil.Process]:
    every = psutil.Process(found.children["stylizer"].pid).children()
    return [each for each in every if "spawn_main" in " ".join(each.cmdline())]


def request(edge: int = 256, evaluations: int = 60, mode: str = "PAPER") -> stylizer_pb2.StylizeRequest:
    """Of the published method, because its solves end at no plateau."""
    return stylizer_pb2.StylizeRequest(
        content=image_pb2.Image(data=picture(1)),
        style=image_pb2.Image(data=picture(2)),
        params=params_pb2.TransferParams(
            mode=params_pb2.Mode.Value(f"MODE_{mode}"),
            solve_edge_px=edge,
            max_evaluations=evaluations,
            preview_every=0,
        ),
    )


async def iterating(events: AsyncIterator[stylizer_pb2.StylizeResponse]) -> None:
    async for event in events:
        if event.HasField("iteration"):
            return


@pytest.mark.parametrize("settings", [{"workers": "2"}, {"slots": "2"}], ids=["two workers", "two slots"])
async def test_two_jobs_run_at_the_same_time(tmp_path: Path, settings: dict[str, str]) -> None:
    async with stylizer(tmp_path, **settings) as found:
        assert len(workers(found)) == int(settings.get("workers", "1"))
        async with grpc.aio.insecure_channel(found.ports["stylizer"]) as channel, asyncio.timeout(200):
            stub = stylizer_pb2_grpc.StylizerStub(channel)
            calls = [stub.Stylize(request(evaluations=400)) for _ in range(2)]
            await asyncio.gather(*(iterating(aiter(call)) for call in calls))
            third = aiter(stub.Stylize(request(evaluations=2)))
            assert (await anext(third)).queued.position == 1
            calls[0].cancel()
            assert [event async for event in third][-1].HasField("done")
            calls[1].cancel()


async def test_solves_in_two_slots_share_the_network_and_give_the_pictures_that_they_give_alone(tmp_path: Path) -> None:
    async with (
        stylizer(tmp_path, slots="2", evaluation_batch="2") as found,
        grpc.aio.insecure_channel(found.ports["stylizer"]) as channel,
        asyncio.timeout(200),
    ):
        stub = stylizer_pb2_grpc.StylizerStub(channel)

        async def solved() -> NDArray[np.float64]:
            replies = [reply async for reply in stub.Stylize(request(edge=160, evaluations=30, mode="FIELD"))]
            return levels(b"".join(reply.chunk.data for reply in replies if reply.HasField("chunk")))

        def batches() -> tuple[float, float]:
            samples = scraped(found.children["stylizer"].address().http)
            return samples["dpst_evaluation_batch_size_sum"], samples["dpst_evaluation_batch_size_count"]

        alone = await solved()
        together, evaluations = await asyncio.to_thread(batches)
        assert together == evaluations > 0
        pictures = await asyncio.gather(solved(), solved())
        together, evaluations = await asyncio.to_thread(batches)
        assert together > evaluations, "they met"
        for picture in pictures:
            assert np.abs(picture - alone).mean() < 1.5, "0.6 is what rounding made of one at 96 px, see ADR 9"
            assert np.abs(picture - alone).max() < 32


async def test_the_other_worker_takes_over(tmp_path: Path) -> None:
    async with stylizer(tmp_path, workers="2") as found:
        async with grpc.aio.insecure_channel(found.ports["stylizer"]) as channel, asyncio.timeout(200):
            warm = {each.pid: each.cpu_times().user for each in workers(found)}
            events = aiter(stylizer_pb2_grpc.StylizerStub(channel).Stylize(request()))
            async for event in events:
                if event.HasField("checkpoint"):
                    break
            busy = max(workers(found), key=lambda each: each.cpu_times().user - warm[each.pid])
            os.kill(busy.pid, signal.SIGKILL)
            rest = [event async for event in events]
            first = next(event.iteration.evaluation for event in rest if event.HasField("iteration"))
            assert first > 1
            assert rest[-1].HasField("done")
        await found.ready("stylizer")
        assert "job goes on in another worker" in found.logs("stylizer")


async def test_a_job_that_needs_too_much_memory_is_refused_and_the_next_one_is_served(tmp_path: Path) -> None:
    async with stylizer(tmp_path) as found:
        (worker,) = workers(found)
        warm = worker.memory_info().rss
    async with (
        stylizer(tmp_path, worker_memory_bytes=str(warm + (300 << 20))) as found,
        grpc.aio.insecure_channel(found.ports["stylizer"]) as channel,
        asyncio.timeout(200),
    ):
        stub = stylizer_pb2_grpc.StylizerStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="MiB of memory, a worker has") as caught:
            async for _ in stub.Stylize(request(edge=1024, mode="FIELD")):
                pass
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert [event async for event in stub.Stylize(request(edge=64, evaluations=2))][-1].HasField("done")
        assert "worker is killed" not in found.logs("stylizer"), "it was refused, not tried"


async def test_a_worker_that_outgrows_its_memory_is_killed_and_nothing_is_served(tmp_path: Path) -> None:
    found = Cluster(tmp_path, {"device": "cpu", "log_format": "json"})
    try:
        await found.start("stylizer", worker_memory_bytes=str(200 << 20))
        async with asyncio.timeout(120):
            while '"reason": "memory"' not in found.logs("stylizer"):  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.2)
        async with grpc.aio.insecure_channel(found.ports["stylizer"]) as channel:
            stub = stylizer_pb2_grpc.StylizerStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.Stylize(request(edge=64, evaluations=2)):
                    pass
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    finally:
        found.children["stylizer"].terminate()
        await found.ended("stylizer")
