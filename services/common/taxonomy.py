"""The common labels that all networks' classes are grouped into, as data; docs/labels.md shows it as tables.

A label's position in ``COMMON_LABELS`` is its index in every label map that this service makes, so that maps of
two photos agree. Which classes are grouped into which label stands in ``class_sets``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from services.common.class_sets import CLASS_SETS

__all__ = ["COLOURS", "COMMON_LABELS", "MIN_AREA_SHARES", "NINE_COLOURS", "RELATED", "common_label"]

_RGB = tuple[int, int, int]

COMMON_LABELS: tuple[str, ...] = (
    "sky",
    "building",
    "water",
    "mountain",
    "tree",
    "grass",
    "plant",
    "road",
    "ground",
    "person",
    "vehicle",
    "interior",
    "object",
)
"""Nothing is ever inserted or removed: the positions stand in label maps that callers keep. Animals are objects."""


def common_label(class_name: str, classes: Collection[str] = ()) -> str | None:
    """Look up the common label of a network's class; None if nobody knows it.

    ``classes`` are all classes of that network: if one set of ``CLASS_SETS`` holds them all, that set decides what the
    name means. Otherwise a common label is its own, and the first set that knows the name decides.
    """
    for table in CLASS_SETS.values():
        if classes and all(name in table for name in classes):
            return table.get(class_name)
    if class_name in COMMON_LABELS:
        return class_name
    return next((table[class_name] for table in CLASS_SETS.values() if class_name in table), None)


# Shares of the picture. Under half a per cent (200 pixels of a solve at 256 px) the statistics of deep features are
# noise; small patches of the two labels that collect everything else are more often mistakes than regions.
MIN_AREA_SHARES: Mapping[str, float] = MappingProxyType(
    {label: 0.01 if label in ("interior", "object") else 0.005 for label in COMMON_LABELS}
)

# Colours that a person tells apart in a label PNG; none of them is one of the nine below.
COLOURS: Mapping[str, _RGB] = MappingProxyType(
    {
        "sky": (120, 190, 255),
        "building": (180, 90, 70),
        "water": (20, 80, 190),
        "mountain": (130, 110, 90),
        "tree": (20, 110, 40),
        "grass": (120, 200, 70),
        "plant": (230, 120, 190),
        "road": (90, 90, 100),
        "ground": (210, 180, 130),
        "person": (240, 60, 60),
        "vehicle": (250, 150, 20),
        "interior": (230, 220, 190),
        "object": (150, 70, 200),
    }
)

# The palette of the published data set (Luan et al. 2017), in the order that gives the indices.
NINE_COLOURS: Mapping[str, _RGB] = MappingProxyType(
    {
        "blue": (0, 0, 255),
        "green": (0, 255, 0),
        "black": (0, 0, 0),
        "white": (255, 255, 255),
        "red": (255, 0, 0),
        "yellow": (255, 255, 0),
        "grey": (128, 128, 128),
        "lightblue": (0, 255, 255),
        "purple": (255, 0, 255),
    }
)

# From most to least related, by what light and material do to a region; labels that are missing are unrelated.
RELATED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sky": ("water",),
        "water": ("sky",),
        "building": ("interior", "road", "object", "mountain"),
        "mountain": ("ground", "tree", "grass", "building"),
        "tree": ("grass", "plant", "mountain"),
        "grass": ("plant", "tree", "ground"),
        "plant": ("grass", "tree", "object"),
        "road": ("ground", "building", "grass"),
        "ground": ("road", "grass", "mountain"),
        "person": ("object", "vehicle"),
        "vehicle": ("object", "building", "road"),
        "interior": ("building", "object"),
        "object": ("interior", "building", "vehicle"),
    }
)
