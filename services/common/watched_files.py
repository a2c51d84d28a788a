"""Files that others replace while a process runs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["WatchedFiles"]


class WatchedFiles:
    """Tells whether files are others than before; a look costs a system call a file."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self._seen = self._now()

    def changed(self) -> bool:
        """Whether they are others than at the last look; not while one is missing, to be replaced."""
        now = self._now()
        if None in now or now == self._seen:
            return False
        self._seen = now
        return True

    def _now(self) -> list[tuple[int, int] | None]:
        return [_stamp(path) for path in self.paths]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
