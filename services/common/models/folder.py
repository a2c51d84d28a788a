"""Model folders: ``<models_dir>/<name>/<version>/manifest.json`` and the files that it lists with their SHA-256."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Model", "ModelError", "check_name", "file_sha256", "model_folders", "read_manifest", "verified"]


class ModelError(Exception):
    """A model was asked for but cannot be used; the text names the path, the reason and what to do."""


@dataclass(frozen=True)
class Model:
    """A model folder whose files are all there and unchanged; ``built_in`` if it came with the package."""

    name: str
    version: str
    task: str
    folder: Path
    manifest: Mapping[str, Any]
    licence: str
    built_in: bool = False

    def file(self, name: str) -> Path:
        """Give the path of a file that the manifest lists. Raises ModelError if it lists none of that name."""
        if name not in self.manifest["files"]:
            raise ModelError(f"{self.folder / 'manifest.json'}: lists no file {name!r}; use a model that has one")
        return self.folder / name


def check_name(text: str) -> str:
    """Return a name or version as it is. Raises ModelError unless it is the plain name of one visible folder."""
    if not re.fullmatch(r"\w[\w.-]*", text) or ".." in text:
        raise ModelError(f"{text!r} is no name of a model or version; use letters, digits, '.', '_' and '-'")
    return text


def model_folders(models_dir: Path) -> list[Path]:
    """All ``<name>/<version>`` with a manifest: names in alphabetical order, the highest version of each first.

    Folders whose name starts with a dot are work in progress and no models.
    """
    found = [path.parent for path in models_dir.glob("*/*/manifest.json")]
    visible = [folder for folder in found if not folder.name.startswith(".") and folder.parent.name[0] != "."]
    newest_first = sorted(visible, key=lambda folder: _order(folder.name), reverse=True)
    return sorted(newest_first, key=lambda folder: folder.parent.name)


def _order(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in version.split(".")]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest and check the fields that every model has. Raises ModelError naming path and field."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; put the model's folder there or ask for another model") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error}); restore the file") from error
    if not isinstance(manifest, dict):
        raise ModelError(f"{path}: is no JSON object; restore the file")
    for field, kind in {"name": str, "version": str, "task": str, "licence": str, "files": dict}.items():
        if not isinstance(manifest.get(field), kind):
            raise ModelError(f"{path}: field {field!r} is missing or no {kind.__name__}; add it")
    return manifest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 lower-case hexadecimal digits. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verified(folder: Path, task: str | None = None, built_in: bool = False) -> Model:
    """Read a model folder and compare every file's SHA-256.

    Raises ModelError if it is missing, damaged, in a folder of another name, or not for ``task`` (None: any).
    """
    path = folder / "manifest.json"
    manifest = read_manifest(path)
    if (manifest["name"], manifest["version"]) != (folder.parent.name, folder.name):
        raise ModelError(f"{path}: says {manifest['name']}/{manifest['version']}; rename its folders accordingly")
    if task is not None and manifest["task"] != task:
        raise ModelError(f"{path}: is for the task {manifest['task']!r}, not {task!r}; ask for another model")
    for name, expected in manifest["files"].items():
        file = folder / name
        if Path(name).name != name:
            raise ModelError(f"{path}: file name {name!r} leaves the folder; files lie beside the manifest")
        try:
            actual = file_sha256(file)
        except OSError as error:
            raise ModelError(f"{file}: cannot be read ({error.strerror}); fetch the model again") from error
        if actual != str(expected).lower():
            raise ModelError(f"{file}: wrong checksum, sha256 {actual} instead of {expected}; fetch the model again")
    return Model(
        manifest["name"], manifest["version"], manifest["task"], folder, manifest, manifest["licence"], built_in
    )
