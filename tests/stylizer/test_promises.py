"""Promised places: for whom, and for how long."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from services.stylizer import promises as promises_module
from services.stylizer.promises import Promises


class Clock(SimpleNamespace):
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(promises_module, "time", clock)
    return clock


def test_a_place_is_kept_until_its_request_comes(clock: Clock) -> None:
    promises = Promises()
    promises.give("a")
    promises.give("b")
    assert len(promises) == 2
    promises.redeem("b")
    promises.redeem("b")  # from another replica: uses up the one that is left
    assert len(promises) == 0
    promises.redeem("c")


def test_who_does_not_come_loses_it_after_five_seconds(clock: Clock) -> None:
    promises = Promises()
    promises.give("a")
    clock.now += 4.9
    promises.give("b")
    assert len(promises) == 2
    clock.now += 0.2
    assert len(promises) == 1


def test_where_requests_come_soon_places_are_not_kept_long_for_those_who_left(clock: Clock) -> None:
    promises = Promises()
    for number in range(30):
        promises.give(f"came {number}")
        clock.now += 0.2
        promises.redeem(f"came {number}")
    promises.give("left")
    clock.now += 0.7
    assert len(promises) == 1
    clock.now += 0.2
    assert len(promises) == 0


def test_a_place_is_never_kept_less_than_half_a_second(clock: Clock) -> None:
    promises = Promises()
    for number in range(30):
        promises.give(f"came {number}")
        promises.redeem(f"came {number}")
    promises.give("slow")
    clock.now += 0.45
    assert len(promises) == 1
