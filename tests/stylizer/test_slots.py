"""The queue: order, positions, the limit, and callers who leave at the worst moment."""

import asyncio
import contextlib

import pytest

from services.common.errors import ResourceExhausted
from services.stylizer.slots import Slots


async def take(slots: Slots, seen: list[int] | None = None) -> None:
    async with contextlib.aclosing(slots.acquire()) as positions:
        async for position in positions:
            if seen is not None:
                seen.append(position)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_first_come_first_served_with_positions() -> None:
    depths: list[int] = []
    slots, order, seen = Slots(4, depths.append), [], {"b": [], "c": []}

    async def caller(name: str) -> None:
        await take(slots, seen[name])
        order.append(name)

    await take(slots)
    tasks = [asyncio.create_task(caller(name)) for name in ("b", "c")]
    await settle()
    assert seen == {"b": [1], "c": [2]}
    slots.release(2.0)
    await settle()
    assert (order, seen["c"]) == (["b"], [2, 1])
    assert slots.eta_seconds(1) == pytest.approx(2.0)
    slots.release()
    await asyncio.gather(*tasks)
    assert order == ["b", "c"]
    assert depths == [1, 2, 1, 0]


async def test_full_queue_refuses_and_says_when_to_come_back() -> None:
    slots = Slots(0, lambda _: None)
    await take(slots)
    with pytest.raises(ResourceExhausted, match="0 requests are waiting") as caught:
        await take(slots)
    assert caught.value.retry_after_seconds > 0
    slots.release()
    await take(slots)


async def test_a_caller_who_leaves_is_forgotten() -> None:
    slots, seen = Slots(4, lambda _: None), []
    await take(slots)
    leaving = asyncio.create_task(take(slots))
    staying = asyncio.create_task(take(slots, seen))
    await settle()
    leaving.cancel()
    await settle()
    assert seen == [2, 1]
    slots.release()
    await asyncio.wait_for(staying, 5)


async def test_a_caller_who_leaves_as_the_slot_is_handed_over_passes_it_on() -> None:
    slots = Slots(4, lambda _: None)
    await take(slots)
    leaving = asyncio.create_task(take(slots))
    staying = asyncio.create_task(take(slots))
    await settle()
    slots.release()  # now it is leaving's, who does not know yet
    leaving.cancel()
    await asyncio.wait_for(staying, 5)
