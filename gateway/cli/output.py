"""How a command's result is encoded: the suffix of its file, and two flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from dpst.v1 import image_pb2

__all__ = ["SUFFIXES", "check_format", "output_flags", "output_options"]

_FORMATS = {
    ".jpg": image_pb2.IMAGE_FORMAT_JPEG,
    ".jpeg": image_pb2.IMAGE_FORMAT_JPEG,
    ".png": image_pb2.IMAGE_FORMAT_PNG,
    ".tif": image_pb2.IMAGE_FORMAT_TIFF,
    ".tiff": image_pb2.IMAGE_FORMAT_TIFF,
    ".webp": image_pb2.IMAGE_FORMAT_WEBP,
    ".avif": image_pb2.IMAGE_FORMAT_AVIF,
}
SUFFIXES = tuple(_FORMATS)
_FLAGS = (
    click.option("--encoder-quality", type=click.IntRange(1, 100), help="Encoder quality of lossy formats."),
    click.option("--bit-depth", type=click.Choice(["8", "16"]), help="Bits a channel; default: as the photo has."),
)


def output_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags that ``output_options`` reads to a click command."""
    for option in reversed(_FLAGS):
        command = option(command)
    return command


def check_format(out: Path) -> None:
    """Raise ``click.BadParameter`` if the suffix names no format."""
    if out.suffix.lower() not in _FORMATS:
        raise click.BadParameter(f"cannot tell a format from {out.name!r}; use one of {' '.join(_FORMATS)}")


def output_options(out: Path, values: Mapping[str, Any]) -> image_pb2.OutputOptions:
    """Build the message from the file's name and the values of ``output_flags``; None stays unset."""
    options = image_pb2.OutputOptions(format=_FORMATS[out.suffix.lower()], quality=values["encoder_quality"])
    if values["bit_depth"] is not None:
        options.bit_depth = int(values["bit_depth"])
    return options
