"""Label maps over their photo, side by side with their legends, for the eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from services.common.label_maps import LabelMap
from services.common.taxonomy import COLOURS, NINE_COLOURS
from tests.benchmarks.label_scores import borders

__all__ = ["Panel", "write_label_sheet"]

_LEGEND_PX = 64
_OTHER = (160, 160, 160)


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a sheet; without a map the photo itself."""

    title: str
    label_map: LabelMap | None = None


def write_label_sheet(path: Path, photo: NDArray[np.float32], panels: Sequence[Panel], columns: int = 3) -> None:
    """Write the panels as a PNG; ``photo`` is (H, W, 3), 0..1, and maps are of its size."""
    height, width = photo.shape[:2]
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (width + 8), rows * (height + _LEGEND_PX)), (255, 255, 255))
    for position, panel in enumerate(panels):
        x, y = position % columns * (width + 8), position // columns * (height + _LEGEND_PX)
        sheet.paste(Image.fromarray(_painted(photo, panel.label_map)), (x, y))
        _legend(ImageDraw.Draw(sheet), x, y + height, panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _colour(name: str) -> tuple[int, int, int]:
    return COLOURS.get(name) or NINE_COLOURS.get(name) or _OTHER


def _painted(photo: NDArray[np.float32], label_map: LabelMap | None) -> NDArray[np.uint8]:
    if label_map is None:
        return (photo * 255).round().astype(np.uint8)
    table = np.zeros((256, 3), np.float32)
    for index, name in label_map.names.items():
        table[index] = np.array(_colour(name), np.float32) / 255
    mixed = 0.45 * photo + 0.55 * table[label_map.indices]
    mixed[borders(label_map.indices)] = 1
    return (mixed * 255).round().astype(np.uint8)


def _legend(draw: ImageDraw.ImageDraw, x: int, y: int, panel: Panel) -> None:
    draw.text((x + 4, y + 2), panel.title, fill=(0, 0, 0))
    shares = panel.label_map.areas() if panel.label_map else {}
    for position, (name, share) in enumerate(sorted(shares.items(), key=lambda item: -item[1])):
        left, top = x + 4 + position % 6 * 112, y + 18 + position // 6 * 15
        draw.rectangle((left, top + 1, left + 10, top + 11), fill=_colour(name), outline=(0, 0, 0))
        draw.text((left + 14, top), f"{name} {share:.1%}", fill=(0, 0, 0))
