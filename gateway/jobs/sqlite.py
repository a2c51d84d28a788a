"""Submitted transfers in one SQLite file, for the gateways of one machine."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from dpst.v1 import jobs_pb2
from filelock import FileLock
from google.rpc import status_pb2  # type: ignore[import-untyped]  # has stubs, lacks py.typed

from gateway.jobs import outcomes
from gateway.jobs.news import News
from gateway.jobs.store import (
    AGEING_SECONDS,
    ENDED,
    KEPT_ITERATIONS,
    LONGEST_DELAY_SECONDS,
    Claim,
    Event,
    Outcome,
    Page,
    Policy,
    Record,
    State,
    Submission,
    Verdict,
)
from services.common.errors import InvalidArgument, Unavailable

__all__ = ["SqliteStore"]

_T = TypeVar("_T")

_QUEUED, _RUNNING = jobs_pb2.TRANSFER_STATE_QUEUED, jobs_pb2.TRANSFER_STATE_RUNNING
_BUSY_SECONDS: Final = 10.0
"""How long a writer waits for another one; a transaction takes milliseconds."""

_RETRY_SECONDS: Final = 5.0

_TOKEN: Final = re.compile(r"[0-9]{1,18}")
_MOST: Final = 1 << 62
"""No number of SQLite's is greater than twice that."""

_VERSION: Final = 1
"""Of the tables. A gateway leaves a file of a later version alone."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    name TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,     -- in the order in which they came
    caller TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    transfer BLOB NOT NULL,
    submitted_at REAL NOT NULL,         -- seconds since 1970, as all times here
    turn REAL NOT NULL,                 -- that, and what its priority is worth in waiting: the least is next
    state INTEGER NOT NULL,
    due_at REAL NOT NULL,               -- QUEUED: not before; RUNNING: end of the lease; ended: when
    token INTEGER NOT NULL DEFAULT 0,   -- claims so far
    attempts INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    metadata BLOB NOT NULL,
    progress BLOB NOT NULL DEFAULT x'',
    result BLOB,
    error BLOB
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, due_at);
CREATE INDEX IF NOT EXISTS jobs_in_turn ON jobs (turn) WHERE state IN (1, 2);  -- QUEUED, RUNNING
CREATE INDEX IF NOT EXISTS jobs_of_caller ON jobs (caller, number);
CREATE TABLE IF NOT EXISTS events (
    name TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    is_iteration INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (name, sequence)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refs (
    name TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    ref TEXT NOT NULL,
    PRIMARY KEY (name, ref)
) WITHOUT ROWID;
"""
_RECORD: Final = "name, caller, fingerprint, metadata, result, error"


class SqliteStore:
    """``JobStore`` in a file; what is kept is on the disk when a call returns (write-ahead log, synchronous).

    Args:
        path: of the file; its folder is made if need be. A network file system will not do.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "jobs")
        self._connection: sqlite3.Connection | None = None
        self._news = News()

    async def submit(self, job: Submission) -> Record:
        """See ``JobStore``."""
        record = await self._run(lambda db: _submit(db, job))
        self._news.tell()
        return record

    async def claim(self, policy: Policy) -> Claim | None:
        """See ``JobStore``."""
        return await self._run(lambda db: _claim(db, policy))

    async def beat(
        self,
        claim: Claim,
        policy: Policy,
        metadata: jobs_pb2.TransferMetadata,
        events: Sequence[Event],
        progress: bytes | None,
    ) -> Verdict:
        """See ``JobStore``."""
        verdict = await self._run(lambda db: _beat(db, claim, policy, metadata, events, progress))
        if events:
            self._news.tell()
        return verdict

    async def end(self, claim: Claim, metadata: jobs_pb2.TransferMetadata, outcome: Outcome) -> bool:
        """See ``JobStore``."""
        held = await self._run(lambda db: _end_held(db, claim, metadata, outcome))
        self._news.tell()
        return held

    async def give_back(self, claim: Claim, delay_seconds: float, error: status_pb2.Status, *, counts: bool) -> None:
        """See ``JobStore``."""
        await self._run(lambda db: _give_back(db, claim, delay_seconds, error, counts))
        self._news.tell()

    async def get(self, name: str, caller: str) -> Record | None:
        """See ``JobStore``."""
        return await self._run(lambda db: _get(db, name, caller))

    async def events(self, name: str, from_sequence: int) -> Sequence[Event]:
        """See ``JobStore``."""
        query = "SELECT sequence, data, is_iteration FROM events WHERE name = ? AND sequence >= ? ORDER BY sequence"
        rows = await self._run(lambda db: db.execute(query, (name, min(from_sequence, _MOST))).fetchall())
        return [Event(sequence, data, bool(is_iteration)) for sequence, data, is_iteration in rows]

    async def page(self, caller: str, states: Collection[State], size: int, token: str) -> Page:
        """See ``JobStore``."""
        if token and not _TOKEN.fullmatch(token):
            raise InvalidArgument("page_token", repr(token[:40]), "must be the last reply's next_page_token")
        return await self._run(lambda db: _page(db, caller, states, size, int(token or _MOST)))

    async def cancel(self, name: str, caller: str) -> bool:
        """See ``JobStore``."""
        found = await self._run(lambda db: _cancel(db, name, caller))
        self._news.tell()
        return found

    async def delete(self, name: str, caller: str) -> bool | None:
        """See ``JobStore``."""
        return await self._run(lambda db: _delete(db, name, caller))

    async def sweep(self, policy: Policy) -> Collection[str]:
        """See ``JobStore``."""
        return await self._run(lambda db: _sweep(db, policy))

    async def waiting(self) -> tuple[int, float]:
        """See ``JobStore``."""
        query = "SELECT count(*), min(submitted_at) FROM jobs WHERE state = ?"
        count, oldest = await self._run(lambda db: db.execute(query, (_QUEUED,)).fetchone())
        return count, max(0.0, time.time() - oldest) if count else 0.0

    async def news(self, timeout_seconds: float) -> None:
        """See ``JobStore``."""
        await self._news.wait(timeout_seconds)

    async def close(self) -> None:
        """See ``JobStore``."""
        if self._connection is not None:
            await self._run(lambda db: db.close())
        self._thread.shutdown()

    async def _run(self, call: Callable[[sqlite3.Connection], _T]) -> _T:
        """In the one thread that has the connection. Raises Unavailable if the file fails."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(self._open()))
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"the store of submitted transfers fails: {error}", _RETRY_SECONDS) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite does not wait for whoever else is making the file a WAL one: it says at once that it is locked.
            with FileLock(f"{self._path}.lock", timeout=_BUSY_SECONDS):
                self._connection = _connected(self._path)
        return self._connection


def _connected(path: Path) -> sqlite3.Connection:
    """A connection to the file, with all tables. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise sqlite3.DatabaseError(f"{path} has version {version}, this gateway knows {_VERSION}")
    db.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")


@contextmanager
def _writing(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and nobody else meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _submit(db: sqlite3.Connection, job: Submission) -> Record:
    with _writing(db):
        if known := _record(db.execute(f"SELECT {_RECORD} FROM jobs WHERE name = ?", (job.name,)).fetchone()):
            return known
        now = time.time()
        metadata = jobs_pb2.TransferMetadata(state=_QUEUED, request_id=job.request_id, submitted_at=now)
        db.execute(
            "INSERT INTO jobs (name, number, caller, fingerprint, transfer, submitted_at, turn, state, due_at,"
            " metadata) VALUES (?, (SELECT coalesce(max(number), 0) + 1 FROM jobs), ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(job.name, job.caller, job.fingerprint, job.transfer),
                *(now, now + AGEING_SECONDS * job.priority, _QUEUED, now, metadata.SerializeToString()),
            ),
        )
        _need(db, job.name, job.refs)
        return Record(job.name, job.caller, job.fingerprint, metadata, None)


def _need(db: sqlite3.Connection, name: str, refs: Sequence[str]) -> None:
    db.executemany("INSERT OR IGNORE INTO refs (name, ref) VALUES (?, ?)", [(name, ref) for ref in refs])


def _claim(db: sqlite3.Connection, policy: Policy) -> Claim | None:
    now = time.time()
    query = (
        "SELECT name, token, attempts, cancelled, transfer, progress, metadata, state, submitted_at, error"
        # In the order of turns the first that is due ends the search; else all that are due would be sorted.
        " FROM jobs INDEXED BY jobs_in_turn WHERE state IN (1, 2) AND (due_at <= ?1"
        # Due later than anything can be: the clock was set back.
        f" OR state = {_QUEUED} AND due_at > ?1 + {LONGEST_DELAY_SECONDS}"
        f" OR state = {_RUNNING} AND due_at > ?1 + 2 * ?2)"
        " ORDER BY turn LIMIT 1"
    )
    values = (now, policy.lease_seconds)
    if db.execute(query, values).fetchone() is None:
        return None
    with _writing(db):
        while (row := db.execute(query, values).fetchone()) is not None:
            name, token, attempts, cancelled, transfer, progress, known, state, submitted_at, error = row
            metadata = jobs_pb2.TransferMetadata.FromString(known)
            end = outcomes.end_instead(
                policy,
                is_cancelled=bool(cancelled),
                attempts=attempts,
                waited_seconds=now - submitted_at,
                was_lost=state == _RUNNING,
                error=status_pb2.Status.FromString(error or b""),
            )
            if end is not None:
                _end(db, name, metadata, end)
                continue
            metadata.state, metadata.attempts = _RUNNING, attempts + 1
            db.execute(
                "UPDATE jobs SET state = ?, token = ?, attempts = ?, due_at = ?, metadata = ? WHERE name = ?",
                (
                    *(_RUNNING, token + 1, attempts + 1, now + policy.lease_seconds),
                    *(metadata.SerializeToString(), name),
                ),
            )
            return Claim(name, token + 1, transfer, progress, metadata)
    return None


def _is_held(db: sqlite3.Connection, claim: Claim) -> bool:
    query = "SELECT 1 FROM jobs WHERE name = ? AND token = ? AND state = ?"
    return db.execute(query, (claim.name, claim.token, _RUNNING)).fetchone() is not None


def _beat(
    db: sqlite3.Connection,
    claim: Claim,
    policy: Policy,
    metadata: jobs_pb2.TransferMetadata,
    events: Sequence[Event],
    progress: bytes | None,
) -> Verdict:
    with _writing(db):
        if not _is_held(db, claim):
            return Verdict.LOST
        db.executemany(
            "INSERT OR REPLACE INTO events (name, sequence, is_iteration, data) VALUES (?, ?, ?, ?)",
            [(claim.name, event.sequence, event.is_iteration, event.data) for event in events],
        )
        if any(event.is_iteration for event in events):
            db.execute(
                "DELETE FROM events WHERE name = ?1 AND is_iteration AND sequence <= (SELECT sequence FROM events"
                " WHERE name = ?1 AND is_iteration ORDER BY sequence DESC LIMIT 1 OFFSET ?2)",
                (claim.name, KEPT_ITERATIONS),
            )
        db.execute(
            "UPDATE jobs SET due_at = ?, metadata = ?, progress = coalesce(?, progress) WHERE name = ?",
            (time.time() + policy.lease_seconds, metadata.SerializeToString(), progress, claim.name),
        )
        (cancelled,) = db.execute("SELECT cancelled FROM jobs WHERE name = ?", (claim.name,)).fetchone()
        return Verdict.CANCELLED if cancelled else Verdict.GO_ON


def _end_held(db: sqlite3.Connection, claim: Claim, metadata: jobs_pb2.TransferMetadata, outcome: Outcome) -> bool:
    with _writing(db):
        if not _is_held(db, claim):
            return False
        _end(db, claim.name, metadata, outcome)
        return True


def _end(db: sqlite3.Connection, name: str, metadata: jobs_pb2.TransferMetadata, outcome: Outcome) -> None:
    """Within a transaction."""
    metadata.state = outcome.state
    db.execute(
        "UPDATE jobs SET state = ?, due_at = ?, metadata = ?, progress = x'', result = ?, error = ? WHERE name = ?",
        (
            *(outcome.state, time.time(), metadata.SerializeToString()),
            None if outcome.result is None else outcome.result.SerializeToString(),
            None if outcome.error is None else outcome.error.SerializeToString(),
            name,
        ),
    )
    _need(db, name, outcome.refs)


def _give_back(
    db: sqlite3.Connection, claim: Claim, delay_seconds: float, error: status_pb2.Status, counts: bool
) -> None:
    with _writing(db):
        if not _is_held(db, claim):
            return
        query = "SELECT attempts, metadata, cancelled FROM jobs WHERE name = ?"
        attempts, known, cancelled = db.execute(query, (claim.name,)).fetchone()
        metadata = jobs_pb2.TransferMetadata.FromString(known)
        if cancelled:
            _end(db, claim.name, metadata, outcomes.cancelled())
            return
        metadata.state, metadata.attempts = _QUEUED, attempts if counts else attempts - 1
        db.execute(
            "UPDATE jobs SET state = ?, due_at = ?, attempts = ?, metadata = ?, error = ? WHERE name = ?",
            (
                *(_QUEUED, time.time() + min(delay_seconds, LONGEST_DELAY_SECONDS), metadata.attempts),
                *(metadata.SerializeToString(), error.SerializeToString(), claim.name),
            ),
        )


def _get(db: sqlite3.Connection, name: str, caller: str) -> Record | None:
    return _record(db.execute(f"SELECT {_RECORD} FROM jobs WHERE name = ? AND caller = ?", (name, caller)).fetchone())


def _record(row: tuple[Any, ...] | None) -> Record | None:
    if row is None:
        return None
    name, caller, fingerprint, known, result, error = row
    metadata = jobs_pb2.TransferMetadata.FromString(known)
    outcome = None
    if metadata.state in ENDED:
        outcome = Outcome(
            metadata.state,
            None if result is None else jobs_pb2.TransferResult.FromString(result),
            None if error is None else status_pb2.Status.FromString(error),
        )
    return Record(name, caller, fingerprint, metadata, outcome)


def _page(db: sqlite3.Connection, caller: str, states: Collection[State], size: int, before: int) -> Page:
    marks = ", ".join("?" * len(states))
    query = (
        f"SELECT {_RECORD}, number FROM jobs WHERE caller = ? AND number < ? AND state IN ({marks})"
        " ORDER BY number DESC LIMIT ?"
    )
    rows = db.execute(query, (caller, before, *states, size + 1)).fetchall()
    records = [record for row in rows[:size] if (record := _record(row[:-1]))]
    return Page(records, str(rows[size - 1][-1]) if len(rows) > size else "")


def _cancel(db: sqlite3.Connection, name: str, caller: str) -> bool:
    with _writing(db):
        query = "SELECT state, metadata FROM jobs WHERE name = ? AND caller = ?"
        row = db.execute(query, (name, caller)).fetchone()
        if row is None:
            return False
        state, metadata = row
        if state == _QUEUED:
            _end(db, name, jobs_pb2.TransferMetadata.FromString(metadata), outcomes.cancelled())
        elif state == _RUNNING:
            db.execute("UPDATE jobs SET cancelled = 1 WHERE name = ?", (name,))
        return True


def _delete(db: sqlite3.Connection, name: str, caller: str) -> bool | None:
    with _writing(db):
        row = db.execute("SELECT state FROM jobs WHERE name = ? AND caller = ?", (name, caller)).fetchone()
        if row is None:
            return None
        if row[0] not in ENDED:
            return False
        db.execute("DELETE FROM jobs WHERE name = ?", (name,))
        return True


def _sweep(db: sqlite3.Connection, policy: Policy) -> Collection[str]:
    with _writing(db):
        marks = ", ".join(str(state) for state in ENDED)
        oldest = time.time() - policy.keep_seconds
        db.execute(f"DELETE FROM jobs WHERE state IN ({marks}) AND due_at < ?", (oldest,))
        return {ref for (ref,) in db.execute("SELECT DISTINCT ref FROM refs")}
