"""``dpst batch``: many photos, one style."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from dpst_client import TransferFailed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.cli.batch.journal import Entry, Journal
from gateway.cli.batch.report import thumbnail, write_reports
from gateway.cli.batch.run import Plan, Task, run
from gateway.cli.connection import reached
from gateway.cli.failures import explained_failures, stop_on_sigterm
from gateway.cli.files import READABLE
from gateway.cli.output import SUFFIXES, output_flags, output_options
from gateway.cli.parameters import FIELDS, parameter_flags, params_message
from gateway.stack import local_stack

__all__ = ["batch"]

_HIDDEN = ".dpst-batch"


@click.command()
@click.argument("photos", nargs=-1, required=True, type=READABLE)
@click.option("--style", type=READABLE, required=True, help="The photo that gives the style.")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of the results; made if need be.",
)
@click.option("--suffix", type=click.Choice(SUFFIXES), help="Format of the results. Default: each as its photo.")
@click.option("--segmentation-model", help="Segmentation network as NAME or NAME/VERSION.")
@parameter_flags
@output_flags
@click.option("--at-once", type=click.IntRange(1, 1024), default=4, show_default=True, help="Photos on their way.")
@click.option("--server", metavar="ADDR", help="Gateway to use. Without it, a stack is started for this batch.")
@click.option("--verbose", is_flag=True, help="Show the logs of the started services.")
def batch(
    photos: Sequence[Path],
    style: Path,
    folder: Path,
    suffix: str | None,
    at_once: int,
    server: str | None,
    verbose: bool,
    **values: Any,
) -> None:
    """Give all PHOTOS the look of one style.

    A batch that was stopped goes on where it was: what is done with the same photo, style and parameters is skipped.
    The folder gets report.csv and report.html. Exit status 0 if all photos are done, 1 if some are not.
    """
    tasks = _tasks(photos, folder, suffix, values)
    params = {field: values[field] for field in FIELDS if values[field] not in (None, ())}
    if "label_strengths" in params:
        params["label_strengths"] = dict(params_message(values).label_strengths)
    plan = Plan(tasks, style.read_bytes(), params, values["segmentation_model"] or "", at_once)
    hidden = folder / _HIDDEN
    own = functools.partial(local_stack, gateway={"jobs_url": f"sqlite:{(hidden / 'jobs').absolute()}"})
    stop_on_sigterm()
    with explained_failures():
        hidden.mkdir(parents=True, exist_ok=True)
        journal = Journal(hidden / "journal.jsonl")
        try:
            with reached(server, own, verbose) as address, _Shown(len(tasks), hidden / "thumbnails") as shown:
                asyncio.run(run(address, os.environ.get("DPST_TOKEN"), plan, journal, shown.entry))
        except TransferFailed as error:
            click.echo(f"error: {error}", err=True)
            raise click.exceptions.Exit(1) from None
        finally:
            write_reports(folder, hidden / "thumbnails", journal.entries)
    wanted = {task.output.name for task in tasks}
    entries = [entry for entry in journal.entries if entry.output in wanted]
    done = sum(entry.state == "done" for entry in entries)
    click.echo(f"{folder}: {done} of {len(tasks)} photos done, {shown.skipped} of them before; see report.html")
    if done < len(tasks):
        raise click.exceptions.Exit(1)


def _tasks(photos: Sequence[Path], folder: Path, suffix: str | None, values: dict[str, Any]) -> list[Task]:
    tasks: dict[str, Task] = {}
    for photo in photos:
        own = photo.suffix.lower() if photo.suffix.lower() in SUFFIXES else ".jpg"
        output = folder / f"{photo.stem}{suffix or own}"
        if (other := tasks.get(output.name)) is not None:
            raise click.UsageError(f"{other.content} and {photo} would both become {output}")
        if output.resolve() == photo.resolve():
            raise click.UsageError(f"{photo} would be overwritten by its result; choose another folder")
        tasks[output.name] = Task(photo, output, output_options(output, values))
    return list(tasks.values())


class _Shown:
    """Progress of the batch on standard error, and the pictures of its report."""

    def __init__(self, total: int, thumbnails: Path) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("photos", total=total)
        self._thumbnails, self._total = thumbnails, total
        self._ended = self.skipped = 0
        self._lock = threading.Lock()

    def __enter__(self) -> _Shown:
        self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()

    def entry(self, task: Task, entry: Entry | None) -> None:
        """Tell of one photo."""
        with self._lock:
            self._ended += 1
            self.skipped += entry is None
            at = self._ended
        self._bar.advance(self._task)
        if entry is None:
            return
        self._console.print(
            f"{at}/{self._total} {task.content}: "
            + (f"{entry.seconds:.1f} s" if entry.state == "done" else entry.error),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        thumbnail(task.content, self._thumbnails / f"{task.output.name}.before.jpg")
        if entry.state == "done":
            thumbnail(task.output, self._thumbnails / f"{task.output.name}.after.jpg")
