"""What a batch has done so far: a line of JSON for each photo, beside the results."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

__all__ = ["Entry", "Journal"]


@dataclass(frozen=True)
class Entry:
    """How it went with one photo.

    Attributes:
        content: path of the photo, as it was given.
        output: name of the result in the folder of results.
        digest: SHA-256 of photo, style and everything that was asked.
        state: "done" or "failed".
        seconds: from the submission to the result, waiting included.
        evaluations: of the network.
        style_distance: of the result, relative to the untouched photo's.
        edges: share of the photo's edges that the result has.
        notes: of the report.
        error: why it failed.
    """

    content: str
    output: str
    digest: str
    state: Literal["done", "failed"]
    seconds: float = 0.0
    evaluations: int = 0
    style_distance: float = 0.0
    edges: float = 0.0
    notes: tuple[str, ...] = ()
    error: str = ""


class Journal:
    """A file of entries, of which the last one of an output counts. What a killed process half wrote is left out.

    Raises OSError if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        self._failures: dict[str, int] = {}
        known = {field.name for field in fields(Entry)}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                values = json.loads(line)
                entry = Entry(**{**{name: values[name] for name in known}, "notes": tuple(values["notes"])})
            except (ValueError, KeyError, TypeError):
                continue
            self._take(entry)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """One for each output, in the order of their names."""
        return tuple(self._entries[name] for name in sorted(self._entries))

    def is_done(self, output: str, digest: str) -> bool:
        """Whether this output was made of the same photo and style in the same way."""
        entry = self._entries.get(output)
        return entry is not None and entry.state == "done" and entry.digest == digest

    def failures(self, digest: str) -> int:
        """How often it has failed."""
        return self._failures.get(digest, 0)

    def add(self, entry: Entry) -> None:
        """Keep an entry; it is on the disk when this returns."""
        self._take(entry)
        with self._path.open("a", encoding="utf-8") as file:
            if file.tell() and not self._ends_well():
                file.write("\n")
            file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _take(self, entry: Entry) -> None:
        self._entries[entry.output] = entry
        if entry.state == "failed":
            self._failures[entry.digest] = self._failures.get(entry.digest, 0) + 1

    def _ends_well(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
