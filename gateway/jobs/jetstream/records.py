"""What JetStream's bucket holds of a job, as JSON."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, Self

from dpst.v1 import jobs_pb2

from gateway.jobs.store import State

__all__ = ["Held", "Stored", "Value"]

_INLINE_BYTES: Final = 64 << 10
"""Largest value that stands in the record itself; a message of NATS has a megabyte at most by default."""


class Value(NamedTuple):
    """Bytes, in the record or in the object store under a name."""

    data: bytes
    object_name: str

    @classmethod
    def of(cls, name: str, data: bytes) -> Self:
        """Where ``data`` belongs; ``name`` is its object's if it is large."""
        return cls(data, "") if len(data) <= _INLINE_BYTES else cls(b"", name)


@dataclass(frozen=True)
class Stored:
    """A job. Times are in seconds since 1970.

    Attributes:
        number: in the order in which jobs came.
        caller: who may see it.
        fingerprint: of what was submitted.
        priority: 0 = the most urgent.
        submitted_at: when.
        metadata: a serialized ``TransferMetadata``, with the state.
        refs: files that it needs.
        token: claims so far.
        held_until: end of the last claim's lease, by the clock of the gateway that has it.
        cancelled: whether its caller wants it no more.
        ended_at: when, or 0.
        transfer: what was submitted, until it has ended.
        progress: a serialized ``TransferProgress``.
        result: a serialized ``TransferResult``.
        error: a serialized ``Status``, the last one.
    """

    number: int
    caller: str
    fingerprint: str
    priority: int
    submitted_at: float
    metadata: bytes
    refs: tuple[str, ...]
    token: int = 0
    held_until: float = 0.0
    cancelled: bool = False
    ended_at: float = 0.0
    transfer: Value | None = None
    progress: Value | None = None
    result: Value | None = None
    error: bytes | None = None

    def parsed(self) -> jobs_pb2.TransferMetadata:
        """The metadata as a message of its own."""
        return jobs_pb2.TransferMetadata.FromString(self.metadata)

    @cached_property
    def state(self) -> State:
        """That of the metadata."""
        return self.parsed().state

    def is_held(self, token: int) -> bool:
        """Whether this claim is the last one, and the job runs."""
        return self.token == token and self.state == jobs_pb2.TRANSFER_STATE_RUNNING

    def to_json(self) -> bytes:
        """The record's value."""
        return json.dumps({name: _plain(value) for name, value in asdict(self).items()}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what :meth:`to_json` wrote."""
        fields: dict[str, Any] = json.loads(data)
        for name in ("transfer", "progress", "result"):
            if fields[name] is not None:
                kept, object_name = fields[name]
                fields[name] = Value(base64.b64decode(kept), object_name)
        for name in ("metadata", "error"):
            if fields[name] is not None:
                fields[name] = base64.b64decode(fields[name])
        return cls(**{**fields, "refs": tuple(fields["refs"])})


class Held(NamedTuple):
    """A record with the bucket's revision of it."""

    stored: Stored
    revision: int


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
