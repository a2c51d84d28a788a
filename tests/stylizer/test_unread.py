"""Events that wait for a reader who does not come."""

from __future__ import annotations

import asyncio

from services.common.images import PhotoInfo
from services.stylizer.core.results import Losses
from services.stylizer.jobs import Checkpointed, Iterated, Picture, StageBegan
from services.stylizer.unread import Unread

LOSSES = Losses(1.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def iterated(evaluation: int, preview: bytes = b"") -> Iterated:
    return Iterated(evaluation, 9, LOSSES, 1.0, 1.0, preview)


def waiting(*events: object) -> list[object]:
    """What a reader finds that comes after all of them."""
    unread: Unread[object] = Unread()
    for event in events:
        unread.put_nowait(event)
    return [unread.get_nowait() for _ in range(unread.qsize())]


def test_one_checkpoint_waits_the_newest() -> None:
    old, new = Checkpointed(b"old", 1), Checkpointed(b"new", 2)
    assert waiting(StageBegan("solve"), iterated(1), old, iterated(2), new) == [
        StageBegan("solve"),
        iterated(1),
        iterated(2),
        new,
    ]


def test_one_preview_waits_the_newest() -> None:
    assert waiting(iterated(1, b"old"), iterated(2), iterated(3, b"new"), iterated(4)) == [
        iterated(1),
        iterated(2),
        iterated(3, b"new"),
        iterated(4),
    ]


def test_a_result_needs_no_checkpoint() -> None:
    picture = Picture(b"file", PhotoInfo("png", 4, 4, 8, False, False))
    assert waiting(iterated(1), Checkpointed(b"state", 1), picture) == [iterated(1), picture]


async def test_a_reader_in_time_gets_everything_and_waits_for_more() -> None:
    unread: Unread[Checkpointed] = Unread()
    read = []
    for n in range(3):
        reading = asyncio.create_task(unread.get())
        await asyncio.sleep(0)
        unread.put_nowait(Checkpointed(b"state", n))
        read.append((await reading).evaluations)
    assert read == [0, 1, 2]
