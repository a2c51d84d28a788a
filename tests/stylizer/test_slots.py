"""The queue: order, positions, the limit, and callers who leave at the worst moment."""

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from services.common.errors import ResourceExhausted, Unavailable
from services.stylizer import slots as slots_module
from services.stylizer.slots import Priority, Slots


def one_slot(limit: int, on_depth: Callable[[int], None] = lambda _: None) -> Slots[str, int]:
    slots = Slots[str, int](limit, on_depth)
    slots.offer("slot")
    return slots


async def take(
    slots: Slots[str, int], seen: list[int] | None = None, priority: Priority = Priority.NORMAL, size: int = 0
) -> str:
    taken = ""
    async with contextlib.aclosing(slots.acquire(size, priority)) as positions:
        async for position in positions:
            if isinstance(position, str):
                taken = position
            elif seen is not None:
                seen.append(position)
    assert taken
    return taken


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_first_come_first_served_with_positions() -> None:
    depths: list[int] = []
    slots, order, seen = one_slot(4, depths.append), [], {"b": [], "c": []}

    async def caller(name: str) -> None:
        await take(slots, seen[name])
        order.append(name)

    await take(slots)
    tasks = [asyncio.create_task(caller(name)) for name in ("b", "c")]
    await settle()
    assert seen == {"b": [1], "c": [2]}
    slots.release("slot", 0, 2.0)
    await settle()
    assert (order, seen["c"]) == (["b"], [2, 1])
    assert slots.eta_seconds(1) == pytest.approx(2.0)
    slots.release("slot", 0)
    await asyncio.gather(*tasks)
    assert order == ["b", "c"]
    assert depths == [1, 2, 1, 0]


async def test_full_queue_refuses_and_says_when_to_come_back() -> None:
    slots = one_slot(0)
    await take(slots)
    with pytest.raises(ResourceExhausted, match="0 requests are waiting") as caught:
        await take(slots)
    assert caught.value.retry_after_seconds > 0
    slots.release("slot", 0)
    await take(slots)


async def test_a_caller_who_leaves_is_forgotten() -> None:
    slots, seen = one_slot(4), []
    await take(slots)
    leaving = asyncio.create_task(take(slots))
    staying = asyncio.create_task(take(slots, seen))
    await settle()
    leaving.cancel()
    await settle()
    assert seen == [2, 1]
    slots.release("slot", 0)
    await asyncio.wait_for(staying, 5)


async def test_a_caller_who_leaves_as_the_slot_is_handed_over_passes_it_on() -> None:
    slots = one_slot(4)
    await take(slots)
    leaving = asyncio.create_task(take(slots))
    staying = asyncio.create_task(take(slots))
    await settle()
    slots.release("slot", 0)  # now it is leaving's, who does not know yet
    leaving.cancel()
    await asyncio.wait_for(staying, 5)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(slots_module, "time", SimpleNamespace(monotonic=lambda: self.now))


async def served(slots: Slots[str, int], callers: dict[str, Priority], clock: Clock, apart: float) -> list[str]:
    """Who is served in which order, if they come one after the other and the slot is busy until all are there."""
    order: list[str] = []

    async def caller(name: str, priority: Priority) -> None:
        await take(slots, priority=priority)
        order.append(name)

    await take(slots)
    tasks = []
    for name, priority in callers.items():
        tasks.append(asyncio.create_task(caller(name, priority)))
        await settle()
        clock.now += apart
    for _ in tasks:
        slots.release("slot", 0)
        await settle()
    await asyncio.gather(*tasks)
    return order


async def test_the_urgent_go_first_and_equals_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    callers = {
        "low": Priority.LOW,
        "normal": Priority.NORMAL,
        "high": Priority.HIGH,
        "high too": Priority.HIGH,
        "again": Priority.AGAIN,
    }
    order = await served(one_slot(8), callers, Clock(monkeypatch), 1.0)
    assert order == ["again", "high", "high too", "normal", "low"]


async def test_who_has_waited_long_enough_goes_before_the_urgent(monkeypatch: pytest.MonkeyPatch) -> None:
    callers = {"low": Priority.LOW, "normal": Priority.NORMAL, "high": Priority.HIGH}
    assert await served(one_slot(8), callers, Clock(monkeypatch), 61.0) == ["low", "normal", "high"]


async def test_room_is_kept_for_the_urgent() -> None:
    slots = one_slot(8)
    await take(slots)
    tasks = []
    for priority, room in ((Priority.LOW, 4), (Priority.NORMAL, 7), (Priority.HIGH, 8)):
        while len(tasks) < room:
            tasks.append(asyncio.create_task(take(slots, priority=priority)))
            await settle()
        with pytest.raises(ResourceExhausted, match=f"{room} requests are waiting"):
            await take(slots, priority=priority)
    again = asyncio.create_task(take(slots, priority=Priority.AGAIN))
    await settle()
    slots.release("slot", 0)
    assert await again == "slot"
    for task in tasks:
        task.cancel()


async def test_those_who_are_expected_count_as_waiting() -> None:
    slots = one_slot(2)
    slots.offer("other slot")
    for expected in range(4):
        slots.check_room(Priority.HIGH, expected)
    with pytest.raises(ResourceExhausted, match="2 requests are waiting"):
        slots.check_room(Priority.HIGH, 4)
    await take(slots)
    slots.release("slot", 0, 6.0)
    assert [slots.wait_seconds(Priority.NORMAL, expected) for expected in range(4)] == [0.0, 0.0, 3.0, 6.0]


async def test_slots_come_and_go_with_their_workers() -> None:
    slots = one_slot(4)
    assert await take(slots) == "slot"
    slots.lose("slot", 0)
    waiting = asyncio.create_task(take(slots))
    await settle()
    assert not waiting.done()
    slots.offer("new")
    assert await waiting == "new"
    slots.release("new", 0)
    slots.withdraw("new")
    slots.withdraw("new")  # nothing left to take away
    waiting = asyncio.create_task(take(slots))
    await settle()
    slots.dismiss(Unavailable("no worker", 1.0))
    with pytest.raises(Unavailable, match="no worker"):
        await waiting


def two_slots_of(limit: int, capacity: int) -> Slots[str, int]:
    """One worker with room for two jobs, if their sizes do not exceed its capacity."""
    slots = Slots[str, int](limit, lambda _: None, lambda _, sizes: sum(sizes) <= capacity)
    for _ in range(2):
        slots.offer("slot")
    return slots


async def test_a_job_waits_for_the_memory_of_those_beside_it() -> None:
    slots = two_slots_of(4, 10)
    await take(slots, size=6)
    large = asyncio.create_task(take(slots, size=5))
    small = asyncio.create_task(take(slots, size=1))  # fits, but would go on passing the large one
    await settle()
    assert not large.done()
    assert not small.done()
    assert slots.wait_seconds(Priority.NORMAL) == 0, "nothing was timed yet"
    slots.release("slot", 6, 3.0)
    assert await large == await small == "slot"
    assert slots.wait_seconds(Priority.NORMAL) == pytest.approx(1.5)


async def test_a_job_that_is_too_large_for_two_gets_a_worker_for_itself() -> None:
    slots = two_slots_of(4, 10)
    assert await take(slots, size=1000) == "slot"
    beside = asyncio.create_task(take(slots, size=0))
    await settle()
    assert not beside.done()
    slots.release("slot", 1000)
    assert await beside == "slot"


async def test_who_gives_up_waiting_for_memory_lets_the_next_one_pass() -> None:
    slots = two_slots_of(4, 10)
    await take(slots, size=6)
    large = asyncio.create_task(take(slots, size=6))
    small = asyncio.create_task(take(slots, size=4))
    await settle()
    large.cancel()
    assert await asyncio.wait_for(small, 5) == "slot"


async def test_nobody_waits_for_memory_where_nobody_may_wait() -> None:
    slots = two_slots_of(0, 10)
    await take(slots, size=6)
    with pytest.raises(ResourceExhausted, match="0 requests are waiting"):
        await take(slots, size=5)
    assert await take(slots, size=4) == "slot"
