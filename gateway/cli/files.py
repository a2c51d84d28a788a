"""Files that a command reads and writes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

__all__ = ["READABLE", "WRITABLE", "check_writable", "write_atomically"]

READABLE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
WRITABLE = click.Path(dir_okay=False, writable=True, path_type=Path)


def check_writable(*paths: Path | None) -> None:
    """Raise ``click.BadParameter`` for a path whose folder cannot take a file, before any work is done for it."""
    for path in paths:
        if path is None:
            continue
        try:
            with tempfile.TemporaryFile(dir=path.absolute().parent):
                pass
        except OSError as error:
            raise click.BadParameter(f"cannot write {path}: {error.strerror}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write all of ``data`` to ``path``, or leave what was there before."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
