"""A model folder, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.segmentation.convert.failure import ConvertError

__all__ = ["manifest_of", "write_model_folder"]


def manifest_of(
    *,
    name: str,
    version: str,
    licence: str,
    source: str,
    scale: str,
    size: str,
    stride: int,
    align_corners: bool,
    label_set: str,
    labels: tuple[str, ...],
) -> dict[str, Any]:
    """Say what ``services/segmentation/network.py`` has to know of a network from ``image`` to ``logits``."""
    return {
        "name": name,
        "version": version,
        "task": "segmentation",
        "files": {},
        "licence": licence,
        "source": source,
        "input": {
            "name": "image",
            "layout": "NCHW",
            "channels": "RGB",
            "dtype": "float32",
            "scale": scale,
            "size": size,
        },
        "output": {"name": "logits", "layout": "NCHW", "stride": stride, "align_corners": align_corners},
        "label_set": label_set,
        "labels": list(labels),
    }


def write_model_folder(folder: Path, manifest: Mapping[str, Any], network: bytes) -> None:
    """Write ``model.onnx`` and ``manifest.json``, whose ``files`` is filled in here.

    Both are written into a folder beside, which is then renamed, so that ``folder`` is either complete or as it was.
    Raises ConvertError if it cannot be written, or exists and is not empty.
    """
    folder = folder.absolute()
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        _refuse_existing(folder)
        part.mkdir(parents=True)
        try:
            (part / "model.onnx").write_bytes(network)
            full = {**manifest, "files": {"model.onnx": hashlib.sha256(network).hexdigest()}}
            text = json.dumps(full, indent=1, ensure_ascii=False) + "\n"
            (part / "manifest.json").write_text(text, encoding="utf-8")
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)  # gone already where it was renamed
    except OSError as error:
        raise ConvertError(f"{folder}: cannot be written ({error.strerror})") from error


def _refuse_existing(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConvertError(f"{folder}: exists already; remove it or name another folder")
