"""Asking stylizers for room: a lone one, one of several, and one that is older than the question."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc.aio
import pytest
from dpst.v1 import photo_style_pb2, stylizer_pb2, stylizer_pb2_grpc
from dpst.v1.params_pb2 import PRIORITY_HIGH, TransferParams
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from gateway.downstream import Deadline
from gateway.room import Room
from services.common.config import GatewaySettings
from services.common.errors import DeadlineExceeded, Shortage
from services.common.images import PhotoInfo
from services.common.metrics import Metrics
from services.common.status import error_of, shortage_of, status_of
from tests.gateway.fakes import started

PHOTO = PhotoInfo("png", 48, 32, 8, False, False)


async def test_a_stylizer_that_does_not_know_the_question_takes_all() -> None:
    settings = GatewaySettings(host="127.0.0.1", port=0, http_port=0)
    server, address = await started(settings, lambda server: None, Metrics())
    async with grpc.aio.insecure_channel(address) as channel:
        room = Room(stylizer_pb2_grpc.StylizerStub(channel), settings)
        await room.check(photo_style_pb2.Transfer(), PHOTO, Deadline(5.0))
    await server.stop(None)


class Stylizers:
    """Replicas behind a channel: each is asked in its turn."""

    def __init__(self, *names: str, full: bool = False) -> None:
        self.names, self.full, self.asked, self.least_seconds = names, full, 0, "5.000"

    async def CheckRoom(self, request: Any, **options: Any) -> stylizer_pb2.CheckRoomResponse:
        replica = self.names[self.asked % len(self.names)]
        self.asked += 1
        if not self.full:
            return stylizer_pb2.CheckRoomResponse(replica=replica)
        packed = AnyMessage()
        said = {"replica": replica, **({"least_seconds": self.least_seconds} if self.least_seconds else {})}
        packed.Pack(error_details_pb2.ErrorInfo(reason=Shortage.QUEUE, domain="dpst", metadata=said))
        code = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        raise error_of(status_pb2.Status(code=code, message="full", details=[packed]))


async def let_in(room: Room, seconds: float | None, **wanted: Any) -> None:
    """Let in a transfer that has so much time, if there is room."""
    transfer = photo_style_pb2.Transfer(**wanted)
    with room.entered():
        room.recall(transfer, Deadline(seconds))
        await room.check(transfer, PHOTO, Deadline(seconds))


async def refused(room: Room, stylizers: Stylizers, seconds: float | None, **wanted: Any) -> int:
    """How many were asked until such a transfer was refused."""
    before = stylizers.asked
    with pytest.raises(grpc.aio.AioRpcError, match="full") as caught:
        await let_in(room, seconds, **wanted)
    assert shortage_of(status_of(caught.value)) is Shortage.QUEUE
    return stylizers.asked - before


@pytest.mark.parametrize(("names", "asked"), [(("a",), 1), (("a", "b"), 2), (("a", "a", "b"), 2), (("",), 2)])
async def test_a_lone_stylizer_that_is_full_is_asked_once(names: tuple[str, ...], asked: int) -> None:
    stylizers = Stylizers(*names)
    room = Room(stylizers, GatewaySettings())
    for _ in range(8):
        await room.check(photo_style_pb2.Transfer(), PHOTO, Deadline(5.0))
    stylizers.full = True
    assert [await refused(room, stylizers, 5.0 + n) for n in range(4)] == [asked] * 4


async def test_who_is_alone_is_not_known_at_first_nor_when_another_one_comes() -> None:
    stylizers = Stylizers("a", full=True)
    room = Room(stylizers, GatewaySettings())
    assert [await refused(room, stylizers, 5.0 + n) for n in range(6)] == [2, 2, 2, 2, 1, 1]
    stylizers.names = ("b", "a")
    assert [await refused(room, stylizers, 20.0 + n) for n in range(3)] == [2, 2, 2]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is fresh for longer than any test takes."""
    monkeypatch.setattr("gateway.room._FRESH_SECONDS", 60.0)


async def known(*names: str) -> tuple[Room, Stylizers]:
    """Stylizers that have let in some and are full now."""
    stylizers = Stylizers(*names)
    room = Room(stylizers, GatewaySettings())
    for _ in range(8):
        await let_in(room, 5.0)
    stylizers.full = True
    return room, stylizers


@pytest.mark.usefixtures("fresh")
async def test_none_is_asked_for_what_has_just_been_refused() -> None:
    room, stylizers = await known("a")
    assert await refused(room, stylizers, 3.0) == 1
    assert await refused(room, stylizers, 5.0) == 0, "5 s are too little as well"
    assert await refused(room, stylizers, 6.0) == 1, "it has more time"
    assert await refused(room, stylizers, 4.0) == 0
    assert await refused(room, stylizers, 4.0, priority=PRIORITY_HIGH) == 1, "it is more urgent"
    assert await refused(room, stylizers, 4.0, best_effort=True) == 1, "it needs less"
    assert await refused(room, stylizers, 4.0, params=TransferParams(max_evaluations=3)) == 1, "it needs less"


@pytest.mark.usefixtures("fresh")
async def test_a_full_queue_is_full_for_those_who_have_all_the_time_there_is() -> None:
    room, stylizers = await known("a")
    stylizers.least_seconds = "inf"
    assert [await refused(room, stylizers, seconds) for seconds in (4.0, 400.0, None)] == [1, 0, 0]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("said", ["", "soon"])
async def test_a_refusal_that_names_no_time_is_asked_for_again(said: str) -> None:
    room, stylizers = await known("a")
    stylizers.least_seconds = said
    assert [await refused(room, stylizers, 4.0) for _ in range(3)] == [1, 1, 1]


@pytest.mark.usefixtures("fresh")
async def test_another_stylizer_may_have_room() -> None:
    room, stylizers = await known("a", "b")
    assert [await refused(room, stylizers, 5.0 - n) for n in range(3)] == [2, 2, 2]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("error", [None, asyncio.CancelledError(), DeadlineExceeded("too late")])
async def test_a_place_may_be_free_when_a_transfer_has_left(error: BaseException | None) -> None:
    room, stylizers = await known("a")
    with contextlib.suppress(type(error) if error else ()), room.entered():
        assert await refused(room, stylizers, 5.0) == 1
        assert await refused(room, stylizers, 4.0) == 0
        if error is not None:
            raise error
    stylizers.full = False
    await let_in(room, 4.0)


async def test_a_refusal_is_soon_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.room._FRESH_SECONDS", 0.0)
    room, stylizers = await known("a")
    assert await refused(room, stylizers, 5.0) == await refused(room, stylizers, 4.0) == 1
