"""Ends of jobs that no gateway's work brings about, the same for every engine."""

from __future__ import annotations

from typing import Final

import grpc
from dpst.v1 import jobs_pb2
from google.rpc import status_pb2  # type: ignore[import-untyped]  # has stubs, lacks py.typed

from gateway.jobs.store import Outcome, Policy

__all__ = ["cancelled", "end_instead"]

_ABORTED: Final = grpc.StatusCode.ABORTED.value[0]
_PASSING: Final = (grpc.StatusCode.UNAVAILABLE.value[0], grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])


def end_instead(
    policy: Policy,
    *,
    is_cancelled: bool,
    attempts: int,
    waited_seconds: float,
    was_lost: bool,
    error: status_pb2.Status,
) -> Outcome | None:
    """How a job ends that is cancelled, has had all its attempts or has waited too long; None = it is to be claimed.

    Args:
        policy: says how often and how long.
        is_cancelled: whether its caller wants it no more.
        attempts: those that were begun.
        waited_seconds: since it was submitted.
        was_lost: whether the last gateway did not give it back itself.
        error: the last one, empty if there was none.
    """
    if is_cancelled:
        return cancelled()
    if attempts >= policy.attempts:
        lost = "the gateway that worked on it was lost" if was_lost else ""
        return _dead(f"given up after {attempts} attempts", error, lost)
    if waited_seconds > policy.patience_seconds:
        return _dead(f"given up after {policy.patience_seconds:.0f} s in the queue", error)
    return None


def _dead(reason: str, last: status_pb2.Status, otherwise: str = "") -> Outcome:
    """The code of the last error, ABORTED instead of a passing one, and both texts."""
    text = last.message or otherwise
    code = last.code or _ABORTED
    if code in _PASSING:  # it would be read as an invitation to ask for the same operation again
        code = _ABORTED
    status = status_pb2.Status(
        code=code, message=f"{reason}: {text}" if text else reason, details=[] if code == _ABORTED else last.details
    )
    return Outcome(jobs_pb2.TRANSFER_STATE_DEAD, error=status)


def cancelled() -> Outcome:
    """The end of a job whose caller wants it no more."""
    code = grpc.StatusCode.CANCELLED.value[0]
    error = status_pb2.Status(code=code, message="the transfer was cancelled")
    return Outcome(jobs_pb2.TRANSFER_STATE_CANCELLED, error=error)
