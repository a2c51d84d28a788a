"""The feature network that a stylizer holds warm, from a model folder: the user's, or the one in the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from services.common.models import Model, ModelError
from services.stylizer.core.student import Student, student
from services.stylizer.core.trunk import Trunk
from services.stylizer.core.vgg import VGG19, InputConvention, vgg19
from services.stylizer.jobs import NetworkInfo

__all__ = ["FeatureNetwork", "load_features", "pick_device"]

_ARCHITECTURES: Final[Mapping[str, str]] = MappingProxyType(
    {"vgg19": "a VGG-19 under torchvision's key names", "student": "a slim trunk of core/student.py"}
)


@dataclass(frozen=True)
class FeatureNetwork:
    """A trunk on its device, with what a report says about it."""

    trunk: Trunk
    device: torch.device
    info: NetworkInfo


def pick_device(wanted: str, index: int = 0) -> torch.device:
    """The device that ``DPST_DEVICE`` asks for; with CUDA the one of that index.

    Raises:
        ModelError: ``cuda`` was asked for and is not there, or not so many devices are.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ModelError("DPST_DEVICE=cuda but torch finds no CUDA device; set DPST_DEVICE=auto or cpu to run without")
    if index >= torch.cuda.device_count():
        raise ModelError(f"DPST_WORKERS asks for CUDA device {index}, there are {torch.cuda.device_count()}")
    return torch.device("cuda", index)


def load_features(model: Model, device: torch.device) -> FeatureNetwork:
    """Load a feature network onto a device.

    Args:
        model: a verified model folder of the task ``features``.
        device: where it runs.

    Raises:
        ModelError: the manifest or the weights are not those of a trunk that this version knows.
    """
    files = [name for name in model.manifest["files"] if name.endswith(".safetensors")]
    if len(files) != 1:
        raise ModelError(
            f"{model.folder / 'manifest.json'}: must list exactly one .safetensors file, lists {len(files)}"
        )
    path = model.file(files[0])
    architecture = model.manifest.get("architecture", "vgg19")
    if architecture not in _ARCHITECTURES:
        known = " or ".join(_ARCHITECTURES)
        raise ModelError(f"{model.folder / 'manifest.json'}: architecture: got {architecture!r}, must be {known}")
    make = _made_vgg19 if architecture == "vgg19" else _made_student
    try:
        trunk: Trunk = make(model, load_file(path)).to(device)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ModelError(f"{path}: not the weights of {_ARCHITECTURES[architecture]} ({error})") from error
    text = str(model.manifest.get("source", model.name))
    return FeatureNetwork(trunk, device, NetworkInfo(model.name, model.version, str(device), model.built_in, text))


def _made_vgg19(model: Model, weights: Mapping[str, Tensor]) -> VGG19:
    return vgg19(weights, _convention(model))


def _made_student(_: Model, weights: Mapping[str, Tensor]) -> Student:
    return student(weights)


def _convention(model: Model) -> InputConvention:
    entry: Any = model.manifest.get("input")
    where = f"{model.folder / 'manifest.json'}: input"
    if not isinstance(entry, Mapping):
        raise ModelError(f"{where}: missing; it says channels, range, mean and std")
    channels, value_range = entry.get("channels"), entry.get("range")
    if channels not in ("RGB", "BGR"):
        raise ModelError(f"{where}.channels: got {channels!r}, must be RGB or BGR")
    if value_range not in ("0..1", "0..255"):
        raise ModelError(f"{where}.range: got {value_range!r}, must be 0..1 or 0..255")
    mean, std = _triple(entry.get("mean"), f"{where}.mean"), _triple(entry.get("std"), f"{where}.std")
    if min(std) <= 0:
        raise ModelError(f"{where}.std: got {list(std)}, must be above 0")
    return InputConvention(channels == "BGR", 255.0 if value_range == "0..255" else 1.0, mean, std)


def _triple(value: Any, where: str) -> tuple[float, float, float]:
    try:
        first, second, third = (float(number) for number in value)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where}: got {value!r}, must be three numbers") from error
    return first, second, third
