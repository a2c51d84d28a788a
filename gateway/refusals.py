"""What full stylizers said of late, so that under overload not every caller who is one too many costs a question."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import grpc.aio
from dpst.v1 import stylizer_pb2

from services.common.errors import ResourceExhausted, Shortage
from services.common.status import retry_seconds, shortage_of, status_of

__all__ = ["Refusals"]

_STANDING_SHARE: Final = 0.25
_STANDING_SECONDS: Final = 0.25
"""A refusal stands for this share of the time after which it says that another try may succeed, and no longer."""


@dataclass(frozen=True)
class _Refusal:
    request: stylizer_pb2.CheckRoomRequest
    shortage: Shortage
    message: str
    given: float
    retry_seconds: float

    def stands(self, now: float) -> bool:
        return now - self.given < min(_STANDING_SHARE * self.retry_seconds, _STANDING_SECONDS)

    def covers(self, request: stylizer_pb2.CheckRoomRequest) -> bool:
        """Whether that request would be refused, too: it asks no less, for a queue no shorter."""
        if request.priority != self.request.priority:
            return False
        return self.shortage is Shortage.QUEUE or (
            request.HasField("remaining_seconds")
            and request.remaining_seconds <= self.request.remaining_seconds
            and request.best_effort == self.request.best_effort
            and request.params == self.request.params
            and request.width_px * request.height_px >= self.request.width_px * self.request.height_px
        )


class Refusals:
    """The last refusal of each replica, for want of a place or of time in its queue.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, _Refusal] = {}

    def note(self, replica: str, request: stylizer_pb2.CheckRoomRequest, error: grpc.aio.AioRpcError) -> None:
        """Keep what a replica refused a request with; errors of other kinds are not kept."""
        status = status_of(error)
        shortage = shortage_of(status)
        if replica and shortage in (Shortage.QUEUE, Shortage.TIME):
            kept = stylizer_pb2.CheckRoomRequest()
            kept.CopyFrom(request)
            now = self._clock()
            self._last = {name: refusal for name, refusal in self._last.items() if refusal.stands(now)}
            self._last[replica] = _Refusal(kept, shortage, status.message, now, retry_seconds(status))

    def forget(self, replica: str) -> None:
        """A replica has room again."""
        self._last.pop(replica, None)

    def check(self, request: stylizer_pb2.CheckRoomRequest, replicas: Collection[str]) -> None:
        """Raise ResourceExhausted if each of these replicas has just refused no more than this request asks."""
        now = self._clock()
        said = [self._last.get(replica) for replica in replicas]
        standing = [each for each in said if each is not None and each.stands(now) and each.covers(request)]
        if standing and len(standing) == len(said):
            first = min(standing, key=lambda each: each.given + each.retry_seconds)
            rest = first.retry_seconds - (now - first.given)
            raise ResourceExhausted(
                f"refused like another request {now - first.given:.2f} s ago: {first.message}", rest, first.shortage
            )
