"""A batch on paper: a table for programs, and a contact sheet for the eye."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from urllib.parse import quote

from gateway.cli.batch.journal import Entry
from gateway.cli.files import write_atomically
from services.common.config import GatewaySettings
from services.common.errors import ServiceError

__all__ = ["thumbnail", "write_reports"]

_THUMBNAIL_PX = 320
_STYLE = (
    "body{font:15px system-ui;margin:2em;background:#181818;color:#ddd}figure{display:inline-block;margin:.5em;"
    "vertical-align:top;width:660px}img{width:325px;margin-right:3px}figcaption{font-size:13px;color:#aaa}"
    ".failed{color:#f88}a{color:inherit}"
)


def thumbnail(photo: Path, place: Path) -> None:
    """Write a small JPEG of a photo; nothing if it cannot be read."""
    from services.common.images import ImageLimits, encode_preview, open_photo  # libvips, of no use to other commands

    try:
        opened = open_photo(photo.read_bytes(), photo.name, ImageLimits.of(GatewaySettings()))
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, encode_preview(opened.proxy(_THUMBNAIL_PX, None)))
    except (OSError, ServiceError):
        return


def write_reports(folder: Path, thumbnails: Path, entries: Iterable[Entry]) -> None:
    """Write ``report.csv`` and ``report.html`` into the folder of results.

    Args:
        folder: of the results.
        thumbnails: folder of <output>.before.jpg and <output>.after.jpg, below ``folder``.
        entries: of all photos.
    """
    entries = tuple(entries)
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(Entry)])
    writer.writeheader()
    for entry in entries:
        writer.writerow({**asdict(entry), "notes": "; ".join(entry.notes)})
    write_atomically(folder / "report.csv", table.getvalue().encode())
    done = sum(entry.state == "done" for entry in entries)
    figures = "\n".join(_figure(folder, thumbnails, entry) for entry in entries)
    page = (
        f'<!doctype html><meta charset="utf-8"><title>dpst batch</title><style>{_STYLE}</style>\n'
        f"<h1>{done} of {len(entries)} photos</h1>\n{figures}\n"
    )
    write_atomically(folder / "report.html", page.encode())


def _figure(folder: Path, thumbnails: Path, entry: Entry) -> str:
    shown = thumbnails.relative_to(folder)
    pictures = "".join(
        f'<img loading="lazy" alt="{when}" src="{quote(f"{shown}/{entry.output}.{when}.jpg")}">'
        for when in ("before", "after")
        if (thumbnails / f"{entry.output}.{when}.jpg").exists()
    )
    if entry.state == "failed":
        return f'<figure>{pictures}<figcaption class="failed">{html.escape(f"{entry.content}: {entry.error}")}</figure>'
    told = f"{entry.seconds:.1f} s, style distance {entry.style_distance:.2f}, edges {entry.edges:.2f}"
    notes = "".join(f"<br>{html.escape(note)}" for note in entry.notes)
    name = html.escape(entry.output)
    return (
        f'<figure><a href="{quote(entry.output)}">{pictures}</a><figcaption>{name}: {told}{notes}</figcaption></figure>'
    )
