"""API keys of callers: a TOML file that holds their SHA-256, never the keys themselves.

::

    [[keys]]
    name = "photo-backend"
    sha256 = "9f86d081…"                   # of the key's UTF-8 bytes, from `dpst keys new photo-backend`
    services = ["dpst.v1.PhotoStyle"]      # what it may call; left out = everything

Keys are made of 256 random bits, so that a plain SHA-256 of them cannot be reversed by trying.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Sequence
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.common.watched_files import WatchedFiles

__all__ = ["Key", "KeyFile", "KeyFileError", "new_key"]

_log = structlog.stdlib.get_logger(__name__)


class KeyFileError(Exception):
    """The file of keys cannot be read."""


class Key(BaseModel):
    """One caller's key; ``services`` are full gRPC names, None = all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    services: tuple[str, ...] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[Key, ...] = ()


class KeyFile:
    """The keys of a file, read again when it has changed; a file that is broken then leaves the keys as they were.

    Raises KeyFileError if it cannot be read at first.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._watched = path, WatchedFiles(path)
        self._keys = _read(path)

    def find(self, token: str) -> Key | None:
        """The key that ``token`` is, None if it is none; takes as long for one as for the other."""
        self._refresh()
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key
        return found

    def _refresh(self) -> None:
        if not self._watched.changed():
            return
        try:
            self._keys = _read(self._path)
            _log.info("API keys were read again", keys=len(self._keys))
        except KeyFileError as error:
            _log.error("API keys stay as they were", reason=str(error))


def _read(path: Path) -> Sequence[Key]:
    try:
        keys = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).keys
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise KeyFileError(f"{path}: {where}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{path}: {error}") from error
    names = [key.name for key in keys]
    if twice := {name for name in names if names.count(name) > 1}:
        raise KeyFileError(f"{path}: two keys are called {min(twice)}")
    return keys


def new_key(name: str) -> tuple[str, str]:
    """A new key, and its entry for the file."""
    token = f"dpst_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    return token, f'[[keys]]\nname = "{name}"\nsha256 = "{digest}"\n'
