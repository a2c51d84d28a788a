"""From a file of the user's own to a model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from services.common.models.catalogue import Entry
from services.common.models.folder import ModelError, check_name, file_sha256
from services.common.models.store import install, place_to_finish, reserved, write_manifest

__all__ = ["entry_of_file", "import_model", "network_with_manifest"]

_NEEDED = {"task": str, "licence": str, "input": dict, "output": dict, "labels": list}


def entry_of_file(entries: tuple[Entry, ...], source: Path) -> Entry | None:
    """The catalogue's entry that this file belongs to, by its SHA-256. Raises ModelError if it cannot be read."""
    try:
        digest = file_sha256(source)
    except OSError as error:
        raise ModelError(f"{source}: cannot be read ({error.strerror})") from error
    found = (entry for entry in entries for file in entry.files if digest.startswith(file.checksum))
    return next(found, None)


def import_model(models_dir: Path, name: str, version: str, make: Callable[[Path], None]) -> Path:
    """Install what ``make`` writes into the folder that it is given, <name>/<version>; returns where it is then.

    Raises ModelError if there is such a model already, or if ``make`` does; then nothing is left behind.
    """
    check_name(name)
    target = models_dir / name / check_name(version)
    with reserved(models_dir, name, version, lambda: None) as work:
        if target.exists():
            raise ModelError(f"{target}: is there already; name another version, or remove it first")
        finished = place_to_finish(work, name, version)
        try:
            make(finished)
            return install(finished, models_dir)
        finally:
            shutil.rmtree(finished.parents[1], ignore_errors=True)


def network_with_manifest(source: Path, manifest: Path, folder: Path) -> None:
    """Make the folder <name>/<version> of an ONNX network and a manifest, whose name, version and files are made anew.

    Raises ModelError that names the field which the manifest lacks.
    """
    try:
        said = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{manifest}: cannot be read as JSON ({error}); an ONNX network needs --manifest FILE, or a manifest.json "
            f"beside it, with {', '.join(_NEEDED)}"
        ) from error
    for field, kind in _NEEDED.items():
        if not isinstance(said, dict) or not isinstance(said.get(field), kind):
            raise ModelError(f"{manifest}: field {field!r} is missing or no {kind.__name__}; add it")
    folder.mkdir()
    shutil.copyfile(source, folder / "model.onnx")
    write_manifest(folder, {**said, "name": folder.parent.name, "version": folder.name}, ["model.onnx"])
