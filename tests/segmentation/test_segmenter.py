"""Regions come out where they are, at the size that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from services.common.config import ProcessSettings
from services.common.images import ImageLimits, open_photo
from services.common.label_maps import LabelMap, decode_label_map
from services.common.models import Model, find_model
from services.common.taxonomy import COMMON_LABELS
from services.segmentation.network import Network
from services.segmentation.segmenter import Regions, map_size, segment, segment_as_one

SKY, BUILDING, TREE = (COMMON_LABELS.index(name) for name in ("sky", "building", "tree"))
LIMITS = ImageLimits.of(ProcessSettings())


def landscape(height: int, width: int) -> np.ndarray:
    """Sky above; below it a red building on the left, a tree on the right."""
    photo = np.zeros((height, width, 3), np.float32)
    photo[: height // 2, :, 2] = 1
    photo[height // 2 :, : width // 2, 0] = 1
    photo[height // 2 :, width // 2 :, 1] = 1
    return photo


@pytest.mark.parametrize("size", [(300, 200), (129, 86), (60, 40), (1500, 1000)])
def test_borders_are_where_they_are(tiny_model: Callable[..., Model], size: tuple[int, int]) -> None:
    width, height = size
    regions = segment(landscape(200, 300), Network(tiny_model(), "cpu", 1), width, height)
    label_map = regions.label_map
    assert label_map.indices.shape == (height, width)
    assert label_map.names == {SKY: "sky", BUILDING: "building", TREE: "tree"}
    expected = np.full((height, width), SKY)
    expected[height // 2 :, : width // 2], expected[height // 2 :, width // 2 :] = BUILDING, TREE
    wrong = np.argwhere(label_map.indices != expected)
    # no further from a border than the network's own stride of 4 of its 129 pixels
    distance = np.minimum(np.abs(wrong[:, 0] + 0.5 - height / 2), np.abs(wrong[:, 1] + 0.5 - width / 2))
    assert (distance <= 3 * width / 129 + 1).all()
    assert label_map.areas() == pytest.approx({"sky": 0.5, "building": 0.25, "tree": 0.25}, abs=0.04)
    assert regions.inference_seconds > 0


def test_soft_masks_sum_to_one_and_agree_with_the_map(tiny_model: Callable[..., Model]) -> None:
    regions = segment(landscape(200, 300), Network(tiny_model(), "cpu", 1), 270, 180)
    masks = np.stack(list(regions.masks()))
    assert masks.shape == (3, 180, 270)
    np.testing.assert_allclose(masks.sum(axis=0), 1, atol=1e-5)
    order = np.array(sorted(regions.label_map.names))
    np.testing.assert_array_equal(order[masks.argmax(axis=0)], regions.label_map.indices)


def test_one_region() -> None:
    regions = segment_as_one(30, 20)
    assert regions.label_map.names == {0: "all"}
    (mask,) = regions.masks()
    np.testing.assert_array_equal(mask, np.ones((20, 30)))


@pytest.mark.parametrize(
    ("edge", "size"), [(0, (4000, 3000)), (1024, (1024, 768)), (9000, (4000, 3000)), (1, (1, 1)), (333, (333, 250))]
)
def test_map_size(edge: int, size: tuple[int, int]) -> None:
    assert map_size(4000, 3000, edge) == size


def real_regions(models_dir: Path, data: bytes) -> Regions:
    model = find_model(models_dir, "segmentation", "auto")
    assert model is not None
    network = Network(model, "cpu", 0)
    photo = open_photo(data, "photo", LIMITS)
    pixels = photo.proxy(network.input_edge_px, None)
    return segment(pixels, network, photo.info.width_px, photo.info.height_px)


def overlap(found: LabelMap, name: str, expected: LabelMap, colour: str) -> float:
    """Intersection over union of a label with a region of the hand-made map."""
    one = np.isin(found.indices, [index for index, value in found.names.items() if value == name])
    other = np.isin(expected.indices, [index for index, value in expected.names.items() if value == colour])
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.weights
@pytest.mark.parametrize(
    ("pair", "least"),
    [
        ("01", {("sky", "black"): 0.97, ("building", "white"): 0.9, ("water", "green"): 0.95}),
        ("31", {("sky", "black"): 0.96, ("building", "red"): 0.94}),
    ],
)
def test_real_network_agrees_with_hand_made_masks(
    models_dir: Path, test_data_dir: Path, pair: str, least: dict[tuple[str, str], float]
) -> None:
    folder = test_data_dir / "pairs" / pair
    regions = real_regions(models_dir, (folder / "content.png").read_bytes())
    expected = decode_label_map((folder / "content_labels.png").read_bytes(), {}, "labels", LIMITS)
    for (name, colour), share in least.items():
        assert overlap(regions.label_map, name, expected, colour) >= share, (name, colour)
