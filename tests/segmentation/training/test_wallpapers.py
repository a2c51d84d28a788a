"""Photos out of packages of wallpapers: what is taken, under which name, and one of each that look alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import pyvips

from services.common.models.catalogue import RemoteFile
from services.segmentation.training import wallpapers
from services.segmentation.training.wallpapers import different, pictures


def scene(seed: int, width: int, height: int) -> pyvips.Image:
    """A picture of soft blotches: the same at every size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return pyvips.Image.new_from_array(coarse).resize(width / 9, vscale=height / 6).crop(0, 0, width, height)


def test_pictures_are_reduced_and_named_after_their_package(tmp_path: Path) -> None:
    files, out = tmp_path / "files" / "usr" / "share", tmp_path / "out"
    files.mkdir(parents=True)
    out.mkdir()
    scene(0, 1800, 1200).write_to_file(files / "Sea ä.jpg")
    scene(1, 900, 1350).bandjoin(255).write_to_file(files / "tower.png")
    scene(2, 600, 400).write_to_file(files / "icon.png")
    scene(2, 2000, 200).write_to_file(files / "strip.png")
    (files / "broken.jpg").write_bytes((files / "Sea ä.jpg").read_bytes()[:100])
    (files / "link.jpg").symlink_to(files / "Sea ä.jpg")
    (files / "wallpapers.xml").write_text("<wallpapers/>")
    found = list(pictures(tmp_path / "files", "nice-wallpapers", out))
    assert [picture.name for picture in found] == ["nice-wallpapers--Sea__.jpg", "nice-wallpapers--tower.jpg"]
    sizes = [(image.width, image.height, image.bands) for image in map(_read, sorted(out.iterdir()))]
    assert sizes == [(736, 491, 3), (491, 736, 3)]


def _read(path: Path) -> pyvips.Image:
    return pyvips.Image.new_from_file(str(path))


@pytest.mark.parametrize("first", ["large", "small"])
def test_of_those_that_look_alike_the_largest_stays(tmp_path: Path, first: str) -> None:
    files = tmp_path / "files"
    files.mkdir()
    large, small = ("a", "b") if first == "large" else ("b", "a")
    scene(0, 1920, 1200).write_to_file(files / f"{large}.jpg")
    scene(0, 1280, 800).write_to_file(files / f"{small}.png")
    scene(1, 1280, 800).write_to_file(files / "other.png")
    kept = different(list(pictures(files, "p", tmp_path)))
    assert {picture.name for picture in kept} == {f"p--{large}.jpg", "p--other.jpg"}


def test_packages_are_pinned_by_their_checksums() -> None:
    rows = json.loads(Path(wallpapers.__file__).with_name("wallpapers.json").read_text(encoding="utf-8"))
    files = [RemoteFile(name="package.deb", **row) for row in rows]
    assert len({file.url for file in files}) == len(files) > 100
    assert all(file.sha256 and file.size and file.url.endswith(".deb") for file in files)
