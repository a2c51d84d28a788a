"""Changing a folder of models: work in progress beside, a lock for each model, and one rename at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from services.common.models.folder import ModelError, check_name, file_sha256, model_folders, read_manifest, verified

__all__ = ["Installed", "install", "installed", "place_to_finish", "reserved", "write_manifest"]

_WORK = ".partial"


@dataclass(frozen=True)
class Installed:
    """A model folder as it lies there, not verified; ``problem`` says why its manifest cannot be read."""

    name: str
    version: str
    folder: Path
    built_in: bool
    task: str = ""
    licence: str = ""
    size: int = 0
    problem: str | None = None


def installed(models_dir: Path | None, built_in: bool = False) -> list[Installed]:
    """What a folder of models holds; a missing folder holds nothing. ``size`` is in bytes."""
    found = []
    for folder in model_folders(models_dir) if models_dir is not None else []:
        name, version = folder.parent.name, folder.name
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        try:
            manifest = read_manifest(folder / "manifest.json")
        except ModelError as error:
            found.append(Installed(name, version, folder, built_in, size=size, problem=str(error)))
        else:
            found.append(Installed(name, version, folder, built_in, manifest["task"], manifest["licence"], size))
    return found


@contextmanager
def reserved(models_dir: Path, name: str, version: str, on_wait: Callable[[], None]) -> Iterator[Path]:
    """Hold the model for this process alone and yield its work folder, which keeps what an earlier try left.

    ``on_wait`` is called once if another process holds it; then this one waits. The lock is the operating system's, so
    that a killed process leaves none. Raises ModelError for a name that is none.
    """
    work = models_dir / _WORK / check_name(name) / check_name(version)
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.with_name(f"{version}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        work.mkdir(exist_ok=True)  # who held it before may have finished and removed it
        yield work
    finally:
        lock.release()


def write_manifest(folder: Path, manifest: Mapping[str, Any], files: list[str]) -> None:
    """Write manifest.json with the SHA-256 of ``files``, names in ``folder``."""
    full = {**manifest, "files": {name: file_sha256(folder / name) for name in files}}
    (folder / "manifest.json").write_text(json.dumps(full, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def place_to_finish(work: Path, name: str, version: str) -> Path:
    """A path in the work folder where the finished model is to be made: it is not there, its parent is empty."""
    shutil.rmtree(work / "finished", ignore_errors=True)
    folder = work / "finished" / name / version
    folder.parent.mkdir(parents=True)
    return folder


def install(finished: Path, models_dir: Path) -> Path:
    """Verify the folder ``finished``, <name>/<version>, and move it to ``models_dir``; returns where it is then.

    One that is there already is replaced, and removed once the new one is in place. Raises ModelError if ``finished``
    is not whole; then ``models_dir`` stays as it was.
    """
    verified(finished)
    name, version = finished.parent.name, finished.name
    target = models_dir / name / version
    target.parent.mkdir(exist_ok=True)
    old = finished.with_name(f".{version}.old")
    if target.exists():
        target.rename(old)
    finished.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target
