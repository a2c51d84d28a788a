"""Token buckets, on a clock of their own."""

from types import SimpleNamespace

import pytest

from gateway import rates
from gateway.rates import TokenBuckets
from services.common.errors import ResourceExhausted


def test_a_caller_may_come_in_bursts_and_then_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(rates, "time", SimpleNamespace(monotonic=lambda: now[0]))
    buckets = TokenBuckets(per_minute=30, burst=3)
    for _ in range(3):
        buckets.take("a")
    with pytest.raises(ResourceExhausted, match="too many requests of a: 30 a minute, 3 at once") as caught:
        buckets.take("a")
    assert caught.value.retry_after_seconds == pytest.approx(2.0)
    buckets.take("b")
    now[0] += 1.0
    with pytest.raises(ResourceExhausted) as caught:
        buckets.take("a")
    assert caught.value.retry_after_seconds == pytest.approx(1.0)
    now[0] += 1.0
    buckets.take("a")
    now[0] += 1000.0
    for _ in range(3):
        buckets.take("a")
    with pytest.raises(ResourceExhausted):
        buckets.take("a")


def test_no_rate_is_no_limit() -> None:
    buckets = TokenBuckets(per_minute=0, burst=1)
    for _ in range(100):
        buckets.take("a")


def test_buckets_of_callers_who_come_once_do_not_pile_up() -> None:
    buckets = TokenBuckets(per_minute=1, burst=1)
    for number in range(20_000):
        buckets.take(str(number))
    assert len(buckets._buckets) == 10_000
