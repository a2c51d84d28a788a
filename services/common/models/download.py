"""One file over HTTP: resumed where it stopped, tried again while that helps, and kept only if its SHA-256 is right."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from services.common.models.catalogue import RemoteFile
from services.common.models.folder import ModelError, file_sha256

__all__ = ["Patience", "fetch", "fetched"]

_CHUNK_BYTES = 1 << 18
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class Patience:
    """How long a download may take to go wrong."""

    attempts: int = 5
    first_wait_seconds: float = 1.0  # doubles with each attempt: 15 s in all, as long as a server takes to restart
    connect_seconds: float = 10.0  # an intercontinental TLS handshake takes one; more is a host that drops packets
    read_seconds: float = 60.0  # between two pieces; a mirror that fetches the file first may be silent that long


class _Transient(Exception):
    """What went wrong may be right at the next attempt."""


def fetch(
    file: RemoteFile, url: str, folder: Path, on_progress: Callable[[int, int | None], None], patience: Patience
) -> str:
    """Download a file of the catalogue from ``url`` to ``folder``/``file.name``.

    What arrives lies in ``<name>.partial`` until its SHA-256 is right; a later call goes on there. Proxies are those of
    the environment (HTTPS_PROXY, NO_PROXY).

    Args:
        file: what is expected.
        url: where from; another one than ``file.url`` if there is a mirror.
        folder: exists.
        on_progress: is told the bytes that are there and the bytes in all, None if nobody knows.
        patience: attempts and time limits.

    Returns:
        The full SHA-256, 64 hexadecimal digits.

    Raises:
        ModelError: the server refuses, sends something else, stays silent, or the disk is full. After a wrong checksum,
            a wrong size and on a full disk the partial file is removed.
    """
    target, partial = folder / file.name, folder / f"{file.name}.partial"
    if (digest := fetched(file, folder)) is not None:
        return digest
    attempts = Retrying(
        stop=stop_after_attempt(patience.attempts),
        wait=wait_exponential(patience.first_wait_seconds) + wait_random(0.0, patience.first_wait_seconds),
        retry=retry_if_exception_type(_Transient),
        reraise=True,
    )
    try:
        with requests.Session() as session:
            attempts(_Transfer(session, file, url, partial, on_progress, patience).run)
    except _Transient as error:
        raise ModelError(
            f"{url}: {error}; gave up after {patience.attempts} attempts, run it again to go on"
        ) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise ModelError(f"{partial}: cannot be written ({error.strerror})") from error
        _discard(partial)
        raise ModelError(f"{partial}: the disk is full; free space and run it again") from error
    digest = file_sha256(partial)
    if not digest.startswith(file.checksum):
        _discard(partial)
        raise ModelError(
            f"{url}: wrong checksum, sha256 {digest} instead of {file.checksum}{'' if file.sha256 else '...'}; "
            "what was downloaded is removed"
        )
    partial.replace(target)
    _discard(partial)
    return digest


def fetched(file: RemoteFile, folder: Path) -> str | None:
    """Full SHA-256 of a file that an earlier download completed; None if there is none or it is another one."""
    path = folder / file.name
    if not path.is_file():
        return None
    digest = file_sha256(path)
    return digest if digest.startswith(file.checksum) else None


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _validator_file(partial).unlink(missing_ok=True)


def _validator_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


@dataclass(frozen=True)
class _Transfer:
    session: requests.Session
    file: RemoteFile
    url: str
    partial: Path
    on_progress: Callable[[int, int | None], None]
    patience: Patience

    def run(self) -> None:
        """One attempt, from where the partial file ends."""
        done = self.partial.stat().st_size if self.partial.exists() else 0
        if self.file.size is not None and done > self.file.size:
            _discard(self.partial)
            done = 0
        if done == self.file.size:
            return
        try:
            with closing(self._answer(done)) as response:
                self._receive(response, done)
        except requests.exceptions.SSLError as error:
            raise ModelError(f"{self.url}: its certificate is not trusted ({error})") from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise _Transient(_reason(error)) from error
        except requests.RequestException as error:
            raise ModelError(f"{self.url}: {error}") from error
        except urllib3.exceptions.HTTPError as error:  # while the body is read
            raise _Transient(_reason(error)) from error

    def _answer(self, done: int) -> requests.Response:
        # identity: ranges count the bytes of the file, not those of its compressed form
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
            if validator := self._validator():
                headers["If-Range"] = validator
        limits = (self.patience.connect_seconds, self.patience.read_seconds)
        return self.session.get(self.url, headers=headers, stream=True, timeout=limits)

    def _receive(self, response: requests.Response, done: int) -> None:
        status = response.status_code
        if status == 416:  # what is here is not the beginning of what is there
            _discard(self.partial)
            raise _Transient("the server has fewer bytes than were downloaded before")
        if status in _WORTH_ANOTHER_TRY:
            raise _Transient(f"HTTP {status} {response.reason}")
        if status not in (200, 206):
            raise ModelError(f"{self.url}: HTTP {status} {response.reason}; the file is not there")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise ModelError(f"{self.url}: answered with a web page ({kind}) instead of the file")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ModelError(f"{self.url}: answered compressed although it was asked not to; use another mirror")
        start = done if status == 206 else 0
        if status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise ModelError(f"{self.url}: answered with the wrong range {response.headers.get('Content-Range')!r}")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else self.file.size
        self._check_size(total)
        self._remember(response)
        with self.partial.open("ab" if start else "wb", buffering=0) as out:  # unbuffered: a kill loses nothing
            self._copy(response, out, start, total)

    def _copy(self, response: requests.Response, out: BinaryIO, start: int, total: int | None) -> None:
        done = start
        self.on_progress(done, total)
        # read1 gives what has come, so that a cut connection loses none of it
        while data := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            view = memoryview(data)
            while view:
                view = view[out.write(view) :]
            done += len(data)
            if self.file.size is not None and done > self.file.size:
                self._check_size(done)
            self.on_progress(done, total)
        os.fsync(out.fileno())
        if total is not None and done < total:
            raise _Transient(f"the connection ended after {done} of {total} bytes")

    def _check_size(self, total: int | None) -> None:
        if self.file.size is not None and total != self.file.size:
            _discard(self.partial)
            raise ModelError(f"{self.url}: has {total} bytes, expected {self.file.size}; it is another file")

    def _remember(self, response: requests.Response) -> None:
        """Keep what names this state of the file, so that a later range is of the same state."""
        etag = response.headers.get("ETag", "")
        strong = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        _validator_file(self.partial).write_text(json.dumps({"url": self.url, "validator": strong}), encoding="utf-8")

    def _validator(self) -> str | None:
        try:
            kept = json.loads(_validator_file(self.partial).read_text(encoding="utf-8"))
            return str(kept["validator"]) if kept["url"] == self.url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # the checksum at the end decides


def _reason(error: BaseException) -> str:
    """The innermost cause, which is the one that a person can act on, without the libraries' object names."""
    if isinstance(error, (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
        return "the server stayed silent for too long"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "the server did not take the connection in time"
    causes: list[BaseException] = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None and inner not in causes:
        causes.append(inner)
    return f"the connection failed ({causes[-1]})"
