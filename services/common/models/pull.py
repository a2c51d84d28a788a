"""From an entry of the catalogue to a model folder that services use."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from services.common.models.catalogue import Entry, RemoteFile
from services.common.models.download import Patience, fetch, fetched
from services.common.models.folder import ModelError, read_manifest, verified
from services.common.models.store import install, place_to_finish, reserved, write_manifest

__all__ = ["Convert", "Report", "address", "pull"]

# For manifest, locks and what other programs write meanwhile.
_SPARE_BYTES = 32 << 20

Convert = Callable[[Entry, Path, Path], None]
"""Makes the model folder (third) of the file (second) of an entry. Raises ModelError."""


class Report(Protocol):
    """Tells a person how a pull goes on."""

    def say(self, text: str) -> None:
        """Something begins."""

    def bytes(self, name: str, done: int, total: int | None) -> None:
        """So much of a file is there."""


def address(entry: Entry, file: RemoteFile, mirror: str | None) -> str:
    """Where a file is fetched: its own url, or ``<mirror>/<name>/<version>/<file>``."""
    if mirror is None:
        return file.url
    return "/".join([mirror.rstrip("/"), *(quote(part) for part in (entry.name, entry.version, file.name))])


def pull(
    entry: Entry, models_dir: Path, convert: Convert, mirror: str | None, report: Report, patience: Patience
) -> Path:
    """Download, verify, convert and install a model; returns its folder.

    A model that is there and whole is left as it is. What was downloaded before, by an interrupted pull, is used.
    Until everything is right ``models_dir``/<name>/<version> stays as it was.

    Raises:
        ModelError: see ``fetch``; or the disk has too little room, or the conversion failed.
    """
    try:
        with reserved(models_dir, entry.name, entry.version, lambda: report.say("waiting for another pull")) as work:
            target = models_dir / entry.name / entry.version
            if _whole(target):
                report.say(f"{entry.name}/{entry.version} is there already")
            else:
                target = _made(entry, models_dir, work, convert, mirror, report, patience)
            shutil.rmtree(work, ignore_errors=True)
            return target
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise ModelError(f"{error.filename or models_dir}: cannot be written ({reason})") from error


def _whole(folder: Path) -> bool:
    try:
        verified(folder)
    except ModelError:
        return False
    return True


def _made(
    entry: Entry,
    models_dir: Path,
    work: Path,
    convert: Convert,
    mirror: str | None,
    report: Report,
    patience: Patience,
) -> Path:
    _check_room(entry, work)
    downloaded: dict[str, Any] = {}
    for file in entry.files:
        url = address(entry, file, mirror)
        report.say(f"fetching {url}")
        digest = fetch(file, url, work, partial(report.bytes, file.name), patience)
        downloaded[file.name] = {"url": url, "sha256": digest, "size": (work / file.name).stat().st_size}
    finished = place_to_finish(work, entry.name, entry.version)
    said = {"licence": entry.licence, "source": entry.source, "description": entry.description}
    if entry.convert is not None:
        report.say(f"converting {entry.files[0].name}")
        convert(entry, work / entry.files[0].name, finished)
        manifest = read_manifest(finished / "manifest.json")
        names = list(manifest["files"])
    else:
        finished.mkdir()
        for file in entry.files:
            (work / file.name).rename(finished / file.name)
        manifest = {"name": entry.name, "version": entry.version, "task": entry.task, "input": entry.input}
        manifest |= {"output": entry.output} if entry.output is not None else {}
        manifest |= {"labels": list(entry.labels)} if entry.labels is not None else {}
        names = [file.name for file in entry.files]
    write_manifest(finished, {**manifest, **said, "downloaded": downloaded}, names)
    return install(finished, models_dir)


def _check_room(entry: Entry, work: Path) -> None:
    """A model that is made of a file needs room beside it; no converter makes more than it was given."""
    needed = _SPARE_BYTES
    for file in entry.files:
        size = file.size or 0
        begun = work / f"{file.name}.partial"
        there = size if fetched(file, work) else (begun.stat().st_size if begun.exists() else 0)
        needed += max(0, size - there) + (size if entry.convert is not None else 0)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise ModelError(f"{work}: needs {needed / 1e6:.0f} MB, the disk has only {free / 1e6:.0f} MB free")
