"""Refusals that stand for a moment: for whom, for how long, and which replicas must have given them."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest
from dpst.v1 import params_pb2, stylizer_pb2

from gateway.refusals import Refusals
from services.common.errors import ResourceExhausted, Shortage
from services.common.status import error_of, status_of

ASKED: dict[str, Any] = {
    "params": params_pb2.TransferParams(max_evaluations=12),
    "width_px": 640,
    "height_px": 480,
    "priority": params_pb2.PRIORITY_NORMAL,
    "remaining_seconds": 4.0,
}


def refusal(shortage: Shortage, retry_after_seconds: float = 2.0) -> grpc.aio.AioRpcError:
    return error_of(status_of(ResourceExhausted("no room", retry_after_seconds, shortage)))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def is_refused(refusals: Refusals, replicas: set[str], **changes: Any) -> bool:
    try:
        refusals.check(stylizer_pb2.CheckRoomRequest(**(ASKED | changes)), replicas)
    except ResourceExhausted:
        return True
    return False


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, True),
        ({"remaining_seconds": 3.9}, True),
        ({"remaining_seconds": 4.1}, False),
        ({"remaining_seconds": None}, False),
        ({"width_px": 641}, True),
        ({"width_px": 639}, False),
        ({"best_effort": True}, False),
        ({"priority": params_pb2.PRIORITY_HIGH}, False),
        ({"params": params_pb2.TransferParams(max_evaluations=11)}, False),
    ],
)
def test_a_queue_too_long_for_one_is_too_long_for_who_asks_no_less(changes: dict[str, Any], refused: bool) -> None:
    refusals = Refusals(Clock())
    refusals.note("a", stylizer_pb2.CheckRoomRequest(**ASKED), refusal(Shortage.TIME))
    assert is_refused(refusals, {"a"}, **changes) is refused


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"remaining_seconds": None, "width_px": 1, "params": params_pb2.TransferParams(), "best_effort": True}, True),
        ({"priority": params_pb2.PRIORITY_HIGH}, False),
    ],
)
def test_a_full_queue_is_full_for_all_of_that_priority(changes: dict[str, Any], refused: bool) -> None:
    refusals = Refusals(Clock())
    refusals.note("a", stylizer_pb2.CheckRoomRequest(**ASKED), refusal(Shortage.QUEUE))
    assert is_refused(refusals, {"a"}, **changes) is refused


@pytest.mark.parametrize(("retry_after_seconds", "stands"), [(0.4, 0.1), (1.0, 0.25), (60.0, 0.25)])
def test_it_stands_for_a_quarter_of_the_time_to_the_next_try_or_of_a_second(
    retry_after_seconds: float, stands: float
) -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.note("a", stylizer_pb2.CheckRoomRequest(**ASKED), refusal(Shortage.QUEUE, retry_after_seconds))
    clock.now += 0.9 * stands
    with pytest.raises(ResourceExhausted, match=r"another request 0\.\d\d s ago: no room") as raised:
        refusals.check(stylizer_pb2.CheckRoomRequest(**ASKED), {"a"})
    assert raised.value.shortage is Shortage.QUEUE
    assert raised.value.retry_after_seconds == pytest.approx(retry_after_seconds - 0.9 * stands)
    clock.now += 0.2 * stands
    assert not is_refused(refusals, {"a"})


def test_all_replicas_must_have_refused_and_one_that_has_room_again_is_asked() -> None:
    refusals = Refusals(Clock())
    refusals.note("a", stylizer_pb2.CheckRoomRequest(**ASKED), refusal(Shortage.QUEUE))
    assert not is_refused(refusals, {"a", "b"})
    assert not is_refused(refusals, set())
    refusals.note("b", stylizer_pb2.CheckRoomRequest(**ASKED), refusal(Shortage.TIME))
    assert is_refused(refusals, {"a", "b"})
    refusals.forget("a")
    assert not is_refused(refusals, {"a", "b"})


@pytest.mark.parametrize(
    "error",
    [refusal(Shortage.MEMORY), grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), None)],
)
def test_other_errors_say_nothing_of_the_next_request(error: grpc.aio.AioRpcError) -> None:
    refusals = Refusals(Clock())
    refusals.note("a", stylizer_pb2.CheckRoomRequest(**ASKED), error)
    assert not is_refused(refusals, {"a"})
