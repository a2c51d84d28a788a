"""Photos with a free licence to train on: the wallpapers that Ubuntu and Debian package.

    python -m services.segmentation.training.wallpapers --out <folder>

Fetches the packages of ``wallpapers.json`` (2.7 GB; what an archive has no longer is told and left out), and writes
their pictures at 736 px, one of each that look alike. Which of them are photos that a teacher knows,
``services.segmentation.training`` decides. Needs ``dpkg-deb``. Each package's copyright file names who took the photos
and on which terms, most of them a Creative Commons licence.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

import numpy as np
import pyvips
from numpy.typing import NDArray

from services.common.models import ModelError
from services.common.models.catalogue import RemoteFile
from services.common.models.download import Patience, fetch

__all__ = ["Picture", "different", "pictures"]

_ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})
_LEAST_LONG_EDGE_PX, _LEAST_SHORT_EDGE_PX = 900, 300
"""Of a picture as it is packaged, and as it is written: what is smaller is an icon or a strip."""

_EDGE_PX: Final = 736
"""Half as much again as what the network sees."""

_FINGERPRINT_PX: Final = (16, 17)
_LEAST_DIFFERENCE: Final = 28
"""Bits of the 256 in which two pictures differ; the same one in other sizes and crops of the screen stays below."""


class Picture(NamedTuple):
    """A wallpaper: its name, its pixels in the package, and 256 signs of differences between neighbouring places."""

    name: str
    pixels: int
    fingerprint: NDArray[np.bool_]


def main() -> None:
    """Fetch, reduce and sort out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives JPEGs")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    found: list[Picture] = []
    for row in json.loads(Path(__file__).with_name("wallpapers.json").read_text(encoding="utf-8")):
        package = PurePosixPath(row["url"]).name.partition("_")[0]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            file = RemoteFile(name="package.deb", **row)
            try:
                fetch(file, file.url, folder, lambda *_: None, Patience())
            except ModelError as error:
                print(f"left out: {error}", flush=True)
                continue
            subprocess.run(["dpkg-deb", "-x", folder / file.name, folder / "files"], check=True)  # noqa: S603, S607
            new = list(pictures(folder / "files", package, out))
        print(f"{package}: {len(new)} pictures", flush=True)
        found += new
    kept = {picture.name for picture in different(found)}
    for picture in found:
        if picture.name not in kept:
            (out / picture.name).unlink(missing_ok=True)
    print(f"{len(kept)} different pictures of {len(found)}")


def pictures(files: Path, package: str, out: Path) -> Iterator[Picture]:
    """Write the pictures below a folder as ``<package>--<name>.jpg``, without what is small or cannot be read."""
    for path in sorted(files.rglob("*")):
        if path.suffix.lower() not in _ENDINGS or path.is_symlink() or not path.is_file():
            continue
        name = f"{package}--{re.sub(r'[^A-Za-z0-9_.-]', '_', path.stem)}.jpg"
        try:
            whole = pyvips.Image.new_from_file(str(path))
            if max(whole.width, whole.height) < _LEAST_LONG_EDGE_PX:
                continue
            small = pyvips.Image.thumbnail(str(path), _EDGE_PX, size="down", export_profile="srgb").copy_memory()
            if min(small.width, small.height) < _LEAST_SHORT_EDGE_PX:
                continue
            flat = small.flatten() if small.hasalpha() else small
            flat.colourspace("srgb").jpegsave(str(out / name), Q=92)
        except pyvips.Error:
            continue
        yield Picture(name, whole.width * whole.height, _fingerprint(flat))


def _fingerprint(picture: pyvips.Image) -> NDArray[np.bool_]:
    rows, columns = _FINGERPRINT_PX
    grey = picture.colourspace("b-w").thumbnail_image(columns, height=rows, size="force").numpy().reshape(rows, columns)
    return np.asarray(grey[:, 1:] > grey[:, :-1]).flatten()


def different(found: list[Picture]) -> list[Picture]:
    """One of each that look alike, the largest."""
    kept: list[Picture] = []
    for picture in sorted(found, key=lambda each: -each.pixels):
        others = (np.count_nonzero(picture.fingerprint != other.fingerprint) for other in kept)
        if all(difference > _LEAST_DIFFERENCE for difference in others):
            kept.append(picture)
    return kept


if __name__ == "__main__":
    main()
