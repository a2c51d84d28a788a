"""Every class of every known set has its common label, said explicitly; the written page agrees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.common.class_sets import ADE20K, CITYSCAPES, CLASS_SETS, MSRC, PASCAL_VOC
from services.common.taxonomy import COLOURS, COMMON_LABELS, MIN_AREA_SHARES, NINE_COLOURS, RELATED, common_label
from tests.common.label_tables import TABLES, written

# As the sets' own lists have them; written down here again so that none can go missing unnoticed.
VOC_NAMES = [
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
CITYSCAPES_NAMES = [
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
]
MSRC_NAMES = [
    *("void", "building", "grass", "tree", "cow", "horse", "sheep", "sky", "mountain", "aeroplane", "water", "face"),
    *("car", "bicycle", "flower", "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat"),
]


def test_the_labels_and_what_stands_beside_them() -> None:
    assert len(COMMON_LABELS) == len(set(COMMON_LABELS)) == 13
    assert set(COMMON_LABELS) == set(COLOURS) == set(RELATED) == set(MIN_AREA_SHARES)
    assert len(set(COLOURS.values()) | set(NINE_COLOURS.values())) == len(COLOURS) + len(NINE_COLOURS)
    for label, related in RELATED.items():
        assert label not in related
        assert len(set(related)) == len(related)
        assert set(related) <= set(COMMON_LABELS)
    assert all(0.001 <= share <= 0.02 for share in MIN_AREA_SHARES.values())


@pytest.mark.parametrize(
    ("table", "names"), [(PASCAL_VOC, VOC_NAMES), (CITYSCAPES, CITYSCAPES_NAMES), (MSRC, MSRC_NAMES)]
)
def test_every_class_is_grouped(table: dict[str, str], names: list[str]) -> None:
    assert sorted(table) == sorted(names)
    assert set(table.values()) <= set(COMMON_LABELS)
    assert [common_label(name, names) for name in names] == [table[name] for name in names]


def test_ade20k_has_its_150_classes_and_others() -> None:
    assert len(ADE20K) == 150  # 149 different names and "others": two classes are called "screen"
    assert set(ADE20K.values()) == set(COMMON_LABELS)


def test_ade20k_names_are_those_of_the_network(models_dir: Path) -> None:
    manifest = json.loads((models_dir / "deeplabv3-mnv2-ade20k/1/manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["labels"]) == 151
    assert set(manifest["labels"]) == set(ADE20K)


def test_a_name_means_what_its_set_means_by_it() -> None:
    assert common_label("wall", ["wall", "sky", "sofa"]) == "interior"
    assert common_label("wall", ["wall", "sky", "rider"]) == "building"
    assert common_label("boat", MSRC_NAMES) == "vehicle"
    assert common_label("pool", list(ADE20K)) == "interior"  # a pool table
    assert common_label("swimming", list(ADE20K)) == "water"


def test_common_labels_are_their_own_in_a_network_that_gives_them() -> None:
    assert [common_label(label, COMMON_LABELS) for label in COMMON_LABELS] == list(COMMON_LABELS)
    assert [common_label(label) for label in COMMON_LABELS] == list(COMMON_LABELS)


def test_names_of_no_set_are_unknown_and_mixed_ones_are_looked_up() -> None:
    assert common_label("unheard of") is None
    assert common_label("unheard of", ["unheard of", "rider"]) is None
    assert common_label("rider", ["unheard of", "rider"]) == "person"
    assert set(CLASS_SETS) == {"ADE20K-150", "PASCAL-VOC-21", "Cityscapes-19", "MSRC-23"}


@pytest.mark.parametrize("name", TABLES)
def test_the_page_agrees(name: str) -> None:
    assert written(name) == TABLES[name], "remake it: python -m tests.common.label_tables"
