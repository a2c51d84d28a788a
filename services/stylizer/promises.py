"""Places in the queue that callers were promised and have not come for yet."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["Promises"]

_MOST_SECONDS: Final = 5.0
"""How long a place is kept at most: both photos are segmented meanwhile, in half a second where nothing is busy."""

_LEAST_SECONDS: Final = 0.5
_PATIENCE: Final = 4.0
"""How long it is kept, in the time that those who came took of late: who leaves instead holds others up no longer."""

_WEIGHT_OF_NEW: Final = 0.2


class Promises:
    """Kept for a request's id; that of one who was promised a place by another replica uses up the oldest."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._seconds = _MOST_SECONDS / _PATIENCE

    def __len__(self) -> int:
        """How many are still kept."""
        oldest = time.monotonic() - min(_MOST_SECONDS, max(_LEAST_SECONDS, _PATIENCE * self._seconds))
        for request_id, since in list(self._since.items()):
            if since < oldest:
                del self._since[request_id]
        return len(self._since)

    def give(self, request_id: str) -> None:
        """Promise a place."""
        self._since[request_id] = time.monotonic()

    def redeem(self, request_id: str) -> None:
        """A request is there."""
        since = self._since.pop(request_id, None)
        if since is not None:
            self._seconds += _WEIGHT_OF_NEW * (time.monotonic() - since - self._seconds)
        elif self._since:
            del self._since[next(iter(self._since))]
