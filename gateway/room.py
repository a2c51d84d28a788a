"""Who is let in: so many at a time, and for whom the stylizer has room, lest photos are segmented for nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc.aio
from dpst.v1 import photo_style_pb2, stylizer_pb2

from gateway.downstream import Deadline, explained, is_for_another_replica
from services.common.config import GatewaySettings
from services.common.errors import ResourceExhausted, Shortage
from services.common.images import PhotoInfo
from services.common.status import least_seconds_of, replica_of, status_of

if TYPE_CHECKING:  # the stub of this class has no code behind it
    from dpst.v1.stylizer_pb2_grpc import StylizerAsyncStub

__all__ = ["Room"]

_RETRY_SECONDS = 2.0
_WEIGHT_OF_NEW = 0.2
_FRESH_SECONDS = 0.2
"""How long a lone stylizer's refusal stands. Where so many are refused that it counts, others wait in the queue, so
that no slot is idle for it."""

_ANSWERS = 8
"""Answers in a row of one replica that say that there is no other: their channel asks each in its turn."""


@dataclass(frozen=True)
class _Refusal:
    """Of the last one for whom a lone stylizer had no room; of several, the next one to be asked may have some.

    It stands for those who want the same and have no more than ``least_seconds``, whatever their photos.
    """

    wanted: bytes
    least_seconds: float
    error: grpc.aio.AioRpcError
    at: float = field(default_factory=time.monotonic)

    def stands_for(self, wanted: bytes, remaining_seconds: float) -> bool:
        is_fresh = time.monotonic() - self.at < _FRESH_SECONDS
        return is_fresh and wanted == self.wanted and remaining_seconds <= self.least_seconds

    def again(self) -> grpc.aio.AioRpcError:
        """It as a new error, because each that is raised gathers a traceback."""
        error = self.error
        return grpc.aio.AioRpcError(error.code(), error.initial_metadata(), error.trailing_metadata(), error.details())


class Room:
    """The limit of this gateway and the queues of the stylizers.

    Args:
        stylizer: is asked.
        settings: of the process.
    """

    def __init__(self, stylizer: StylizerAsyncStub, settings: GatewaySettings) -> None:
        self._stylizer = stylizer
        self._settings = settings
        self._inside = 0
        self._segment_seconds = 0.0
        self._answered: deque[str] = deque(maxlen=_ANSWERS)
        self._refusal: _Refusal | None = None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside. Raises ResourceExhausted if as many are inside as may be."""
        limit = self._settings.max_inflight
        if self._inside >= limit:
            raise ResourceExhausted(
                f"{limit} transfers are under way, as many as may be", _RETRY_SECONDS, Shortage.QUEUE
            )
        self._inside += 1
        was_refused = False
        try:
            yield
        except grpc.aio.AioRpcError:  # not always a refusal, but one for whom there was room leaves in other ways
            was_refused = True
            raise
        finally:
            self._inside -= 1
            if not was_refused:
                self._refusal = None

    def segmented(self, seconds: float) -> None:
        """Segmentation took so long: that will be missing from the next deadline."""
        before = self._segment_seconds or seconds
        self._segment_seconds = before + _WEIGHT_OF_NEW * (seconds - before)

    def recall(self, transfer: photo_style_pb2.Transfer, deadline: Deadline) -> None:
        """Refuse what a lone stylizer has just refused for any photo, before anything else is done for it.

        Raises:
            AioRpcError: as then.
        """
        if self._refusal is not None and self._refusal.stands_for(
            _wanted(transfer).SerializeToString(deterministic=True), self._remaining(transfer, deadline)
        ):
            raise self._refusal.again()

    async def check(self, transfer: photo_style_pb2.Transfer, content: PhotoInfo, deadline: Deadline) -> None:
        """Ask one stylizer after the other whether it would take this transfer; a lone one is asked once.

        One that lacks the RPC takes all.

        Raises:
            Exception: what the last one that was asked refuses it with.
        """
        request = _wanted(transfer)
        wanted = request.SerializeToString(deterministic=True)
        request.width_px, request.height_px = content.width_px, content.height_px
        for tries_left in reversed(range(self._settings.stylizer_tries)):
            timeout = deadline.timeout(self._settings.solve_timeout_seconds)
            if deadline.seconds is not None:
                request.remaining_seconds = self._remaining(transfer, deadline)
            try:
                answer = await self._stylizer.CheckRoom(request, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return
                status = status_of(error)
                refused_by, least_seconds = replica_of(status), least_seconds_of(status)
                self._note(refused_by)
                if tries_left and is_for_another_replica(error) and not self._is_alone(refused_by):
                    continue
                if least_seconds and self._is_alone(refused_by):
                    self._refusal = _Refusal(wanted, least_seconds, error)
                raise explained("stylizer", timeout, error) from error
            self._note(answer.replica)
            return

    def _remaining(self, transfer: photo_style_pb2.Transfer, deadline: Deadline) -> float:
        """Seconds that will be left when photos are segmented; infinite if there is no deadline."""
        needs_labels = not (transfer.HasField("content_labels") and transfer.HasField("style_labels"))
        return max(0.0, deadline.remaining() - (self._segment_seconds if needs_labels else 0.0))

    def _note(self, replica: str) -> None:
        if replica:
            self._answered.append(replica)

    def _is_alone(self, replica: str) -> bool:
        return self._answered.count(replica) == _ANSWERS


def _wanted(transfer: photo_style_pb2.Transfer) -> stylizer_pb2.CheckRoomRequest:
    """The question without photo and time."""
    return stylizer_pb2.CheckRoomRequest(
        params=transfer.params, priority=transfer.priority, best_effort=transfer.best_effort
    )
