"""Some of ``tests.benchmarks.fuzz``, and requests that are no messages at all."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.benchmarks.fuzz import fuzzed
from tests.faults.cluster import cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def test_mutated_requests_are_never_answered_as_our_fault(tmp_path: Path) -> None:
    async with cluster(tmp_path, stylizers=1, queue_limit="64", jobs_url=f"sqlite:{tmp_path / 'jobs'}") as found:
        worker = found.worker_of("stylizer-0")
        codes = await fuzzed(found, 250, 1, tmp_path / "findings")
        assert sum(codes.values()) == 250
        assert not {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"} & codes.keys()
        assert codes["INVALID_ARGUMENT"] > 30
        assert found.worker_of("stylizer-0") == worker
        for process, method in (
            ("gateway", "dpst.v1.PhotoStyle/Transfer"),
            ("segmentation", "dpst.v1.Segmentation/Segment"),
            ("stylizer-0", "dpst.v1.Stylizer/Stylize"),
        ):
            async with grpc.aio.insecure_channel(found.ports[process]) as channel:
                with pytest.raises(grpc.aio.AioRpcError, match="request: got 4 bytes") as caught:
                    await channel.unary_unary(f"/{method}")(b"\xff\xff\xff\xff", timeout=10)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
