"""What the gateway counts and times about every job that it passes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import grpc.aio
from dpst.v1 import report_pb2

from services.common.errors import ServiceError
from services.common.metrics import Metrics

__all__ = ["counted", "timed"]

_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


@contextmanager
def counted(metrics: Metrics) -> Iterator[None]:
    """Count one job: in flight while inside, its outcome after."""
    outcome = "failed"
    metrics.inflight.inc()
    try:
        yield
        outcome = "done"
    except (asyncio.CancelledError, GeneratorExit):
        outcome = "cancelled"
        raise
    except ServiceError as error:
        outcome = "refused" if error.code in _REFUSALS else "failed"
        raise
    except grpc.aio.AioRpcError as error:
        outcome = "refused" if error.code() in _REFUSALS else "failed"
        raise
    finally:
        metrics.inflight.dec()
        metrics.jobs_total.labels(outcome).inc()


def timed(metrics: Metrics, stage: report_pb2.Stage.ValueType, started: float) -> report_pb2.StageTime:
    """Observe a stage that began at ``started`` (``time.perf_counter``) and ends now; return it for a report."""
    seconds = time.perf_counter() - started
    name = report_pb2.Stage.Name(stage).removeprefix("STAGE_").lower()
    metrics.stage_duration_seconds.labels(name).observe(seconds)
    return report_pb2.StageTime(stage=stage, seconds=seconds)
