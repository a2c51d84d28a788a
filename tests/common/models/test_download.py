"""One file from a real HTTP server that misbehaves in every way a mirror can."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.models import ModelError
from services.common.models.catalogue import RemoteFile
from services.common.models.download import Patience, fetch
from tests.common.models.mirror import Mirror, cut, html, ignoring_ranges, running, silent, status

DATA = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(attempts=3, first_wait_seconds=0.0, connect_seconds=5.0, read_seconds=5.0)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running({"/net.bin": DATA}) as mirror:
        yield mirror


def get(mirror: Mirror, folder: Path, patience: Patience = QUICK, **changes: Any) -> str:
    fields: dict[str, Any] = {"name": "net.bin", "url": f"{mirror.url}/net.bin", "size": len(DATA), "sha256": DIGEST}
    file = RemoteFile(**{key: value for key, value in (fields | changes).items() if value is not None})
    return fetch(file, file.url, folder, lambda *_: None, patience)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole(mirror: Mirror, tmp_path: Path) -> None:
    assert get(mirror, tmp_path) == DIGEST
    assert (tmp_path / "net.bin").read_bytes() == DATA
    assert left(tmp_path) == ["net.bin"]
    assert get(mirror, tmp_path) == DIGEST
    assert len(mirror.asked) == 1, "what is there and right is not fetched again"


def test_only_the_beginning_of_the_checksum_is_known(mirror: Mirror, tmp_path: Path) -> None:
    known: dict[str, Any] = {"sha256": None, "size": None}
    assert get(mirror, tmp_path, sha256_prefix=DIGEST[:8], **known) == DIGEST
    with pytest.raises(ModelError, match=r"wrong checksum, sha256 [0-9a-f]{64} instead of 00000000\.\.\."):
        get(mirror, tmp_path, name="other.bin", sha256_prefix="0" * 8, **known)


def test_a_cut_connection_is_resumed_and_nothing_is_fetched_twice(mirror: Mirror, tmp_path: Path) -> None:
    mirror.script = [cut(300_001), cut(200_000)]
    assert get(mirror, tmp_path) == DIGEST
    assert [asked.range for asked in mirror.asked] == [None, "bytes=300001-", "bytes=500001-"]
    assert mirror.asked[1].if_range is not None
    assert sum(asked.sent for asked in mirror.asked) == len(DATA)
    assert (tmp_path / "net.bin").read_bytes() == DATA


def test_a_later_call_goes_on(mirror: Mirror, tmp_path: Path) -> None:
    mirror.script = [cut(1000)]
    with pytest.raises(ModelError, match="gave up after 1 attempts, run it again to go on"):
        get(mirror, tmp_path, Patience(attempts=1))
    assert get(mirror, tmp_path) == DIGEST
    assert mirror.asked[1].range == "bytes=1000-"


def test_a_partial_file_without_a_known_state_is_resumed_and_checked(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "net.bin.partial").write_bytes(DATA[:500])
    assert get(mirror, tmp_path) == DIGEST
    assert (mirror.asked[0].range, mirror.asked[0].if_range) == ("bytes=500-", None)
    (tmp_path / "other.bin.partial").write_bytes(b"x" * 500)
    with pytest.raises(ModelError, match="wrong checksum"):
        get(mirror, tmp_path, name="other.bin")
    assert left(tmp_path) == ["net.bin"]


def test_a_server_that_ignores_ranges_sends_it_all_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.script = [cut(1000), ignoring_ranges]
    assert get(mirror, tmp_path) == DIGEST
    assert (tmp_path / "net.bin").read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_fetched_anew(mirror: Mirror, tmp_path: Path) -> None:
    other = DATA[::-1]
    mirror.files["/net.bin"] = other
    mirror.script = [cut(1000)]
    with pytest.raises(ModelError, match="gave up"):
        get(mirror, tmp_path, Patience(attempts=1))
    mirror.files["/net.bin"] = DATA
    assert get(mirror, tmp_path) == DIGEST
    assert mirror.asked[1].range == "bytes=1000-"
    assert mirror.asked[1].sent == len(DATA), "If-Range did not fit, so that the server sent all of it"


def test_more_than_the_server_has(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "net.bin.partial").write_bytes(b"x" * (len(DATA) + 7))
    assert get(mirror, tmp_path, size=None) == DIGEST
    assert [asked.range for asked in mirror.asked] == [f"bytes={len(DATA) + 7}-", None]
    (tmp_path / "b.bin.partial").write_bytes(b"x" * (len(DATA) + 7))
    assert get(mirror, tmp_path, name="b.bin") == DIGEST


def test_errors_of_the_server_are_tried_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.script = [status(500), status(503)]
    assert get(mirror, tmp_path) == DIGEST
    assert len(mirror.asked) == 3
    mirror.script = [status(500), status(502), status(500)]
    with pytest.raises(ModelError, match=r"/net\.bin: HTTP 500 Internal Server Error; gave up after 3 attempts"):
        get(mirror, tmp_path, name="b.bin")


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_refusals_are_final(mirror: Mirror, tmp_path: Path, code: int) -> None:
    mirror.script = [status(code)]
    with pytest.raises(ModelError, match=f"/net.bin: HTTP {code} "):
        get(mirror, tmp_path)
    assert len(mirror.asked) == 1
    assert left(tmp_path) == []


def test_a_silent_server(mirror: Mirror, tmp_path: Path) -> None:
    mirror.script = [silent(1000), silent(10)]
    with pytest.raises(ModelError, match="stayed silent for too long; gave up after 2 attempts"):
        get(mirror, tmp_path, Patience(attempts=2, first_wait_seconds=0.0, read_seconds=0.2))
    assert (tmp_path / "net.bin.partial").stat().st_size == 1010, "what came is kept"


def test_nobody_there(tmp_path: Path) -> None:
    with running({}) as gone:
        pass
    with pytest.raises(ModelError, match=r"the connection failed \(.*refused.*\); gave up after 3 attempts"):
        get(gone, tmp_path)


def test_a_page_instead_of_the_file(mirror: Mirror, tmp_path: Path) -> None:
    mirror.script = [html]
    with pytest.raises(ModelError, match=r"answered with a web page \(text/html\) instead of the file"):
        get(mirror, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("known", [True, False])
def test_another_file(mirror: Mirror, tmp_path: Path, known: bool) -> None:
    mirror.files["/net.bin"] = DATA[:-1]
    says = (
        "has 1048575 bytes, expected 1048576" if known else "wrong checksum, sha256 .* what was downloaded is removed"
    )
    with pytest.raises(ModelError, match=says):
        get(mirror, tmp_path, size=len(DATA) if known else None)
    assert left(tmp_path) == []


def test_a_full_disk_keeps_nothing(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self._file, self._room = file, 100_000

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, data: memoryview) -> int:
            if not self._room:
                raise OSError(errno.ENOSPC, "No space left on device")
            written: int = self._file.write(data[: self._room])
            self._room -= written
            return written

    def small(path: Path, mode: str = "r", *args: Any, **named: Any) -> Any:
        file = opened(path, mode, *args, **named)
        return Full(file) if path.name == "net.bin.partial" and mode in ("wb", "ab") else file

    monkeypatch.setattr(Path, "open", small)
    with pytest.raises(ModelError, match=r"net\.bin\.partial: the disk is full; free space and run it again"):
        get(mirror, tmp_path)
    assert left(tmp_path) == []
