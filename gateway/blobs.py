"""Files by the SHA-256 of their bytes, in a folder."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from services.common.errors import InvalidArgument, NotFound, ResourceExhausted, Shortage, Unavailable

__all__ = ["BlobStore"]

_REF: Final = re.compile(r"[0-9a-f]{64}")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_RETRY_SECONDS: Final = 30.0

_log = structlog.stdlib.get_logger(__name__)


def _checked(ref: str, field: str) -> str:
    """The same. Raises InvalidArgument if it is no address."""
    if not _REF.fullmatch(ref):
        raise InvalidArgument(field, repr(ref[:80]), "must be 64 digits of 0-9a-f, the SHA-256 of a file")
    return ref


class BlobStore:
    """A folder of files that were given in pieces. Several processes may share it.

    A file is there as a whole or not at all: it is written beside its place, flushed to the disk and renamed. Those not
    asked for longest make room for new ones; one that is read meanwhile stays readable to the end.

    Args:
        folder: made when it is needed; None = a temporary one, gone with ``close``.
        max_bytes: of all files that are there as a whole; None = any, and what goes is up to ``keep_only``.
        keep_seconds: how long a file stays that nobody asks for.
        max_file_bytes: largest file.
    """

    def __init__(self, folder: Path | None, max_bytes: int | None, keep_seconds: float, max_file_bytes: int) -> None:
        self._is_temporary = folder is None
        self._folder = folder or Path(tempfile.gettempdir()) / f"dpst-blobs-{uuid.uuid4().hex}"
        self._incoming = self._folder / "incoming"
        self._max_bytes, self._keep_seconds, self._max_file_bytes = max_bytes, keep_seconds, max_file_bytes

    async def write(self, pieces: AsyncIterator[bytes], expected: str | None) -> tuple[str, int]:
        """Take a file; return its address and size.

        Args:
            pieces: of any size.
            expected: its address, if the sender knows it.

        Raises:
            InvalidArgument: it is empty or too large, or another file than was expected.
            ResourceExhausted: there is no room on the disk.
            Unavailable: the disk fails.
        """
        if expected is not None:
            _checked(expected, "sha256")
        with self._incoming_path() as path, await asyncio.to_thread(self._new, path) as file:
            return await self._written(file, path, pieces, expected)

    def put(self, data: bytes) -> str:
        """Keep a whole file that is in memory; its address. Blocks. One that is there counts as asked for now.

        Raises:
            ResourceExhausted, Unavailable: as ``write``.
        """
        ref = hashlib.sha256(data).hexdigest()
        try:
            os.utime(self._place(ref))
        except FileNotFoundError:
            with self._incoming_path() as path, self._new(path) as file:
                file.write(data)
                self._publish(file, path, ref)
        return ref

    @contextmanager
    def _incoming_path(self) -> Iterator[Path]:
        """Where a file is written, gone afterwards; says what a disk means that fails."""
        path = self._incoming / uuid.uuid4().hex
        try:
            yield path
        except OSError as error:
            if error.errno in _FULL:
                raise ResourceExhausted("the disk for uploads is full", _RETRY_SECONDS, Shortage.DISK) from error
            _log.exception("an upload cannot be kept")
            raise Unavailable(f"uploads cannot be kept: {error.strerror}", _RETRY_SECONDS) from error
        finally:
            with suppress(OSError):
                path.unlink()

    def _new(self, path: Path) -> BinaryIO:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.open("xb")

    async def _written(
        self, file: BinaryIO, path: Path, pieces: AsyncIterator[bytes], expected: str | None
    ) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        async for piece in pieces:
            size += len(piece)
            if size > self._max_file_bytes:
                limit = f"{self._max_file_bytes} bytes"
                raise InvalidArgument("data", f"more than {limit}", f"must have at most {limit}")
            await asyncio.to_thread(_append, file, digest, piece)
        if not size:
            raise InvalidArgument("data", "nothing", "an encoded image file is required")
        ref = digest.hexdigest()
        if expected is not None and ref != expected:
            raise InvalidArgument("sha256", expected, f"the bytes that came have {ref}")
        await asyncio.to_thread(self._publish, file, path, ref)
        return ref, size

    def _publish(self, file: BinaryIO, path: Path, ref: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        place = self._place(ref)
        place.parent.mkdir(exist_ok=True)
        path.replace(place)
        if self._max_bytes is not None:
            self._make_room(self._max_bytes, keep=place)

    async def read(self, ref: str, field: str) -> bytes:
        """All bytes of a file.

        Raises:
            InvalidArgument: ``ref`` is no address.
            NotFound: it was never there, or is there no more.
            Unavailable: its bytes have another address by now.
        """
        return await asyncio.to_thread(self._read, ref, field)

    def _read(self, ref: str, field: str) -> bytes:
        place = self._place(_checked(ref, field))
        try:
            found = place.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{field}: {ref} is not here, or is here no more; upload the file again") from None
        with suppress(FileNotFoundError):  # another process has just made room with it
            os.utime(place)
        if hashlib.sha256(found).hexdigest() != ref:
            place.unlink(missing_ok=True)
            _log.error("a stored file was damaged and is removed", ref=ref)
            raise Unavailable(f"{field}: the stored bytes of {ref} were damaged; upload the file again", _RETRY_SECONDS)
        return found

    def keep_only(self, needed: Collection[str]) -> None:
        """Remove the files that are not among these, but for those asked for in the last ``keep_seconds``."""
        oldest = self._without_halves()
        for asked_at, _, path in self._files():
            if asked_at < oldest and path.name not in needed:
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest:  # nobody has renewed it meanwhile
                        path.unlink()

    def close(self) -> None:
        """Remove a temporary folder."""
        if self._is_temporary:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, ref: str) -> Path:
        return self._folder / ref[:2] / ref

    def _make_room(self, max_bytes: int, keep: Path) -> None:
        """Remove what is too old, and those not asked for longest while there are too many bytes; never ``keep``."""
        oldest = self._without_halves()
        files = self._files()
        total = sum(size for _, size, _ in files)
        for asked_at, size, path in files:
            if path != keep and (asked_at < oldest or total > max_bytes):
                path.unlink(missing_ok=True)
                total -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        return _listed(self._folder.glob("[0-9a-f][0-9a-f]/*"))

    def _without_halves(self) -> float:
        """Remove what killed processes have left; returns the time before which a file is too old."""
        oldest = time.time() - self._keep_seconds
        for written_at, _, path in _listed(self._incoming.glob("*")):
            if written_at < oldest:
                path.unlink(missing_ok=True)
        return oldest


def _listed(paths: Iterable[Path]) -> list[tuple[float, int, Path]]:
    """When each was last asked for, its bytes, and where it is; the first is the oldest."""
    files = []
    for path in paths:
        with suppress(FileNotFoundError):  # another process makes room as well
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    return sorted(files)


def _append(file: BinaryIO, digest: hashlib._Hash, piece: bytes) -> None:
    digest.update(piece)
    file.write(piece)
