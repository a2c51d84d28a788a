"""``python -m services.segmentation.convert``: makes model folders of networks that come in other formats.

Exits with 0, or prints one line ``error: ...`` to standard error and exits with 1; then nothing has been written.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from pathlib import Path

import click

from services.segmentation.convert.failure import ConvertError
from services.segmentation.convert.label_sets import VOC, label_set_of, labels_from
from services.segmentation.convert.model_folder import manifest_of, write_model_folder

__all__ = ["main"]

# torchvision scores its weights at 520 px; its networks have stride 8, and no need of a pixel more.
_TORCHVISION_SIZE = "any; best with the long side at 520, sides of the form 8k+0"
_TORCHVISION_STRIDE = 8


def _name(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", value) or ".." in value:
        raise click.BadParameter(
            f"{value!r} is no name of a folder: letters, digits, '.', '_' and '-'", param=parameter
        )
    return value


@click.group(no_args_is_help=False)
def commands() -> None:
    """Make a model folder of a network in another format."""


@commands.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out_folder", type=click.Path(path_type=Path))
@click.option("--name", required=True, callback=_name, help="Name of the model, for the manifest.")
@click.option("--version", required=True, callback=_name, help="Version of the model, for the manifest.")
@click.option("--labels", type=click.Path(path_type=Path), help="Classes, one a line; else told from their number.")
@click.option("--licence", default="not stated; see the source", help="Licence of the weights, for the manifest.")
@click.option("--source-text", help="Where the file is from, for the manifest; its name and SHA-256 follow.")
def tflite(
    source: Path,
    out_folder: Path,
    name: str,
    version: str,
    labels: Path | None,
    licence: str,
    source_text: str | None,
) -> None:
    """Turn a DeepLab release SOURCE.tflite into the model folder OUT_FOLDER."""
    from services.segmentation.convert.deeplab import convert_deeplab

    converted = convert_deeplab(source)
    if labels is None:
        label_set, names = label_set_of(converted.classes)
    else:
        label_set, names = labels.name, labels_from(labels, converted.classes)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    origin = f"{source.name} (sha256 {digest}), converted with true dilated convolutions"
    manifest = manifest_of(
        name=name,
        version=version,
        licence=licence,
        source=origin if source_text is None else f"{source_text}; {origin}",
        scale="x/127.5 - 1",
        size=(
            f"any; best with the long side at {converted.edge_px}, "
            f"sides of the form {converted.step}k+{converted.offset}"
        ),
        stride=converted.stride,
        align_corners=converted.align_corners,
        label_set=label_set,
        labels=names,
    )
    write_model_folder(out_folder, manifest, converted.model.SerializeToString())


@commands.command()
@click.argument("architecture", type=click.Choice(["deeplabv3_resnet50", "deeplabv3_resnet101"]))
@click.argument("out_folder", type=click.Path(path_type=Path))
@click.option("--name", callback=lambda c, p, v: v and _name(c, p, v), help="Name of the model; else ARCHITECTURE.")
@click.option("--version", required=True, callback=_name, help="Version of the model, for the manifest.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict as torchvision publishes it, 21 classes.")
@click.option("--random-weights", type=int, metavar="SEED", help="Random weights instead, to try the way out.")
@click.option("--licence", default="BSD-3-Clause (torchvision)", help="Licence of the weights, for the manifest.")
def torchvision(
    architecture: str,
    out_folder: Path,
    name: str | None,
    version: str,
    weights: Path | None,
    random_weights: int | None,
    licence: str,
) -> None:
    """Turn torchvision's dilated network ARCHITECTURE into the model folder OUT_FOLDER."""
    if (weights is None) == (random_weights is None):
        raise ConvertError("give either --weights FILE.pth or --random-weights SEED")
    from services.segmentation.convert.dilated_resnet import built, load_weights
    from services.segmentation.convert.torch_export import BeforeUpsampling, export_onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operators that it will not export
    network = built(architecture, len(VOC), random_weights or 0)
    if weights is not None:
        load_weights(network, weights)
    model = export_onnx(BeforeUpsampling(network), len(VOC))
    origin = f"random weights of seed {random_weights}" if weights is None else weights.name
    manifest = manifest_of(
        name=name or architecture,
        version=version,
        licence=licence,
        source=f"torchvision {architecture}, {origin}, exported before its upsampling",
        scale="x/255",
        size=_TORCHVISION_SIZE,
        stride=_TORCHVISION_STRIDE,
        align_corners=False,
        label_set="pascal-voc-21",
        labels=VOC,
    )
    write_model_folder(out_folder, manifest, model.SerializeToString())


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        commands.main(arguments, prog_name="python -m services.segmentation.convert", standalone_mode=False)
    except click.ClickException as error:
        message = error.format_message()
    except ConvertError as error:
        message = str(error)
    except ImportError as error:
        message = f"{error.name} is not installed; install the extra 'convert'"
    else:
        return 0
    print("error:", " ".join(message.split()), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
