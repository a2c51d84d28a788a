"""What the gateway knows of the stylizer's room from its refusals."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack

import pytest
from dpst.v1 import params_pb2

from gateway import overload
from gateway.overload import Gate
from services.common.errors import ResourceExhausted

HIGH, NORMAL, LOW = params_pb2.PRIORITY_HIGH, params_pb2.PRIORITY_NORMAL, params_pb2.PRIORITY_LOW


class Clock:
    """In the place of ``time``."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Stylizer:
    """Has room for some transfers, behind a gate."""

    def __init__(self, room: int) -> None:
        self.gate, self.room = Gate(1000), room
        self.inside: list[ExitStack] = []
        self.segmented_for_nothing = 0

    def comes(self, seconds: float | None = None) -> bool:
        with ExitStack() as stack:
            stack.enter_context(self._entered(seconds))
            if len(self.inside) >= self.room:
                self.segmented_for_nothing += 1
                self.gate.refused(NORMAL, seconds, 3.0)
                return False
            self.inside.append(stack.pop_all())
        return True

    def _entered(self, seconds: float | None) -> AbstractContextManager[None]:
        return self.gate.entered(NORMAL, seconds)

    def leaves(self) -> None:
        self.inside.pop().close()


def came(stylizer: Stylizer, seconds: float | None = None) -> bool:
    try:
        return stylizer.comes(seconds)
    except ResourceExhausted:
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(overload, "time", clock)
    return clock


def test_each_that_leaves_makes_room_for_one(clock: Clock) -> None:
    stylizer = Stylizer(4)
    assert [came(stylizer) for _ in range(8)] == [True] * 4 + [False] * 4
    assert stylizer.segmented_for_nothing == 1
    for _ in range(20):
        clock.now += 0.01
        stylizer.leaves()
        assert [came(stylizer) for _ in range(3)] == [True, False, False]
    assert stylizer.segmented_for_nothing == 1


def test_under_a_long_overload_few_find_out_that_there_is_no_more_room(clock: Clock) -> None:
    stylizer = Stylizer(4)
    for _ in range(3000):
        clock.now += 0.033
        came(stylizer)
    assert len(stylizer.inside) == 4
    assert 15 <= stylizer.segmented_for_nothing <= 25


def test_room_that_grew_is_found_by_doubling(clock: Clock) -> None:
    stylizer = Stylizer(4)
    for _ in range(600):
        clock.now += 0.033
        came(stylizer)
    stylizer.room = 40
    before = clock.now
    while len(stylizer.inside) < 40:
        clock.now += 0.033
        came(stylizer)
    assert clock.now - before < 12


def test_one_gateway_does_not_wait_for_ever_where_others_fill_the_queue(clock: Clock) -> None:
    stylizer = Stylizer(0)
    assert not came(stylizer)
    stylizer.room = 1
    with pytest.raises(ResourceExhausted, match="the stylizer's queue is full") as refused:
        stylizer.comes()
    assert refused.value.retry_after_seconds == 3.0
    clock.now += 1.01
    assert came(stylizer)


def test_a_longer_deadline_may_find_room(clock: Clock) -> None:
    stylizer = Stylizer(0)
    assert not came(stylizer, 4.0)
    stylizer.room = 2
    assert not came(stylizer, 4.5)
    assert came(stylizer, 60.0)
    assert came(stylizer, None)
    assert stylizer.segmented_for_nothing == 1


def test_priorities_above_the_refused_one_come_in(clock: Clock) -> None:
    gate = Gate(10)
    with gate.entered(NORMAL, None):
        gate.refused(NORMAL, None, 3.0)
    for level in (LOW, NORMAL, params_pb2.PRIORITY_UNSPECIFIED):
        with pytest.raises(ResourceExhausted), gate.entered(level, None):
            pass
    with gate.entered(HIGH, None):
        pass
