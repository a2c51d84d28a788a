"""What every store of jobs has to do, whichever engine is behind it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from dpst.v1 import jobs_pb2
from google.rpc import status_pb2

from gateway.jobs.jetstream.connection import Connection
from gateway.jobs.jetstream.store import JetStreamStore
from gateway.jobs.sqlite import SqliteStore
from gateway.jobs.store import KEPT_ITERATIONS, Event, JobStore, Policy, Verdict
from services.common.errors import InvalidArgument, Unavailable
from tests.gateway.jobs.made import BUSY, POLICY, claimed, done, job, state

ALL = tuple(number for number in jobs_pb2.TransferState.values() if number)

Opener = Callable[[], JobStore]


@pytest.fixture(params=["sqlite", "jetstream"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens the same store once more, as another gateway does."""
    stores: list[JobStore] = []
    prefix = f"p{uuid.uuid4().hex}"  # a store of its own on the one server

    def open_() -> JobStore:
        if request.param == "sqlite":
            stores.append(SqliteStore(tmp_path / "jobs" / "jobs.sqlite3"))
        else:
            server = request.getfixturevalue("nats")
            stores.append(JetStreamStore(Connection([server.url], None, 1, prefix)))
        return stores[-1]

    yield open_
    for store in stores:
        await store.close()


@pytest.fixture
def store(opened: Opener) -> JobStore:
    return opened()


async def given_up(store: JobStore, policy: Policy = POLICY, becomes: str = "DEAD") -> None:
    """The one job that there is becomes this when somebody would claim it, and nobody gets it."""
    async with asyncio.timeout(5):
        while True:
            assert await store.claim(policy) is None
            if await state(store, "operations/000") == becomes:
                return
            await asyncio.sleep(0.01)


async def test_a_job_from_its_submission_to_its_end(opened: Opener) -> None:
    first, second = opened(), opened()
    record = await first.submit(job())
    assert record.metadata.state == jobs_pb2.TRANSFER_STATE_QUEUED
    assert await second.get("operations/000", "ann") == record
    claim = await claimed(second)
    assert (claim.name, claim.transfer, claim.progress) == ("operations/000", b"transfer 0", b"")
    assert (claim.metadata.attempts, claim.metadata.request_id) == (1, "r0")
    assert await first.claim(POLICY) is None
    claim.metadata.evaluations = 7
    events = [Event(1, b"one"), Event(2, b"two", is_iteration=True)]
    assert await second.beat(claim, POLICY, claim.metadata, events, b"progress") is Verdict.GO_ON
    assert await first.events(claim.name, 0) == events
    assert await first.events(claim.name, 2) == events[1:]
    assert (await first.get(claim.name, "ann")).metadata.evaluations == 7  # type: ignore[union-attr]
    assert await second.end(claim, claim.metadata, done())
    ended = await first.get(claim.name, "ann")
    assert ended is not None
    assert ended.outcome is not None
    assert ended.outcome.result == done().result
    assert ended.outcome.error is None
    assert await first.claim(POLICY) is None


async def test_the_same_name_is_the_same_job(store: JobStore) -> None:
    await store.submit(job())
    again = await store.submit(job(fingerprint="another", transfer=b"another"))
    assert again.fingerprint == "print"
    assert (await claimed(store)).transfer == b"transfer 0"
    assert await store.claim(POLICY) is None


async def test_nobody_sees_the_jobs_of_others(store: JobStore) -> None:
    await store.submit(job())
    assert await store.get("operations/000", "bob") is None
    assert not await store.cancel("operations/000", "bob")
    assert await store.delete("operations/000", "bob") is None
    assert (await store.page("bob", ALL, 10, "")).records == []
    assert await state(store, "operations/000") == "QUEUED"


async def test_the_urgent_go_first_and_equals_in_order(store: JobStore) -> None:
    for number, priority in enumerate((2, 1, 1, 0)):
        await store.submit(job(number, priority=priority))
    order = [(await claimed(store)).name[-1] for _ in range(4)]
    assert order == ["3", "1", "2", "0"]


async def test_a_lost_lease_goes_to_another_and_the_first_is_told(store: JobStore) -> None:
    await store.submit(job())
    short = replace(POLICY, lease_seconds=0.3)
    lost = await claimed(store, short)
    assert await store.beat(lost, short, lost.metadata, [], b"far") is Verdict.GO_ON
    assert await store.claim(short) is None
    await asyncio.sleep(0.4)
    taken = await claimed(store, short)
    assert (taken.progress, taken.metadata.attempts) == (b"far", 2)
    assert await store.beat(lost, POLICY, lost.metadata, [Event(9, b"late")], b"late") is Verdict.LOST
    assert not await store.end(lost, lost.metadata, done("late"))
    await store.give_back(lost, 0, BUSY, counts=False)
    assert await store.events(lost.name, 0) == []
    assert await state(store, lost.name) == "RUNNING"
    assert await store.end(taken, taken.metadata, done("good"))
    record = await store.get(lost.name, "ann")
    assert record is not None
    assert record.outcome is not None
    assert record.outcome.result == done("good").result


async def test_a_job_that_is_given_back_waits_and_keeps_what_was_achieved(store: JobStore) -> None:
    await store.submit(job())
    claim = await claimed(store)
    await store.beat(claim, POLICY, claim.metadata, [], b"half")
    await store.give_back(claim, 0.3, BUSY, counts=False)
    assert await state(store, claim.name) == "QUEUED"
    assert await store.claim(POLICY) is None
    await asyncio.sleep(0.35)
    again = await claimed(store)
    assert (again.progress, again.metadata.attempts) == (b"half", 1)


async def test_after_its_attempts_a_job_is_dead_and_says_why(store: JobStore) -> None:
    await store.submit(job())
    for _ in range(POLICY.attempts):
        await store.give_back(await claimed(store), 0, BUSY, counts=True)
    await given_up(store)
    record = await store.get("operations/000", "ann")
    assert record is not None
    assert record.outcome is not None
    assert record.outcome.error is not None
    assert record.outcome.error.message == "given up after 3 attempts: the stylizer is away"
    assert record.outcome.error.code == grpc.StatusCode.ABORTED.value[0], "no invitation to ask again"
    assert record.metadata.attempts == 3


async def test_a_job_that_takes_its_gateways_with_it_is_dead(store: JobStore) -> None:
    await store.submit(job())
    short = replace(POLICY, lease_seconds=0.05)
    for _ in range(POLICY.attempts):
        await claimed(store, short)
        await asyncio.sleep(0.15)
    await given_up(store, short)
    record = await store.get("operations/000", "ann")
    assert record is not None
    assert record.outcome is not None
    assert record.outcome.error is not None
    assert record.outcome.error.message == "given up after 3 attempts: the gateway that worked on it was lost"


async def test_nobody_waits_for_ever(store: JobStore) -> None:
    await store.submit(job())
    await store.give_back(await claimed(store), 0, BUSY, counts=False)
    await asyncio.sleep(0.05)
    await given_up(store, replace(POLICY, patience_seconds=0.02))


async def test_cancel(store: JobStore) -> None:
    for number in range(3):
        await store.submit(job(number))
    running, other = await claimed(store), await claimed(store)
    for name in ("operations/000", "operations/001", "operations/002"):
        assert await store.cancel(name, "ann")
    assert await state(store, "operations/002") == "CANCELLED"
    assert await store.beat(running, POLICY, running.metadata, [], None) is Verdict.CANCELLED
    await store.give_back(running, 0, status_pb2.Status(), counts=False)
    assert await state(store, "operations/000") == "CANCELLED"
    assert await store.end(other, other.metadata, done()), "it was done before anybody saw that it was cancelled"
    assert await state(store, "operations/001") == "DONE"
    assert await store.cancel("operations/001", "ann")
    assert await state(store, "operations/001") == "DONE"
    assert not await store.cancel("operations/none", "ann")
    assert await store.claim(POLICY) is None


async def test_a_cancelled_job_whose_gateway_was_lost_is_cancelled(store: JobStore) -> None:
    await store.submit(job())
    short = replace(POLICY, lease_seconds=0.05)
    await claimed(store, short)
    await store.cancel("operations/000", "ann")
    await asyncio.sleep(0.15)
    await given_up(store, short, becomes="CANCELLED")


async def test_of_iterations_the_last_ones_are_kept(store: JobStore) -> None:
    await store.submit(job())
    claim = await claimed(store)
    await store.beat(claim, POLICY, claim.metadata, [Event(1, b"stage")], None)
    for start in (2, 30):
        events = [Event(start + n, b"", is_iteration=True) for n in range(28)]
        await store.beat(claim, POLICY, claim.metadata, events, None)
    kept = await store.events(claim.name, 0)
    assert [event.sequence for event in kept] == [1, *range(58 - KEPT_ITERATIONS, 58)]


async def test_pages_are_whole_and_the_newest_come_first(store: JobStore) -> None:
    for number in range(7):
        await store.submit(job(number))
    await store.submit(job(9, caller="bob"))
    ended = await claimed(store)
    await store.end(ended, ended.metadata, done())
    seen: list[str] = []
    token = ""
    while True:
        page = await store.page("ann", ALL, 3, token)
        assert len(page.records) <= 3
        seen += [record.name for record in page.records]
        if not (token := page.next_token):
            break
    assert seen == [f"operations/{number:03d}" for number in reversed(range(7))]
    only = await store.page("ann", (jobs_pb2.TRANSFER_STATE_DONE,), 3, "")
    assert [record.name for record in only.records] == [ended.name]
    for wrong in ("no token", "9" * 30, "-1"):
        with pytest.raises(InvalidArgument, match="page_token"):
            await store.page("ann", ALL, 3, wrong)
    assert await store.events(ended.name, 2**64 - 1) == []


async def test_what_is_over_is_forgotten_with_its_files(store: JobStore) -> None:
    for number in range(3):
        await store.submit(job(number))
    ended, deleted = await claimed(store), await claimed(store)
    assert await store.delete(ended.name, "ann") is False
    for claim, ref in ((ended, "picture"), (deleted, "other")):
        await store.beat(claim, POLICY, claim.metadata, [Event(1, b"one")], None)
        await store.end(claim, claim.metadata, done(ref))
    assert await store.delete(deleted.name, "ann") is True
    assert await store.get(deleted.name, "ann") is None
    assert await store.events(deleted.name, 0) == []
    assert set(await store.sweep(POLICY)) == {"ref0", "ref2", "shared", "picture"}
    await asyncio.sleep(0.02)
    assert set(await store.sweep(replace(POLICY, keep_seconds=0.01))) == {"ref2", "shared"}
    assert await store.get(ended.name, "ann") is None


@pytest.mark.parametrize("opened", ["sqlite"], indirect=True)  # leases of the other one are timed by its server
@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
async def test_a_clock_that_jumps_delays_and_doubles_nothing(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    patient = replace(POLICY, patience_seconds=1e9)
    await store.submit(job(0))
    await store.submit(job(1))
    running = await claimed(store, patient)
    await store.give_back(await claimed(store, patient), 30, BUSY, counts=False)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    again = {(await claimed(store, patient)).name for _ in range(2)}
    assert again == {"operations/000", "operations/001"}
    assert await store.beat(running, patient, running.metadata, [], None) is Verdict.LOST
    assert await store.claim(patient) is None


async def test_a_store_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 2")
    database.close()
    store = SqliteStore(path)
    with pytest.raises(Unavailable, match="has version 2, this gateway knows 1"):
        await store.submit(job())
    await store.close()


async def test_gateways_that_begin_a_file_at_once_all_have_it(tmp_path: Path) -> None:
    for attempt in range(20):
        stores = [SqliteStore(tmp_path / f"{attempt}.sqlite3") for _ in range(8)]
        assert await asyncio.gather(*(store.waiting() for store in stores)) == [(0, 0.0)] * 8
        for store in stores:
            await store.close()


async def test_a_disk_that_fails_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = SqliteStore(tmp_path / "file" / "jobs.sqlite3")
    with pytest.raises(Unavailable, match="the store of submitted transfers fails"):
        await store.submit(job())
    await store.close()


async def test_how_many_wait_and_for_how_long(store: JobStore) -> None:
    assert await store.waiting() == (0, 0.0)
    for number in range(2):
        await store.submit(job(number))
    await asyncio.sleep(0.05)
    count, age_seconds = await store.waiting()
    assert count == 2
    assert 0.05 <= age_seconds < 5
    await claimed(store)
    assert (await store.waiting())[0] == 1


async def test_news_comes_at_once(store: JobStore) -> None:
    waiting = asyncio.create_task(store.news(5))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await store.submit(job())
    async with asyncio.timeout(1):
        await waiting
    async with asyncio.timeout(1):
        await store.news(0.01)


async def test_many_gateways_share_jobs_without_doing_one_twice(opened: Opener) -> None:
    stores = [opened() for _ in range(4)]
    done_by: Counter[str] = Counter()

    async def submits(at: int) -> None:
        for number in range(at, 60, 4):
            await stores[at].submit(job(number))

    async def works(store: JobStore) -> None:
        while sum(done_by.values()) < 60:
            claim = await store.claim(POLICY)
            if claim is None:
                await asyncio.sleep(0.005)
                continue
            await store.beat(claim, POLICY, claim.metadata, [Event(1, b"one")], b"half")
            if await store.end(claim, claim.metadata, done()):
                done_by[claim.name] += 1

    tasks: list[Awaitable[None]] = [submits(at) for at in range(4)]
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks, *(works(store) for store in stores))
    assert set(done_by.values()) == {1}
    assert len(done_by) == 60
