"""The catalogue of models that can be pulled, ``services/common/models.toml``."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.common.models.folder import ModelError

__all__ = ["Entry", "RemoteFile", "catalogue", "entry_named", "parsed"]

_NAME = r"^\w(\.?[\w-])*$"  # the plain name of one visible file or folder


class RemoteFile(BaseModel):
    """A file to download: ``size`` in bytes if known, and ``sha256`` or at least its first digits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_NAME)
    url: str = Field(pattern=r"^https?://")
    size: int | None = Field(default=None, gt=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    sha256_prefix: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,63}$")

    @model_validator(mode="after")
    def _has_one_checksum(self) -> RemoteFile:
        if (self.sha256 is None) == (self.sha256_prefix is None):
            raise ValueError("give either sha256 or sha256_prefix")
        return self

    @property
    def checksum(self) -> str:
        """All that is known of the SHA-256: 64 hexadecimal digits, or the first 8 or more."""
        return self.sha256 or self.sha256_prefix or ""


class Entry(BaseModel):
    """A model of the catalogue. ``convert`` makes a model folder of its one file; None: the files are the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_NAME)
    version: str = Field(pattern=_NAME)
    task: Literal["features", "segmentation"]
    licence: str
    source: str
    description: str
    checked: str = ""
    convert: str | None = None
    convention: str | None = None
    input: dict[str, Any]
    output: dict[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    files: tuple[RemoteFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _converts_one_file(self) -> Entry:
        if self.convert is not None and len(self.files) != 1:
            raise ValueError("an entry that is converted has exactly one file")
        return self

    @property
    def size(self) -> int | None:
        """Bytes to download; None if that of a file is not known."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


def parsed(text: str, where: str) -> tuple[Entry, ...]:
    """Read a catalogue. Raises ModelError that names ``where`` and the field."""
    try:
        entries = tuple(Entry.model_validate(entry) for entry in tomllib.loads(text).get("model", []))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ModelError(f"{where}: {' '.join(str(error).split())}") from error
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        raise ModelError(f"{where}: two models have one name among {', '.join(sorted(names))}")
    return entries


def catalogue() -> tuple[Entry, ...]:
    """The package's own catalogue."""
    path = files("services.common") / "models.toml"
    return parsed(path.read_text(encoding="utf-8"), "services/common/models.toml")


def entry_named(entries: tuple[Entry, ...], name: str) -> Entry:
    """The entry of a name, or of "name/version". Raises ModelError that lists the names there are."""
    for entry in entries:
        if name in (entry.name, f"{entry.name}/{entry.version}"):
            return entry
    known = ", ".join(entry.name for entry in entries)
    raise ModelError(f"model {name!r} is not in the catalogue; there are {known}")
