"""``python -m services.stylizer.convert``: makes a model folder of a VGG-19 in torchvision's keys.

Exits with 0, or prints one line ``error: ...`` to standard error and exits with 1; then nothing has been written.
"""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.common.models.folder import ModelError, check_name, file_sha256
from services.common.models.store import write_manifest
from services.stylizer.core.vgg import LAYERS, VGG19

__all__ = ["CONVENTIONS", "convert_vgg19", "main"]

CONVENTIONS: dict[str, dict[str, Any]] = {
    "torchvision": {"channels": "RGB", "range": "0..1", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "caffe": {"channels": "BGR", "range": "0..255", "mean": [103.939, 116.779, 123.68], "std": [1, 1, 1]},
}
"""How pixels enter the two trainings of VGG-19 that are about, as a manifest says it."""

_DTYPES = {"float16": torch.float16, "float32": torch.float32}


def convert_vgg19(source: Path, folder: Path, name: str, version: str, convention: str, dtype: str) -> None:
    """Write features.safetensors, the 16 convolutions of ``source``, and manifest.json into a new ``folder``.

    ``convention`` is a key of CONVENTIONS; ``dtype`` float16 or float32. Raises ModelError if the file is none, if a
    convolution is missing or has another shape, or if its numbers do not fit into ``dtype``.
    """
    weights = _convolutions(source, _read(source), _DTYPES[dtype])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder}: exists already; remove it or name another folder")
    manifest = {
        "name": check_name(name),
        "version": check_name(version),
        "task": "features",
        "licence": "not stated; see the source",
        "source": f"{source.name} (sha256 {file_sha256(source)})",
        "keys": f"torchvision vgg19: the convolutions of features, {dtype}",
        "input": CONVENTIONS[convention],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / "features.safetensors")
        write_manifest(folder, manifest, ["features.safetensors"])
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ModelError(f"{folder}: cannot be written ({error})") from error


def _read(source: Path) -> dict[str, Any]:
    try:
        if source.suffix.lower() == ".safetensors":
            return dict(load_file(source))
        found = torch.load(source, map_location="cpu", weights_only=True)  # a pickle could run anything otherwise
    except OSError as error:
        raise ModelError(f"{source}: cannot be read ({error.strerror})") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{source}: cannot be read as weights ({reason}); fetch it again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{source}: holds a {type(found).__name__}, expected a state dict")
    return found


def _convolutions(source: Path, found: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """The convolutions in ``dtype``, by key; what else a classifier has is left out."""
    kept = {}
    for key, wanted in VGG19(depth=LAYERS[-1]).state_dict().items():
        weight = found.get(key)
        shape = "×".join(map(str, wanted.shape))
        if not isinstance(weight, Tensor):
            raise ModelError(f"{source}: has no {key} ({shape}); it must be a VGG-19 under torchvision's key names")
        if weight.shape != wanted.shape:
            raise ModelError(f"{source}: {key} is {'×'.join(map(str, weight.shape))}, a VGG-19 has {shape}")
        kept[key] = weight.to(dtype).contiguous()
        if not torch.isfinite(kept[key]).all():
            raise ModelError(f"{source}: {key} has numbers that are not finite as {dtype}; try --dtype float32")
    return kept


@click.group(no_args_is_help=False)
def _commands() -> None:
    """Make a model folder of feature networks."""


@_commands.command("vgg19")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out_folder", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the model.")
@click.option("--version", required=True, help="Version of the model.")
@click.option("--convention", type=click.Choice(list(CONVENTIONS)), required=True, help="How pixels enter.")
@click.option("--dtype", type=click.Choice(list(_DTYPES)), default="float16", show_default=True, help="As written.")
def _vgg19(source: Path, out_folder: Path, name: str, version: str, convention: str, dtype: str) -> None:
    """Turn SOURCE, .pth or .safetensors, into the model folder OUT_FOLDER."""
    convert_vgg19(source, out_folder, name, version, convention, dtype)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        _commands.main(arguments, prog_name="python -m services.stylizer.convert", standalone_mode=False)
    except click.ClickException as error:
        message = error.format_message()
    except ModelError as error:
        message = str(error)
    else:
        return 0
    print("error:", " ".join(message.split()), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
