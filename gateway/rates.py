"""A token bucket for each caller: so many requests at once, and so many a minute in the long run."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cachetools import LRUCache

from services.common.errors import ResourceExhausted, Shortage

__all__ = ["TokenBuckets"]

_MOST_CALLERS = 10_000
"""Whose bucket is remembered; a caller who is forgotten had a full one, as long as fewer come and go within minutes."""


@dataclass
class _Bucket:
    tokens: float
    at: float


class TokenBuckets:
    """Buckets by caller.

    Own code of twenty lines: the libraries at hand (limits, aiolimiter) know windows, or make a caller wait, where an
    RPC is to be refused with the time to come back.

    Args:
        per_minute: tokens that a bucket gains; 0 = no limit.
        burst: tokens that a bucket holds, and has at first.
    """

    def __init__(self, per_minute: float, burst: int) -> None:
        self._rate, self._burst = per_minute / 60, burst
        self._buckets: LRUCache[str, _Bucket] = LRUCache(_MOST_CALLERS)

    def take(self, caller: str) -> None:
        """Take a token.

        Raises:
            ResourceExhausted: the caller's bucket is empty.
        """
        if not self._rate:
            return
        now = time.monotonic()
        bucket = self._buckets.get(caller) or _Bucket(self._burst, now)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        self._buckets[caller] = bucket
        if bucket.tokens < 1:
            limit = f"{60 * self._rate:g} a minute, {self._burst} at once"
            wait = (1 - bucket.tokens) / self._rate
            raise ResourceExhausted(f"too many requests of {caller}: {limit}", wait, Shortage.RATE)
        bucket.tokens -= 1
