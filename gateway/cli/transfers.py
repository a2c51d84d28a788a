"""Progress of downloads on standard error: a bar for a person at a terminal, a few plain lines for a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

from services.common.models.pull import Report

__all__ = ["shown_transfer"]

_LINES_PER_FILE = 4


@contextmanager
def shown_transfer() -> Iterator[Report]:
    """Yield the report that suits standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress)


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def bytes(self, name: str, done: int, total: int | None) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, completed=done)
        self._progress.update(self._tasks[name], completed=done, total=total)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._quarter = -1

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def bytes(self, name: str, done: int, total: int | None) -> None:
        quarter = done * _LINES_PER_FILE // total if total else 0
        if quarter != self._quarter:
            self._quarter = quarter
            of = f" of {total / 1e6:.1f}" if total else ""
            self.say(f"{name}: {done / 1e6:.1f}{of} MB")
