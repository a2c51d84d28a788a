"""The common labels that all networks' classes are grouped into, as data.

A label's position in ``COMMON_LABELS`` is its index in every label map that this service makes, so that maps of
two photos agree. ADE20K's classes: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017; 0 is "others".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["COLOURS", "COMMON_LABELS", "NINE_COLOURS", "RELATED", "common_label"]

_RGB = tuple[int, int, int]

# Group -> ADE20K class names. Names that appear nowhere here are objects.
_GROUPS: dict[str, str] = {
    "sky": "sky",
    "building": "building house skyscraper tower hovel grandstand awning column bridge booth canopy arcade pier",
    "water": "water sea river lake waterfall pool swimming fountain",
    "mountain": "mountain hill rock",
    "tree": "tree palm",
    "grass": "grass field",
    "plant": "plant flower",
    "road": "road sidewalk path runway",
    "ground": "earth sand dirt land step stairs stairway stage",
    "person": "person",
    "vehicle": "car bus truck van boat ship airplane minibike bicycle",
    "interior": (
        "wall floor ceiling bed windowpane cabinet door table curtain chair painting sofa shelf mirror rug armchair "
        "seat desk wardrobe bathtub cushion chest counter sink fireplace refrigerator case pillow screen bookcase "
        "blind coffee toilet countertop stove kitchen computer swivel bar towel chandelier television bannister "
        "escalator ottoman buffet conveyer washer stool cradle oven microwave dishwasher blanket hood sconce "
        "crt monitor shower radiator lamp"
    ),
    "object": (
        "others fence railing base box signboard book bench light streetlight apparel pole bottle poster plaything "
        "barrel basket tent bag ball food tank trade pot animal sculpture vase traffic tray ashcan fan plate "
        "bulletin glass clock flag"
    ),
}

COMMON_LABELS: tuple[str, ...] = tuple(_GROUPS)

_COMMON: Mapping[str, str] = {name: group for group, names in _GROUPS.items() for name in names.split()}


def common_label(class_name: str) -> str | None:
    """Look up the common label of a network's class; common labels are their own. None if nobody knows it."""
    return class_name if class_name in _GROUPS else _COMMON.get(class_name)


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
