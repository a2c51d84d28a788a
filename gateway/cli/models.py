"""``dpst models``: fetch, import, list and verify networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from gateway.cli.failures import explained_failures
from gateway.cli.files import READABLE
from gateway.cli.model_table import model_table
from gateway.cli.transfers import shown_transfer
from gateway.conversion import convert_entry, convert_tflite, convert_torchvision, convert_vgg19
from services.common.config import StoreSettings
from services.common.models.catalogue import catalogue, entry_named
from services.common.models.download import Patience
from services.common.models.folder import ModelError, verified
from services.common.models.imports import entry_of_file, import_model, network_with_manifest
from services.common.models.location import default_models_dir, embedded_models_dir
from services.common.models.pull import pull as pull_entry
from services.common.models.store import Installed, installed

__all__ = ["models"]

_DILATED = ("deeplabv3_resnet50", "deeplabv3_resnet101")


@click.group()
def models() -> None:
    """Networks: what there is to fetch, what is installed, and whether it is whole."""


@models.command("list")
def list_models() -> None:
    """Show the catalogue and what is installed or built in."""
    with explained_failures():
        click.echo(model_table(catalogue(), _here()))


@models.command()
@click.argument("name")
def pull(name: str) -> None:
    """Fetch the model NAME of the catalogue; what an earlier try fetched is used."""
    with explained_failures():
        settings = StoreSettings()
        entry = entry_named(catalogue(), name)
        with shown_transfer() as report:
            folder = pull_entry(entry, _models_dir(), convert_entry, settings.models_url, report, Patience())
        click.echo(f"{entry.name}/{entry.version}: {folder}")


@models.command("import")
@click.argument("file", type=READABLE)
@click.option("--as", "name", required=True, help="Name of the model.")
@click.option("--version", default="1", show_default=True, help="Its version.")
@click.option("--convention", type=click.Choice(["torchvision", "caffe"]), help="How pixels enter this VGG-19.")
@click.option("--manifest", type=READABLE, help="What an ONNX network wants; default: manifest.json beside FILE.")
def import_file(file: Path, name: str, version: str, convention: str | None, manifest: Path | None) -> None:
    """Make a model of FILE: .pth or .safetensors of a VGG-19, .onnx with a manifest, .tflite of a DeepLab."""
    with explained_failures():
        folder = import_model(_models_dir(), name, version, _maker(file, name, version, convention, manifest))
        click.echo(f"{name}/{version}: {folder}")


@models.command()
@click.argument("name", required=False)
def verify(name: str | None) -> None:
    """Compare every file of NAME, or of all models, with its SHA-256; exit status 1 if one is wrong."""
    with explained_failures():
        wrong = 0
        for model in _named(name):
            try:
                verified(model.folder)
                click.echo(f"{model.name}/{model.version}: whole")
            except ModelError as error:
                wrong += 1
                click.echo(f"{model.name}/{model.version}: {error}", err=True)
        if wrong:
            raise ModelError(f"{wrong} {'model is' if wrong == 1 else 'models are'} damaged")


@models.command()
@click.argument("name", required=False)
def path(name: str | None) -> None:
    """Print the folder of models, or that of NAME."""
    with explained_failures():
        click.echo(_models_dir() if name is None else _named(name)[0].folder)


@models.command()
@click.argument("name", type=click.Choice(_DILATED))
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), required=True, help="Model folder to make.")
@click.option("--version", default="1", show_default=True, help="Its version.")
@click.option("--weights", type=READABLE, help="torchvision's state dict, a .pth file.")
@click.option("--random-weights", type=int, metavar="SEED", help="Random weights instead, to try the way.")
def export(name: str, folder: Path, version: str, weights: Path | None, random_weights: int | None) -> None:
    """Turn torchvision's dilated network NAME into ONNX with a manifest; needs torchvision."""
    if (weights is None) == (random_weights is None):
        raise click.UsageError("give either --weights FILE or --random-weights SEED")
    chosen = ["--weights", str(weights)] if weights is not None else ["--random-weights", str(random_weights)]
    with explained_failures():
        convert_torchvision(name, folder, version, chosen)
        click.echo(f"{name}/{version}: {folder}")


def _models_dir() -> Path:
    return StoreSettings().models_dir or default_models_dir()


def _here() -> list[Installed]:
    embedded = (model for task in ("features", "segmentation") for model in _embedded(task))
    return [*installed(_models_dir()), *embedded]


def _embedded(task: str) -> list[Installed]:
    return installed(embedded_models_dir(task), built_in=True)


def _named(wanted: str | None) -> list[Installed]:
    """Models of a name, or "name/version", the highest version first; None: all. Raises ModelError for none."""
    here = _here()
    found = [model for model in here if wanted in (None, model.name, f"{model.name}/{model.version}")]
    if not found and wanted is not None:
        known = ", ".join(sorted({model.name for model in here})) or "none"
        raise ModelError(f"{_models_dir()}: no model {wanted!r} there; installed: {known}")
    return found


def _maker(
    file: Path, name: str, version: str, convention: str | None, manifest: Path | None
) -> Callable[[Path], None]:
    """What makes a model folder of ``file``, by its suffix; a file of the catalogue is known by its SHA-256."""
    suffix = file.suffix.lower()
    if suffix == ".onnx":
        return partial(network_with_manifest, file, manifest or file.with_name("manifest.json"))
    if suffix == ".tflite":
        return lambda folder: convert_tflite(file, folder, name, version)
    if suffix not in (".pth", ".safetensors"):
        raise ModelError(f"{file}: cannot tell what it is; use .pth, .safetensors, .onnx or .tflite")
    known = None if convention else entry_of_file(catalogue(), file)
    if known is not None and known.convert in _DILATED:
        raise ModelError(f"{file}: is the file of {known.name}; use dpst models export {known.name} --weights")
    if convention is None and (known is None or known.convention is None):
        raise ModelError(
            f"{file}: say with --convention how pixels enter it: torchvision (RGB, 0..1, mean and deviation of "
            "ImageNet) or caffe (BGR, 0..255, means)"
        )
    return lambda folder: convert_vgg19(file, folder, name, version, convention or str(known and known.convention))
