"""What every store of the files of jobs has to do, whichever engine is behind it."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.jobs.files import NEW_SECONDS, FolderFiles, JobFiles
from gateway.jobs.jetstream.connection import Connection
from gateway.jobs.jetstream.files import JetStreamFiles
from services.common.errors import NotFound
from tests.nats_server import NatsServer


@pytest.fixture(params=["folder", "jetstream"])
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[JobFiles]:
    if request.param == "folder":
        yield FolderFiles(tmp_path / "files", 1 << 20)
        return
    connection = Connection([request.getfixturevalue("nats").url], None, 1, f"p{uuid.uuid4().hex}")
    yield JetStreamFiles(connection)
    await connection.close()


async def test_files_stay_as_long_as_a_job_needs_them(files: JobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    await files.keep_only(())
    kept, gone = b"a photo" * 50_000, b"another"
    refs = [await files.write(data) for data in (kept, gone, kept)]
    assert refs == [hashlib.sha256(data).hexdigest() for data in (kept, gone, kept)]
    await files.keep_only(refs[:1])
    assert await files.read(refs[1], "content") == gone, "it is new: its job may be on the way"
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 2 * NEW_SECONDS)
    await files.keep_only(refs[:1])
    assert await files.read(refs[0], "content") == kept
    with pytest.raises(NotFound, match=f"style: {refs[1]} is not here"):
        await files.read(refs[1], "style")


async def test_a_file_that_was_known_is_asked_for_over_a_new_connection(nats: NatsServer) -> None:
    """The server that it leads to may have lost what it had."""
    connection = Connection([nats.url], None, 1, f"p{uuid.uuid4().hex}")
    files = JetStreamFiles(connection)
    ref = await files.write(b"photo")
    store = await (await connection.jetstream()).object_store(f"{connection.prefix}-files")
    await store.delete(ref)
    await connection.client.close()
    assert await files.write(b"photo") == ref
    assert await files.read(ref, "content") == b"photo"
    await connection.close()
