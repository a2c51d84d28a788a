"""The classes of published data sets, each with the common label that it is grouped into, as data.

Names are those that the sets' networks use; for ADE20K the first word of each class, as its networks' label files have
it, so that "pool" is a pool table, "swimming" a swimming pool and "arcade" an arcade machine. A name may mean different
things in two sets ("wall" is mostly indoors in ADE20K and stands in the street in Cityscapes), so each set has a table
of its own.

Sources: ADE20K: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017. PASCAL VOC: Everingham et al., "The
PASCAL Visual Object Classes Challenge", IJCV 2010. Cityscapes: Cordts et al., "The Cityscapes Dataset", CVPR 2016.
MSRC: Shotton et al., "TextonBoost", ECCV 2006.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["ADE20K", "CITYSCAPES", "CLASS_SETS", "MSRC", "PASCAL_VOC"]


def _table(groups: Mapping[str, str]) -> Mapping[str, str]:
    """Class -> common label, from common label -> classes separated by commas."""
    return MappingProxyType({name.strip(): group for group, names in groups.items() for name in names.split(",")})


ADE20K: Mapping[str, str] = _table(
    {
        "sky": "sky",
        "building": (
            "building, house, skyscraper, tower, hovel, grandstand, awning, column, bridge, booth, canopy, pier"
        ),
        "water": "water, sea, river, lake, waterfall, swimming, fountain",
        "mountain": "mountain, hill, rock",
        "tree": "tree, palm",
        "grass": "grass, field",
        "plant": "plant, flower",
        "road": "road, sidewalk, path, runway",
        "ground": "earth, sand, dirt, land, step, stairs, stairway, stage",
        "person": "person",
        "vehicle": "car, bus, truck, van, boat, ship, airplane, minibike, bicycle",
        "interior": (
            "wall, floor, ceiling, bed, windowpane, cabinet, door, table, curtain, chair, painting, sofa, shelf, "
            "mirror, rug, armchair, seat, desk, wardrobe, lamp, bathtub, cushion, chest, counter, sink, fireplace, "
            "refrigerator, case, pool, pillow, screen, bookcase, blind, coffee, toilet, countertop, stove, kitchen, "
            "computer, swivel, bar, arcade, towel, chandelier, television, bannister, escalator, ottoman, buffet, "
            "conveyer, washer, stool, cradle, oven, microwave, dishwasher, blanket, hood, sconce, crt, monitor, "
            "shower, radiator"
        ),
        "object": (
            "others, fence, railing, base, box, signboard, book, bench, light, streetlight, apparel, pole, bottle, "
            "poster, plaything, barrel, basket, tent, bag, ball, food, tank, trade, pot, animal, sculpture, vase, "
            "traffic, tray, ashcan, fan, plate, bulletin, glass, clock, flag"
        ),
    }
)
"""150 classes and "others", which stands first in the networks; two of the 150 (silver screen, screen door) are called
"screen"."""

PASCAL_VOC: Mapping[str, str] = _table(
    {
        "plant": "pottedplant",
        "person": "person",
        "vehicle": "aeroplane, bicycle, boat, bus, car, motorbike, train",
        "interior": "chair, diningtable, sofa, tvmonitor",
        "object": "background, bird, bottle, cat, cow, dog, horse, sheep",
    }
)
"""20 classes and "background": all that the set has no name for, sky and water too, so it says next to nothing."""

CITYSCAPES: Mapping[str, str] = _table(
    {
        "sky": "sky",
        "building": "building, wall",
        "tree": "vegetation",
        "grass": "terrain",
        "road": "road, sidewalk",
        "person": "person, rider",
        "vehicle": "car, truck, bus, train, motorcycle, bicycle",
        "object": "fence, pole, traffic light, traffic sign",
    }
)
"""The 19 classes that are evaluated. "terrain" is grass, soil or sand beside the road, mostly grass."""

MSRC: Mapping[str, str] = _table(
    {
        "sky": "sky",
        "building": "building",
        "water": "water",
        "mountain": "mountain",
        "tree": "tree",
        "grass": "grass",
        "plant": "flower",
        "road": "road",
        "person": "face, body",
        "vehicle": "aeroplane, car, bicycle, boat",
        "interior": "chair",
        "object": "void, cow, horse, sheep, sign, bird, book, cat, dog",
    }
)
"""23 classes and "void": pixels that nobody labelled, which training leaves out."""

CLASS_SETS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"ADE20K-150": ADE20K, "PASCAL-VOC-21": PASCAL_VOC, "Cityscapes-19": CITYSCAPES, "MSRC-23": MSRC}
)
