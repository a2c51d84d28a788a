"""Which of libvips' loaders reads a file, and how its complaints become ours."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyvips

from services.common.errors import InvalidArgument
from services.common.images.info import FORMATS

__all__ = ["find_loader", "opened", "reading", "vips_errors"]

_EXPECTED = "expected a complete, undamaged JPEG, PNG, TIFF, WebP, AVIF or HEIF file"
# Names of libvips' loader classes to ours. A JPEG with a gain map is read as the plain JPEG it also is.
_FORMATS = {"Jpeg": "jpeg", "Uhdr": "jpeg", "Png": "png", "Tiff": "tiff", "Webp": "webp", "Heif": "avif"}
_LOAD = {
    "jpeg": "jpegload_source",
    "png": "pngload_source",
    "tiff": "tiffload_source",
    "webp": "webpload_source",
    "avif": "heifload_source",
}
# What libvips and the libraries under it say of files that are whole but beyond them.
_BEYOND = (
    *("not supported", "Unsupported", "not configured", "not implemented", "not been built in"),
    *("samples out of range", "not a whole number of bytes", "unknown color type"),
)
_READ = "JPEG, PNG, TIFF (up to 16 bits; uncompressed, LZW, deflate, PackBits, JPEG or WebP), WebP and AVIF are read"


def find_loader(data: bytes, field: str) -> str:
    """Name the format of a file. Raises InvalidArgument if it is none of ``FORMATS``."""
    found = pyvips.ffi.NULL
    if data:
        source = pyvips.Source.new_from_memory(data)
        found = pyvips.vips_lib.vips_foreign_find_load_source(source.pointer)
    if found == pyvips.ffi.NULL:
        pyvips.Error("")  # empties libvips' error buffer
        if data.startswith((b"II*\0", b"MM\0*")):  # recognised by libvips only if its directory is whole
            return "tiff"
        if data[4:8] == b"ftyp":
            brand = data[8:12].decode("ascii", "replace")
            raise InvalidArgument(field, f"a file of the HEIF family of brand {brand!r}", _READ)
        raise InvalidArgument(field, f"{len(data)} bytes that are no known image", _EXPECTED)
    name = pyvips.ffi.string(found).decode().removeprefix("VipsForeignLoad").removesuffix("Source")
    if name not in _FORMATS:
        kind = name.removesuffix("File").removeprefix("Ns").upper()
        raise InvalidArgument(field, f"a {kind} file", f"one of {', '.join(FORMATS)} is accepted")
    return _FORMATS[name]


def opened(loader: str, data: bytes, **options: Any) -> pyvips.Image:
    """Open a file, of which only the first page or frame is read, without copying it.

    Access is sequential: pixels stream through and are never held twice. The caller keeps ``data`` alive as long as
    it uses the image.
    """
    _keep_no_cache()
    source = pyvips.Source.new_from_memory(data)
    return getattr(pyvips.Image, _LOAD[loader])(source, access="sequential", fail_on="error", **options)


@contextmanager
def reading(field: str, loader: str) -> Iterator[None]:
    """Turn libvips' errors about a file that is read into InvalidArgument: damaged, or of a kind beyond us."""
    try:
        yield
    except pyvips.Error as error:
        reason = _reason(error)
        if any(phrase in reason for phrase in _BEYOND):
            raise InvalidArgument(field, f"an unreadable kind of {loader} file ({reason})", _READ) from error
        raise InvalidArgument(field, f"a damaged {loader} file ({reason})", _EXPECTED) from error


@contextmanager
def vips_errors(field: str, value: str, limit: str) -> Iterator[None]:
    """Turn libvips' errors into InvalidArgument."""
    try:
        yield
    except pyvips.Error as error:
        raise InvalidArgument(field, f"{value} ({_reason(error)})", limit) from error


def _reason(error: pyvips.Error) -> str:
    """The different lines of an error, without those about looking behind the end for what a cut file had there."""
    lines = dict.fromkeys(line.strip() for line in str(error.detail).splitlines() if line.strip())
    return "; ".join(line for line in lines if "bad seek" not in line)[:200]


@functools.cache
def _keep_no_cache() -> None:
    """Libvips remembers recent operations with their pixels; a service never asks the same twice."""
    pyvips.cache_set_max(0)
