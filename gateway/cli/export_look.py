"""``dpst export-look``: a solved look as .cube files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import click
from dpst.v1 import image_pb2, look_pb2, photo_style_pb2
from dpst.v1.photo_style_pb2_grpc import PhotoStyleStub

from gateway.cli.connection import connected, server_flags
from gateway.cli.failures import explained_failures
from gateway.cli.files import READABLE, check_writable, write_atomically
from gateway.stack import local_stack

__all__ = ["export_look"]

_FILE_OR_FOLDER = click.Path(writable=True, path_type=Path)


@click.command()
@click.argument("look", type=READABLE)
@click.argument("photo", type=READABLE)
@click.option(
    "-o", "--output", "out", type=_FILE_OR_FOLDER, required=True, help="A .cube file, or a folder for such files."
)
@click.option("--size", type=click.Choice(["17", "33", "65"]), help="Points a side. Default: 33.")
@click.option("--label", help="The table of one region instead of the whole picture's.")
@click.option("--per-label", is_flag=True, help="One table for each region; the output is a folder.")
@server_flags
def export_look(
    look: Path,
    photo: Path,
    out: Path,
    size: str | None,
    label: str | None,
    per_label: bool,
    server: str | None,
    timeout: float | None,
    verbose: bool,
) -> None:
    """Write LOOK as 3-D lookup tables, fitted to the colours of PHOTO, for which it was solved.

    A table knows colours and no places: the command says how far each is from the look, in CIEDE2000.
    """
    if label is not None and per_label:
        raise click.UsageError("--label and --per-label exclude each other")
    if per_label and out.exists() and not out.is_dir():
        raise click.BadParameter(f"{out} is a file; with --per-label it must be a folder", param_hint="--output")
    into_folder = per_label or out.is_dir()
    check_writable(out / "any" if out.is_dir() else out)
    with explained_failures():
        request = photo_style_pb2.ExportLookRequest(
            look=look_pb2.Look(data=look.read_bytes()),
            content=image_pb2.Image(data=photo.read_bytes()),
            points=int(size) if size else None,
            label=label or "",
            per_label=per_label,
        )
        with connected(server, local_stack, verbose) as channel:
            response = PhotoStyleStub(channel).ExportLook(request, timeout=timeout)
        if into_folder:
            out.mkdir(exist_ok=True)
            paths = [out / name for name in _file_names(lut.label for lut in response.luts)]
        else:
            paths = [out]
        for path, lut in zip(paths, response.luts, strict=True):
            write_atomically(path, lut.cube)
    for name in response.labels_without_pixels:
        click.echo(f"note: no pixel of the photo is labelled {name}; it got no table", err=True)
    for path, lut in zip(paths, response.luts, strict=True):
        click.echo(_line(path, lut))


def _file_names(labels: Iterable[str]) -> list[str]:
    """A file name for each label, safe in a folder of ours and not used twice."""
    names: list[str] = []
    for label in labels:
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", label) or "whole-picture"
        copies = sum(name.partition(".")[0].lower() == stem.lower() for name in names)
        names.append(f"{stem}.{copies + 1}.cube" if copies else f"{stem}.cube")
    return names


def _line(path: Path, lut: look_pb2.Lut) -> str:
    error = lut.fit_error
    return (
        f"{path}: {lut.points} points, {lut.label or 'whole picture'}, {lut.area_share:.1%} of the photo, "
        f"ΔE2000 mean {error.mean:.2f}, 95 % {error.p95:.2f}, max {error.max:.2f}"
    )
