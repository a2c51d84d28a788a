"""Model folders: ``<models_dir>/<name>/<version>/manifest.json`` and the files that it lists with their SHA-256."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Model", "ModelError", "find_model"]


class ModelError(Exception):
    """A model was asked for but cannot be used; the text names the path, the reason and what to do."""


@dataclass(frozen=True)
class Model:
    """A model folder whose files are all there and unchanged."""

    name: str
    version: str
    task: str
    folder: Path
    manifest: Mapping[str, Any]
    licence: str

    def file(self, name: str) -> Path:
        """Give the path of a file that the manifest lists. Raises ModelError if it lists none of that name."""
        if name not in self.manifest["files"]:
            raise ModelError(f"{self.folder / 'manifest.json'}: lists no file {name!r}; use a model that has one")
        return self.folder / name


def find_model(models_dir: Path | None, task: str, wanted: str) -> Model | None:
    """Find and verify a model of a task, "segmentation" or "features".

    ``wanted`` is "auto" (the first name that has the task, or None if there is none), "builtin" (None), "name" (its
    highest version) or "name/version". None means that the built-in default is to be used. Every file's SHA-256 is
    compared. Raises ModelError if what was wanted is missing, damaged or for another task.
    """
    if wanted == "builtin" or (wanted == "auto" and models_dir is None):
        return None
    if models_dir is None:
        raise ModelError(f"model {wanted!r} is wanted but no models folder is set; set DPST_MODELS_DIR")
    if not models_dir.is_dir():
        raise ModelError(f"{models_dir}: no such folder; set DPST_MODELS_DIR to a folder of models or unset it")
    if wanted == "auto":
        manifests = sorted(models_dir.glob("*/*/manifest.json"))
        names = sorted({path.parent.parent.name for path in manifests if _read(path)["task"] == task})
        if not names:
            return None
        wanted = names[0]
    name, _, version = wanted.partition("/")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", wanted) or ".." in wanted:
        raise ModelError(f"model {wanted!r} is no name; expected name or name/version")
    return _verified(models_dir / name / (version or _highest_version(models_dir / name)), task)


def _highest_version(folder: Path) -> str:
    versions = [path.parent.name for path in folder.glob("*/manifest.json")]
    if not versions:
        raise ModelError(f"{folder}: no model there; expected <version>/manifest.json in it")
    return max(versions, key=lambda v: [(int(n), "") if n.isdigit() else (-1, n) for n in v.split(".")])


def _read(path: Path) -> dict[str, Any]:
    """Read a manifest and check the fields that every model has."""
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


def _verified(folder: Path, task: str) -> Model:
    path = folder / "manifest.json"
    manifest = _read(path)
    if (manifest["name"], manifest["version"]) != (folder.parent.name, folder.name):
        raise ModelError(f"{path}: says {manifest['name']}/{manifest['version']}; rename its folders accordingly")
    if manifest["task"] != task:
        raise ModelError(f"{path}: is for the task {manifest['task']!r}, not {task!r}; ask for another model")
    for name, expected in manifest["files"].items():
        file = folder / name
        if Path(name).name != name:
            raise ModelError(f"{path}: file name {name!r} leaves the folder; files lie beside the manifest")
        try:
            with file.open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{file}: cannot be read ({error.strerror}); fetch the model again") from error
        if actual != str(expected).lower():
            raise ModelError(f"{file}: wrong checksum, sha256 {actual} instead of {expected}; fetch the model again")
    return Model(manifest["name"], manifest["version"], task, folder, manifest, manifest["licence"])
