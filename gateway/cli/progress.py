"""Progress of a transfer on standard error: a bar for a person at a terminal, a few plain lines for a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from dpst.v1 import photo_style_pb2, progress_pb2, report_pb2
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

__all__ = ["Display", "shown_progress"]

_LINES_PER_SOLVE = 5


class Display(Protocol):
    """Shows what a person should know about a running job."""

    def say(self, text: str) -> None:
        """Show what is going on now."""

    def queued(self, queued: progress_pb2.Queued) -> None:
        """Show the place in the queue."""

    def event(self, event: photo_style_pb2.TransferStreamResponse) -> None:
        """Show one event of a transfer."""


@contextmanager
def shown_progress() -> Iterator[Display]:
    """Yield the display that suits standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress)


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, numbers="")

    def say(self, text: str) -> None:
        self._progress.update(self._task, description=text, numbers="")

    def queued(self, queued: progress_pb2.Queued) -> None:
        self.say(_place(queued))

    def event(self, event: photo_style_pb2.TransferStreamResponse) -> None:
        if event.HasField("iteration"):
            done = event.iteration
            self._progress.update(
                self._task, completed=done.evaluation, total=done.max_evaluations, numbers=_numbers(event)
            )
        elif text := _text(event):
            self.say(text)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def queued(self, queued: progress_pb2.Queued) -> None:
        self.say(_place(queued))

    def event(self, event: photo_style_pb2.TransferStreamResponse) -> None:
        if event.HasField("iteration"):
            step = max(1, event.iteration.max_evaluations // _LINES_PER_SOLVE)
            if event.iteration.evaluation % step == 0:
                self.say(_numbers(event))
        elif text := _text(event):
            self.say(text)


def _text(event: photo_style_pb2.TransferStreamResponse) -> str:
    if event.HasField("queued"):
        return _place(event.queued)
    if event.HasField("stage"):
        return report_pb2.Stage.Name(event.stage.stage).removeprefix("STAGE_").lower().replace("_", " ")
    return ""


def _place(queued: progress_pb2.Queued) -> str:
    eta = f", about {queued.eta_seconds:.0f} s" if queued.eta_seconds else ""
    return f"waiting behind {queued.position}{eta}"


def _numbers(event: photo_style_pb2.TransferStreamResponse) -> str:
    done = event.iteration
    return (
        f"evaluation {done.evaluation}/{done.max_evaluations}  loss {done.losses.total:.4g}  "
        f"{done.remaining_seconds:.0f} s left"
    )
