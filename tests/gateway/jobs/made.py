"""Jobs for the tests of stores: submissions, claims, ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc
from dpst.v1 import image_pb2, jobs_pb2
from google.rpc import status_pb2

from gateway.jobs.store import ENDED, Claim, JobStore, Outcome, Policy, Submission

__all__ = ["BUSY", "POLICY", "claimed", "done", "job", "state"]

POLICY = Policy(lease_seconds=5, attempts=3, patience_seconds=1000, keep_seconds=1000)
BUSY = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="the stylizer is away")


def job(number: int = 0, **fields: object) -> Submission:
    name = f"operations/{number:03d}"
    made = Submission(name, "ann", f"r{number}", "print", 1, f"transfer {number}".encode(), (f"ref{number}", "shared"))
    return replace(made, **fields)  # type: ignore[arg-type]


async def claimed(store: JobStore, policy: Policy = POLICY) -> Claim:
    """The next job; one that was given back may take a server a moment."""
    async with asyncio.timeout(5):
        while True:
            if (claim := await store.claim(policy)) is not None:
                return claim
            await asyncio.sleep(0.01)


def done(ref: str = "picture") -> Outcome:
    result = jobs_pb2.TransferResult(picture=image_pb2.Image(ref=ref))
    return Outcome(jobs_pb2.TRANSFER_STATE_DONE, result=result, refs=(ref,))


async def state(store: JobStore, name: str) -> str:
    record = await store.get(name, "ann")
    assert record is not None
    assert (record.outcome is not None) == (record.metadata.state in ENDED)
    return jobs_pb2.TransferState.Name(record.metadata.state).removeprefix("TRANSFER_STATE_")
