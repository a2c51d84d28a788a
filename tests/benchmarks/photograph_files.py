"""Photographs of any size, made from samples with a free licence, and what their files say of themselves."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from services.common.images.matrix_profile import adobe_rgb_profile
from services.common.images.metadata.tiff_files import tiff_with

__all__ = ["adobe_jpeg", "deep_tiff", "exiftool_lines", "photograph", "sample", "vips_lines"]

_GRAIN = 2.5  # standard deviation in levels of 255, per channel; a camera at ISO 400
_EXIFTOOL_TAGS = (
    *("-File:FileType", "-JFIF:all", "-EXIF:all", "-GPS:all", "-XMP:all", "--StripOffsets", "--StripByteCounts"),
    *("-ICC_Profile:ProfileDescription", "-ICC_Profile:*MatrixColumn"),
)
_XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 tiff:Orientation="6" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>"""


def sample(package: str, path: str) -> bytes:
    """File that ships inside an installed package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"the benchmark needs the package {package}: pip install '.[cpu,demo,dev]'")
    return (Path(spec.origin).parent / path).read_bytes()


def photograph(bit_depth: int, width_px: int) -> NDArray[Any]:
    """(H, W, 3) uint8 or uint16, 3:2: scikit-learn's china.jpg (danielbuechele, CC BY 2.0) enlarged, with grain."""
    height_px = width_px * 2 // 3
    with Image.open(io.BytesIO(sample("sklearn", "datasets/images/china.jpg"))) as small:
        pixels = np.asarray(small.convert("RGB"))
    image = pyvips.Image.new_from_array(pixels).cast("float")
    large = image.resize(width_px / image.width, vscale=height_px / image.height, kernel="cubic").numpy()
    random = np.random.default_rng(0)
    peak = (1 << bit_depth) - 1
    result = np.empty(large.shape, np.uint8 if bit_depth == 8 else np.uint16)
    for top in range(0, height_px, 500):  # the grain of the whole picture would take a gigabyte
        strip = large[top : top + 500]
        grainy = strip + random.standard_normal(strip.shape, np.float32) * _GRAIN
        result[top : top + 500] = np.round(np.clip(grainy / 255, 0, 1) * peak)
    return result


def adobe_jpeg(width_px: int) -> bytes:
    """JPEG as from a camera that was turned: orientation 6, Adobe RGB profile, EXIF with a position, XMP, 300 dpi."""
    exif = _exif(6, width_px * 2 // 3, width_px)
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": 92, "subsampling": 0, "dpi": (300, 300), "icc_profile": adobe_rgb_profile()}
    stored = np.rot90(photograph(8, width_px))
    Image.fromarray(stored).save(file, "JPEG", exif=exif, xmp=_XMP, **options)
    return file.getvalue()


def deep_tiff(width_px: int) -> bytes:
    """TIFF of 16 bits as from a raw converter: Display P3, EXIF, 300 dpi, deflated."""
    image = pyvips.Image.new_from_array(photograph(16, width_px)).copy(
        interpretation="rgb16", xres=300 / 25.4, yres=300 / 25.4
    )
    profile = bytes(pyvips.Operation.call("profile_load", "p3"))
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    data = image.tiffsave_buffer(compression="deflate", predictor="horizontal", resunit="inch")
    return tiff_with(
        data, _exif(1, width_px, width_px * 2 // 3).tobytes().removeprefix(b"Exif\0\0"), None, has_resolution=True
    )


def _exif(orientation: int, width_px: int, height_px: int) -> Image.Exif:
    """Tags of a camera, as Pillow writes them."""
    exif = Image.Exif()
    credit = "danielbuechele, CC BY 2.0"
    exif.update({0x0112: orientation, 0x010F: "Camera maker", 0x0110: "Model 1", 0x8298: credit})
    exif.get_ifd(0x8769).update(
        {
            **{0x829A: IFDRational(1, 250), 0x829D: IFDRational(8, 1), 0x8827: 400, 0x920A: IFDRational(35, 1)},
            **{0x9003: "2026:05:04 03:02:01", 0x9010: "+08:00", 0xA001: 0xFFFF},
            **{0xA002: width_px, 0xA003: height_px, 0xA434: "35 mm"},
        }
    )
    exif.get_ifd(0x8825).update({0: b"\2\3\0\0", 1: "N", 2: (39.0, 59.0, 56.0), 3: "E", 4: (116.0, 16.0, 11.0)})
    return exif


def vips_lines(data: bytes) -> dict[str, str]:
    """What ``vipsheader -a`` prints of a file: blocks by their size, without the single tags inside them."""
    header = pyvips.Image.new_from_buffer(data, "", access="sequential")
    lines = {}
    for name in header.get_fields():
        value = header.get(name)
        if not name.startswith(("exif-ifd", "filename", "xoffset", "yoffset")):
            digest = f", SHA-256 {hashlib.sha256(value).hexdigest()[:12]}…" if name == "icc-profile-data" else ""
            lines[name] = f"{len(value)} bytes{digest}" if isinstance(value, bytes) else str(value)
    return lines


def exiftool_lines(data: bytes, suffix: str) -> dict[str, str] | None:
    """What ``exiftool -G1 -s -a`` prints of a file's metadata; None if the command is not installed."""
    command = shutil.which("exiftool")
    if command is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"photo.{suffix}"
        file.write_bytes(data)
        arguments = [command, "-G1", "-s", "-a", *_EXIFTOOL_TAGS, str(file)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    lines = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(":")
        lines[" ".join(name.split())] = value.strip()
    return lines
