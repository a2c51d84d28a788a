"""Conversions of model files, as child processes: the gateway itself imports no service and no network library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from services.common.models.catalogue import Entry
from services.common.models.folder import ModelError

__all__ = ["convert_entry", "convert_tflite", "convert_torchvision", "convert_vgg19"]


def convert_entry(entry: Entry, source: Path, folder: Path) -> None:
    """Make the model folder of a catalogue entry's file. Raises ModelError with the converter's own words."""
    if entry.convert == "vgg19":
        convert_vgg19(source, folder, entry.name, entry.version, entry.convention or "")
    elif entry.convert == "tflite":
        convert_tflite(source, folder, entry.name, entry.version)
    elif entry.convert in ("deeplabv3_resnet50", "deeplabv3_resnet101"):
        convert_torchvision(entry.convert, folder, entry.version, ["--weights", str(source)])
    else:
        raise ModelError(f"{entry.name}: convert = {entry.convert!r} is no step that this version knows")


def convert_vgg19(source: Path, folder: Path, name: str, version: str, convention: str) -> None:
    """Make a folder of a VGG-19 in torchvision's keys, .pth or .safetensors; convention torchvision or caffe."""
    options = ["--name", name, "--version", version, "--convention", convention]
    _run("services.stylizer.convert", ["vgg19", str(source), str(folder), *options])


def convert_tflite(source: Path, folder: Path, name: str, version: str) -> None:
    """Make a folder of a DeepLab TFLite release."""
    options = ["--name", name, "--version", version]
    _run("services.segmentation.convert", ["tflite", str(source), str(folder), *options])


def convert_torchvision(architecture: str, folder: Path, version: str, weights: Sequence[str]) -> None:
    """Make a folder of torchvision's dilated network; ``weights``: --weights FILE or --random-weights SEED."""
    options = ["--version", version, *weights]
    _run("services.segmentation.convert", ["torchvision", architecture, str(folder), *options])


def _run(module: str, arguments: Sequence[str]) -> None:
    command = [sys.executable, "-m", module, *arguments]
    # No time limit: half a minute here, unknown on a slow disk, and Ctrl-C ends it.
    done = subprocess.run(  # noqa: S603 - our own module, by our own interpreter
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines[-1:]
        raise ModelError(f"{module}: {' '.join(said) or f'exit status {done.returncode}'}")
