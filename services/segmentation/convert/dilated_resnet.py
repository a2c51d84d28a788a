"""torchvision's DeepLabv3 networks with their weights, ready to be exported."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from services.segmentation.convert.failure import ConvertError

__all__ = ["ARCHITECTURES", "built", "load_weights"]

ARCHITECTURES = ("deeplabv3_resnet50", "deeplabv3_resnet101")


def built(architecture: str, classes: int, seed: int) -> nn.Module:
    """Build a network with random weights. Raises ConvertError if torchvision cannot be imported."""
    models = _torchvision()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = getattr(models, architecture)(weights=None, weights_backbone=None, num_classes=classes)
    if not isinstance(network, nn.Module):
        raise ConvertError(f"torchvision's {architecture} is no network")
    return network


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict; the auxiliary classifier, which only training uses, is passed over.

    Raises ConvertError, naming the first key that does not fit, if it is for another network, or no state dict.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read ({error.strerror})") from error
    with stream:
        try:
            state = torch.load(stream, map_location="cpu", weights_only=True)
        # OSError, too, is what PyTorch says of an archive that is cut short.
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError) as error:
            raise ConvertError(f"{path}: is no file of weights ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConvertError(f"{path}: holds {type(state).__name__}, a dictionary of tensors expected")
    given = {str(key): value for key, value in state.items() if not str(key).startswith("aux_classifier.")}
    _refuse_misfits(path, network.state_dict(), given)
    network.load_state_dict(given)


def _refuse_misfits(path: Path, expected: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for key, tensor in expected.items():
        if key not in given:
            raise ConvertError(f"{path}: has no key {key!r}, which the network needs")
        if given[key].shape != tensor.shape:
            raise ConvertError(
                f"{path}: key {key!r} has the shape {tuple(given[key].shape)}, the network's is {tuple(tensor.shape)}"
            )
        if not torch.isfinite(given[key]).all():
            raise ConvertError(f"{path}: key {key!r} holds values that are not finite")
    for key in given:
        if key not in expected:
            raise ConvertError(f"{path}: has the key {key!r}, which the network does not know")


def _torchvision() -> ModuleType:
    try:
        from torchvision.models import segmentation
    except ImportError as error:
        raise ConvertError(f"torchvision is not there ({error}); install the extra 'gpu'") from error
    except (RuntimeError, OSError) as error:  # its compiled operators are for another build of torch
        reason = " ".join(str(error).split())
        raise ConvertError(
            f"torchvision does not fit torch {torch.__version__} ({reason}); install the extra 'gpu'"
        ) from error
    return segmentation  # type: ignore[no-any-return]
