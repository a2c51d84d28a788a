"""Submitted transfers as ``google.longrunning`` operations."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from typing import Any, Final

import grpc.aio
from dpst.v1 import jobs_pb2
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2

from gateway.jobs.store import ENDED, JobStore, Record, State
from services.common.auth import current_caller
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound

__all__ = ["COLLECTION", "POLL_SECONDS", "OperationsServicer", "found", "no_jobs", "operation_of"]

COLLECTION: Final = "operations"
"""Of the names of operations: ``operations/<id>``."""

_PAGE, _LONGEST_PAGE = 50, 500
POLL_SECONDS: Final = 0.25
"""How soon what another gateway did is seen; of this one's own work there is news at once."""

_NOT_A_STATE: Final = jobs_pb2.TRANSFER_STATE_UNSPECIFIED
_STATES: Final = {
    name.removeprefix("TRANSFER_STATE_"): number
    for name, number in jobs_pb2.TransferState.items()
    if number != _NOT_A_STATE
}
_FILTER: Final = re.compile(r"\s*(state|done)\s*=\s*\"?([A-Za-z]+)\"?\s*")


def operation_of(record: Record) -> operations_pb2.Operation:
    """The message of a job."""
    operation = operations_pb2.Operation(name=record.name)
    operation.metadata.Pack(record.metadata)
    if record.outcome is not None:
        operation.done = True
        if record.outcome.result is not None:
            operation.response.Pack(record.outcome.result)
        else:
            operation.error.CopyFrom(record.outcome.error)
    return operation


class OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]  # has no stubs
    """``google.longrunning.Operations``. A caller sees its own operations only.

    ``store`` None refuses everything.
    """

    def __init__(self, store: JobStore | None) -> None:
        self._kept = store

    def _store(self) -> JobStore:
        if self._kept is None:
            raise no_jobs()
        return self._kept

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> operations_pb2.Operation:
        """The operation as it stands."""
        return operation_of(await found(self._store(), request.name))

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> operations_pb2.ListOperationsResponse:
        """The newest first. ``filter``: empty, ``done = true``, ``done = false`` or such as ``state = RUNNING``."""
        if request.name not in ("", COLLECTION):
            raise InvalidArgument("name", repr(request.name[:80]), f"must be {COLLECTION!r} or empty")
        if request.page_size < 0:
            raise InvalidArgument("page_size", request.page_size, "must not be negative")
        states, size = _states(request.filter), min(request.page_size or _PAGE, _LONGEST_PAGE)
        page = await self._store().page(current_caller(), states, size, request.page_token)
        operations = [operation_of(record) for record in page.records]
        return operations_pb2.ListOperationsResponse(operations=operations, next_page_token=page.next_token)

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> operations_pb2.Operation:
        """The operation once it is done, or as it stands after ``timeout``; none = as long as the call may take."""
        limit = float("inf")
        if request.HasField("timeout"):
            limit = time.monotonic() + request.timeout.seconds + request.timeout.nanos / 1e9
        store = self._store()
        while True:
            record = await found(store, request.name)
            if record.outcome is not None or (left := limit - time.monotonic()) <= 0:
                return operation_of(record)
            await store.news(min(POLL_SECONDS, left))

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> empty_pb2.Empty:
        """A job that waits ends at once, one under way within a second; one that has ended stays as it is."""
        if not await self._store().cancel(request.name, current_caller()):
            raise _unknown(request.name)
        return empty_pb2.Empty()

    async def DeleteOperation(
        self, request: operations_pb2.DeleteOperationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> empty_pb2.Empty:
        """Forget an operation that is done, and its result."""
        deleted = await self._store().delete(request.name, current_caller())
        if deleted is None:
            raise _unknown(request.name)
        if not deleted:
            raise FailedPrecondition("name", request.name, "which is not done yet; cancel it first")
        return empty_pb2.Empty()


async def found(store: JobStore, name: str) -> Record:
    """The current caller's job of that name. Raises NotFound."""
    record = await store.get(name, current_caller())
    if record is None:
        raise _unknown(name)
    return record


def no_jobs() -> FailedPrecondition:
    """What a gateway without a store says."""
    return FailedPrecondition("DPST_JOBS_URL", "nothing", "set it for this gateway to take submitted transfers")


def _unknown(name: str) -> NotFound:
    return NotFound(f"name: there is no operation {name[:80]!r} of this caller, or it is no more")


def _states(text: str) -> Collection[State]:
    if not text.strip():
        return tuple(_STATES.values())
    match = _FILTER.fullmatch(text)
    field, value = match.groups() if match else ("", "")
    if field == "done" and value.lower() in ("true", "false"):
        is_done = value.lower() == "true"
        return tuple(number for number in _STATES.values() if (number in ENDED) == is_done)
    if field == "state" and value.upper() in _STATES:
        return (_STATES[value.upper()],)
    raise InvalidArgument("filter", repr(text[:80]), f"must be done = true|false or state = {'|'.join(_STATES)}")
