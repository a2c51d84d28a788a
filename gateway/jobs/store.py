"""What a store of submitted transfers has to do, whichever engine is behind it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol, TypeAlias

from dpst.v1 import jobs_pb2
from google.rpc import status_pb2  # type: ignore[import-untyped]  # has stubs, lacks py.typed

__all__ = [
    "AGEING_SECONDS",
    "ENDED",
    "KEPT_ITERATIONS",
    "LONGEST_DELAY_SECONDS",
    "Claim",
    "Event",
    "JobStore",
    "Outcome",
    "Page",
    "Policy",
    "Record",
    "State",
    "Submission",
    "Verdict",
]

State: TypeAlias = "jobs_pb2.TransferState.ValueType"

ENDED: Final = frozenset(
    {
        jobs_pb2.TRANSFER_STATE_DONE,
        jobs_pb2.TRANSFER_STATE_FAILED,
        jobs_pb2.TRANSFER_STATE_DEAD,
        jobs_pb2.TRANSFER_STATE_CANCELLED,
    }
)
AGEING_SECONDS: Final = 60.0
"""What one step of priority is worth in waiting, as in the stylizer's queue."""

LONGEST_DELAY_SECONDS: Final = 3600.0
"""Of a job that is given back. One that is due later than that is due now: somebody has set the clock."""

KEPT_ITERATIONS: Final = 20
"""Of a job's events: of its iterations, the last ones only. Those of a long solve are many, and have previews."""


@dataclass(frozen=True)
class Policy:
    """How long and how often.

    Attributes:
        lease_seconds: a gateway that has shown no life for so long has lost its job.
        attempts: so many are begun before a job is given up.
        patience_seconds: after so long in the queue a job is given up.
        keep_seconds: how long a job stays after its end.
    """

    lease_seconds: float
    attempts: int
    patience_seconds: float
    keep_seconds: float


@dataclass(frozen=True)
class Submission:
    """A transfer to be done.

    Attributes:
        name: of its operation.
        caller: who may see it.
        request_id: the caller's.
        fingerprint: of all that decides on the result: a name that comes again must come with the same.
        priority: 0 = the most urgent.
        transfer: a serialized ``Transfer``, its photos as ``ref``.
        refs: files that it needs.
    """

    name: str
    caller: str
    request_id: str
    fingerprint: str
    priority: int
    transfer: bytes
    refs: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``result`` if it is done, else ``error``. ``refs`` are the files of the result."""

    state: State
    result: jobs_pb2.TransferResult | None = None
    error: status_pb2.Status | None = None
    refs: Sequence[str] = ()


@dataclass(frozen=True)
class Record:
    """A job as it stands; ``fingerprint`` and ``caller`` as it was submitted."""

    name: str
    caller: str
    fingerprint: str
    metadata: jobs_pb2.TransferMetadata
    outcome: Outcome | None


@dataclass(frozen=True)
class Claim:
    """A job that one gateway has for as long as it keeps its lease.

    Attributes:
        name: of the operation.
        token: of this claim; a later one of the same job has another.
        transfer: as it was submitted.
        progress: a serialized ``TransferProgress``.
        metadata: as it stands.
    """

    name: str
    token: int
    transfer: bytes
    progress: bytes
    metadata: jobs_pb2.TransferMetadata


@dataclass(frozen=True)
class Event:
    """A serialized ``TransferStreamResponse`` with its number."""

    sequence: int
    data: bytes
    is_iteration: bool = False


class Verdict(Enum):
    """What a gateway is told when it shows that it is alive."""

    GO_ON = "go on"
    CANCELLED = "cancelled"
    LOST = "lost"


@dataclass(frozen=True)
class Page:
    """Some of a caller's jobs, the newest first; ``next_token`` is empty behind the last."""

    records: Sequence[Record]
    next_token: str = field(default="")


class JobStore(Protocol):
    """Keeps jobs. Every method may be called by several gateways at the same time."""

    async def submit(self, job: Submission) -> Record:
        """Keep a job; it is on the disk when this returns. One with this name that is there is returned as it is."""

    async def claim(self, policy: Policy) -> Claim | None:
        """The job whose turn it is, if there is one: waiting, or under way with a lease that has run out.

        One that has had all its attempts, or has waited too long, ends as DEAD with the reason instead.
        """

    async def beat(
        self,
        claim: Claim,
        policy: Policy,
        metadata: jobs_pb2.TransferMetadata,
        events: Sequence[Event],
        progress: bytes | None,
    ) -> Verdict:
        """Prolong the lease and keep what is new; ``progress`` None = as before. Nothing is kept if it is LOST."""

    async def end(self, claim: Claim, metadata: jobs_pb2.TransferMetadata, outcome: Outcome) -> bool:
        """The job has ended. Whether the claim still held."""

    async def give_back(self, claim: Claim, delay_seconds: float, error: status_pb2.Status, *, counts: bool) -> None:
        """Somebody is to try again, after a while; ``counts`` = this was an attempt."""

    async def get(self, name: str, caller: str) -> Record | None:
        """A job of this caller."""

    async def events(self, name: str, from_sequence: int) -> Sequence[Event]:
        """Events of a job, in their order."""

    async def page(self, caller: str, states: Collection[State], size: int, token: str) -> Page:
        """Jobs of this caller, of any of these states. Raises InvalidArgument for a token that is none."""

    async def cancel(self, name: str, caller: str) -> bool:
        """End a job that waits, and tell the gateway that has one under way. False = there is no such job."""

    async def delete(self, name: str, caller: str) -> bool | None:
        """Forget a job that has ended. False = it has not, None = there is none."""

    async def sweep(self, policy: Policy) -> Collection[str]:
        """Forget what ended long ago; returns the files that are still needed."""

    async def waiting(self) -> tuple[int, float]:
        """How many jobs wait, and for how many seconds the oldest of them has."""

    async def news(self, timeout_seconds: float) -> None:
        """Return when something may have changed, at the latest after the timeout."""

    async def close(self) -> None:
        """Release everything."""
