"""What the store of jobs in NATS JetStream does beyond what every store has to do."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dpst.v1 import jobs_pb2, look_pb2

from gateway.jobs.jetstream.connection import Connection
from gateway.jobs.jetstream.records import Held
from gateway.jobs.jetstream.store import JetStreamStore
from gateway.jobs.store import Event, Outcome, Verdict
from services.common.errors import Unavailable
from tests.gateway.jobs.made import BUSY, POLICY, claimed, done, job, state
from tests.nats_server import NatsServer


async def patiently(call: Callable[[], Awaitable[str]]) -> str:
    """What a call gives once it is answered, as a caller does who is told to come back."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(0.1)


async def test_a_server_that_is_away_is_said_and_what_it_kept_is_there_again(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    away = JetStreamStore(Connection(["nats://127.0.0.1:9"], None, 1, "dpst"))
    with pytest.raises(Unavailable, match="the store of submitted transfers fails: NATS: "):
        await away.submit(job())
    await away.close()
    server.start()
    store = JetStreamStore(Connection([server.url], None, 1, "dpst"))
    try:
        patient = replace(POLICY, lease_seconds=30)
        await store.submit(job(0))
        await store.submit(job(1))
        claim = await claimed(store, patient)
        server.stop()
        with pytest.raises(Unavailable, match="NATS"):
            await store.get(claim.name, "ann")
        server.start()
        assert await patiently(lambda: state(store, claim.name)) == "RUNNING"
        assert await store.beat(claim, patient, claim.metadata, [Event(1, b"one")], b"half") is Verdict.GO_ON
        assert await store.end(claim, claim.metadata, done())
        assert (await claimed(store, patient)).name == "operations/001"
        assert await store.claim(patient) is None
        assert await store.waiting() == (0, 0.0)
    finally:
        await store.close()
        server.stop()


async def test_a_second_message_of_a_job_does_not_double_it(nats: NatsServer) -> None:
    """As there is after a repeated submission, or when a killed server has forgotten what it delivered."""
    prefix = f"p{uuid.uuid4().hex}"
    connection = Connection([nats.url], None, 1, prefix)
    store = JetStreamStore(connection)
    await store.submit(job(priority=1))
    claim = await claimed(store)
    await (await connection.jetstream()).publish(f"{prefix}.work.1", b"000")
    for _ in range(5):
        assert await store.claim(POLICY) is None
    assert await store.beat(claim, POLICY, claim.metadata, [], None) is Verdict.GO_ON
    await store.give_back(claim, 0, BUSY, counts=False)
    again = await claimed(store)
    assert again.token == claim.token + 1
    assert await store.claim(POLICY) is None
    assert await store.end(again, again.metadata, done())
    assert await store.claim(POLICY) is None
    await store.close()


async def test_a_message_that_is_faster_than_its_record_is_not_lost(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = JetStreamStore(Connection([nats.url], None, 1, f"p{uuid.uuid4().hex}"))
    await store.submit(job())
    read, reads = store._read, 0

    async def late(name: str) -> Held | None:
        nonlocal reads
        reads += 1
        return None if reads == 1 else await read(name)  # made by another gateway right after it was looked for

    monkeypatch.setattr(store, "_read", late)
    assert await store.claim(POLICY) is None
    assert (await claimed(store)).name == "operations/000"
    await store.close()


async def test_a_bucket_of_a_later_version_is_left_alone(nats: NatsServer) -> None:
    connection = Connection([nats.url], None, 1, "later")
    store = JetStreamStore(connection)
    await store.submit(job())
    bucket = await (await connection.jetstream()).key_value("later-jobs")
    await bucket.put("version", b"2")
    await store.close()
    again = JetStreamStore(Connection([nats.url], None, 1, "later"))
    with pytest.raises(Unavailable, match="has version 2, this gateway knows 1"):
        await again.submit(job(1))
    await again.close()


async def test_what_a_message_cannot_hold_is_kept_too(nats: NatsServer) -> None:
    large = bytes(range(256)) * 12_000
    connection = Connection([nats.url], None, 1, f"p{uuid.uuid4().hex}")
    store = JetStreamStore(connection)
    await store.submit(job(transfer=large))
    claim = await claimed(store)
    assert claim.transfer == large
    for sequence, progress in ((1, large[::-1]), (2, large[1:])):
        claim.metadata.sequence = sequence
        await store.beat(claim, POLICY, claim.metadata, [], progress)
    await store.give_back(claim, 0, BUSY, counts=False)
    again = await claimed(store)
    assert again.progress == large[1:]
    result = jobs_pb2.TransferResult(look=look_pb2.Look(data=large))
    await store.end(again, again.metadata, Outcome(jobs_pb2.TRANSFER_STATE_DONE, result=result))
    record = await store.get(claim.name, "ann")
    assert record is not None
    assert record.outcome is not None
    assert record.outcome.result == result
    assert await store.delete(claim.name, "ann")
    left = await (await connection.jetstream()).stream_info(f"OBJ_{connection.prefix}-values")
    assert left.state.messages == 0, "not even a marker"
    await store.close()
